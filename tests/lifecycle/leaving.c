/* SPDX-License-Identifier: Apache-2.0
 *
 * A process that leaves without closing its heap: exit, return, _exit, a signal, beside other threads.
 * The heap always opens again; a copy tells whether it was left clean.
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

#include <pthread.h>

enum leaving { BY_EXIT, BY_EXIT_AT_ONCE, BY_SIGNAL, BY_RETURN, BY_EXIT_NO_SYNC, BY_EXIT_HOOKED };

static fm_heap *leaving_heap;

static void allocate_late(void)
{
	void *p = fm_malloc(leaving_heap, 300);

	if (p) {
		proc_fill(p, 9, 300);
		(void)fm_root_set(leaving_heap, "late", p, 3);
	}
}

/* In a process of its own: opens, stores, leaves. */
static int leave(const char *where, enum leaving how)
{
	unsigned disable = how == BY_EXIT_NO_SYNC ? FM_NO_EXIT_SYNC : 0;
	struct fm_options options = { SIZE_OPTIONS, .disable = disable };
	fm_heap *heap;
	void *p;

	if (how == BY_EXIT_HOOKED)
		atexit(allocate_late);
	heap = leaving_heap = fm_open(where, FM_CREATE, &options);
	proc_must(heap != NULL);
	p = fm_malloc(heap, 5000);
	proc_must(p != NULL);
	proc_fill(p, 77, 5000);
	proc_must(fm_root_set(heap, "left", p, 4) == 0);
	if (how == BY_EXIT_AT_ONCE)
		_exit(7);
	if (how == BY_SIGNAL)
		raise(SIGTERM);
	if (how != BY_RETURN)
		exit(7);
	return 7;
}

static void check_left(bool is_late)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	void *p;

	assert_non_null(heap);
	assert_true(is_complete(heap));
	p = fm_root_get(heap, "left", 4);
	assert_non_null(p);
	assert_true(proc_intact(p, 77, 5000, 5000));
	p = fm_root_get(heap, "late", 3);
	assert_int_equal(p != NULL, is_late);
	if (p)
		assert_true(proc_intact(p, 9, 300, 300));
	assert_int_equal(fm_close(heap), 0);
}

static void test_exit(void **state)
{
	(void)state;
	assert_int_equal(start_self("leave-exit", path), 7);
	assert_int_equal(try_copy(), 0);
	check_left(false);
}

static void test_return_from_main(void **state)
{
	(void)state;
	assert_int_equal(start_self("leave-return", path), 7);
	assert_int_equal(try_copy(), 0);
	check_left(false);
}

/* An exit handler of the program that allocates; what it stores is in the heap, which is clean. */
static void test_exit_handler_allocates(void **state)
{
	(void)state;
	assert_int_equal(start_self("leave-hooked", path), 7);
	assert_int_equal(try_copy(), 0);
	check_left(true);
}

static void test_exit_at_once(void **state)
{
	(void)state;
	assert_int_equal(start_self("leave-at-once", path), 7);
	assert_int_equal(try_copy(), EUCLEAN);
	check_left(false);
}

static void test_killed_by_signal(void **state)
{
	(void)state;
	assert_int_equal(start_self("leave-signal", path), -SIGTERM);
	assert_int_equal(try_copy(), EUCLEAN);
	check_left(false);
}

static void test_exit_without_sync(void **state)
{
	(void)state;
	assert_int_equal(start_self("leave-no-sync", path), 7);
	assert_int_equal(try_copy(), EUCLEAN);
	check_left(false);
}

/* Two heaps, one of them closed before: both are clean at exit. */
static int leave_two(const char *where)
{
	char second[PATH_MAX];
	fm_heap *a = fm_open(where, 0, NULL), *b;

	proc_must(snprintf(second, sizeof(second), "%s.2", where) < PATH_MAX);
	b = fm_open(second, FM_CREATE, NULL);
	proc_must(a && b);
	proc_must(fm_malloc(a, 1000) && fm_malloc(b, 1000));
	exit(7);
}

