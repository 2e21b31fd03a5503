/* SPDX-License-Identifier: Apache-2.0
 *
 * What commit, rollback and sections promise, on every way of finding written pages.
 */
#include "api_util.h"
#include "way.h"

#include <string.h>
#include <sys/socket.h>

static const char *const ways[] = {"uffd", "mprotect", "pagemap", "declared"};

static const char *way; /* the one that is tested */

static bool is_declared(void)
{
	return strcmp(way, "declared") == 0;
}

/* Is the way to be had here? */
static void need_way(void)
{
	fm_heap *heap = fm_open(heap_path, atomic_heap() | FM_CREATE, NULL);

	if (!heap) {
		print_message("# %s: %s\n", way, fm_last_error());
		skip();
	}
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(unlink(heap_path), 0);
}

static fm_heap *open_atomic(unsigned flags)
{
	return open_or_fail(heap_path, atomic_heap() | flags, NULL);
}

static uint64_t *app_of(fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

/* About to write, where that has to be said. */
static void *writing(fm_heap *heap, void *p, size_t len)
{
	if (is_declared())
		assert_int_equal(fm_will_write(heap, p, len), 0);
	return p;
}

static void put(fm_heap *heap, unsigned i, uint64_t value)
{
	uint64_t *word = writing(heap, &app_of(heap)[i], 8);

	*word = value;
}

static void fill(fm_heap *heap, void *p, int byte, size_t len)
{
	memset(writing(heap, p, len), byte, len);
}

static bool is_filled(const void *p, int byte, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (((const unsigned char *)p)[i] != (unsigned char)byte)
			return false;
	return true;
}

static void assert_whole(fm_heap *heap)
{
	assert_int_equal(fm_check(heap, print_finding, NULL), 0);
}

static struct fm_statistics stats_of(fm_heap *heap)
{
	struct fm_statistics stats = {.size = sizeof stats};

	assert_int_equal(fm_stats(heap, &stats), 0);
	return stats;
}

/* ---------------------------------------------------------------- one thread */

static void commit_keeps_and_close_drops(void **state)
{
	fm_heap *heap;
	char *p;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	p = fm_malloc(heap, 1000);
	assert_non_null(p);
	fill(heap, p, 7, 1000);
	put(heap, 0, fm_offset_of(heap, p));
	assert_int_equal(fm_root_set(heap, "r", p, 9), 0);
	assert_int_equal(fm_commit(heap), 0);
	fill(heap, p, 8, 500);
	put(heap, 1, 1);
	assert_non_null(fm_malloc(heap, 77));
	assert_int_equal(fm_root_set(heap, "s", p, 9), 0);
	assert_int_equal(fm_close(heap), 0);

	heap = open_atomic(0);
	p = fm_root_get(heap, "r", 9);
	assert_non_null(p);
	assert_ptr_equal(p, fm_at(heap, app_of(heap)[0]));
	assert_true(is_filled(p, 7, 1000));
	assert_int_equal(app_of(heap)[1], 0);
	assert_null(fm_root_get(heap, "s", 9));
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

static void rollback_takes_everything_back(void **state)
{
	fm_heap *heap;
	void *kept[50], *large, *huge;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	for (int i = 0; i < 50; i++) {
		kept[i] = fm_malloc(heap, 100);
		assert_non_null(kept[i]);
		fill(heap, kept[i], i, 100);
	}
	large = fm_malloc(heap, 900 * KIB);
	huge = fm_malloc(heap, 9 * MIB);
	assert_true(large && huge);
	fill(heap, large, 50, 900 * KIB);
	fill(heap, huge, 51, 9 * MIB);
	assert_int_equal(fm_commit(heap), 0);
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 50; i += 2)
			assert_int_equal(fm_free(kept[i]), 0);
		assert_int_equal(fm_free(large), 0);
		assert_int_equal(fm_free(huge), 0);
		for (int i = 0; i < 300; i++) {
			void *p = fm_calloc(heap, 1, 100 + (size_t)i * 37);

			assert_non_null(p);
			assert_true(is_filled(p, 0, 100 + (size_t)i * 37));
			fill(heap, p, 99, 100);
		}
		fill(heap, kept[1], 98, 100);
		assert_non_null(fm_malloc(heap, 20 * MIB));
		assert_int_equal(fm_rollback(heap), 0);
		for (int i = 0; i < 50; i++)
			assert_true(is_filled(kept[i], i, 100));
		assert_true(is_filled(large, 50, 900 * KIB));
		assert_true(is_filled(huge, 51, 9 * MIB));
		assert_int_equal(live_objects(heap), 52);
		assert_whole(heap);
	}
	assert_int_equal(stats_of(heap).rollbacks, 5);
	assert_int_equal(fm_free(kept[0]), 0);
	assert_int_equal(fm_commit(heap), 0);
	close_checked(heap);
	heap = open_atomic(0);
	assert_int_equal(live_objects(heap), 51);
	close_checked(heap);
}

