/* SPDX-License-Identifier: Apache-2.0
 *
 * Atomic heaps in a program that is not still: signals that interrupt every system call, forks beside commits whose
 * children end in each way, closing while the checkpoint's thread is at work, threads that end while others commit; on
 * every way of finding pages.
 *
 *   FM_ROUNDS   of each (40)
 */
#define _GNU_SOURCE 1
#include "api_util.h"
#include "way.h"
#include "../../src/base/atomics.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#define WORDS 600u

static const char *const ways[] = {"uffd", "mprotect", "pagemap", "declared"};
static const char *way;
static fm_heap *heap;
static int stop;
static uint64_t failures;
static uint64_t done; /* commits that returned */

static unsigned rounds(void)
{
	const char *text = getenv("FM_ROUNDS");

	return text ? (unsigned)strtoul(text, NULL, 10) : 40;
}

static uint64_t *words(void)
{
	return fm_at(heap, *(uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE));
}

static fm_heap *open_it(unsigned flags)
{
	struct fm_options options = {.size = sizeof options, .journal_max = 1};

	return heap = open_or_fail(heap_path, atomic_heap() | flags, &options);
}

static void begin(void)
{
	uint64_t *app;
	void *p;

	open_it(FM_CREATE | FM_EXCL);
	p = fm_calloc(heap, WORDS, 8);
	assert_non_null(p);
	app = (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
	assert_int_equal(fm_will_write(heap, app, 8), 0);
	*app = fm_offset_of(heap, p);
	assert_int_equal(fm_commit(heap), 0);
	store_relaxed(&stop, 0);
	failures = 0;
	done = 0;
}

/* All words are the number of a commit, and the objects that are allocated are one or two. */
static void *keep_committing(void *arg)
{
	uint64_t *w = words();
	void *last = NULL;

	(void)arg;
	for (uint64_t n = 1; !__atomic_load_n(&stop, __ATOMIC_RELAXED); n++) {
		count(&failures, fm_begin(heap) != 0);
		count(&failures, fm_will_write(heap, w, WORDS * 8) != 0);
		for (unsigned i = 0; i < WORDS; i++)
			w[i] = n;
		count(&failures, fm_free(last) != 0);
		last = fm_malloc(heap, 100 + n % 5000);
		count(&failures, !last);
		count(&failures, fm_end(heap) != 0 || fm_commit(heap) != 0);
		__atomic_store_n(&done, n, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void end(void)
{
	uint64_t *w;

	assert_int_equal(load_relaxed(&failures), 0);
	assert_true(done > 0);
	assert_int_equal(fm_check(heap, print_finding, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
	open_it(0);
	w = words();
	for (unsigned i = 0; i < WORDS; i++)
		assert_int_equal(w[i], done);
	assert_int_equal(live_objects(heap), 2);
	close_checked(heap);
}

static uint64_t signals;

static void on_alarm(int number)
{
	(void)number;
	count(&signals, 1);
}

static void signals_interrupt_nothing(void **state)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
	pthread_t thread;

	(void)state;
	begin();
	store_relaxed(&signals, 0);
	assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, keep_committing, NULL), 0);
	while (load_relaxed(&signals) < 10 * rounds())
		pause();
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_non_null(fm_malloc(heap, 700000));
		assert_int_equal(fm_rollback(heap), 0);
	}
	assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
	signal(SIGALRM, SIG_DFL);
	end();
}

static void child(unsigned i)
{
	uint64_t *w = words();

	for (unsigned k = 0; k < WORDS; k++)
		w[k] = 9999999;
	NEED(fm_commit(heap) == -1 && errno == EPERM);
	NEED(fm_end(heap) == -1 && errno == EPERM);
	NEED(!fm_malloc(heap, 10) && errno == EPERM);
	if (i % 3 == 0)
		exit(0);
	if (i % 3 == 1)
		raise(SIGKILL);
	_exit(0);
}

static void forks_beside_commits(void **state)
{
	pthread_t thread;
	int status;

	(void)state;
	begin();
	assert_int_equal(pthread_create(&thread, NULL, keep_committing, NULL), 0);
	for (unsigned i = 0; i < rounds(); i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0)
			child(i);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(i % 3 == 1 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : status == 0);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	end();
}

/* Threads that allocate, and end, while another commits; what they leave is freed by whoever comes next. */
static void *come_and_go(void *arg)
{
	void **object = arg;

	count(&failures, fm_begin(heap) != 0);
	if (*object)
		count(&failures, fm_free(*object) != 0);
	*object = fm_malloc(heap, 300);
	count(&failures, !*object || fm_free(*object) != 0);
	*object = NULL;
	count(&failures, fm_end(heap) != 0);
	return NULL;
}

static void threads_come_and_go(void **state)
{
	pthread_t thread, other;
	void *object = NULL;

	(void)state;
	begin();
	assert_int_equal(pthread_create(&thread, NULL, keep_committing, NULL), 0);
	for (unsigned i = 0; i < 5 * rounds(); i++) {
		assert_int_equal(pthread_create(&other, NULL, come_and_go, &object), 0);
		assert_int_equal(pthread_join(other, NULL), 0);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	end();
}

/* The journal of 32 KiB is half full after a few commits: then the thread begins to sync. */
static void closing_beside_the_checkpoint(void **state)
{
	uint64_t n = 0;

	(void)state;
	begin();
	for (unsigned i = 0; i < rounds(); i++) {
		for (unsigned k = 0; k < 5 + i % 4; k++) {
			uint64_t *w = words();

			assert_int_equal(fm_will_write(heap, w, 8), 0);
			w[0] = ++n;
			assert_int_equal(fm_commit(heap), 0);
		}
		assert_int_equal(fm_close(heap), 0);
		open_it(0);
		assert_int_equal(words()[0], n);
	}
	close_checked(heap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(signals_interrupt_nothing),
		API_TEST(forks_beside_commits),
		API_TEST(threads_come_and_go),
		API_TEST(closing_beside_the_checkpoint),
	};
	int r = 0;

	for (unsigned i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		way = ways[i];
		if (getenv("FM_WAY") && strcmp(getenv("FM_WAY"), way) != 0)
			continue;
		setenv("FMALLOC_TRACK", way, 1);
		print_message("# finding pages by %s\n", way);
		r += cmocka_run_group_tests_name(way, tests, NULL, NULL);
	}
	return r;
}
