/* SPDX-License-Identifier: Apache-2.0
 *
 * One misuse, watched. A case makes a heap full of objects and then wrong calls through the functions
 * wrong_free() and so on. It runs in children of its own, so that a crash is a failed test and not a
 * dead runner, several times over:
 *
 *   with a handler      which must have been called exactly once, with the kind, the address and the
 *                       heap that are expected, before the call returned its error
 *   without a handler   the call fails with errno and a text
 *   FMALLOC_DEBUG=abort the first wrong call of each verb ends the child by SIGABRT, and nothing else
 *
 * After every wrong call fm_check finds nothing and exactly the same objects are alive, with the same
 * contents; at the end of the case the heap still works, is closed, and holds them when reopened.
 */
#ifndef MISUSE_CASE_H
#define MISUSE_CASE_H

#include <errno.h>
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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fmalloc.h"
#include "folder_util.h"

#define KIB ((size_t)1024)
#define MIB ((size_t)1024 * KIB)

#define OBJECTS 96

enum misuse_way {
	WITH_HANDLER,
	WITHOUT_HANDLER,
	ABORT_AT_FREE, /* FMALLOC_DEBUG=abort from here on; other verbs' wrong calls are left out */
	ABORT_AT_REALLOC,
	ABORT_AT_USABLE_SIZE,
	ABORT_AT_OTHERS,
	MISUSE_WAYS
};

struct misuse_object {
	void *p;
	size_t usable;
	uint64_t sum; /* of its first and last bytes */
};

/* What the handler was told last, and how often it was called. */
struct misuse_seen {
	unsigned calls;
	struct fm_misuse told;
	char text[512];
	pthread_t thread;
};

struct misuse_case {
	fm_heap *heap; /* NULL when the case ends: closed for good */
	char path[4200];
	void *objects[OBJECTS];
	size_t sizes[OBJECTS];
	struct misuse_object *before;
	size_t alive;
	bool blind; /* the heap can't be looked at here: closed, or in a forked child */
	struct misuse_seen seen;
};

static enum misuse_way misuse_way;
static char misuse_folder[4096];
static volatile int *misuse_armed; /* shared with the child: it is about to make a wrong call */

