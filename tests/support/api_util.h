/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the public functions share: a folder for each test, files, children, assertions.
 */
#ifndef API_UTIL_H
#define API_UTIL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fmalloc.h"
#include "../../src/base/bits.h"
#include "folder_util.h"

static char folder[4096];
static char heap_path[4200]; /* a path in the folder; no file there at a test's start */

/* The path of `name` in the test's folder; valid until the eighth call after this one. */
static inline const char *path_of(const char *name)
{
	static char paths[8][4600];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof paths[0], "%s/%s", folder, name);
	return path;
}

static inline int make_folder(void **state)
{
	(void)state;
	if (folder_make(folder, sizeof folder, "fm-api"))
		return -1;
	snprintf(heap_path, sizeof heap_path, "%s/heap.fm", folder);
	return 0;
}

static inline int remove_folder(void **state)
{
	DIR *dir = opendir(folder);

	(void)state;
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (entry->d_name[0] != '.' && unlink(path_of(entry->d_name)) != 0)
			rmdir(path_of(entry->d_name));
	if (dir)
		closedir(dir);
	return rmdir(folder);
}

/* In a child: anything else than `condition` ends it and fails the test. */
#define NEED(condition) \
	do { \
		if (!(condition)) \
			child_failed(__FILE__, __LINE__, #condition); \
	} while (0)

__attribute__((noreturn))
static inline void child_failed(const char *file, int line, const char *condition)
{
	fprintf(stderr, "# %s:%d: not so: %s (errno %d, last error \"%s\")\n", file, line,
	        condition, errno, fm_last_error());
	_exit(1);
}

/* Run `act` in a child, which must come to its end. */
static inline void in_child(void (*act)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(60);
		act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* `call` gives `result` with errno `wanted` and a text. */
#define FAILS(call, result, wanted) \
	do { \
		bool as_expected_; \
		int error_; \
\
		errno = 0; \
		as_expected_ = (call) == (result); \
		error_ = errno; \
		if (!as_expected_ || error_ != (wanted)) \
			fail_msg("%s: errno %d (%s) instead of %d", #call, error_, fm_last_error(), \
			         (wanted)); \
		assert_true(fm_last_error()[0] != 0); \
	} while (0)

static inline fm_heap *open_or_fail(const char *path, unsigned flags, const struct fm_options *options)
{
	fm_heap *heap = fm_open(path, flags, options);

	if (!heap)
		fail_msg("fm_open %s: errno %d (%s)", path, errno, fm_last_error());
	return heap;
}

static inline fm_heap *create_heap(void)
{
	return open_or_fail(heap_path, FM_CREATE | FM_EXCL, NULL);
}

static inline fm_heap *reopen(fm_heap *heap)
{
	assert_int_equal(fm_close(heap), 0);
	return open_or_fail(heap_path, 0, NULL);
}

static inline void write_file(const char *path, const void *bytes, size_t len)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

/* The bytes of a file, in memory to be freed. */
static inline unsigned char *read_file(const char *path, size_t *len)
{
	struct stat st;
	unsigned char *bytes;
	FILE *file = fopen(path, "rb");

	assert_non_null(file);
	assert_int_equal(fstat(fileno(file), &st), 0);
	*len = (size_t)st.st_size;
	bytes = malloc(*len + 1);
	assert_non_null(bytes);
	assert_int_equal(fread(bytes, 1, *len, file), *len);
	fclose(file);
	return bytes;
}

static inline void assert_file_is(const char *path, const void *bytes, size_t len)
{
	size_t now;
	unsigned char *is = read_file(path, &now);

	assert_int_equal(now, len);
	assert_memory_equal(is, bytes, len);
	free(is);
}

static inline mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static inline void copy_file(const char *from, const char *to)
{
	size_t len;
	unsigned char *bytes = read_file(from, &len);

	write_file(to, bytes, len);
	free(bytes);
}

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Another process that has the heap open until holder_stop(). It was forked before it opened it. */
struct holder {
	pid_t pid;
	int to, from, unread;
};

static inline struct holder holder_start(const char *path, unsigned flags, int hold_ms)
{
	struct holder holder;
	int to[2], from[2];
	char byte;

	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	holder.pid = fork();
	assert_true(holder.pid >= 0);
	if (holder.pid == 0) {
		fm_heap *heap;

		alarm(60);
		heap = fm_open(path, flags, NULL);
		NEED(heap);
		NEED(write(from[1], "x", 1) == 1);
		if (hold_ms)
			usleep((useconds_t)hold_ms * 1000);
		else
			NEED(read(to[0], &byte, 1) == 1);
		NEED(fm_close(heap) == 0);
		_exit(0);
	}
	holder.to = to[1];
	holder.from = from[0];
	close(from[1]);
	assert_int_equal(read(holder.from, &byte, 1), 1); // 0 if it failed to open it
	holder.unread = to[0]; // so that a holder which is gone by itself is no SIGPIPE
	return holder;
}

static inline void holder_stop(struct holder *holder)
{
	int status;

	assert_int_equal(write(holder->to, "x", 1), 1);
	close(holder->to);
	close(holder->from);
	close(holder->unread);
	assert_int_equal(waitpid(holder->pid, &status, 0), holder->pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static inline int count_object(void *p, size_t usable, void *arg)
{
	(void)p;
	(void)usable;
	++*(size_t *)arg;
	return 0;
}

static inline size_t live_objects(fm_heap *heap)
{
	size_t count = 0;

	assert_int_equal(fm_walk(heap, count_object, &count), 0);
	return count;
}

static inline void print_finding(const struct fm_finding *finding, void *arg)
{
	(void)arg;
	fprintf(stderr, "# fm_check: at %#" PRIx64 " is %#" PRIx64 ": %s\n", finding->offset,
	        finding->value, finding->text);
}

static inline void close_checked(fm_heap *heap)
{
	assert_int_equal(fm_check(heap, print_finding, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
}

#define API_TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

#endif