/* A word that changes and changes back: what each commit said counts, not what the first one did. */
static void there_and_back(void **state)
{
	fm_heap *heap;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	for (uint64_t i = 1; i <= 300; i++) {
		put(heap, 5, i % 3);
		put(heap, 400, i);
		assert_int_equal(fm_commit(heap), 0);
	}
	assert_int_equal(stats_of(heap).commits, 300);
	assert_int_equal(fm_close(heap), 0);
	heap = open_atomic(0);
	assert_int_equal(app_of(heap)[5], 300 % 3);
	assert_int_equal(app_of(heap)[400], 300);
	close_checked(heap);
}

static void nothing_changed_writes_nothing(void **state)
{
	fm_heap *heap;
	uint64_t flushes;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	put(heap, 0, 1);
	assert_int_equal(fm_commit(heap), 0);
	flushes = stats_of(heap).flushes;
	assert_int_equal(fm_commit(heap), 0);
	put(heap, 0, 1);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(stats_of(heap).flushes, flushes);
	put(heap, 0, 2);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(stats_of(heap).flushes, flushes + 1);
	assert_int_equal(stats_of(heap).commit_calls, 4);
	close_checked(heap);
}

/* More than a record, more than the journal of a new heap; and then many small ones. */
static void large_commits(void **state)
{
	uint64_t changed;
	fm_heap *heap;
	char *p;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	p = fm_malloc(heap, 40 * MIB);
	assert_non_null(p);
	put(heap, 0, fm_offset_of(heap, p));
	for (int round = 1; round < 4; round++) {
		changed = stats_of(heap).pages_changed;
		fill(heap, p, round, 40 * MIB);
		assert_int_equal(fm_commit(heap), 0);
		/* each once, and a few of metadata */
		assert_in_range(stats_of(heap).pages_changed - changed, 40 * MIB / PAGE_SIZE, 40 * MIB / PAGE_SIZE + 20);
		for (size_t i = 0; i < 100; i++) {
			fill(heap, p + i * 400 * KIB, round + 50, 8);
			assert_int_equal(fm_commit(heap), 0);
		}
	}
	assert_int_equal(fm_close(heap), 0);
	heap = open_atomic(0);
	p = fm_at(heap, app_of(heap)[0]);
	for (size_t i = 0; i < 100; i++) {
		assert_true(is_filled(p + i * 400 * KIB, 53, 8));
		assert_true(is_filled(p + i * 400 * KIB + 8, 3, 400 * KIB - 8));
	}
	close_checked(heap);
}

/* The kernel stores into the heap: read(2), recv(2). */
static void kernel_stores(void **state)
{
	fm_heap *heap;
	char *p;
	int ends[2];

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	p = fm_malloc(heap, 3 * PAGE_SIZE);
	assert_non_null(p);
	fill(heap, p, 1, 3 * PAGE_SIZE);
	put(heap, 0, fm_offset_of(heap, p));
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(write(ends[1], "from a pipe", 11), 11);
	// into what is protected by mprotect the kernel does not store, unless it is told
	if (strcmp(way, "mprotect") == 0) {
		assert_int_equal(read(ends[0], p + PAGE_SIZE, 11), -1);
		assert_int_equal(errno, EFAULT);
		assert_int_equal(fm_will_write(heap, p + PAGE_SIZE, 11), 0);
	}
	assert_int_equal(read(ends[0], writing(heap, p + PAGE_SIZE, 11), 11), 11);
	close(ends[0]);
	close(ends[1]);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	assert_int_equal(send(ends[1], "by a socket", 11, 0), 11);
	assert_int_equal(fm_will_write(heap, p, 11), 0);
	assert_int_equal(recv(ends[0], p, 11, 0), 11);
	close(ends[0]);
	close(ends[1]);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_close(heap), 0);
	heap = open_atomic(0);
	p = fm_at(heap, app_of(heap)[0]);
	assert_memory_equal(p + PAGE_SIZE, "from a pipe", 11);
	assert_memory_equal(p, "by a socket", 11);
	close_checked(heap);
}

