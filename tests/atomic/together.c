/* SPDX-License-Identifier: Apache-2.0
 *
 * Atomic heaps and what live heaps can: giving space back, joined slots, memory for a forked child, no syncs, and
 * descriptors that the program has closed and given to files of its own.
 */
#define _GNU_SOURCE 1
#include "api_util.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SMALL      40000u /* objects of 64 bytes */
#define SMALL_SIZE 64u
#define KEPT_EVERY 4u     /* of which these stay */
#define WIDE       2000u  /* objects of joined slots */
#define WIDE_SIZE  180u
#define BLOCKS     64u    /* of 1 MiB */

static char *small[SMALL], *wide[WIDE];

static fm_heap *open_atomic(unsigned flags)
{
	return open_or_fail(heap_path, FM_ATOMIC | flags, NULL);
}

static void assert_whole(fm_heap *heap)
{
	assert_int_equal(fm_check(heap, print_finding, NULL), 0);
}

static bool is_filled(const char *p, int byte, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != (char)byte)
			return false;
	return true;
}

static uint64_t *app_of(fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

/* ---------------------------------------------------------------- joined slots */

/* Slabs of small objects more than half free, committed. */
static void fill_with_holes(fm_heap *heap)
{
	for (unsigned i = 0; i < SMALL; i++) {
		small[i] = fm_malloc(heap, SMALL_SIZE);
		assert_non_null(small[i]);
		memset(small[i], (int)i, SMALL_SIZE);
	}
	for (unsigned i = 0; i < SMALL; i++)
		if (i % KEPT_EVERY)
			assert_int_equal(fm_free(small[i]), 0);
	assert_int_equal(fm_commit(heap), 0);
}

static bool is_in_small_slab(fm_heap *heap, const char *p)
{
	uint64_t unit = fm_offset_of(heap, p) >> 16;

	for (unsigned i = 0; i < SMALL; i += KEPT_EVERY)
		if (fm_offset_of(heap, small[i]) >> 16 == unit)
			return true;
	return false;
}

/* How many of the wide objects are made of small slots. */
static unsigned make_wide(fm_heap *heap)
{
	unsigned joined = 0;

	for (unsigned i = 0; i < WIDE; i++) {
		wide[i] = fm_malloc(heap, WIDE_SIZE);
		assert_non_null(wide[i]);
		memset(wide[i], (int)(i + 100), WIDE_SIZE);
		joined += is_in_small_slab(heap, wide[i]);
	}
	return joined;
}

static void expect_small(void)
{
	for (unsigned i = 0; i < SMALL; i += KEPT_EVERY)
		assert_true(is_filled(small[i], (int)i, SMALL_SIZE));
}

/* Slots joined since the last commit come apart. */
static void joined_slots_roll_back(void **state)
{
	fm_heap *heap = open_atomic(FM_CREATE | FM_EXCL);

	(void)state;
	fill_with_holes(heap);
	for (int round = 0; round < 3; round++) {
		unsigned joined = make_wide(heap);

		/* after a rollback the thread has no slabs yet whose slots it may join */
		assert_true(joined > WIDE / 2 || round > 0);
		assert_whole(heap);
		assert_int_equal(fm_rollback(heap), 0);
		assert_whole(heap);
		assert_int_equal(live_objects(heap), SMALL / KEPT_EVERY);
		expect_small();
	}
	close_checked(heap);
}

/* Those of the last commit that were freed since, and handed out one by one, are one again. */
static void committed_joined_slots_come_back(void **state)
{
	fm_heap *heap = open_atomic(FM_CREATE | FM_EXCL);

	(void)state;
	fill_with_holes(heap);
	assert_true(make_wide(heap) > WIDE / 2);
	assert_int_equal(fm_commit(heap), 0);
	for (unsigned i = 0; i < WIDE; i++)
		assert_int_equal(fm_free(wide[i]), 0);
	for (unsigned i = 0; i < WIDE; i++)
		assert_non_null(memset(fm_malloc(heap, SMALL_SIZE), 1, SMALL_SIZE));
	assert_whole(heap);
	assert_int_equal(fm_rollback(heap), 0);
	assert_whole(heap);
	assert_int_equal(live_objects(heap), SMALL / KEPT_EVERY + WIDE);
	for (unsigned i = 0; i < WIDE; i++) {
		assert_true(fm_usable_size(wide[i]) >= WIDE_SIZE);
		assert_true(is_filled(wide[i], (int)(i + 100), WIDE_SIZE));
		assert_int_equal(fm_free(wide[i]), 0);
	}
	expect_small();
	assert_int_equal(live_objects(heap), SMALL / KEPT_EVERY);
	assert_int_equal(fm_commit(heap), 0);
	close_checked(heap);
}

/* The same after the process: joined slots are committed, or not there. */
static void joined_slots_are_committed(void **state)
{
	uint64_t first = 0;
	fm_heap *heap = open_atomic(FM_CREATE | FM_EXCL);

	(void)state;
	fill_with_holes(heap);
	assert_true(make_wide(heap) > WIDE / 2);
	first = fm_offset_of(heap, wide[0]);
	assert_int_equal(fm_commit(heap), 0);
	for (unsigned i = 0; i < WIDE; i++)
		assert_int_equal(fm_free(wide[i]), 0);
	make_wide(heap);
	close_checked(heap);
	heap = open_atomic(0);
	assert_whole(heap);
	assert_int_equal(live_objects(heap), SMALL / KEPT_EVERY + WIDE);
	assert_true(is_filled(fm_at(heap, first), 100, WIDE_SIZE));
	assert_int_equal(fm_free(fm_at(heap, first)), 0);
	close_checked(heap);
}

/* ---------------------------------------------------------------- giving back */

static uint64_t blocks_of_file(void)
{
	struct stat st;

	assert_int_equal(stat(heap_path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* What is freed and not committed is the last commit's: neither fm_trim nor the looks at idle space take it. */
static void trim_leaves_the_last_commit(void **state)
{
	struct fm_options options = {.size = sizeof options, .decay_ms = 1};
	fm_heap *heap = open_or_fail(heap_path, FM_ATOMIC | FM_CREATE | FM_EXCL, &options);
	uint64_t before;

	(void)state;
	for (unsigned i = 0; i < BLOCKS; i++) {
		wide[i] = fm_malloc(heap, MIB);
		assert_non_null(wide[i]);
		memset(wide[i], (int)i + 1, MIB);
	}
	assert_int_equal(fm_commit(heap), 0);
	before = blocks_of_file();
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(fm_free(wide[i]), 0);
	/* far more releases than one look takes, some decay_ms apart */
	for (unsigned i = 0; i < 400; i++) {
		struct timespec t = {0, 200000};

		assert_int_equal(fm_free(fm_malloc(heap, 600 * KIB)), 0);
		nanosleep(&t, NULL);
	}
	assert_int_equal(fm_trim(heap, 0), 0);
	assert_true(blocks_of_file() >= before);
	assert_int_equal(fm_rollback(heap), 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_true(is_filled(wide[i], (int)i + 1, MIB));
	assert_whole(heap);
	/* committed, it is given back by closing */
	for (unsigned i = 1; i < BLOCKS; i++)
		assert_int_equal(fm_free(wide[i]), 0);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_trim(heap, 0), 0);
	close_checked(heap);
	assert_true(blocks_of_file() < before / 2);
	heap = open_atomic(0);
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

/* ---------------------------------------------------------------- what atomic heaps refuse */

static void child_gets_no_memory_of_its_own(void **state)
{
	fm_heap *heap = open_atomic(FM_CREATE | FM_EXCL);
	int fd = memfd_create("copy", MFD_CLOEXEC), status;
	struct stat st;
	pid_t pid;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fm_copy_fd(heap, fd), -1);
	assert_int_equal(errno, ENOTSUP);
	assert_non_null(strstr(fm_last_error(), "atomic"));
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 0);
	pid = fork();
	if (pid == 0) {
		bool reopens = fm_child_reopen(heap, fd) != -1 || errno != ENOTSUP;
		bool detaches = fm_child_detach(heap) != -1 || errno != ENOTSUP;
		bool allocates = fm_malloc(heap, 1) != NULL || errno != EPERM;

		_exit(reopens + 2 * detaches + 4 * allocates);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	app_of(heap)[0] = 5;
	assert_int_equal(fm_commit(heap), 0);
	close(fd);
	close_checked(heap);
}

static void commits_are_synced(void **state)
{
	struct fm_options options = {.size = sizeof options, .disable = FM_NO_SYNC};

	(void)state;
	assert_null(fm_open(heap_path, FM_ATOMIC | FM_CREATE, &options));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(access(heap_path, F_OK), -1);
	options.disable = FM_NO_CHECKPOINT;
	close_checked(open_or_fail(heap_path, FM_ATOMIC | FM_CREATE, &options));
}

/* ---------------------------------------------------------------- descriptors */

/* Put files of our own in the place of all descriptors of the heap's file; how many. */
static unsigned take_descriptors(char text[16], int mine[16])
{
	struct stat heap_st, st;
	unsigned n = 0;

	assert_int_equal(stat(heap_path, &heap_st), 0);
	for (int fd = 3; fd < 1100; fd++) {
		int own;

		if (fstat(fd, &st) || st.st_ino != heap_st.st_ino || st.st_dev != heap_st.st_dev)
			continue;
		own = memfd_create("mine", MFD_CLOEXEC);
		assert_int_equal(pwrite(own, text, 16, 0), 16);
		assert_int_equal(dup2(own, fd), fd);
		close(own);
		assert_true(n < 16);
		mine[n++] = fd;
	}
	return n;
}

static void closed_descriptors_cost_commits_only(void **state)
{
	char text[16] = "somebody else's", back[32];
	fm_heap *heap = open_atomic(FM_CREATE | FM_EXCL);
	char *p = fm_malloc(heap, 1000);
	char *other = fm_malloc(heap, 100);
	int mine[16];
	unsigned n;

	(void)state;
	assert_true(p && other);
	memset(p, 1, 1000);
	app_of(heap)[0] = fm_offset_of(heap, p);
	assert_int_equal(fm_commit(heap), 0);
	memset(p, 2, 1000);
	assert_int_equal(fm_commit(heap), 0);
	n = take_descriptors(text, mine);
	assert_true(n == 5 || n == 4); /* one is for O_DIRECT, where the file system can */
	memset(p, 3, 1000);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fm_commit(heap), -1);
		assert_int_equal(errno, EBADF);
	}
	assert_true(is_filled(p, 3, 1000));
	assert_non_null(fm_malloc(heap, 100));
	assert_null(fm_malloc(heap, 100 * MIB));
	assert_int_equal(errno, ENOMEM);
	assert_int_equal(fm_snapshot(heap, path_of("snapshot")), -1);
	assert_int_equal(access(path_of("snapshot"), F_OK), -1);
	assert_int_equal(fm_close(heap), -1);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(pread(mine[i], back, sizeof back, 0), sizeof text);
		assert_memory_equal(back, text, sizeof text);
		close(mine[i]);
	}
	heap = open_atomic(0);
	assert_true(is_filled(fm_at(heap, app_of(heap)[0]), 2, 1000));
	close_checked(heap);
}

/* ---------------------------------------------------------------- locked memory */

/* A program that locks its memory can take changes back, and its kept pages keep to their budget. */
static void locked_memory_rolls_back(void **state)
{
	struct fm_options options = {.size = sizeof options, .keep_max = 64 * KIB};
	fm_heap *heap = open_or_fail(heap_path, FM_ATOMIC | FM_CREATE | FM_EXCL, &options);
	struct fm_statistics stats = {.size = sizeof stats};
	char *p = fm_malloc(heap, MIB);

	(void)state;
	assert_non_null(p);
	memset(p, 1, MIB);
	assert_int_equal(fm_commit(heap), 0);
	if (mlock(p, MIB)) {
		print_message("# memory can't be locked here: %s\n", strerror(errno));
		skip();
	}
	memset(p, 2, MIB);
	assert_int_equal(fm_rollback(heap), 0);
	assert_true(is_filled(p, 1, MIB));
	memset(p, 3, MIB);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_true(stats.kept_bytes <= 128 * KIB);
	close_checked(heap);
	heap = open_atomic(0);
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

/* ---------------------------------------------------------------- joined slots after rollbacks */

/* After a rollback a thread joins no slots of slabs that it does not own again yet: that costs a slab for a while, and
 * nothing that grows with the rollbacks. */
static void rollbacks_cost_no_space(void **state)
{
	fm_heap *heap = open_atomic(FM_CREATE | FM_EXCL);
	struct fm_statistics first = {.size = sizeof first}, now = {.size = sizeof now};

	(void)state;
	fill_with_holes(heap);
	for (unsigned round = 0; round < 60; round++) {
		make_wide(heap);
		assert_int_equal(fm_rollback(heap), 0);
		/* some stay, and go */
		for (unsigned i = 0; i < 50; i++)
			wide[i] = fm_malloc(heap, WIDE_SIZE);
		assert_int_equal(fm_commit(heap), 0);
		for (unsigned i = 0; i < 50; i++)
			assert_int_equal(fm_free(wide[i]), 0);
		assert_int_equal(fm_commit(heap), 0);
		if (round == 2)
			assert_int_equal(fm_stats(heap, &first), 0);
	}
	assert_int_equal(fm_stats(heap, &now), 0);
	assert_int_equal(now.live_objects, first.live_objects);
	assert_true(now.slab_bytes <= first.slab_bytes + 2 * 64 * KIB);
	assert_true(now.file_size <= first.file_size + MIB);
	close_checked(heap);
}

/* ---------------------------------------------------------------- a journal behind max_size */

/* The journal of a heap with a max_size lies behind it, with a hole before it. That costs no blocks and no room of the heap's;
 * the hole goes at closing; a process that is killed leaves it, and the heap opens with the same limit, none, a larger one. */
static void a_journal_behind_the_limit(void **state)
{
	static const uint64_t limits[] = {64 * MIB, 0, 256 * MIB, 64 * MIB};
	struct fm_options options = {.size = sizeof options, .max_size = 64 * MIB};
	struct fm_statistics stats = {.size = sizeof stats};
	struct stat st;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		fm_heap *heap;
		uint64_t n = 0;
		char *p;
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			heap = fm_open(heap_path, FM_ATOMIC | FM_CREATE, &options);
			NEED(heap);
			p = fm_malloc(heap, MIB);
			NEED(p);
			memset(p, (int)i + 1, MIB); /* more than the header's part of the journal */
			app_of(heap)[i] = fm_offset_of(heap, p);
			NEED(fm_commit(heap) == 0);
			NEED(fm_stats(heap, &stats) == 0);
			NEED(stats.max_size == 64 * MIB || i > 0);
			kill(getpid(), SIGKILL);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_int_equal(stat(heap_path, &st), 0);
		assert_true((uint64_t)st.st_size > 64 * MIB && (uint64_t)st.st_blocks * 512 < 32 * MIB);
		options.max_size = limits[i];
		heap = open_or_fail(heap_path, FM_ATOMIC, &options);
		assert_whole(heap);
		for (unsigned k = 0; k <= i; k++)
			assert_true(is_filled(fm_at(heap, app_of(heap)[k]), (int)k + 1, MIB));
		/* all of the room that the limit gives can be had */
		while (n < 200 && fm_malloc(heap, MIB))
			n++;
		assert_in_range(n, limits[i] == 64 * MIB ? 44 : limits[i] ? 180 : 200, limits[i] == 64 * MIB ? 64 : 200);
		assert_int_equal(fm_rollback(heap), 0);
		assert_whole(heap);
		close_checked(heap);
		/* closed, it is as long as what it has */
		assert_int_equal(stat(heap_path, &st), 0);
		assert_true((uint64_t)st.st_size < 32 * MIB);
		options.max_size = 64 * MIB;
	}
}

/* A huge object that would grow to where the journal is moves or stays, and is whole. The journal's segments may lie beyond
 * all that the process has descriptors for. */
static void a_huge_object_grows_to_the_journal(void **state)
{
	static const uint64_t limits[] = {1024 * MIB, 0};
	uint64_t size = 8 * MIB;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct fm_options options = {.size = sizeof options, .max_size = limits[i]};
		fm_heap *heap = open_or_fail(path_of(i ? "unlimited" : "limited"), FM_ATOMIC | FM_CREATE, &options);
		char *p = fm_malloc(heap, size);

		assert_non_null(p);
		for (int round = 1; round < 6; round++) {
			memset(p, round, size);
			assert_int_equal(fm_commit(heap), 0);
		}
		FAILS(fm_realloc(heap, p, limits[0] * 2048), NULL, ENOMEM);
		if (limits[i])
			FAILS(fm_realloc(heap, p, limits[i] * 2), NULL, ENOMEM);
		assert_true(is_filled(p, 5, size));
		p = fm_realloc(heap, p, 5 * size);
		assert_non_null(p);
		assert_true(is_filled(p, 5, size));
		assert_int_equal(fm_commit(heap), 0);
		assert_whole(heap);
		close_checked(heap);
	}
}

