/* SPDX-License-Identifier: Apache-2.0
 *
 * Creators that race, permissions, the size of a tiny heap, and FM_FIXED in fresh processes.
 *
 *   FM_RACES       rounds of eight creators (15)
 *   FM_FIXED_RUNS  fresh processes that must be granted FM_FIXED (100)
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

/* ---------------------------------------------------------------- creators that race */

#define CREATORS 8

struct creator {
	unsigned flags;
	int number;
};

static int create_in_race(void *arg)
{
	struct fm_options options = { SIZE_OPTIONS, .wait_ms = 15000 };
	const struct creator *c = arg;
	struct stat st;
	fm_heap *heap;

	shared->ready++;
	while (!shared->go)
		;
	heap = fm_open(path, c->flags, &options);
	if (!heap) {
		proc_must(fm_last_error()[0] != '\0');
		return errno;
	}
	proc_must(fstat(heap->fd, &st) == 0);
	shared->value[c->number] = st.st_ino;
	proc_must(proc_check(heap) == 0);
	proc_must(fm_malloc(heap, 100) != NULL);
	++*(volatile uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
	shared->count++;
	proc_must(fm_close(heap) == 0);
	return 0;
}

/* One race; returns how many opened the heap. `refusal` is the errno that losers may get. */
static int race(unsigned flags, int refusal)
{
	struct creator c[CREATORS];
	pid_t pid[CREATORS];
	struct stat st;
	fm_heap *heap;
	int winners = 0;

	memset(shared, 0, sizeof(*shared));
	for (int i = 0; i < CREATORS; i++) {
		c[i] = (struct creator){ flags, i };
		pid[i] = proc_start(create_in_race, &c[i], PROC_LIMIT_MS);
	}
	assert_true(proc_wait_flag(&shared->ready, CREATORS, 10000));
	shared->go = 1;
	for (int i = 0; i < CREATORS; i++) {
		int end = proc_end(pid[i]);

		if (end != 0)
			assert_int_equal(end, refusal);
		winners += end == 0;
	}
	assert_int_equal(winners, shared->count);
	assert_true(winners >= 1);
	assert_int_equal(stat(path, &st), 0);
	for (int i = 0; i < CREATORS; i++)
		if (shared->value[i])
			assert_int_equal(shared->value[i], st.st_ino);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_int_equal(*(uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE), winners);
	assert_int_equal(proc_count_objects(heap), winners);
	assert_int_equal(proc_check(heap), 0);
	assert_int_equal(fm_close(heap), 0);
	unlink(path);
	return winners;
}

static void test_creators(void **state)
{
	long rounds = (long)proc_env("FM_RACES", 15), opened = 0;

	(void)state;
	unlink(path);
	for (long i = 0; i < rounds; i++) {
		opened += race(FM_CREATE, EBUSY);
		assert_int_equal(race(FM_CREATE | FM_EXCL, EEXIST), 1);
		assert_int_equal(race(FM_CREATE | FM_WAIT, -1), CREATORS);
	}
	printf("# %ld races without waiting: %ld of %ld opened\n", rounds, opened, rounds * CREATORS);
}

/* The same over an existing file of zeros. */
static void test_adopters(void **state)
{
	long rounds = (long)proc_env("FM_RACES", 15);

	(void)state;
	for (long i = 0; i < rounds; i++) {
		int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, i % 2 ? 300000 : 0), 0);
		close(fd);
		(void)(i % 4 < 2 ? race(FM_CREATE, EBUSY) : race(FM_CREATE | FM_WAIT, -1));
	}
}

/* ---------------------------------------------------------------- new heaps */