/* A budget of few pages: pages are dropped and come back. */
static void few_kept_pages(void **state)
{
	struct fm_options options = {.size = sizeof options, .keep_max = 64 * KIB};
	fm_heap *heap;
	char *p;

	(void)state;
	need_way();
	heap = open_or_fail(heap_path, atomic_heap() | FM_CREATE, &options);
	p = fm_malloc(heap, 4 * MIB);
	assert_non_null(p);
	put(heap, 0, fm_offset_of(heap, p));
	for (int round = 1; round < 6; round++) {
		for (size_t i = 0; i < 1024; i++)
			fill(heap, p + i * 4096 + 8 * (size_t)round, round, 8);
		assert_int_equal(fm_commit(heap), 0);
		put(heap, 1, (uint64_t)round);
		assert_int_equal(fm_commit(heap), 0);
		// what the last pause could not drop is the page written last and the allocator's
		assert_true(stats_of(heap).kept_bytes <= 128 * KIB);
	}
	// kept, beyond the budget, and written again: not dropped
	for (int round = 6; round < 12; round++) {
		for (size_t i = 0; i < 24; i++)
			fill(heap, p + i * 4096 + 8 * (size_t)round, round, 8);
		assert_int_equal(fm_commit(heap), 0);
	}
	for (size_t i = 0; i < 24; i++)
		for (int round = 6; round < 12; round++)
			assert_true(is_filled(p + i * 4096 + 8 * (size_t)round, round, 8));
	for (size_t i = 0; i < 1024; i++)
		for (int round = 1; round < 6; round++)
			assert_true(is_filled(p + i * 4096 + 8 * (size_t)round, round, 8));
	assert_int_equal(fm_close(heap), 0);
	heap = open_atomic(0);
	p = fm_at(heap, app_of(heap)[0]);
	for (size_t i = 0; i < 1024; i++)
		for (int round = 1; round < 6; round++)
			assert_true(is_filled(p + i * 4096 + 8 * (size_t)round, round, 8));
	close_checked(heap);
}

static void fork_harms_nothing(void **state)
{
	fm_heap *heap;
	char *p;
	pid_t pid;
	int status;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	p = fm_malloc(heap, 5000);
	assert_non_null(p);
	fill(heap, p, 1, 5000);
	put(heap, 0, fm_offset_of(heap, p));
	assert_int_equal(fm_commit(heap), 0);
	fill(heap, p, 2, 100);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		memset(p, 9, 5000);
		NEED(fm_commit(heap) == -1 && errno == EPERM);
		NEED(fm_rollback(heap) == -1 && errno == EPERM);
		NEED(fm_begin(heap) == -1 && errno == EPERM);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	fill(heap, p + 4000, 3, 100);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_close(heap), 0);
	heap = open_atomic(0);
	p = fm_at(heap, app_of(heap)[0]);
	assert_true(is_filled(p, 2, 100) && is_filled(p + 100, 1, 3900) && is_filled(p + 4000, 3, 100));
	close_checked(heap);
}

/* ---------------------------------------------------------------- sections and threads */