/* In a child: anything else than `condition` ends it and fails the test. */
#define NEED(condition) \
	do { \
		if (!(condition)) \
			misuse_failed(__FILE__, __LINE__, #condition); \
	} while (0)

__attribute__((noreturn))
static void misuse_failed(const char *file, int line, const char *condition)
{
	fprintf(stderr, "# %s:%d: not so: %s (way %d, errno %d, last error \"%s\")\n", file, line,
	        condition, (int)misuse_way, errno, fm_last_error());
	_exit(1);
}

/* ---------------------------------------------------------------- the heap before and after */

static inline uint64_t misuse_sum(const unsigned char *p, size_t usable)
{
	uint64_t sum = 0;
	size_t edge = usable < 128 ? usable : 128;

	for (size_t i = 0; i < edge; i++)
		sum = sum * 31 + p[i] + ((uint64_t)p[usable - 1 - i] << 9);
	return sum;
}

static inline int misuse_note(void *p, size_t usable, void *arg)
{
	struct misuse_case *c = arg;

	if (c->alive % 256 == 0) {
		c->before = realloc(c->before, (c->alive + 256) * sizeof *c->before);
		NEED(c->before);
	}
	c->before[c->alive++] = (struct misuse_object){ p, usable, misuse_sum(p, usable) };
	return 0;
}

struct misuse_walk {
	const struct misuse_case *c;
	size_t at;
	ptrdiff_t moved; /* bytes from the old mapping to the one walked */
};

static inline int misuse_same(void *p, size_t usable, void *arg)
{
	struct misuse_walk *w = arg;
	const struct misuse_object *o = &w->c->before[w->at];

	return w->at++ >= w->c->alive || (uintptr_t)o->p + (size_t)w->moved != (uintptr_t)p ||
	       o->usable != usable || o->sum != misuse_sum(p, usable);
}

static inline void misuse_print_finding(const struct fm_finding *finding, void *arg)
{
	(void)arg;
	fprintf(stderr, "# fm_check: at %#" PRIx64 " is %#" PRIx64 ": %s\n", finding->offset,
	        finding->value, finding->text);
}

/* Remember which objects are alive. */
static inline void misuse_snapshot(struct misuse_case *c)
{
	c->alive = 0;
	NEED(fm_walk(c->heap, misuse_note, c) == 0);
}

/* The verifier is content, and the objects of the last snapshot are alive, no other. */
static inline void misuse_compare(struct misuse_case *c, ptrdiff_t moved)
{
	struct misuse_walk w = { .c = c, .moved = moved };

	NEED(fm_check(c->heap, misuse_print_finding, NULL) == 0);
	NEED(fm_walk(c->heap, misuse_same, &w) == 0);
	NEED(w.at == c->alive);
}

/* ---------------------------------------------------------------- wrong calls */

static inline void misuse_handler(const struct fm_misuse *misuse, void *arg)
{
	struct misuse_case *c = arg;

	c->seen.calls++;
	c->seen.told = *misuse;
	c->seen.thread = pthread_self();
	snprintf(c->seen.text, sizeof c->seen.text, "%s", misuse->text ? misuse->text : "");
}

/* True if this child is to make wrong calls of the verb; in an aborting child this is its last word. */
static inline bool wrong_begin(struct misuse_case *c, enum misuse_way verb)
{
	if (misuse_way >= ABORT_AT_FREE && misuse_way != verb)
		return false;
	if (!c->blind)
		misuse_snapshot(c);
	memset(&c->seen, 0, sizeof c->seen);
	*misuse_armed = 1;
	errno = 0;
	return true;
}

/* As a kind: a place that holds no object, of which nobody can say whether it ever held one. */
#define FM_NO_OBJECT ((enum fm_misuse_kind)0)

static inline bool misuse_kind_fits(enum fm_misuse_kind told, enum fm_misuse_kind kind)
{
	return kind == FM_NO_OBJECT ? told == FM_DOUBLE_FREE || told == FM_INVALID_POINTER : told == kind;
}

/* The call that began with wrong_begin() returned, with `error` in errno: it must have been reported. */
static inline void wrong_end(struct misuse_case *c, int error, int wanted, enum fm_misuse_kind kind,
                             const void *address, fm_heap *heap)
{
	NEED(misuse_way < ABORT_AT_FREE);
	*misuse_armed = 0;
	errno = error;
	NEED(error == wanted);
	NEED(fm_last_error()[0] != 0);
	if (misuse_way == WITH_HANDLER) {
		NEED(c->seen.calls == 1);
		if (!misuse_kind_fits(c->seen.told.kind, kind) || c->seen.told.address != address ||
		    c->seen.told.heap != heap)
			fprintf(stderr, "# told kind %d address %p heap %p, wanted %d %p %p: %s\n",
			        (int)c->seen.told.kind, c->seen.told.address, (void *)c->seen.told.heap,
			        (int)kind, address, (void *)heap, c->seen.text);
		NEED(misuse_kind_fits(c->seen.told.kind, kind));
		NEED(c->seen.told.address == address);
		NEED(c->seen.told.heap == heap);
		NEED(c->seen.text[0] != 0);
		NEED(pthread_equal(c->seen.thread, pthread_self()));
	} else {
		NEED(c->seen.calls == 0);
	}
	if (!c->blind)
		misuse_compare(c, 0);
}

/* fm_free(p) is wrong. `heap` is where the handler must be told that p lies. */
static inline void wrong_free(struct misuse_case *c, void *p, enum fm_misuse_kind kind, fm_heap *heap)
{
	int result;

	if (!wrong_begin(c, ABORT_AT_FREE))
		return;
	result = fm_free(p);
	wrong_end(c, errno, EINVAL, kind, p, heap);
	NEED(result == -1);
}

/* fm_realloc(c->heap, p, ...) is wrong. */
static inline void wrong_realloc(struct misuse_case *c, void *p, enum fm_misuse_kind kind,
                                 fm_heap *heap)
{
	static const size_t sizes[] = { 100, 0, 3 * 1024 * 1024 };

	for (unsigned i = 0; i < 3 && wrong_begin(c, ABORT_AT_REALLOC); i++) {
		void *result = fm_realloc(c->heap, p, sizes[i]);

		wrong_end(c, errno, EINVAL, kind, p, heap);
		NEED(!result);
	}
}

/* fm_usable_size(p) is wrong. */
static inline void wrong_usable_size(struct misuse_case *c, void *p, enum fm_misuse_kind kind,
                                     fm_heap *heap)
{
	size_t result;

	if (!wrong_begin(c, ABORT_AT_USABLE_SIZE))
		return;
	result = fm_usable_size(p);
	wrong_end(c, errno, EINVAL, kind, p, heap);
	NEED(result == 0);
}

/* All of these, and ffree(). */
static inline void wrong_pointer(struct misuse_case *c, void *p, enum fm_misuse_kind kind,
                                 fm_heap *heap)
{
	wrong_free(c, p, kind, heap);
	wrong_realloc(c, p, kind, heap);
	wrong_usable_size(c, p, kind, heap);
	if (wrong_begin(c, ABORT_AT_OTHERS)) {
		ffree(p);
		wrong_end(c, errno, EINVAL, kind, p, heap);
	}
}

/* Any other call, with its result to compare: `call` must give `result` and errno `wanted`. */
#define WRONG_CALL(c, call, result, wanted, kind, address, in_heap) \
	do { \
		if (wrong_begin((c), ABORT_AT_OTHERS)) { \
			bool as_expected_ = (call) == (result); \
\
			wrong_end((c), errno, (wanted), (kind), (address), (in_heap)); \
			NEED(as_expected_); \
		} \
	} while (0)

/* ---------------------------------------------------------------- running a case */

/* With little address space: sanitizers take their time with much. */
static inline fm_heap *misuse_open(struct misuse_case *c, unsigned flags)
{
	struct fm_options options = { .size = sizeof options, .address_space = 4096 * MIB };

	c->heap = fm_open(c->path, flags, &options);
	return c->heap;
}

/* A heap with objects of many sizes: all that the library keeps in slabs, and runs. */
static inline void misuse_populate(struct misuse_case *c)
{
	static const size_t sizes[] = { 1,    16,   24,   40,    64,    100,   200,    512,
		                        1000, 3000, 8192, 20000, 70000, 200000, 700000, 1048576 };

	for (unsigned i = 0; i < OBJECTS; i++) {
		c->sizes[i] = i < 48 ? sizes[i % 16] : sizes[i % 10];
		c->objects[i] = fm_malloc(c->heap, c->sizes[i]);
		NEED(c->objects[i]);
		memset(c->objects[i], (int)(i + 1), c->sizes[i]);
	}
}

/* The heap works as before: objects come and go, and all is there after reopening. */
static inline void misuse_goes_on(struct misuse_case *c)
{
	char *before = c->heap->mem;
	void *p[64];

	for (unsigned i = 0; i < 64; i++) {
		p[i] = fm_malloc(c->heap, 10 * i + (i % 8 == 0 ? 300000 : 0));
		NEED(p[i]);
		memset(p[i], 0x5a, 10 * i);
	}
	for (unsigned i = 0; i < 64; i++)
		NEED(fm_free(p[i]) == 0);
	NEED(fm_check(c->heap, misuse_print_finding, NULL) == 0);
	misuse_snapshot(c);
	NEED(fm_close(c->heap) == 0);
	NEED(misuse_open(c, 0));
	misuse_compare(c, (char *)c->heap->mem - before);
	NEED(fm_close(c->heap) == 0);
}

static inline void misuse_child(void (*run)(struct misuse_case *))
{
	struct rlimit no_core = { 0, 0 };
	struct misuse_case c = { .heap = NULL };

	alarm(120);
	setrlimit(RLIMIT_CORE, &no_core);
	if (misuse_way >= ABORT_AT_FREE)
		setenv("FMALLOC_DEBUG", "abort", 1);
	else
		unsetenv("FMALLOC_DEBUG");
	snprintf(c.path, sizeof c.path, "%s/heap.fm", misuse_folder);
	NEED(misuse_open(&c, FM_CREATE | FM_EXCL));
	misuse_populate(&c);
	if (misuse_way == WITH_HANDLER)
		fm_set_misuse_handler(misuse_handler, &c);
	run(&c);
	if (c.heap)
		misuse_goes_on(&c);
	free(c.before);
	_exit(0);
}

static inline void misuse_remove_files(void)
{
	static const char *const names[] = { "heap.fm", "other.fm", "third.fm" };

	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		char path[4200];

		snprintf(path, sizeof path, "%s/%s", misuse_folder, names[i]);
		unlink(path);
	}
	rmdir(misuse_folder);
}

