/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests by processes share: children with a time limit, checks inside children, shared
 * memory, scratch folders, file copies, random numbers and self-checking contents.
 *
 * A child never uses cmocka's assertions (they would jump into the parent's runner): it says
 * proc_must(), which prints the failed condition and leaves with PROC_FAILED.
 */
#ifndef PROC_UTIL_H
#define PROC_UTIL_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <fmalloc.h>

#include "folder_util.h"

/* Which sanitizers this is built with. */
#ifdef __has_feature
#define PROC_HAS(feature) __has_feature(feature)
#else
#define PROC_HAS(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || PROC_HAS(thread_sanitizer)
#define PROC_THREAD_SANITIZER 1
#else
#define PROC_THREAD_SANITIZER 0
#endif
#if defined(__SANITIZE_ADDRESS__) || PROC_HAS(address_sanitizer) || PROC_THREAD_SANITIZER
#define PROC_SANITIZED 1
#else
#define PROC_SANITIZED 0
#endif

#define PROC_FAILED 99    /* exit code of a child whose proc_must() failed */
#define PROC_LIMIT_MS 30000

/* ---------------------------------------------------------------- settings */

static inline uint64_t proc_env(const char *name, uint64_t fallback)
{
	const char *s = getenv(name);

	return s && *s ? strtoull(s, NULL, 0) : fallback;
}