static void sections(void **state)
{
	fm_heap *heap;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	FAILS(fm_end(heap), -1, EINVAL);
	FAILS(fm_abort(heap), -1, EINVAL);
	assert_int_equal(fm_begin(heap), 0);
	assert_int_equal(fm_begin(heap), 0);
	put(heap, 0, 1);
	FAILS(fm_commit(heap), -1, EDEADLK);
	FAILS(fm_rollback(heap), -1, EDEADLK);
	FAILS(fm_snapshot(heap, path_of("s")), -1, EDEADLK);
	assert_int_equal(access(path_of("s"), F_OK), -1);
	assert_int_equal(fm_end(heap), 0);
	FAILS(fm_commit(heap), -1, EDEADLK);
	assert_int_equal(fm_end(heap), 0);
	FAILS(fm_end(heap), -1, EINVAL);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_begin(heap), 0);
	assert_int_equal(fm_begin(heap), 0);
	put(heap, 0, 2);
	assert_int_equal(fm_abort(heap), 0);
	FAILS(fm_end(heap), -1, EINVAL);
	FAILS(fm_commit(heap), -1, ECANCELED);
	assert_int_equal(app_of(heap)[0], 2);
	assert_int_equal(fm_rollback(heap), 0);
	assert_int_equal(app_of(heap)[0], 1);
	put(heap, 0, 3);
	assert_int_equal(fm_commit(heap), 0);
	close_checked(heap);
}

static void *commit_beside(void *arg)
{
	return fm_commit(arg) ? arg : NULL;
}

/* A commit that waits for the section is not waited for in it. */
static void inside_beside_a_commit(void **state)
{
	pthread_t thread;
	void *failed;
	fm_heap *heap;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	assert_int_equal(fm_begin(heap), 0);
	put(heap, 0, 1);
	assert_int_equal(pthread_create(&thread, NULL, commit_beside, heap), 0);
	usleep(20000);
	alarm(60);
	FAILS(fm_snapshot(heap, path_of("s")), -1, EDEADLK);
	FAILS(fm_rollback(heap), -1, EDEADLK);
	alarm(0);
	assert_int_equal(fm_end(heap), 0);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	assert_int_equal(fm_snapshot(heap, path_of("s")), 0);
	close_checked(heap);
	heap = open_or_fail(path_of("s"), atomic_heap(), NULL);
	assert_int_equal(app_of(heap)[0], 1);
	close_checked(heap);
}

#define THREADS 8
#define ROUNDS  60

struct worker {
	fm_heap *heap;
	unsigned number;
	int failures;
};

/* Two words of each thread are equal outside of sections. */
static void *work(void *arg)
{
	struct worker *w = arg;

	for (uint64_t i = 1; i <= ROUNDS; i++) {
		void *p;

		w->failures += fm_begin(w->heap) != 0;
		put(w->heap, 16 * w->number, i);
		p = fm_malloc(w->heap, 50 + i);
		w->failures += !p || fm_free(p) != 0;
		w->failures += fm_begin(w->heap) != 0;
		put(w->heap, 16 * w->number + 8, i);
		w->failures += fm_end(w->heap) != 0;
		w->failures += fm_end(w->heap) != 0;
		w->failures += fm_commit(w->heap) != 0;
	}
	return NULL;
}

static void threads_commit_together(void **state)
{
	pthread_t threads[THREADS];
	struct worker workers[THREADS];
	struct fm_statistics stats;
	fm_heap *heap;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){heap, i, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(workers[i].failures, 0);
	}
	stats = stats_of(heap);
	assert_int_equal(stats.commit_calls, THREADS * ROUNDS);
	assert_true(stats.commits <= stats.commit_calls);
	print_message("# %s: %u commits served %u calls\n", way, (unsigned)stats.commits, (unsigned)stats.commit_calls);
	assert_whole(heap);
	assert_int_equal(fm_close(heap), 0);
	heap = open_atomic(0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_true(app_of(heap)[16 * i] == ROUNDS && app_of(heap)[16 * i + 8] == ROUNDS);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
}

static void *end_inside(void *arg)
{
	struct worker *w = arg;

	w->failures += fm_begin(w->heap) != 0;
	put(w->heap, 0, 77);
	w->failures += !fm_malloc(w->heap, 100);
	return NULL;
}

