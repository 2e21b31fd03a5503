/* SPDX-License-Identifier: Apache-2.0
 *
 * What a handler of misuse may do: call the library, jump out, end its thread or the process.
 */
#include "../support/misuse_case.h"

static jmp_buf jump;
static struct misuse_case *the_case;
static unsigned calls;

/* A wrong call that every test below can make: returns what fm_free returned. */
static int free_freed(struct misuse_case *c)
{
	void *p = fm_malloc(c->heap, 48);

	NEED(p && fm_free(p) == 0);
	return fm_free(p);
}

static void still_whole(struct misuse_case *c)
{
	NEED(fm_check(c->heap, misuse_print_finding, NULL) == 0);
}

/* ---------------------------------------------------------------- longjmp */

/* `call` is wrong, and doesn't return, because the handler jumps out of it. */
#define JUMPS(call) \
	do { \
		unsigned before_ = calls; \
\
		if (setjmp(jump) == 0) { \
			(void)(call); \
			misuse_failed(__FILE__, __LINE__, #call " does not return"); \
		} \
		NEED(calls > before_); \
	} while (0)

static void jumping_handler(const struct fm_misuse *misuse, void *arg)
{
	NEED(misuse->kind != 0 && arg == the_case);
	calls++;
	longjmp(jump, 1);
}

static void jump_out_of_free(struct misuse_case *c)
{
	the_case = c;
	misuse_snapshot(c);
	fm_set_misuse_handler(jumping_handler, c);
	for (volatile unsigned i = 0; i < 100; i++)
		JUMPS(free_freed(c));
	NEED(calls == 100);
	misuse_compare(c, 0);
}

static void jump_out_of_everything(struct misuse_case *c)
{
	fm_heap invented = *c->heap;

	the_case = c;
	misuse_snapshot(c);
	fm_set_misuse_handler(jumping_handler, c);
	JUMPS(fm_free((char *)c->objects[15] + 64 * KIB));
	JUMPS(fm_realloc(c->heap, (char *)c->objects[2] + 8, 100));
	JUMPS(fm_realloc(c->heap, &invented, 100));
	JUMPS(fm_malloc(&invented, 100));
	JUMPS(fm_root_set(&invented, "name", NULL, 0));
	JUMPS(fm_close(&invented));
	NEED(calls == 6);
	misuse_compare(c, 0);
	// no lock was left behind: all of these take one
	NEED(fm_root_set(c->heap, "name", c->objects[0], 1) == 0);
	NEED(fm_root_remove(c->heap, "name") == 0);
	NEED(fm_free(fm_malloc(c->heap, 20 * MIB)) == 0);
	NEED(fm_sync(c->heap) == 0);
}

/* ---------------------------------------------------------------- calling the library */

static void calling_handler(const struct fm_misuse *misuse, void *arg)
{
	struct misuse_case *c = arg;
	void *p, *q;

	calls++;
	NEED(misuse->kind == FM_DOUBLE_FREE && misuse->heap == c->heap);
	p = fm_malloc(c->heap, 1000);
	q = fm_malloc(c->heap, 5 * MIB);
	NEED(p && q && (p = fm_realloc(c->heap, p, 90000)));
	NEED(fm_root_set(c->heap, "last misuse", p, 1) == 0);
	NEED(fm_root_get(c->heap, "last misuse", 1) == p);
	NEED(fm_root_remove(c->heap, "last misuse") == 0);
	NEED(fm_check(c->heap, misuse_print_finding, NULL) == 0);
	NEED(fm_free(p) == 0 && fm_free(q) == 0);
	errno = EILSEQ; // whatever it leaves behind is not the call's errno
}

static void call_the_library(struct misuse_case *c)
{
	misuse_snapshot(c);
	fm_set_misuse_handler(calling_handler, c);
	for (unsigned i = 1; i <= 20; i++) {
		errno = 0;
		NEED(free_freed(c) == -1);
		NEED(errno == EINVAL);
		NEED(calls == i);
	}
	misuse_compare(c, 0);
}

/* Misuse inside the handler is reported to it as well. */
static void nested_handler(const struct fm_misuse *misuse, void *arg)
{
	struct misuse_case *c = arg;

	if (++calls > 3)
		return;
	NEED(misuse->text && misuse->text[0]);
	NEED(free_freed(c) == -1 && errno == EINVAL);
}

static void misuse_in_the_handler(struct misuse_case *c)
{
	misuse_snapshot(c);
	fm_set_misuse_handler(nested_handler, c);
	NEED(free_freed(c) == -1 && errno == EINVAL);
	NEED(calls == 4);
	misuse_compare(c, 0);
}

/* The handler closes the very heap. */
static void closing_handler(const struct fm_misuse *misuse, void *arg)
{
	struct misuse_case *c = arg;

	NEED(misuse->heap == c->heap);
	calls++;
	NEED(fm_close(c->heap) == 0);
	longjmp(jump, 1);
}

static void close_in_the_handler(struct misuse_case *c)
{
	misuse_snapshot(c);
	fm_set_misuse_handler(closing_handler, c);
	JUMPS(free_freed(c));
	NEED(calls == 1);
	fm_set_misuse_handler(NULL, NULL);
	NEED(misuse_open(c, 0));
	still_whole(c);
}

/* ---------------------------------------------------------------- setting and removing */

static void counting_handler(const struct fm_misuse *misuse, void *arg)
{
	NEED(misuse->kind == FM_DOUBLE_FREE);
	++*(unsigned *)arg;
}

static void replaced_and_removed(struct misuse_case *c)
{
	unsigned first = 0, second = 0;

	fm_set_misuse_handler(counting_handler, &first);
	NEED(free_freed(c) == -1 && first == 1);
	fm_set_misuse_handler(counting_handler, &second);
	NEED(free_freed(c) == -1 && first == 1 && second == 1);
	fm_set_misuse_handler(NULL, NULL);
	errno = 0;
	NEED(free_freed(c) == -1 && errno == EINVAL && first == 1 && second == 1);
	fm_set_misuse_handler(counting_handler, &first);
	NEED(free_freed(c) == -1 && first == 2 && second == 1);
	still_whole(c);
}

/* Nothing but misuse calls it. */
static void silent_otherwise(struct misuse_case *c)
{
	void *p = fm_malloc(c->heap, 10);

	NEED(p);
	NEED(!fm_malloc(c->heap, SIZE_MAX) && !fm_calloc(c->heap, SIZE_MAX, 2));
	NEED(!fm_realloc(c->heap, p, SIZE_MAX));
	NEED(!fm_aligned_alloc(c->heap, 3, 10));
	NEED(!fm_root_get(c->heap, "nobody's", 0) && fm_root_remove(c->heap, "nobody's") == -1);
	NEED(!fm_at_checked(c->heap, UINT64_MAX, 2));
	NEED(!fm_open("/nonexistent/heap.fm", 0, NULL));
	NEED(!fm_open(c->path, 0, NULL));
	NEED(!fm_heap_of(&p));
	NEED(fm_free(p) == 0);
	NEED(c->seen.calls == 0);
}

/* ---------------------------------------------------------------- threads */

static void *end_in_handler(void *arg)
{
	free_freed(arg);
	return arg; // not reached
}

static void ending_handler(const struct fm_misuse *misuse, void *arg)
{
	NEED(misuse->heap == ((struct misuse_case *)arg)->heap);
	__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
	pthread_exit(NULL);
}

static void end_the_thread(struct misuse_case *c)
{
	void *result = c;
	pthread_t thread;

	misuse_snapshot(c);
	fm_set_misuse_handler(ending_handler, c);
	for (unsigned i = 1; i <= 10; i++) {
		NEED(pthread_create(&thread, NULL, end_in_handler, c) == 0);
		NEED(pthread_join(thread, &result) == 0 && !result);
		NEED(calls == i);
	}
	misuse_compare(c, 0);
}

/* Each of several threads hears of its own wrong calls, once each. */
struct hearing {
	fm_heap *heap;
	pthread_t self;
	void *wrong;
	unsigned heard;
};

static _Thread_local struct hearing *mine;

static void hearing_handler(const struct fm_misuse *misuse, void *arg)
{
	(void)arg;
	NEED(mine && pthread_equal(mine->self, pthread_self()));
	NEED(misuse->address == mine->wrong && misuse->kind == FM_DOUBLE_FREE);
	mine->heard++;
}

static void *hear(void *arg)
{
	struct hearing *h = arg;

	mine = h;
	h->self = pthread_self();
	for (unsigned i = 1; i <= 2000; i++) {
		// no other thread takes from this thread's slab, so the place stays free
		h->wrong = fm_malloc(h->heap, 48);
		NEED(h->wrong && fm_free(h->wrong) == 0);
		errno = 0;
		NEED(fm_free(h->wrong) == -1 && errno == EINVAL);
		NEED(h->heard == i);
	}
	return NULL;
}

static void several_threads(struct misuse_case *c)
{
	struct hearing hearings[4] = { { .heap = c->heap } };
	pthread_t threads[4];

	misuse_snapshot(c);
	fm_set_misuse_handler(hearing_handler, NULL);
	for (unsigned i = 0; i < 4; i++) {
		hearings[i].heap = c->heap;
		NEED(pthread_create(&threads[i], NULL, hear, &hearings[i]) == 0);
	}
	for (unsigned i = 0; i < 4; i++)
		NEED(pthread_join(threads[i], NULL) == 0 && hearings[i].heard == 2000);
	misuse_compare(c, 0);
}

/* ---------------------------------------------------------------- ending the process */

static void exiting_handler(const struct fm_misuse *misuse, void *arg)
{
	NEED(misuse->kind == FM_DOUBLE_FREE && arg == the_case);
	_exit(42);
}

static void end_the_process(struct misuse_case *c)
{
	uint64_t offset;
	int status;
	pid_t pid;

	the_case = c;
	NEED(fm_close(c->heap) == 0);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		NEED(misuse_open(c, 0));
		NEED(fm_root_set(c->heap, "kept", fm_strdup(c->heap, "kept"), 1) == 0);
		fm_set_misuse_handler(exiting_handler, c);
		free_freed(c);
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 42);
	NEED(misuse_open(c, 0));
	offset = fm_offset_of(c->heap, fm_root_get(c->heap, "kept", 1));
	NEED(offset && strcmp(fm_at(c->heap, offset), "kept") == 0);
	still_whole(c);
}