/* Run the case in one way; true if it made a wrong call that ended the child by SIGABRT. */
static inline bool misuse_run_way(void (*run)(struct misuse_case *), enum misuse_way way)
{
	int status;
	pid_t pid;

	misuse_way = way;
	*misuse_armed = 0;
	assert_int_equal(folder_make(misuse_folder, sizeof misuse_folder, "fm-misuse"), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		misuse_child(run);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	misuse_remove_files();
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && way >= ABORT_AT_FREE && *misuse_armed)
		return true;
	if (WIFSIGNALED(status))
		fail_msg("way %d: killed by signal %d", (int)way, WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		fail_msg("way %d: failed, see above", (int)way);
	return false;
}

/* The body of a cmocka test: `run` in all ways. At least one verb must have been there to abort at. */
static inline void misuse_run(void (*run)(struct misuse_case *))
{
	unsigned aborted = 0;

	misuse_armed = mmap(NULL, sizeof *misuse_armed, PROT_READ | PROT_WRITE,
	                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(misuse_armed != MAP_FAILED);
	for (int way = 0; way < MISUSE_WAYS; way++)
		aborted += misuse_run_way(run, (enum misuse_way)way);
	munmap((void *)misuse_armed, sizeof *misuse_armed);
	assert_true(aborted > 0);
}

/* `run` just once, with a handler set, for cases in which nothing may be reported as misuse. */
static inline void misuse_run_harmless(void (*run)(struct misuse_case *))
{
	misuse_armed = mmap(NULL, sizeof *misuse_armed, PROT_READ | PROT_WRITE,
	                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(misuse_armed != MAP_FAILED);
	assert_false(misuse_run_way(run, WITH_HANDLER));
	munmap((void *)misuse_armed, sizeof *misuse_armed);
}

/* Define the test `test_NAME` of the case `NAME`. */
#define MISUSE_TEST(name) \
	static void test_##name(void **state) \
	{ \
		(void)state; \
		misuse_run(name); \
	}

#define HARMLESS_TEST(name) \
	static void test_##name(void **state) \
	{ \
		(void)state; \
		misuse_run_harmless(name); \
	}

#endif
