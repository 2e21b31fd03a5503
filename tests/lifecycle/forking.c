/* SPDX-License-Identifier: Apache-2.0
 *
 * fork, with the parent killed, with the child calling, leaving and opening; exec.
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

#include <dirent.h>
#include <pthread.h>

/* Opens the heap, forks a child that lives on, reports both, waits to be killed. */
static int open_and_fork(void *arg)
{
	struct fm_options options = { SIZE_OPTIONS, .disable = *(unsigned *)arg };
	fm_heap *heap = fm_open(path, 0, &options);
	pid_t child;

	proc_must(heap != NULL);
	proc_must(fm_malloc(heap, 100) != NULL);
	child = fork();
	proc_must(child >= 0);
	if (child == 0) {
		shared->ready = 1;
		for (int i = 0; i < 20000 && !shared->go; i++)
			proc_sleep_us(1000);
		shared->done = 1;
		_exit(0);
	}
	while (!shared->go)
		proc_sleep_us(1000);
	return 0;
}

static void test_parent_killed(void **state)
{
	unsigned disable = 0;
	pid_t parent = proc_start(open_and_fork, &disable, PROC_LIMIT_MS);
	fm_heap *heap;

	(void)state;
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	assert_int_equal(proc_kill(parent), -SIGKILL);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_int_equal(shared->done, 0); /* the child lives */
	assert_true(is_complete(heap));
	shared->go = 1;
	assert_true(proc_wait_flag(&shared->done, 1, 10000));
	assert_int_equal(fm_close(heap), 0);
}

/* ---- while another thread is opening it */

/* How many descriptors of heaps, named or not yet, are open and, if `locked`, have a lock. */
static unsigned count_descriptors(bool locked)
{
	char name[300], target[PATH_MAX], line[256];
	DIR *fds = opendir("/proc/self/fd");
	unsigned n = 0;

	proc_must(fds != NULL);
	for (struct dirent *fd; (fd = readdir(fds));) {
		ssize_t len = readlinkat(dirfd(fds), fd->d_name, target, sizeof(target) - 1);
		FILE *info;
		bool has_lock = false;

		if (len < 0)
			continue;
		target[len] = 0;
		if (strncmp(target, dir, strlen(dir)) != 0)
			continue;
		snprintf(name, sizeof(name), "/proc/self/fdinfo/%s", fd->d_name);
		info = locked ? fopen(name, "r") : NULL;
		while (info && fgets(line, sizeof(line), info))
			has_lock |= strncmp(line, "lock:", 5) == 0;
		if (info)
			fclose(info);
		n += has_lock || !locked;
	}
	closedir(fds);
	return n;
}

static void *open_waiting(void *unused)
{
	fm_heap *heap = fm_open(path, FM_WAIT, NULL);

	(void)unused;
	proc_must(heap != NULL && fm_malloc(heap, 100) != NULL);
	shared->value[0] = 1;
	return heap;
}

static int fork_beside_waiting(void *unused)
{
	pthread_t thread;
	pid_t child;

	(void)unused;
	proc_must(pthread_create(&thread, NULL, open_waiting, NULL) == 0);
	while (count_descriptors(false) < 2)
		proc_sleep_us(1000);
	proc_sleep_us(20000);
	child = fork();
	proc_must(child >= 0);
	if (child == 0) {
		shared->value[1] = 1;
		for (int i = 0; i < 20000 && !shared->value[2]; i++)
			proc_sleep_us(1000);
		shared->done = 1;
		_exit(0);
	}
	for (;;)
		proc_sleep_us(1000);
}

static bool wait_value(unsigned i)
{
	for (int ms = 0; ms < 10000 && !shared->value[i]; ms++)
		proc_sleep_us(1000);
	return shared->value[i] != 0;
}

static void test_parent_killed_that_waited(void **state)
{
	pid_t holder = start_holder(path, 0), parent;

	(void)state;
	parent = proc_start(fork_beside_waiting, NULL, PROC_LIMIT_MS);
	assert_true(wait_value(1));
	assert_int_equal(shared->value[0], 0);
	assert_int_equal(end_holder(holder), 0);
	assert_true(wait_value(0));
	assert_int_equal(try_open(path, 0), EBUSY);
	assert_int_equal(proc_kill(parent), -SIGKILL);
	assert_int_equal(try_open(path, 0), 0);
	assert_int_equal(shared->done, 0); /* the child lives */
	shared->value[2] = 1;
	assert_true(proc_wait_flag(&shared->done, 1, 10000));
}

static void *open_often(void *flags)
{
	struct fm_options options = { SIZE_OPTIONS, .disable = FM_NO_SYNC };

	while (!shared->done) {
		fm_heap *heap = fm_open(path, *(unsigned *)flags, &options);

		proc_must(heap != NULL);
		proc_must(fm_close(heap) == 0);
		if (*(unsigned *)flags)
			proc_must(unlink(path) == 0);
	}
	return NULL;
}

