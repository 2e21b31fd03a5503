/* SPDX-License-Identifier: Apache-2.0
 *
 * Misuse: calls in a child of the process that opened the heap. They fail with EPERM; the parent's heap
 * stays as it was and goes on working.
 */
#include <fcntl.h>

#include "../support/misuse_case.h"

/* Run `act` in a child; afterwards the parent's heap is unharmed. If FMALLOC_DEBUG=abort ended the
 * child, this process ends likewise, for the runner to see. */
static void in_child(struct misuse_case *c, void (*act)(struct misuse_case *))
{
	int status;
	pid_t pid;

	misuse_snapshot(c);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		c->blind = true;
		act(c);
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid);
	misuse_compare(c, 0);
	if (misuse_way >= ABORT_AT_FREE && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
		abort();
	NEED(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* With `heap`: that is what the handler is told, twice over. */
#define IN_CHILD(name, call, result) \
	static void child_##name(struct misuse_case *c) \
	{ \
		WRONG_CALL(c, call, result, EPERM, FM_FORKED_CHILD, c->heap, c->heap); \
	} \
	IN_CHILD_RUN(name)

/* Without one, for fm_free(): the pointer passed, and where it lies. */
#define FREE_IN_CHILD(name, p) \
	static void child_##name(struct misuse_case *c) \
	{ \
		if (wrong_begin(c, ABORT_AT_FREE)) { \
			int result = fm_free(p); \
\
			wrong_end(c, errno, EPERM, FM_FORKED_CHILD, p, c->heap); \
			NEED(result == -1); \
		} \
	} \
	IN_CHILD_RUN(name)

#define IN_CHILD_RUN(name) \
	static void name(struct misuse_case *c) \
	{ \
		in_child(c, child_##name); \
	}

static int visit_root(const char *name, void *p, uint64_t tag, void *arg)
{
	(void)name;
	(void)p;
	(void)tag;
	(void)arg;
	return 1;
}

IN_CHILD(malloc_, fm_malloc(c->heap, 10), NULL)
IN_CHILD(malloc_large, fm_malloc(c->heap, 1 * MIB), NULL)
IN_CHILD(malloc_huge, fm_malloc(c->heap, 20 * MIB), NULL)
IN_CHILD(calloc_, fm_calloc(c->heap, 1, 10), NULL)
IN_CHILD(aligned_alloc_, fm_aligned_alloc(c->heap, 64, 10), NULL)
IN_CHILD(strdup_, fm_strdup(c->heap, "text"), NULL)
IN_CHILD(strndup_, fm_strndup(c->heap, "text", 2), NULL)
IN_CHILD(realloc_of_null, fm_realloc(c->heap, NULL, 10), NULL)
IN_CHILD(realloc_grows, fm_realloc(c->heap, c->objects[4], 5000), NULL)
IN_CHILD(realloc_in_place, fm_realloc(c->heap, c->objects[4], c->sizes[4]), NULL)
IN_CHILD(reallocarray_, fm_reallocarray(c->heap, c->objects[4], 2, 10), NULL)
FREE_IN_CHILD(free_small, c->objects[4])
FREE_IN_CHILD(free_medium, c->objects[10])
FREE_IN_CHILD(free_run, c->objects[15])
IN_CHILD(close_, fm_close(c->heap), -1)
IN_CHILD(sync_, fm_sync(c->heap), -1)
IN_CHILD(root_set, fm_root_set(c->heap, "name", c->objects[4], 0), -1)
IN_CHILD(root_remove, fm_root_remove(c->heap, "name"), -1)
IN_CHILD(root_get, fm_root_get(c->heap, "name", 0), NULL)
IN_CHILD(root_each, fm_root_each(c->heap, visit_root, NULL), -1)
IN_CHILD(target_malloc, fmalloc(10), NULL)
IN_CHILD(target_calloc, fcalloc(1, 10), NULL)
IN_CHILD(target_realloc, frealloc(NULL, 10), NULL)
IN_CHILD(target_reallocarray, freallocarray(NULL, 2, 10), NULL)
IN_CHILD(target_aligned_alloc, faligned_alloc(64, 10), NULL)
IN_CHILD(target_strdup, fstrdup("text"), NULL)
IN_CHILD(target_strndup, fstrndup("text", 2), NULL)

static void child_ffree(struct misuse_case *c)
{
	if (wrong_begin(c, ABORT_AT_OTHERS)) {
		ffree(c->objects[4]);
		wrong_end(c, errno, EPERM, FM_FORKED_CHILD, c->objects[4], c->heap);
	}
}

static void ffree_(struct misuse_case *c)
{
	in_child(c, child_ffree);
}

/* A root that the parent made is neither changed nor taken away by a child. */
static void roots_stay(struct misuse_case *c)
{
	NEED(fm_root_set(c->heap, "name", c->objects[9], 5) == 0);
	in_child(c, child_root_set);
	NEED(fm_root_get(c->heap, "name", 5) == c->objects[9]);
	in_child(c, child_root_remove);
	NEED(fm_root_get(c->heap, "name", 5) == c->objects[9]);
}

/* The parent's thread has free slots at hand when it forks: the child must not hand them out. */
static void child_allocates_again_and_again(struct misuse_case *c)
{
	for (unsigned i = 0; i < 5; i++) {
		WRONG_CALL(c, fm_malloc(c->heap, 48), NULL, EPERM, FM_FORKED_CHILD, c->heap, c->heap);
		WRONG_CALL(c, fm_malloc(c->heap, 16 + i * 100), NULL, EPERM, FM_FORKED_CHILD, c->heap,
		           c->heap);
	}
}

static void with_slots_at_hand(struct misuse_case *c)
{
	for (unsigned i = 0; i < 100; i++) {
		void *p = fm_malloc(c->heap, 48);

		NEED(p && (i % 2 || fm_free(p) == 0));
	}
	in_child(c, child_allocates_again_and_again);
}

static void grandchild(struct misuse_case *c)
{
	int status;
	pid_t pid = fork();

	NEED(pid >= 0);
	if (pid == 0) {
		child_free_small(c);
		child_malloc_(c);
		child_close_(c);
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid);
	if (misuse_way >= ABORT_AT_FREE && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
		abort();
	NEED(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void in_a_grandchild(struct misuse_case *c)
{
	in_child(c, grandchild);
}

static void *call_in_thread(void *arg)
{
	struct misuse_case *c = arg;

	child_malloc_(c);
	child_free_small(c);
	return NULL;
}

static void child_with_a_thread(struct misuse_case *c)
{
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, call_in_thread, c) == 0);
	NEED(pthread_join(thread, NULL) == 0);
}

static void in_a_thread_of_the_child(struct misuse_case *c)
{
	in_child(c, child_with_a_thread);
}

static void *fork_in_thread(void *arg)
{
	in_child(arg, child_free_small);
	in_child(arg, child_malloc_);
	return NULL;
}

static void forked_by_another_thread(struct misuse_case *c)
{
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, fork_in_thread, c) == 0);
	NEED(pthread_join(thread, NULL) == 0);
}

/* ---------------------------------------------------------------- what is right in a child */

/* Stores into what the parent mapped are allowed, they are the child's own affair. */
static void child_stores(struct misuse_case *c)
{
	memset(c->objects[4], 0x11, c->sizes[4]);
	NEED(c->seen.calls == 0);
}

static void stores_are_seen_by_the_parent(struct misuse_case *c)
{
	int status;
	pid_t pid = fork();

	NEED(pid >= 0);
	if (pid == 0) {
		child_stores(c);
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid && status == 0);
	NEED(*(char *)c->objects[4] == 0x11);
}

/* A normal exit of the child, with all its destructors, takes nothing from the parent. */
static void child_exits(struct misuse_case *c)
{
	(void)c;
	exit(0);
}

static void exit_of_the_child(struct misuse_case *c)
{
	for (unsigned i = 0; i < 3; i++)
		in_child(c, child_exits);
	NEED(fm_sync(c->heap) == 0);
}

static void child_opens_its_own(struct misuse_case *c)
{
	char path[4200];
	fm_heap *other;
	void *p;

	snprintf(path, sizeof path, "%s/other.fm", misuse_folder);
	other = fm_open(path, FM_CREATE, NULL);
	NEED(other);
	p = fm_malloc(other, 100);
	NEED(p && fm_heap_of(p) == other && fm_free(p) == 0);
	NEED(fm_close(other) == 0);
	NEED(c->seen.calls == 0);
}

static void a_heap_of_its_own(struct misuse_case *c)
{
	in_child(c, child_opens_its_own);
}

static void child_opens_the_parents(struct misuse_case *c)
{
	errno = 0;
	NEED(!fm_open(c->path, 0, NULL) && errno == EBUSY);
}

static void the_parents_file_is_busy(struct misuse_case *c)
{
	in_child(c, child_opens_the_parents);
}

/* The parent is killed; its heap opens again at once, though a child that inherited the mapping lives. */
static void parent_dies(struct misuse_case *c)
{
	int to_child[2], from_child[2], status;
	pid_t middle;
	char byte;

	NEED(fm_close(c->heap) == 0);
	NEED(pipe(to_child) == 0 && pipe(from_child) == 0);
	middle = fork();
	NEED(middle >= 0);
	if (middle == 0) {
		NEED(misuse_open(c, 0));
		NEED(fm_root_set(c->heap, "left", fm_malloc(c->heap, 10), 0) == 0);
		pid_t child = fork();

		NEED(child >= 0);
		if (child == 0) {
			NEED(write(from_child[1], "x", 1) == 1);
			close(to_child[1]);
			NEED(read(to_child[0], &byte, 1) >= 0); // until the test is over
			_exit(0);
		}
		NEED(read(from_child[0], &byte, 1) == 1);
		raise(SIGKILL);
	}
	NEED(waitpid(middle, &status, 0) == middle && WIFSIGNALED(status));
	NEED(misuse_open(c, 0));
	NEED(fm_root_get(c->heap, "left", 0));
	close(to_child[1]);
}

MISUSE_TEST(malloc_)
MISUSE_TEST(malloc_large)
MISUSE_TEST(malloc_huge)
MISUSE_TEST(calloc_)
MISUSE_TEST(aligned_alloc_)
MISUSE_TEST(strdup_)
MISUSE_TEST(strndup_)
MISUSE_TEST(realloc_of_null)
MISUSE_TEST(realloc_grows)
MISUSE_TEST(realloc_in_place)
MISUSE_TEST(reallocarray_)
MISUSE_TEST(free_small)
MISUSE_TEST(free_medium)
MISUSE_TEST(free_run)
MISUSE_TEST(close_)
MISUSE_TEST(sync_)
MISUSE_TEST(root_set)
MISUSE_TEST(root_remove)
MISUSE_TEST(root_get)
MISUSE_TEST(root_each)
MISUSE_TEST(target_malloc)
MISUSE_TEST(target_calloc)
MISUSE_TEST(target_realloc)
MISUSE_TEST(target_reallocarray)
MISUSE_TEST(target_aligned_alloc)
MISUSE_TEST(target_strdup)
MISUSE_TEST(target_strndup)
MISUSE_TEST(ffree_)
MISUSE_TEST(roots_stay)
MISUSE_TEST(with_slots_at_hand)
MISUSE_TEST(in_a_grandchild)
MISUSE_TEST(in_a_thread_of_the_child)
MISUSE_TEST(forked_by_another_thread)
HARMLESS_TEST(stores_are_seen_by_the_parent)
HARMLESS_TEST(exit_of_the_child)
HARMLESS_TEST(a_heap_of_its_own)
HARMLESS_TEST(the_parents_file_is_busy)
HARMLESS_TEST(parent_dies)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_malloc_),
		cmocka_unit_test(test_malloc_large),
		cmocka_unit_test(test_malloc_huge),
		cmocka_unit_test(test_calloc_),
		cmocka_unit_test(test_aligned_alloc_),
		cmocka_unit_test(test_strdup_),
		cmocka_unit_test(test_strndup_),
		cmocka_unit_test(test_realloc_of_null),
		cmocka_unit_test(test_realloc_grows),
		cmocka_unit_test(test_realloc_in_place),
		cmocka_unit_test(test_reallocarray_),
		cmocka_unit_test(test_free_small),
		cmocka_unit_test(test_free_medium),
		cmocka_unit_test(test_free_run),
		cmocka_unit_test(test_close_),
		cmocka_unit_test(test_sync_),
		cmocka_unit_test(test_root_set),
		cmocka_unit_test(test_root_remove),
		cmocka_unit_test(test_root_get),
		cmocka_unit_test(test_root_each),
		cmocka_unit_test(test_target_malloc),
		cmocka_unit_test(test_target_calloc),
		cmocka_unit_test(test_target_realloc),
		cmocka_unit_test(test_target_reallocarray),
		cmocka_unit_test(test_target_aligned_alloc),
		cmocka_unit_test(test_target_strdup),
		cmocka_unit_test(test_target_strndup),
		cmocka_unit_test(test_ffree_),
		cmocka_unit_test(test_roots_stay),
		cmocka_unit_test(test_with_slots_at_hand),
		cmocka_unit_test(test_in_a_grandchild),
		cmocka_unit_test(test_in_a_thread_of_the_child),
		cmocka_unit_test(test_forked_by_another_thread),
		cmocka_unit_test(test_stores_are_seen_by_the_parent),
		cmocka_unit_test(test_exit_of_the_child),
		cmocka_unit_test(test_a_heap_of_its_own),
		cmocka_unit_test(test_the_parents_file_is_busy),
		cmocka_unit_test(test_parent_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