/* A thread that ends inside its section has not finished what it did. */
static void a_thread_ends_inside(void **state)
{
	struct worker worker;
	pthread_t thread;
	fm_heap *heap;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	put(heap, 0, 1);
	assert_int_equal(fm_commit(heap), 0);
	worker = (struct worker){heap, 0, 0};
	assert_int_equal(pthread_create(&thread, NULL, end_inside, &worker), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(worker.failures, 0);
	FAILS(fm_commit(heap), -1, ECANCELED);
	assert_int_equal(fm_rollback(heap), 0);
	assert_int_equal(app_of(heap)[0], 1);
	assert_int_equal(live_objects(heap), 0);
	assert_int_equal(fm_commit(heap), 0);
	close_checked(heap);
}

/* ---------------------------------------------------------------- kinds */

static void kinds_are_not_confused(void **state)
{
	fm_heap *heap;
	bool is_new;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	put(heap, 0, 5);
	assert_int_equal(fm_commit(heap), 0);
	FAILS(fm_open(heap_path, atomic_heap() | FM_RDONLY, NULL), NULL, EBUSY);
	assert_int_equal(fm_close(heap), 0);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EPROTOTYPE);
	FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, EPROTOTYPE);
	FAILS(fmalloc_init(heap_path, &is_new), NULL, EPROTOTYPE);
	FAILS(fm_open(heap_path, FM_RDONLY | FM_ATOMIC | FM_CONVERT, NULL), NULL, EINVAL);
	FAILS(fm_open(heap_path, FM_DECLARED, NULL), NULL, EINVAL);
	heap = open_atomic(FM_RDONLY);
	assert_int_equal(app_of(heap)[0], 5);
	FAILS(fm_commit(heap), -1, EROFS);
	FAILS(fm_begin(heap), -1, EROFS);
	assert_int_equal(fm_close(heap), 0);
	heap = open_or_fail(heap_path, FM_CONVERT, NULL);
	assert_int_equal(app_of(heap)[0], 5);
	app_of(heap)[0] = 6;
	FAILS(fm_commit(heap), -1, EINVAL);
	FAILS(fm_rollback(heap), -1, EINVAL);
	close_checked(heap);
	FAILS(fm_open(heap_path, atomic_heap(), NULL), NULL, EPROTOTYPE);
	heap = open_atomic(FM_CONVERT);
	assert_int_equal(app_of(heap)[0], 6);
	put(heap, 0, 7);
	assert_int_equal(fm_commit(heap), 0);
	put(heap, 0, 8);
	assert_int_equal(fm_rollback(heap), 0);
	assert_int_equal(app_of(heap)[0], 7);
	close_checked(heap);
}

static void commit_at_close(void **state)
{
	struct fm_options options = {.size = sizeof options, .commit_at_close = true};
	fm_heap *heap;

	(void)state;
	need_way();
	heap = open_or_fail(heap_path, atomic_heap() | FM_CREATE, &options);
	put(heap, 0, 5);
	assert_int_equal(fm_close(heap), 0);
	heap = open_atomic(0);
	assert_int_equal(app_of(heap)[0], 5);
	put(heap, 0, 6);
	assert_int_equal(fm_sync(heap), 0);
	close_checked(heap);
	heap = open_atomic(0);
	assert_int_equal(app_of(heap)[0], 6);
	close_checked(heap);
}

static fm_heap *snapshot_source;
static int snapshot_stop;

static void *keep_committing(void *arg)
{
	uint64_t *n = arg;

	while (!__atomic_load_n(&snapshot_stop, __ATOMIC_RELAXED)) {
		++*n;
		if (fm_begin(snapshot_source))
			break;
		for (unsigned i = 20; i < 500; i += 17)
			put(snapshot_source, i, *n);
		if (fm_end(snapshot_source) || fm_commit(snapshot_source))
			break;
	}
	return NULL;
}