static void test_exit_two_heaps(void **state)
{
	char second[PATH_MAX];

	(void)state;
	assert_true(snprintf(second, sizeof(second), "%s.2", path) < PATH_MAX);
	assert_int_equal(start_self("leave-two", path), 7);
	assert_int_equal(try_copy(), 0);
	assert_int_equal(unlink(other), 0);
	assert_int_equal(proc_copy(second, other, false), 0);
	assert_int_equal(try_open(other, 0), 0);
	unlink(second);
}

/* A word of the application page. */
static _Atomic uint64_t *counter_of(fm_heap *heap)
{
	return (_Atomic uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

static void *store_for_ever(void *heap)
{
	for (;;) {
		uint64_t *p = fm_malloc(heap, 100);

		if (!p)
			return NULL;
		*p = 1;
		(void)fm_free(p);
		++*counter_of(heap);
	}
}

/* exit() while another thread goes on storing: no crash, no clean mark. */
static int leave_beside_thread(const char *where)
{
	fm_heap *heap = fm_open(where, 0, NULL);
	pthread_t thread;

	proc_must(heap != NULL);
	proc_must(pthread_create(&thread, NULL, store_for_ever, heap) == 0);
	while (*counter_of(heap) < 1000)
		proc_sleep_us(100);
	exit(7);
}

static void test_exit_beside_thread(void **state)
{
	fm_heap *heap;

	(void)state;
	for (int i = 0; i < 10; i++) {
		assert_int_equal(start_self("leave-beside-thread", path), 7);
		assert_int_equal(try_copy(), EUCLEAN);
		heap = fm_open(path, 0, NULL);
		assert_non_null(heap);
		assert_true(is_complete(heap));
		assert_in_range(proc_count_objects(heap), 1 + OBJECTS, 1 + OBJECTS + (uint64_t)i + 1);
		*counter_of(heap) = 0;
		assert_int_equal(fm_close(heap), 0);
	}
}

static void *allocate_once(void *heap)
{
	return fm_malloc(heap, 40);
}

/* Threads that have ended don't count: the process has one thread left. */
static int leave_after_threads(const char *where)
{
	fm_heap *heap = fm_open(where, 0, NULL);

	proc_must(heap != NULL);
	for (int i = 0; i < 4; i++) {
		pthread_t thread;
		void *p;

		proc_must(pthread_create(&thread, NULL, allocate_once, heap) == 0);
		proc_must(pthread_join(thread, &p) == 0);
		proc_must(p != NULL);
	}
	exit(7);
}

static void test_exit_after_threads(void **state)
{
	(void)state;
	if (PROC_THREAD_SANITIZER) {
		print_message("# this sanitizer keeps a thread of its own\n");
		skip();
	}
	assert_int_equal(start_self("leave-after-threads", path), 7);
	assert_int_equal(try_copy(), 0);
}

/* What this program does when it was started afresh by a test. */
static int run_command(const char *command, const char *where)
{
	static const struct {
		const char *command;
		enum leaving how;
	} leavings[] = {
		{ "leave-exit", BY_EXIT },         { "leave-at-once", BY_EXIT_AT_ONCE },
		{ "leave-signal", BY_SIGNAL },     { "leave-return", BY_RETURN },
		{ "leave-no-sync", BY_EXIT_NO_SYNC }, { "leave-hooked", BY_EXIT_HOOKED },
	};

	alarm(60);
	for (size_t i = 0; i < sizeof(leavings) / sizeof(leavings[0]); i++)
		if (strcmp(command, leavings[i].command) == 0)
			return leave(where, leavings[i].how);
	if (strcmp(command, "leave-two") == 0)
		return leave_two(where);
	if (strcmp(command, "leave-beside-thread") == 0)
		return leave_beside_thread(where);
	if (strcmp(command, "leave-after-threads") == 0)
		return leave_after_threads(where);
	return 126;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_exit),
		TEST(test_return_from_main),
		TEST(test_exit_handler_allocates),
		TEST(test_exit_at_once),
		TEST(test_killed_by_signal),
		TEST(test_exit_without_sync),
		TEST(test_exit_two_heaps),
		TEST(test_exit_beside_thread),
		TEST(test_exit_after_threads),
	};

	if (argc == 3)
		return run_command(argv[1], argv[2]);
	return cmocka_run_group_tests_name("leaving", tests, setup, teardown);
}