/* Whatever the other thread is about at the fork, the child has no lock, and gets none. */
static int child_has_no_lock(void *unused)
{
	(void)unused;
	for (int i = 0; i < 4; i++) {
		proc_must(count_descriptors(true) == 0);
		proc_sleep_us(100);
	}
	return 0;
}

static int fork_beside_opening(void *flags)
{
	pthread_t thread;

	proc_must(pthread_create(&thread, NULL, open_often, flags) == 0);
	/* a fork under a sanitizer takes ten times as long */
	for (int i = 0; i < (PROC_SANITIZED ? 100 : 1000); i++)
		proc_must(proc_run(child_has_no_lock, NULL) == 0);
	shared->done = 1;
	proc_must(pthread_join(thread, NULL) == 0);
	return 0;
}

static void test_fork_beside_opening(void **state)
{
	unsigned flags = 0;

	(void)state;
	assert_int_equal(proc_run(fork_beside_opening, &flags), 0);
	assert_int_equal(try_open(path, 0), 0);
}

static void test_fork_beside_creating(void **state)
{
	unsigned flags = FM_CREATE;

	(void)state;
	assert_int_equal(proc_run(fork_beside_opening, &flags), 0);
}

/* FM_NO_ATFORK is the documented way to do without the handler: then the child keeps the lock. */
static void test_parent_killed_no_atfork(void **state)
{
	unsigned disable = FM_NO_ATFORK;
	pid_t parent = proc_start(open_and_fork, &disable, PROC_LIMIT_MS);

	(void)state;
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	assert_int_equal(proc_kill(parent), -SIGKILL);
	assert_int_equal(try_open(path, 0), EBUSY);
	shared->go = 1;
	assert_true(proc_wait_flag(&shared->done, 1, 10000));
	for (int i = 0; i < 100 && try_open(path, 0) == EBUSY; i++)
		proc_sleep_us(10000);
	assert_int_equal(try_open(path, 0), 0);
}

static int child_calls(void *arg)
{
	fm_heap *heap = arg;
	struct fm_statistics stats = { .size = sizeof(stats) };
	void *objects = fm_at(heap, shared->value[0]);

	proc_must(fm_malloc(heap, 10) == NULL && errno == EPERM);
	proc_must(fm_last_error()[0] != '\0');
	proc_must(fm_malloc(heap, 10 << 20) == NULL && errno == EPERM);
	proc_must(fm_realloc(heap, objects, 10) == NULL && errno == EPERM);
	proc_must(fm_free(objects) == -1 && errno == EPERM);
	proc_must(fm_root_set(heap, "x", NULL, 1) == -1 && errno == EPERM);
	proc_must(fm_root_remove(heap, "objects") == -1 && errno == EPERM);
	proc_must(fm_close(heap) == -1 && errno == EPERM);
	(void)fm_stats(heap, &stats);
	(void)fm_sync(heap);
	return 0;
}

/* A child's calls fail and harm nothing, and so does its exit(). */
static int child_exits(void *arg)
{
	(void)child_calls(arg);
	exit(PROC_SANITIZED ? 0 : 42);
}

static void test_child_harmless(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	void *objects;

	(void)state;
	assert_non_null(heap);
	objects = fm_root_get(heap, "objects", 1);
	shared->value[0] = fm_offset_of(heap, objects);
	assert_non_null(fm_malloc(heap, 24));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(proc_run(child_calls, heap), 0);
		assert_int_equal(proc_run(child_exits, heap), PROC_SANITIZED ? 0 : 42);
		assert_int_equal(try_copy(), EUCLEAN); /* the mark is still set */
		assert_int_equal(try_open_elsewhere(path, 0), EBUSY);
		assert_non_null(fm_malloc(heap, 24));
		assert_non_null(fm_malloc(heap, 1 << 20));
	}
	assert_true(is_complete(heap));
	assert_int_equal(proc_count_objects(heap), 1 + OBJECTS + 7);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(try_copy(), 0);
}