/* A snapshot is a heap at one commit, whatever goes on meanwhile. */
static void snapshots(void **state)
{
	struct fm_statistics here;
	pthread_t thread;
	uint64_t n = 0;
	fm_heap *heap, *copy;
	char *p;

	(void)state;
	need_way();
	heap = snapshot_source = open_atomic(FM_CREATE | FM_EXCL);
	p = fm_malloc(heap, 10 * MIB);
	assert_non_null(p);
	fill(heap, p, 3, 10 * MIB);
	put(heap, 0, fm_offset_of(heap, p));
	assert_int_equal(fm_commit(heap), 0);
	put(heap, 1, 1);
	FAILS(fm_snapshot(heap, heap_path), -1, EEXIST);
	FAILS(fm_snapshot(heap, path_of("none/s")), -1, ENOENT);
	__atomic_store_n(&snapshot_stop, 0, __ATOMIC_RELAXED);
	assert_int_equal(fm_rollback(heap), 0);
	assert_int_equal(pthread_create(&thread, NULL, keep_committing, &n), 0);
	for (unsigned i = 0; i < 4; i++) {
		char name[8];
		uint64_t seen;

		snprintf(name, sizeof name, "s%u", i);
		assert_int_equal(fm_snapshot(heap, path_of(name)), 0);
		copy = open_or_fail(path_of(name), atomic_heap(), NULL);
		assert_int_equal(app_of(copy)[0], fm_offset_of(heap, p));
		assert_int_equal(app_of(copy)[1], 0);
		assert_true(is_filled(fm_at(copy, app_of(copy)[0]), 3, 10 * MIB));
		seen = app_of(copy)[20];
		for (unsigned k = 20; k < 500; k += 17)
			assert_int_equal(app_of(copy)[k], seen);
		put(copy, 1, 5);
		assert_int_equal(fm_commit(copy), 0);
		close_checked(copy);
	}
	__atomic_store_n(&snapshot_stop, 1, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	here = stats_of(heap);
	assert_true(here.commits > 1);
	assert_int_equal(app_of(heap)[20], n);
	close_checked(heap);
}

/* What was allocated and dropped, or freed, does not stay in the file. */
static void space_comes_back(void **state)
{
	fm_heap *heap;
	struct stat st;
	void *p;

	(void)state;
	need_way();
	heap = open_atomic(FM_CREATE | FM_EXCL);
	p = fm_malloc(heap, 30 * MIB);
	assert_non_null(p);
	fill(heap, p, 1, 30 * MIB);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_free(p), 0);
	assert_int_equal(fm_commit(heap), 0);
	assert_non_null(fm_malloc(heap, 50 * MIB));
	close_checked(heap);
	assert_int_equal(stat(heap_path, &st), 0);
	// what is left is the first segment
	assert_true((size_t)st.st_blocks * 512 < 5 * MIB);
	heap = open_atomic(0);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
}

/* A program that declares must declare all: with FMALLOC_DEBUG=declared the commit says what is missing. */
static void undeclared_writes_are_named(void **state)
{
	fm_heap *heap;
	char *p;

	(void)state;
	if (!is_declared())
		skip();
	setenv("FMALLOC_DEBUG", "declared", 1);
	heap = open_atomic(FM_CREATE | FM_EXCL);
	p = fm_malloc(heap, 20000);
	assert_non_null(p);
	assert_int_equal(fm_commit(heap), 0);
	p[9000] = 1;
	FAILS(fm_commit(heap), -1, EPROTO);
	assert_int_equal(fm_will_write(heap, p + 9000, 1), 0);
	assert_int_equal(fm_commit(heap), 0);
	/* also in a page of which other lines were declared */
	assert_int_equal(fm_will_write(heap, p + 9000, 1), 0);
	p[9000] = 2;
	p[9100] = 2;
	FAILS(fm_commit(heap), -1, EPROTO);
	assert_int_equal(fm_will_write(heap, p + 9100, 1), 0);
	assert_int_equal(fm_commit(heap), 0);
	unsetenv("FMALLOC_DEBUG");
	close_checked(heap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(commit_keeps_and_close_drops),
		API_TEST(rollback_takes_everything_back),
		API_TEST(there_and_back),
		API_TEST(nothing_changed_writes_nothing),
		API_TEST(large_commits),
		API_TEST(kernel_stores),
		API_TEST(few_kept_pages),
		API_TEST(fork_harms_nothing),
		API_TEST(sections),
		API_TEST(inside_beside_a_commit),
		API_TEST(threads_commit_together),
		API_TEST(a_thread_ends_inside),
		API_TEST(kinds_are_not_confused),
		API_TEST(commit_at_close),
		API_TEST(snapshots),
		API_TEST(space_comes_back),
		API_TEST(undeclared_writes_are_named),
	};
	int r = 0;

	for (unsigned i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		const char *only = getenv("FM_WAY");

		way = ways[i];
		if (only && strcmp(only, way) != 0)
			continue;
		setenv("FMALLOC_TRACK", way, 1);
		print_message("# finding pages by %s\n", way);
		r += cmocka_run_group_tests_name(way, tests, NULL, NULL);
	}
	return r;
}
