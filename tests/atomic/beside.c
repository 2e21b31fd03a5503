/* SPDX-License-Identifier: Apache-2.0
 *
 * fm_will_write outside of sections, beside commits and rollbacks of other threads: whatever those take of it, stores
 * that are made in sections afterwards are in their commits, this thread's and the others' alike. On the ways that do
 * more than to note a page; by chance, and by stopping the thread in the middle.
 */
#include "api_util.h"

#include "os/os.h"

#include <string.h>

#define OBJECT (128 * KIB)

/* Longer than a commit takes, if nothing holds it up. */
#define STOP_MS 300

static struct {
	fm_heap *heap;
	uint64_t *p;  /* an object */
	uint64_t off;
	int fd;       /* of the file */
	struct os_calls table;
	int stops_before, stops_after; /* opening pages for writing, in the thread that is `stopped` */
	int is_stopped, goes_on;
	int ends;
} t;

static __thread bool is_other;

static void make(unsigned flags, size_t size)
{
	/* a commit is in its place when fm_commit returns */
	struct fm_options options = {.size = sizeof options, .disable = FM_NO_CHECKPOINT};

	t.heap = open_or_fail(heap_path, FM_ATOMIC | FM_CREATE | FM_EXCL | flags, &options);
	t.p = fm_aligned_alloc(t.heap, 65536, size);
	assert_non_null(t.p);
	assert_int_equal(fm_will_write(t.heap, t.p, OBJECT), 0);
	memset(t.p, 0, OBJECT);
	t.off = fm_offset_of(t.heap, t.p);
	assert_int_equal(fm_commit(t.heap), 0);
	t.fd = open(heap_path, O_RDONLY | O_CLOEXEC);
	assert_true(t.fd >= 0);
	t.is_stopped = t.goes_on = t.ends = 0;
}

static void done(void)
{
	os = &os_linux;
	close(t.fd);
	close_checked(t.heap);
}

/* What the last commit has in word `i` of the object. */
static uint64_t committed(unsigned i)
{
	uint64_t value;

	assert_int_equal(pread(t.fd, &value, 8, (off_t)(t.off + i * 8)), 8);
	return value;
}

static int store(unsigned i, uint64_t value)
{
	int r = fm_begin(t.heap);

	t.p[i] = value;
	return r | fm_end(t.heap);
}

/* ---------------------------------------------------------------- stopped in the middle */

static void stop(int *where)
{
	if (!is_other || !__atomic_exchange_n(where, 0, __ATOMIC_SEQ_CST))
		return;
	__atomic_store_n(&t.is_stopped, 1, __ATOMIC_SEQ_CST);
	for (unsigned ms = 0; ms < STOP_MS && !__atomic_load_n(&t.goes_on, __ATOMIC_SEQ_CST); ms++)
		usleep(1000);
}

static int protect(void *at, uint64_t len, bool readable, bool writable)
{
	int r;

	if (writable)
		stop(&t.stops_before);
	r = os_linux.protect(at, len, readable, writable);
	if (writable)
		stop(&t.stops_after);
	return r;
}

static void *declare(void *arg)
{
	is_other = true;
	return fm_will_write(t.heap, t.p, 8) ? arg : NULL;
}

static void begin_stopped(pthread_t *thread, int *where)
{
	setenv("FMALLOC_TRACK", "mprotect", 1);
	make(0, OBJECT);
	t.table = os_linux;
	t.table.protect = protect;
	os = &t.table;
	*where = 1;
	assert_int_equal(pthread_create(thread, NULL, declare, t.heap), 0);
}

static void end_stopped(pthread_t thread)
{
	void *failed;

	__atomic_store_n(&t.goes_on, 1, __ATOMIC_SEQ_CST);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
}

static void until_stopped(void)
{
	while (!__atomic_load_n(&t.is_stopped, __ATOMIC_SEQ_CST))
		usleep(100);
}

/* The granule is taken in between: it must not be open afterwards without anybody knowing. */
static void taken_by(int (*take)(fm_heap *heap))
{
	pthread_t thread;

	begin_stopped(&thread, &t.stops_before);
	until_stopped();
	assert_int_equal(store(100, 1), 0);
	assert_int_equal(take(t.heap), 0);
	end_stopped(thread);
	for (uint64_t i = 1; i < 4; i++) {
		assert_int_equal(store(0, i), 0);
		assert_int_equal(fm_commit(t.heap), 0);
		assert_int_equal(committed(0), i);
	}
	done();
}

