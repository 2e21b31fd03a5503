/* SPDX-License-Identifier: Apache-2.0
 *
 * FM_WAIT: granted, interrupted, timed out, and for a file that was replaced; signals during everything
 * else.
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

#include <pthread.h>

/* ---------------------------------------------------------------- waiting */

static int wait_for_heap(void *arg)
{
	struct fm_options options = { SIZE_OPTIONS, .wait_ms = 15000 };
	const struct attempt *a = arg;
	struct stat st;
	fm_heap *heap;

	shared->ready++;
	heap = fm_open(a->path, a->flags, &options);
	proc_must(heap != NULL);
	proc_must(fstat(heap->fd, &st) == 0);
	shared->value[0] = st.st_ino;
	proc_must(fm_close(heap) == 0);
	return 0;
}

/* Who waited for a file that lost its name meanwhile gets the file of that name. */
static void test_replaced_while_waiting(void **state)
{
	struct attempt a = { path, FM_WAIT };
	fm_heap *heap = fm_open(path, 0, NULL);
	struct stat st;
	pid_t waiter;

	(void)state;
	assert_non_null(heap);
	waiter = proc_start(wait_for_heap, &a, PROC_LIMIT_MS);
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	proc_sleep_us(20000);
	assert_int_equal(make_heap(third), 0);
	assert_int_equal(rename(third, path), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(proc_end(waiter), 0);
	assert_int_equal(shared->value[0], st.st_ino);
}

static void test_unlinked_while_waiting(void **state)
{
	struct attempt a = { path, FM_WAIT | FM_CREATE };
	fm_heap *heap = fm_open(path, 0, NULL);
	struct stat st;
	pid_t waiter;

	(void)state;
	assert_non_null(heap);
	waiter = proc_start(wait_for_heap, &a, PROC_LIMIT_MS);
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	proc_sleep_us(20000);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(proc_end(waiter), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(shared->value[0], st.st_ino);
	assert_int_equal(stat(other, &st), 0);
	assert_true(shared->value[0] != st.st_ino);
}

/* ---------------------------------------------------------------- signals */

static _Atomic long signals;

static void count_signal(int number)
{
	(void)number;
	signals++;
}

static void handle(int number, int flags)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = count_signal;
	action.sa_flags = flags;
	proc_must(sigaction(number, &action, NULL) == 0);
}

static int wait_interrupted(void *arg)
{
	fm_heap *heap;

	(void)arg;
	handle(SIGUSR1, 0);
	shared->ready = 2;
	heap = fm_open(path, FM_WAIT, NULL);
	proc_must(heap == NULL && errno == EINTR);
	proc_must(fm_last_error()[0] != '\0');
	return 0;
}

static void test_wait_interrupted(void **state)
{
	pid_t holder = start_holder(path, 0), waiter;

	(void)state;
	waiter = proc_start(wait_interrupted, NULL, PROC_LIMIT_MS);
	assert_true(proc_wait_flag(&shared->ready, 2, 10000));
	proc_sleep_us(50000);
	kill(waiter, SIGUSR1);
	assert_int_equal(proc_end(waiter), 0);
	assert_int_equal(end_holder(holder), 0);
}

static void test_wait_times_out(void **state)
{
	struct fm_options options = { SIZE_OPTIONS, .wait_ms = 150 };
	pid_t holder = start_holder(path, 0);
	double start = proc_now(), took;

	(void)state;
	assert_null(fm_open(path, FM_WAIT, &options));
	assert_int_equal(errno, ETIMEDOUT);
	took = proc_now() - start;
	assert_true(took > 0.14 && took < 5);
	assert_int_equal(end_holder(holder), 0);
}

/* Waiting within one process works too: another thread closes the heap. */
static void *close_later(void *heap)
{
	proc_sleep_us(50000);
	return fm_close(heap) == 0 ? heap : NULL;
}

static void test_wait_in_process(void **state)
{
	struct fm_options options = { SIZE_OPTIONS, .wait_ms = 10000 };
	fm_heap *heap = fm_open(path, 0, NULL), *again;
	pthread_t thread;
	void *result;

	(void)state;
	assert_non_null(heap);
	assert_int_equal(pthread_create(&thread, NULL, close_later, heap), 0);
	again = fm_open(path, FM_WAIT, &options);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_non_null(result);
	assert_non_null(again);
	assert_true(is_complete(again));
	assert_int_equal(fm_close(again), 0);
}

static void test_wait_granted(void **state)
{
	struct fm_options options = { SIZE_OPTIONS, .wait_ms = 10000 };
	pid_t holder = start_holder(path, 0);
	double start = proc_now();
	fm_heap *heap;

	(void)state;
	shared->go = 1;
	heap = fm_open(path, FM_WAIT, &options);
	assert_non_null(heap);
	assert_true(proc_now() - start < 5);
	assert_int_equal(proc_end(holder), 0);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
}

/* A handler that runs every few hundred microseconds disturbs no operation. */
static int work_under_signals(void *arg)
{
	struct itimerval often = { { 0, 300 }, { 0, 300 } };
	uint64_t rng = 3;
	void *p[50] = { NULL };

	(void)arg;
	handle(SIGALRM, 0);
	proc_must(setitimer(ITIMER_REAL, &often, NULL) == 0);
	for (int round = 0; round < 15; round++) {
		fm_heap *heap = fm_open(path, FM_CREATE, NULL);

		proc_must(heap != NULL);
		memset(p, 0, sizeof(p));
		for (int i = 0; i < 300; i++) {
			size_t at = proc_below(&rng, 50);

			proc_must(fm_free(p[at]) == 0);
			p[at] = fm_malloc(heap, proc_below(&rng, i % 50 ? 3000 : 5 << 20));
			proc_must(p[at] != NULL);
		}
		proc_must(fm_root_set(heap, "one", p[0], 1) == 0);
		proc_must(fm_sync(heap) == 0);
		proc_must(fm_check(heap, NULL, NULL) == 0);
		for (size_t i = 0; i < 50; i++)
			proc_must(fm_free(p[i]) == 0);
		proc_must(fm_close(heap) == 0);
		if (round == 7)
			proc_must(unlink(path) == 0);
	}
	proc_must(signals > 10);
	return 0;
}

static void test_under_signals(void **state)
{
	(void)state;
	assert_int_equal(proc_run(work_under_signals, NULL), 0);
	assert_int_equal(try_open(path, 0), 0);
}

/* The library takes no signal and blocks none. */
static void test_signals_untouched(void **state)
{
	struct sigaction was[65], is;
	sigset_t blocked, blocked_now;
	fm_heap *heap;

	(void)state;
	memset(was, 0, sizeof(was));
	for (int i = 1; i < 65; i++)
		(void)sigaction(i, NULL, &was[i]);
	assert_int_equal(sigprocmask(SIG_SETMASK, NULL, &blocked), 0);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_non_null(fm_malloc(heap, 10 << 20));
	for (int i = 1; i < 65; i++) {
		memset(&is, 0, sizeof(is));
		if (sigaction(i, NULL, &is) == 0)
			assert_ptr_equal(is.sa_handler, was[i].sa_handler);
	}
	assert_int_equal(sigprocmask(SIG_SETMASK, NULL, &blocked_now), 0);
	for (int i = 1; i < 65; i++)
		assert_int_equal(sigismember(&blocked, i), sigismember(&blocked_now, i));
	assert_int_equal(fm_close(heap), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_replaced_while_waiting),
		TEST(test_unlinked_while_waiting),
		TEST(test_wait_interrupted),
		TEST(test_wait_times_out),
		TEST(test_wait_in_process),
		TEST(test_wait_granted),
		TEST(test_under_signals),
		TEST(test_signals_untouched),
	};

	return cmocka_run_group_tests_name("waiting", tests, setup, teardown);
}