/* Each commit needs a larger journal than the one before: when the superblock has no place left for a further extent, the
 * smallest is replaced. A gigabyte of memory, so by FM_LARGE alone. */
extern uint64_t atomic_record_max;

static void ever_larger_commits(void **state)
{
	struct fm_options options = {.size = sizeof options, .journal_max = 1, .disable = FM_NO_CHECKPOINT};
	uint64_t len = 3 * MIB, all = 1200 * MIB;
	uint64_t record_max = atomic_record_max;
	int fd = memfd_create("heap", MFD_CLOEXEC);
	struct fm_statistics stats = {.size = sizeof stats};
	fm_heap *heap;
	char *p;

	(void)state;
	if (!getenv("FM_LARGE")) {
		print_message("# FM_LARGE is not set\n");
		close(fd);
		skip();
	}
	atomic_record_max = 65536; /* little is lost at the end of each extent */
	heap = fm_open_fd(fd, FM_ATOMIC | FM_CREATE, &options);
	assert_non_null(heap);
	p = fm_malloc(heap, all);
	assert_non_null(p);
	app_of(heap)[0] = fm_offset_of(heap, p);
	for (int round = 1; len < all; round++) {
		memset(p, round, len);
		app_of(heap)[1] = len;
		app_of(heap)[2] = (uint64_t)round;
		if (fm_commit(heap))
			fail_msg("%llu MiB: %s", (unsigned long long)(len / MIB), fm_last_error());
		assert_int_equal(fm_stats(heap, &stats), 0);
		if (getenv("FM_DUMP"))
			printf("# %llu MiB committed, journal %llu\n", (unsigned long long)(len / MIB), (unsigned long long)stats.journal_size >> 20);
		len = stats.journal_size * 15 / 16 > len + MIB ? stats.journal_size * 15 / 16 : len + MIB;
	}
	assert_int_equal(fm_close(heap), 0);
	heap = fm_open_fd(fd, FM_ATOMIC, &options);
	assert_non_null(heap);
	assert_true(is_filled(fm_at(heap, app_of(heap)[0]), (int)app_of(heap)[2], app_of(heap)[1]));
	assert_whole(heap);
	assert_int_equal(fm_close(heap), 0);
	atomic_record_max = record_max;
	close(fd);
}