/* ---------------------------------------------------------------- texts */

/* The text of each kind says something of its own, and is fm_last_error()'s after the call. */
static char texts[8][300];

static void text_handler(const struct fm_misuse *misuse, void *arg)
{
	(void)arg;
	calls++;
	NEED(misuse->text && strlen(misuse->text) > 10);
	snprintf(texts[misuse->kind], sizeof texts[0], "%s", misuse->text);
}

static void texts_differ(struct misuse_case *c)
{
	fm_heap invented = *c->heap;
	int on_stack = 0;

	fm_set_misuse_handler(text_handler, NULL);
	NEED(free_freed(c) == -1);
	NEED(strstr(fm_last_error(), texts[FM_DOUBLE_FREE]) || strlen(fm_last_error()) > 10);
	NEED(fm_free((char *)c->objects[3] + 8) == -1);
	NEED(fm_free((void *)((uintptr_t)&on_stack & ~(uintptr_t)15)) == -1);
	NEED(!fm_malloc(&invented, 10));
	NEED(calls == 4);
	for (int kind = FM_DOUBLE_FREE; kind <= FM_CLOSED_HEAP; kind++) {
		NEED(kind == FM_FORKED_CHILD || texts[kind][0]);
		for (int other = FM_DOUBLE_FREE; other < kind; other++)
			NEED(kind == FM_FORKED_CHILD || other == FM_FORKED_CHILD ||
			     strcmp(texts[kind], texts[other]) != 0);
	}
}

HARMLESS_TEST(jump_out_of_free)
HARMLESS_TEST(jump_out_of_everything)
HARMLESS_TEST(call_the_library)
HARMLESS_TEST(misuse_in_the_handler)
HARMLESS_TEST(close_in_the_handler)
HARMLESS_TEST(replaced_and_removed)
HARMLESS_TEST(silent_otherwise)
HARMLESS_TEST(end_the_thread)
HARMLESS_TEST(several_threads)
HARMLESS_TEST(end_the_process)
HARMLESS_TEST(texts_differ)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_jump_out_of_free),
		cmocka_unit_test(test_jump_out_of_everything),
		cmocka_unit_test(test_call_the_library),
		cmocka_unit_test(test_misuse_in_the_handler),
		cmocka_unit_test(test_close_in_the_handler),
		cmocka_unit_test(test_replaced_and_removed),
		cmocka_unit_test(test_silent_otherwise),
		cmocka_unit_test(test_end_the_thread),
		cmocka_unit_test(test_several_threads),
		cmocka_unit_test(test_end_the_process),
		cmocka_unit_test(test_texts_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