static void test_created_permissions(void **state)
{
	struct fm_options options = { SIZE_OPTIONS, .mode = 0664 };
	struct stat st;
	mode_t mask = umask(0022);
	fm_heap *heap;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	heap = fm_open(other, FM_CREATE, &options);
	umask(mask);
	assert_non_null(heap);
	assert_int_equal(stat(other, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(fm_close(heap), 0);
}

static void test_tiny_heap(void **state)
{
	fm_heap *heap;
	struct stat st;

	(void)state;
	unlink(path);
	heap = fm_open(path, FM_CREATE, NULL);
	assert_non_null(heap);
	for (size_t i = 0; i < 10; i++)
		assert_non_null(fm_malloc(heap, i % 3 == 0 ? 24 : i % 3 == 1 ? 100 : 500));
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_in_range(st.st_blocks * 512, 1, 512 << 10);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_int_equal(proc_count_objects(heap), 10);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_in_range(st.st_blocks * 512, 1, 512 << 10);
}

/* ---------------------------------------------------------------- FM_FIXED */

#define FIXED_NODES 20

struct fixed_node {
	struct fixed_node *next; /* raw */
	uint64_t value;
};

/* A list with raw pointers. */
static bool add_raw_list(fm_heap *heap)
{
	struct fixed_node *list = NULL;

	for (uint64_t i = 0; i < FIXED_NODES; i++) {
		struct fixed_node *n = fm_malloc(heap, sizeof(*n));

		if (!n)
			return false;
		*n = (struct fixed_node){ list, i };
		list = n;
	}
	return fm_root_set(heap, "list", list, (uint64_t)(uintptr_t)heap->mem) == 0;
}

/* Whether the heap is mapped where add_raw_list() saw it, and its raw pointers lead through a list. */
static bool has_raw_list(fm_heap *heap)
{
	struct fixed_node *n = fm_root_get(heap, "list", (uint64_t)(uintptr_t)heap->mem);
	uint64_t left = FIXED_NODES;

	for (; n && left; n = n->next)
		if (n->value != --left || fm_heap_of(n) != heap)
			return false;
	return left == 0 && !n;
}

static int fixed_run(const char *where)
{
	fm_heap *heap = fm_open(where, FM_FIXED, NULL);

	proc_must(heap != NULL);
	proc_must(has_raw_list(heap));
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_fixed(void **state)
{
	long runs = (long)proc_env("FM_FIXED_RUNS", 100);

	(void)state;
	for (int i = 0; i < 2; i++) {
		fm_heap *heap;

		unlink(path);
		heap = fm_open(path, FM_CREATE | (i ? FM_FIXED : 0), NULL);
		assert_non_null(heap);
		assert_true(add_raw_list(heap));
		assert_int_equal(fm_close(heap), 0);
		for (long run = 0; run < runs / 2; run++)
			assert_int_equal(start_self("fixed", path), 0);
	}
}

static int fixed_two_run(const char *first, const char *second)
{
	fm_heap *a = fm_open(first, FM_FIXED, NULL), *b = fm_open(second, FM_FIXED, NULL);

	proc_must(a && b);
	proc_must(has_raw_list(a) && has_raw_list(b));
	proc_must(fm_close(a) == 0 && fm_close(b) == 0);
	return 0;
}

/* Heaps made while both were open open together, in either order. */
static void test_fixed_together(void **state)
{
	(void)state;
	for (int i = 0; i < 8; i++) {
		fm_heap *a, *b;

		unlink(path);
		unlink(other);
		a = fm_open(path, FM_CREATE, NULL);
		b = fm_open(other, FM_CREATE, NULL);
		assert_non_null(a);
		assert_non_null(b);
		assert_true(add_raw_list(a) && add_raw_list(b));
		assert_int_equal(fm_close(a), 0);
		assert_int_equal(fm_close(b), 0);
		assert_int_equal(start_self("fixed-two", path), 0);
		assert_int_equal(start_self("fixed-two-reversed", path), 0);
	}
}

static void test_fixed_taken(void **state)
{
	fm_heap *heap;
	void *at, *taken;

	(void)state;
	unlink(path);
	heap = fm_open(path, FM_CREATE, NULL);
	assert_non_null(heap);
	assert_true(add_raw_list(heap));
	at = heap->mem;
	assert_int_equal(fm_close(heap), 0);
	taken = mmap(at, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_equal(taken, at);
	assert_int_equal(try_open(path, FM_FIXED), EADDRINUSE);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_ptr_not_equal(heap->mem, at);
	assert_int_equal(proc_count_objects(heap), FIXED_NODES);
	assert_int_equal(fm_close(heap), 0);
	munmap(taken, 1 << 20);
	heap = fm_open(path, FM_FIXED, NULL);
	assert_non_null(heap);
	assert_true(has_raw_list(heap));
	assert_int_equal(fm_close(heap), 0);
}

/* What this program does when it was started afresh by a test. */
static int run_command(const char *command, const char *where)
{
	alarm(60);
	if (strcmp(command, "fixed") == 0)
		return fixed_run(where);
	proc_must(snprintf(other, PATH_MAX, "%s.other", where) < PATH_MAX);
	if (strcmp(command, "fixed-two") == 0)
		return fixed_two_run(where, other);
	if (strcmp(command, "fixed-two-reversed") == 0)
		return fixed_two_run(other, where);
	return 126;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_creators),
		TEST(test_adopters),
		TEST(test_created_permissions),
		TEST(test_tiny_heap),
		TEST(test_fixed),
		TEST(test_fixed_together),
		TEST(test_fixed_taken),
	};

	if (argc == 3)
		return run_command(argv[1], argv[2]);
	return cmocka_run_group_tests_name("creating", tests, setup, teardown);
}