/* A copy whose zeros became holes, or whose blocks are another file's: opening gives the journal blocks of its own, since
 * a record that finds none would poison the heap. */
static void a_sparse_copy(void **state)
{
	static char page[4096], zeros[4096];
	fm_heap *heap = open_atomic(FM_CREATE | FM_EXCL);
	struct fm_statistics stats = {.size = sizeof stats};
	char *p = fm_malloc(heap, MIB);
	struct stat st;
	int from, to;

	(void)state;
	assert_non_null(p);
	memset(p, 1, MIB);
	app_of(heap)[0] = fm_offset_of(heap, p);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_true(stats.journal_size > 4 * MIB);
	/* as a kill would leave it */
	from = open(heap_path, O_RDONLY | O_CLOEXEC);
	to = open(path_of("copy"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(from >= 0 && to >= 0);
	assert_int_equal(fstat(from, &st), 0);
	assert_int_equal(ftruncate(to, st.st_size), 0);
	for (off_t off = 0; off < st.st_size; off += 4096) {
		assert_int_equal(pread(from, page, 4096, off), 4096);
		if (memcmp(page, zeros, 4096) != 0)
			assert_int_equal(pwrite(to, page, 4096, off), 4096);
	}
	close(from);
	close_checked(heap);
	assert_int_equal(fstat(to, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < 4 * MIB);
	heap = open_or_fail(path_of("copy"), FM_ATOMIC, NULL);
	assert_int_equal(fstat(to, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 > 5 * MIB);
	assert_true(is_filled(fm_at(heap, app_of(heap)[0]), 1, MIB));
	close(to);
	close_checked(heap);
}

/* A limit beyond what can be reserved is none. */
static void a_limit_beyond_all(void **state)
{
	static const uint64_t limits[] = {UINT64_C(1) << 43, UINT64_C(1) << 50, UINT64_MAX};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct fm_options options = {.size = sizeof options, .max_size = limits[i], .journal_max = limits[i],
		                             .keep_max = limits[i]};
		fm_heap *heap = open_or_fail(heap_path, FM_ATOMIC | FM_CREATE, &options);
		char *p = fm_malloc(heap, 3 * MIB);
		struct stat st;

		assert_non_null(p);
		memset(p, 7, 3 * MIB);
		assert_int_equal(fm_commit(heap), 0);
		assert_int_equal(stat(heap_path, &st), 0);
		assert_true((uint64_t)st.st_size < 256 * MIB);
		close_checked(heap);
		heap = open_atomic(0);
		assert_int_equal(live_objects(heap), i + 1);
		close_checked(heap);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(locked_memory_rolls_back),
		API_TEST(rollbacks_cost_no_space),
		API_TEST(a_journal_behind_the_limit),
		API_TEST(a_huge_object_grows_to_the_journal),
		API_TEST(a_sparse_copy),
		API_TEST(a_limit_beyond_all),
		API_TEST(ever_larger_commits),
		API_TEST(joined_slots_roll_back),
		API_TEST(committed_joined_slots_come_back),
		API_TEST(joined_slots_are_committed),
		API_TEST(trim_leaves_the_last_commit),
		API_TEST(child_gets_no_memory_of_its_own),
		API_TEST(commits_are_synced),
		API_TEST(closed_descriptors_cost_commits_only),
	};

	return cmocka_run_group_tests_name("together", tests, NULL, NULL);
}
