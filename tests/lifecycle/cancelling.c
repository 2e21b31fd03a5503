/* SPDX-License-Identifier: Apache-2.0
 *
 * No call is a cancellation point: a thread that is to be cancelled makes it whole, and leaves neither a descriptor nor
 * a mapping behind.
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

#include <pthread.h>

static const char *at; /* the call that the thread has begun last */
static fm_heap *heap;

/* Make a call with a cancellation pending: at the first cancellation point the thread ends, and `at` says where. */
#define CALL(call) \
	do { \
		at = #call; \
		if (!(call)) { \
			at = "failed: " #call; \
			return NULL; \
		} \
	} while (0)

static void cancel_self(void)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	pthread_cancel(pthread_self());
	pthread_setcancelstate(state, NULL);
}

static int visit_object(void *p, size_t usable_size, void *arg)
{
	(void)p;
	(void)usable_size;
	++*(long *)arg;
	pthread_testcancel(); /* cancellation is disabled */
	return 0;
}

static int visit_root(const char *name, void *p, uint64_t type_tag, void *arg)
{
	(void)name;
	(void)p;
	(void)type_tag;
	++*(long *)arg;
	return 0;
}

static bool take_slabs(void)
{
	for (int i = 0; i < 100000; i++) /* more than the library takes before it prefaults */
		if (!fm_malloc(heap, 240))
			return false;
	return true;
}

static void *use_live(void *arg)
{
	struct fm_statistics stats = { .size = sizeof(stats) };
	int copy = *(int *)arg;
	long objects = 0, roots = 0;
	void *p;

	cancel_self();
	CALL(heap = fm_open(path, 0, NULL));
	CALL(fm_stats(heap, &stats) == 0);
	CALL(fm_check(heap, NULL, NULL) == 0);
	CALL(take_slabs());
	CALL((p = fm_malloc(heap, 9 << 20)) != NULL);
	CALL((p = fm_realloc(heap, p, 19 << 20)) != NULL);
	CALL(fm_free(p) == 0);
	CALL(fm_calloc(heap, 5, 100000) != NULL);
	CALL(fm_root_set(heap, "more", NULL, 2) == 0);
	CALL(fm_root_each(heap, visit_root, &roots) == 0 && roots == 2);
	CALL(fm_walk(heap, visit_object, &objects) == 0 && objects > OBJECTS);
	CALL(fm_copy_fd(heap, copy) == 0);
	CALL(fm_trim(heap, 0) >= 0);
	CALL(fm_sync(heap) == 0);
	CALL(fm_close(heap) == 0);
	CALL(!fm_open(third, 0, NULL));
	CALL(!fm_open(other, FM_FIXED, NULL));
	at = "the end";
	pthread_testcancel();
	return NULL;
}

static void *use_atomic(void *arg)
{
	struct fm_statistics stats = { .size = sizeof(stats) };
	unsigned flags = FM_ATOMIC | FM_CREATE | *(unsigned *)arg;
	char *p;

	cancel_self();
	CALL(heap = fm_open(other, flags, NULL));
	CALL(fm_begin(heap) == 0);
	CALL((p = fm_malloc(heap, 30000)) != NULL);
	CALL(fm_will_write(heap, p, 30000) == 0);
	memset(p, 1, 30000);
	CALL(fm_end(heap) == 0);
	CALL(fm_commit(heap) == 0);
	CALL(take_slabs());
	CALL(fm_commit(heap) == 0);
	CALL(fm_stats(heap, &stats) == 0);
	CALL(fm_check(heap, NULL, NULL) == 0);
	CALL(fm_snapshot(heap, third) == 0);
	CALL(fm_free(p) == 0);
	CALL(fm_rollback(heap) == 0);
	CALL(fm_begin(heap) == 0);
	CALL(fm_abort(heap) == 0);
	CALL(fm_rollback(heap) == 0);
	CALL(fm_sync(heap) == 0);
	CALL(fm_close(heap) == 0);
	at = "the end";
	pthread_testcancel();
	return NULL;
}

static void run(void *(*use)(void *), void *arg)
{
	pthread_t thread;
	void *result;
	long fds = proc_count_fds();

	assert_int_equal(pthread_create(&thread, NULL, use, arg), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_string_equal(at, "the end");
	assert_ptr_equal(result, PTHREAD_CANCELED);
	assert_int_equal(proc_count_fds(), fds);
}

static void test_live(void **state)
{
	int copy = open(other, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);

	(void)state;
	assert_true(copy >= 0);
	run(use_live, &copy);
	close(copy);
}

static void test_atomic(void **state)
{
	unsigned flags = 0;

	(void)state;
	run(use_atomic, &flags);
}

static void test_declared(void **state)
{
	unsigned flags = FM_DECLARED;

	(void)state;
	run(use_atomic, &flags);
}

/* Many threads that are cancelled while they look: whatever they were at, nothing is left. */
static void *look(void *arg)
{
	struct fm_statistics stats = { .size = sizeof(stats) };
	long objects = 0;

	for (;;) {
		if (fm_stats(arg, &stats) || fm_check(arg, NULL, NULL) || fm_walk(arg, visit_object, &objects))
			return NULL;
		pthread_testcancel();
	}
}

static void test_looking(void **state)
{
	long fds, maps;

	(void)state;
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	fds = proc_count_fds();
	maps = proc_count_maps();
	for (unsigned i = 0; i < 100; i++) {
		pthread_t thread;
		void *result;

		assert_int_equal(pthread_create(&thread, NULL, look, heap), 0);
		proc_sleep_us(100 + i * 7);
		assert_int_equal(pthread_cancel(thread), 0);
		assert_int_equal(pthread_join(thread, &result), 0);
		assert_ptr_equal(result, PTHREAD_CANCELED);
	}
	assert_int_equal(proc_count_fds(), fds);
	assert_in_range(proc_count_maps(), 0, maps + 5); /* a thread's stack stays for the next */
	assert_int_equal(fm_close(heap), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_live),
		TEST(test_atomic),
		TEST(test_declared),
		TEST(test_looking),
	};

	return cmocka_run_group_tests_name("cancelling", tests, setup, teardown);
}