static void taken_by_a_commit(void **state)
{
	(void)state;
	taken_by(fm_commit);
}

static void taken_by_a_rollback(void **state)
{
	(void)state;
	taken_by(fm_rollback);
}

/* It is open already: a store of somebody else, in a section, does not fault. */
static void open_for_others(void **state)
{
	pthread_t thread;

	(void)state;
	begin_stopped(&thread, &t.stops_after);
	until_stopped();
	assert_int_equal(store(200, 7), 0);
	assert_int_equal(fm_commit(t.heap), 0);
	assert_int_equal(committed(200), 7);
	end_stopped(thread);
	done();
}

/* ---------------------------------------------------------------- by chance */

static void *commit_granules(void *arg)
{
	for (uint64_t n = 1; !__atomic_load_n(&t.ends, __ATOMIC_RELAXED); n++)
		if (store(100, n) || fm_commit(t.heap))
			return arg;
	return NULL;
}

static void granules(void **state)
{
	pthread_t thread;
	void *failed;

	(void)state;
	setenv("FMALLOC_TRACK", "mprotect", 1);
	make(0, OBJECT);
	assert_int_equal(pthread_create(&thread, NULL, commit_granules, t.heap), 0);
	for (uint64_t i = 1; i <= 500; i++) {
		usleep((unsigned)(i * 37 % 500));
		assert_int_equal(fm_will_write(t.heap, t.p, 8), 0);
		assert_int_equal(store(0, i), 0);
		assert_int_equal(fm_commit(t.heap), 0);
		/* what another commit took along is in its place before the next one */
		assert_int_equal(fm_commit(t.heap), 0);
		assert_int_equal(committed(0), i);
	}
	__atomic_store_n(&t.ends, 1, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	done();
}

/* A declaration so long that a commit gets into the middle, or would. */
#define LONG_LEN (64 * MIB)
#define ROUNDS   60

static unsigned asked, declared; /* rounds */

static void *declare_long(void *arg)
{
	for (unsigned round = 1; round <= ROUNDS; round++) {
		while (__atomic_load_n(&asked, __ATOMIC_SEQ_CST) != round)
			;
		if (fm_will_write(t.heap, t.p, LONG_LEN))
			return arg;
		__atomic_store_n(&declared, round, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static uint64_t pages_found(void)
{
	struct fm_statistics stats = {.size = sizeof stats};

	assert_int_equal(fm_stats(t.heap, &stats), 0);
	return stats.pages_found;
}

/* Another line of its first page is declared before and after the commit, so that the page is noted. */
static void lines(void **state)
{
	unsigned stand = 0;
	pthread_t thread;
	void *failed;

	(void)state;
	unsetenv("FMALLOC_TRACK");
	make(FM_DECLARED, LONG_LEN);
	asked = declared = 0;
	assert_int_equal(pthread_create(&thread, NULL, declare_long, t.heap), 0);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		uint64_t found = pages_found();

		assert_int_equal(fm_will_write(t.heap, &t.p[100], 8), 0);
		__atomic_store_n(&asked, round, __ATOMIC_SEQ_CST);
		for (volatile unsigned wait = 0; wait < 2000 * (round % 8); wait++)
			;
		assert_int_equal(fm_commit(t.heap), 0);
		found = pages_found() - found;
		assert_int_equal(fm_will_write(t.heap, &t.p[100], 8), 0);
		while (__atomic_load_n(&declared, __ATOMIC_SEQ_CST) != round)
			;
		/* the commit did not take it, and it has returned: it stands */
		if (found < 100) {
			stand++;
			assert_int_equal(store(0, round), 0);
			assert_int_equal(fm_commit(t.heap), 0);
			assert_int_equal(committed(0), round);
		}
		assert_int_equal(fm_commit(t.heap), 0);
	}
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	print_message("# %u of %u declarations were not taken by the commit beside them\n", stand, ROUNDS);
	done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(taken_by_a_commit),
		API_TEST(taken_by_a_rollback),
		API_TEST(open_for_others),
		API_TEST(granules),
		API_TEST(lines),
	};

	return cmocka_run_group_tests_name("beside", tests, NULL, NULL);
}
