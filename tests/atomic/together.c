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
	assert_int_equal(n, 4);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
