/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of tests/lifecycle share: a heap with known contents at `path`, made before each test,
 * and ways to try it, hold it open and copy it.
 */
#ifndef LIFECYCLE_UTIL_H
#define LIFECYCLE_UTIL_H

#include "proc_util.h"

#include <stdatomic.h>

#define SIZE_OPTIONS .size = sizeof(struct fm_options)
#define TEST(name) cmocka_unit_test_setup(name, before)

static char *dir;
static char path[PATH_MAX], other[PATH_MAX], third[PATH_MAX];

/* Shared with children; zeroed before each test. */
static struct shared {
	_Atomic int ready, go, done, count;
	_Atomic uint64_t value[64];
} *shared;

#define OBJECTS 100

/* Make a heap at `where` with OBJECTS objects named by a root, and close it. */
static inline int make_heap(const char *where)
{
	fm_heap *heap = fm_open(where, FM_CREATE | FM_EXCL, NULL);
	uint64_t *offs;

	if (!heap)
		return -1;
	offs = fm_calloc(heap, OBJECTS, sizeof(*offs));
	for (unsigned i = 0; offs && i < OBJECTS; i++) {
		void *p = fm_malloc(heap, 10 + i * 7);

		if (!p)
			return -1;
		proc_fill(p, i, 10 + i * 7);
		offs[i] = fm_offset_of(heap, p);
	}
	if (!offs || fm_root_set(heap, "objects", offs, 1) != 0)
		return -1;
	return fm_close(heap);
}

/* Whether all objects of make_heap() are in the open heap, and fm_check finds nothing. */
static inline bool is_complete(fm_heap *heap)
{
	const uint64_t *offs = fm_root_get(heap, "objects", 1);

	if (!offs || proc_check(heap) != 0)
		return false;
	for (unsigned i = 0; i < OBJECTS; i++)
		if (!proc_intact(fm_at(heap, offs[i]), i, 10 + i * 7, 10 + i * 7))
			return false;
	return true;
}

/* errno of opening (0: it opened, and was closed again). */
static inline int try_open(const char *where, unsigned flags)
{
	fm_heap *heap = fm_open(where, flags, NULL);

	if (!heap)
		return fm_last_error()[0] ? errno : -1;
	return fm_close(heap) == 0 ? 0 : -2;
}

/* Copy the heap at `path` to `other` and tell how the copy opens: 0 clean, or errno. */
static inline int try_copy(void)
{
	unlink(other);
	if (proc_copy(path, other, false) != 0)
		return -3;
	return try_open(other, 0);
}

struct attempt {
	const char *path;
	unsigned flags;
};

static inline int attempt(void *arg)
{
	const struct attempt *a = arg;

	return try_open(a->path, a->flags);
}

/* try_open in another process. */
static inline int try_open_elsewhere(const char *where, unsigned flags)
{
	struct attempt a = { where, flags };

	return proc_run(attempt, &a);
}

/* A process that opens the heap, says so in shared->ready, and waits until killed or shared->go. */
static inline int hold(void *arg)
{
	const struct attempt *a = arg;
	fm_heap *heap = fm_open(a->path, a->flags, NULL);

	proc_must(heap != NULL);
	shared->ready++;
	while (!shared->go)
		proc_sleep_us(500);
	proc_must(fm_close(heap) == 0);
	return 0;
}

static inline pid_t start_holder(const char *where, unsigned flags)
{
	struct attempt a = { where, flags };
	int already = shared->ready;
	pid_t pid = proc_start(hold, &a, PROC_LIMIT_MS);

	assert_true(proc_wait_flag(&shared->ready, already + 1, 10000));
	return pid;
}

static inline int end_holder(pid_t pid)
{
	shared->go = 1;
	return proc_end(pid);
}

/* Start this program afresh with arguments; its exit code. */
static inline int start_self(const char *command, const char *argument)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "again", command, argument, (char *)NULL);
		_exit(127);
	}
	assert_true(pid > 0);
	return proc_end(pid);
}

static inline int before(void **state)
{
	(void)state;
	memset(shared, 0, sizeof(*shared));
	unlink(path);
	unlink(other);
	unlink(third);
	return make_heap(path);
}

static inline int setup(void **state)
{
	(void)state;
	dir = proc_dir_make();
	shared = proc_shared(sizeof(*shared));
	proc_path(path, dir, "heap");
	proc_path(other, dir, "heap.other");
	proc_path(third, dir, "heap.third");
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	proc_dir_remove(dir);
	return 0;
}

#endif