/* The run's seed, from FM_SEED or fresh, and printed. */
static inline uint64_t proc_seed(void)
{
	uint64_t seed = 0;

	if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
	seed = proc_env("FM_SEED", seed & 0xffffffff);
	printf("# seed: FM_SEED=%llu\n", (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

/* ---------------------------------------------------------------- random numbers, contents, time */

static inline uint64_t proc_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static inline uint64_t proc_rand(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15u;
	return proc_mix(*state);
}

/* A number in [0, bound). */
static inline uint64_t proc_below(uint64_t *state, uint64_t bound)
{
	return bound ? proc_rand(state) % bound : 0;
}

/* An object's content consists of words made of its number `id` and their place. Which word comes after
 * the one at `at`: in small objects and near the ends the next, else one a page. */
static inline size_t proc_next(size_t at, size_t size)
{
	size_t last = size > 256 ? (size - 256) & ~(size_t)7 : 0;

	if (size <= 8192 || at < 256 || at >= last)
		return at + 8;
	return at + 4096 < last ? at + 4096 : last;
}

static inline uint64_t proc_word(uint64_t id, size_t at)
{
	return proc_mix(id ^ (uint64_t)at << 20);
}

/* Write the content `id` of an object of `size` bytes. */
static inline void proc_fill(void *p, uint64_t id, size_t size)
{
	for (size_t at = 0; at < size; at = proc_next(at, size)) {
		uint64_t word = proc_word(id, at);

		memcpy((char *)p + at, &word, size - at < 8 ? size - at : 8);
	}
}

/* Whether the first `upto` bytes are as proc_fill(p, id, size) wrote them. */
static inline bool proc_intact(const void *p, uint64_t id, size_t size, size_t upto)
{
	size_t end = upto < size ? upto : size;

	for (size_t at = 0; at < end; at = proc_next(at, size)) {
		uint64_t word = proc_word(id, at);

		if (memcmp((const char *)p + at, &word, end - at < 8 ? end - at : 8) != 0)
			return false;
	}
	return true;
}

static inline double proc_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void proc_sleep_us(uint64_t us)
{
	struct timespec t = { (time_t)(us / 1000000), (long)(us % 1000000 * 1000) };

	while (nanosleep(&t, &t) != 0 && errno == EINTR)
		;
}

/* ---------------------------------------------------------------- scratch folders and files */

/* Make a folder under TMPDIR; its name, to be given to proc_dir_remove(). */
static inline char *proc_dir_make(void)
{
	char *dir = malloc(PATH_MAX);

	if (!dir)
		abort();
	if (folder_make(dir, PATH_MAX, "fmtest")) {
		fprintf(stderr, "# making %s: %s\n", dir, strerror(errno));
		abort();
	}
	return dir;
}

static inline int proc_remove(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

/* Remove the folder and all in it, unless FM_KEEP is set. */
static inline void proc_dir_remove(char *dir)
{
	if (proc_env("FM_KEEP", 0))
		printf("# kept: %s\n", dir);
	else
		nftw(dir, proc_remove, 8, FTW_DEPTH | FTW_PHYS);
	free(dir);
}

static inline void proc_path(char *out, const char *dir, const char *name)
{
	if (snprintf(out, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
		abort();
}

/* Copy a file by read and write, dense or (sparse) leaving zero blocks as holes. 0, or -1 and errno. */
static inline int proc_copy(const char *from, const char *to, bool sparse)
{
	static char block[65536];
	static const char zero[4096];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat st;
	off_t at = 0;
	ssize_t n = -1;

	/* The size first: else XFS gives the file blocks in advance, which would fill the holes. */
	if (in >= 0 && out >= 0 && (fstat(in, &st) != 0 || ftruncate(out, st.st_size) != 0))
		goto end;
	while (in >= 0 && out >= 0 && (n = pread(in, block, sizeof(block), at)) > 0) {
		for (ssize_t done = 0; done < n;) {
			size_t len = (size_t)(n - done) < 4096 ? (size_t)(n - done) : 4096;

			if (!sparse || memcmp(block + done, zero, len) != 0) {
				ssize_t w = pwrite(out, block + done, len, at + done);

				if (w != (ssize_t)len) {
					n = -1;
					goto end;
				}
			}
			done += (ssize_t)len;
		}
		at += n;
	}
end:
	if (n != 0 && errno == 0)
		errno = ENOSPC;
	int e = errno;

	if (in >= 0)
		close(in);
	if (out >= 0 && close(out) != 0 && n == 0) {
		e = errno;
		n = -1;
	}
	errno = e;
	return n == 0 ? 0 : -1;
}

/* Whether the two files hold the same bytes. */
static inline bool proc_same_file(const char *a, const char *b)
{
	static char x[65536], y[65536];
	int fa = open(a, O_RDONLY | O_CLOEXEC), fb = open(b, O_RDONLY | O_CLOEXEC);
	bool same = fa >= 0 && fb >= 0;

	while (same) {
		ssize_t n = read(fa, x, sizeof(x)), m = read(fb, y, sizeof(y));

		same = n >= 0 && n == m && memcmp(x, y, (size_t)n) == 0;
		if (n <= 0)
			break;
	}
	if (fa >= 0)
		close(fa);
	if (fb >= 0)
		close(fb);
	return same;
}

/* Number of entries of /proc/self/fd, or lines of /proc/self/maps. */
static inline long proc_count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	long n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static inline long proc_count_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	long n = 0;
	int c;

	while (f && (c = getc(f)) != EOF)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

/* ---------------------------------------------------------------- children */

static inline void proc_must_failed(const char *file, int line, const char *what)
{
	int e = errno;

	dprintf(STDERR_FILENO, "# %s:%d: in a child: %s (errno %d, %s; fm_last_error: %s)\n", file,
	        line, what, e, strerror(e), fm_last_error());
	_exit(PROC_FAILED);
}

#define proc_must(condition) \
	do { \
		if (!(condition)) \
			proc_must_failed(__FILE__, __LINE__, #condition); \
	} while (0)

/* Start `run(arg)` in a child; what it returns is its exit code. It dies of SIGALRM at the limit. */
static inline pid_t proc_start(int (*run)(void *), void *arg, unsigned limit_ms)
{
	/* cmocka's handlers would jump into the parent's runner, in the child. */
	static const int taken[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS };
	struct itimerval limit = {
		.it_value = { limit_ms / 1000, (suseconds_t)(limit_ms % 1000) * 1000 },
	};

	fflush(NULL);

	pid_t pid = fork();

	if (pid < 0) {
		fprintf(stderr, "# fork: %s\n", strerror(errno));
		abort();
	}
	if (pid != 0)
		return pid;
	for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
		signal(taken[i], SIG_DFL);
	setitimer(ITIMER_REAL, &limit, NULL);
	_exit(run(arg));
}

/* Wait for a child: its exit code, or minus the signal that ended it. */
static inline int proc_end(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1000;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline int proc_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	return proc_end(pid);
}

/* `run(arg)` in a child, to its end. */
static inline int proc_run(int (*run)(void *), void *arg)
{
	return proc_end(proc_start(run, arg, PROC_LIMIT_MS));
}

/* Zeroed memory that this process shares with its children. */
static inline void *proc_shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

/* Wait until *flag (in shared memory) is at least `value`; false after the limit. */
static inline bool proc_wait_flag(_Atomic int *flag, int value, unsigned limit_ms)
{
	double end = proc_now() + (double)limit_ms / 1000;

	while (*flag < value) {
		if (proc_now() > end)
			return false;
		proc_sleep_us(200);
	}
	return true;
}

/* ---------------------------------------------------------------- looking at a heap */

static inline void proc_print_finding(const struct fm_finding *f, void *arg)
{
	(void)arg;
	fprintf(stderr, "# finding at %#llx (value %#llx): %s\n", (unsigned long long)f->offset,
	        (unsigned long long)f->value, f->text);
}

static inline long proc_check(fm_heap *heap)
{
	return fm_check(heap, proc_print_finding, NULL);
}

static inline int proc_count_one(void *p, size_t usable, void *arg)
{
	(void)p;
	(void)usable;
	++*(uint64_t *)arg;
	return 0;
}

/* Number of live objects by fm_walk, or UINT64_MAX. */
static inline uint64_t proc_count_objects(fm_heap *heap)
{
	uint64_t n = 0;

	return fm_walk(heap, proc_count_one, &n) == 0 ? n : UINT64_MAX;
}

#endif