/* A forked child may open the heap for itself once its parent is gone, or another heap at once. */
static int child_opens(void *arg)
{
	fm_heap *heap;

	(void)arg;
	proc_must(try_open(path, 0) == EBUSY);
	heap = fm_open(other, FM_CREATE, NULL);
	proc_must(heap != NULL && fm_malloc(heap, 100) != NULL);
	proc_must(fm_close(heap) == 0);
	shared->ready = 1;
	while (!shared->go)
		proc_sleep_us(500);
	heap = fm_open(path, 0, NULL);
	proc_must(heap != NULL);
	proc_must(fm_malloc(heap, 100) != NULL);
	proc_must(is_complete(heap));
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_child_opens_itself(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	pid_t child;

	(void)state;
	assert_non_null(heap);
	child = proc_start(child_opens, NULL, PROC_LIMIT_MS);
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	assert_int_equal(fm_close(heap), 0);
	shared->go = 1;
	assert_int_equal(proc_end(child), 0);
	assert_int_equal(try_open(other, 0), 0);
}

/* exec while open, then the file can be opened beside the new program: nothing was handed on. */
static int open_and_exec(void *arg)
{
	fm_heap *heap = fm_open(path, 0, NULL);

	(void)arg;
	proc_must(heap != NULL);
	proc_must(fm_malloc(heap, 100) != NULL);
	shared->ready = 1;
	execlp("sleep", "sleep", "20", (char *)NULL);
	return 127;
}

static void test_exec(void **state)
{
	pid_t pid = proc_start(open_and_exec, NULL, PROC_LIMIT_MS);
	int error = EBUSY;
	fm_heap *heap;

	(void)state;
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	for (int i = 0; i < 500 && error == EBUSY; i++) {
		proc_sleep_us(10000);
		error = try_open(path, 0);
	}
	assert_int_equal(error, 0);
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* it sleeps */
	proc_kill(pid);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
}

/* Every thread of the child but the forking one is gone: what they held must not matter. */
static void *churn_for_ever(void *heap)
{
	while (!shared->done) {
		void *p = fm_malloc(heap, 64), *q = fm_malloc(heap, 700000);

		proc_must(p && q && fm_free(p) == 0 && fm_free(q) == 0);
		shared->ready++;
	}
	return NULL;
}

static int fork_among_threads(void *arg)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	pthread_t thread[2];

	(void)arg;
	proc_must(heap != NULL);
	shared->value[0] = fm_offset_of(heap, fm_root_get(heap, "objects", 1));
	for (int i = 0; i < 2; i++)
		proc_must(pthread_create(&thread[i], NULL, churn_for_ever, heap) == 0);
	for (int i = 0; i < 50; i++) {
		proc_must(proc_run(child_calls, heap) == 0);
		proc_must(fm_malloc(heap, 30) != NULL);
	}
	shared->done = 1;
	for (int i = 0; i < 2; i++)
		proc_must(pthread_join(thread[i], NULL) == 0);
	proc_must(is_complete(heap));
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_fork_among_threads(void **state)
{
	(void)state;
	assert_int_equal(proc_run(fork_among_threads, NULL), 0);
	assert_int_equal(try_copy(), 0);
}

/* ---- beside an atomic heap, which has a thread of the library's */

static unsigned count_threads(void)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned n = 0;

	proc_must(tasks != NULL);
	for (struct dirent *task; (task = readdir(tasks));)
		n += task->d_name[0] != '.';
	closedir(tasks);
	return n;
}

/* Leaves with its own live heap open; with another thread, if *arg says so. */
static int child_leaves(void *arg)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	pthread_t thread;

	proc_must(count_threads() == 1);
	proc_must(heap != NULL && fm_malloc(heap, 100) != NULL);
	if (*(bool *)arg) {
		proc_must(pthread_create(&thread, NULL, churn_for_ever, heap) == 0);
		proc_must(proc_wait_flag(&shared->ready, 1, 10000));
	}
	exit(42);
}

/* What a child leaves is clean if it has no other threads: the parent's do not count. */
static void test_child_leaves(void **state)
{
	struct fm_options options = { SIZE_OPTIONS, .disable = FM_NO_EXIT_SYNC };
	fm_heap *heap = fm_open(third, FM_CREATE | FM_ATOMIC, &options);
	bool has_thread = false;
	char *p;

	(void)state;
	assert_non_null(heap);
	p = fm_malloc(heap, 1 << 20);
	assert_non_null(p);
	/* in many pieces, which a thread brings to their places */
	for (unsigned i = 0; i < 1 << 20; i += 8192)
		p[i] = 1;
	assert_int_equal(fm_commit(heap), 0);
	assert_true(count_threads() > 1);
	assert_int_equal(proc_run(child_leaves, &has_thread), 42);
	assert_int_equal(try_copy(), 0);
	has_thread = true;
	assert_int_equal(proc_run(child_leaves, &has_thread), 42);
	assert_int_equal(try_copy(), EUCLEAN);
	assert_int_equal(fm_close(heap), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_parent_killed),
		TEST(test_parent_killed_that_waited),
		TEST(test_fork_beside_opening),
		TEST(test_fork_beside_creating),
		TEST(test_parent_killed_no_atfork),
		TEST(test_child_harmless),
		TEST(test_child_opens_itself),
		TEST(test_exec),
		TEST(test_fork_among_threads),
		TEST(test_child_leaves),
	};

	return cmocka_run_group_tests_name("forking", tests, setup, teardown);
}
