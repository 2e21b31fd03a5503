/* SPDX-License-Identifier: Apache-2.0
 *
 * Misuse: calls with a heap that is closed, or that never was one.
 */
#include "../support/misuse_case.h"

/* Close the case's heap; wrong calls can then be seen only by what they return and report. */
static fm_heap *closed(struct misuse_case *c)
{
	fm_heap *heap = c->heap;

	misuse_snapshot(c);
	NEED(fm_close(heap) == 0);
	c->blind = true;
	return heap;
}

/* Open it again: it holds what it held when it was closed. */
static void open_again(struct misuse_case *c, const void *before)
{
	if (misuse_way >= ABORT_AT_FREE) {
		c->heap = NULL;
		return;
	}
	NEED(misuse_open(c, 0));
	misuse_compare(c, (char *)c->heap->mem - (const char *)before);
	c->blind = false;
}

#define CLOSED(name, call, result) \
	static void name(struct misuse_case *c) \
	{ \
		const void *mem = c->heap->mem; \
		fm_heap *heap = closed(c); \
\
		WRONG_CALL(c, call, result, EBADF, FM_CLOSED_HEAP, heap, NULL); \
		open_again(c, mem); \
	}

static int visit_root(const char *name, void *p, uint64_t tag, void *arg)
{
	(void)name;
	(void)p;
	(void)tag;
	(void)arg;
	return 1;
}

static int visit_object(void *p, size_t usable, void *arg)
{
	(void)p;
	(void)usable;
	(void)arg;
	return 1;
}

static struct fm_statistics stats = { .size = sizeof stats };

CLOSED(malloc_, fm_malloc(heap, 10), NULL)
CLOSED(malloc_large, fm_malloc(heap, 1 * MIB), NULL)
CLOSED(calloc_, fm_calloc(heap, 1, 10), NULL)
CLOSED(realloc_of_null, fm_realloc(heap, NULL, 10), NULL)
CLOSED(realloc_, fm_realloc(heap, c->objects[0], 10), NULL)
CLOSED(reallocarray_, fm_reallocarray(heap, NULL, 2, 10), NULL)
CLOSED(aligned_alloc_, fm_aligned_alloc(heap, 64, 10), NULL)
CLOSED(strdup_, fm_strdup(heap, "text"), NULL)
CLOSED(strndup_, fm_strndup(heap, "text", 2), NULL)
CLOSED(close_twice, fm_close(heap), -1)
CLOSED(sync_, fm_sync(heap), -1)
CLOSED(root_get, fm_root_get(heap, "name", 0), NULL)
CLOSED(root_set, fm_root_set(heap, "name", NULL, 0), -1)
CLOSED(root_remove, fm_root_remove(heap, "name"), -1)
CLOSED(root_each, fm_root_each(heap, visit_root, NULL), -1)
CLOSED(at_checked, fm_at_checked(heap, PAGE_SIZE, 1), NULL)
CLOSED(stats_, fm_stats(heap, &stats), -1)
CLOSED(walk, fm_walk(heap, visit_object, NULL), -1)
CLOSED(check, fm_check(heap, NULL, NULL), -1)

/* What a closed heap's addresses were is no heap's now. */
static void pointers(struct misuse_case *c)
{
	const void *mem = c->heap->mem;

	closed(c);
	NEED(!fm_heap_of(c->objects[0]));
	for (unsigned i = 0; i < 16; i++) {
		wrong_free(c, c->objects[i], FM_FOREIGN_POINTER, NULL);
		wrong_usable_size(c, c->objects[i], FM_FOREIGN_POINTER, NULL);
	}
	open_again(c, mem);
}

/* Something that looks like a heap, on the stack. */
static void an_invented_heap(struct misuse_case *c)
{
	struct fm_info invented = *c->heap;

	WRONG_CALL(c, fm_malloc(&invented, 10), NULL, EBADF, FM_CLOSED_HEAP, &invented, NULL);
	WRONG_CALL(c, fm_realloc(&invented, NULL, 10), NULL, EBADF, FM_CLOSED_HEAP, &invented, NULL);
	WRONG_CALL(c, fm_root_get(&invented, "name", 0), NULL, EBADF, FM_CLOSED_HEAP, &invented, NULL);
	WRONG_CALL(c, fm_close(&invented), -1, EBADF, FM_CLOSED_HEAP, &invented, NULL);
}

/* An object inside the heap, and the heap's first byte, taken for the handle. */
static void an_object_as_heap(struct misuse_case *c)
{
	void *object = c->objects[12], *mem = c->heap->mem;

	WRONG_CALL(c, fm_malloc(object, 10), NULL, EBADF, FM_CLOSED_HEAP, object, NULL);
	WRONG_CALL(c, fm_malloc(mem, 10), NULL, EBADF, FM_CLOSED_HEAP, mem, NULL);
	WRONG_CALL(c, fm_close(mem), -1, EBADF, FM_CLOSED_HEAP, mem, NULL);
}

/* A handle that points nowhere: it must not be followed. */
static void an_unmapped_heap(struct misuse_case *c)
{
	volatile uintptr_t number = 64;
	fm_heap *nowhere = (fm_heap *)number;

	WRONG_CALL(c, fm_malloc(nowhere, 10), NULL, EBADF, FM_CLOSED_HEAP, nowhere, NULL);
	WRONG_CALL(c, fm_close(nowhere), -1, EBADF, FM_CLOSED_HEAP, nowhere, NULL);
	WRONG_CALL(c, fm_sync(nowhere), -1, EBADF, FM_CLOSED_HEAP, nowhere, NULL);
}

/* One heap is closed, the other one isn't harmed. */
static void with_another_open(struct misuse_case *c)
{
	char path[4200];
	fm_heap *other;

	snprintf(path, sizeof path, "%s/other.fm", misuse_folder);
	other = fm_open(path, FM_CREATE, NULL);
	NEED(other && fm_malloc(other, 100));
	NEED(fm_close(other) == 0);
	WRONG_CALL(c, fm_malloc(other, 10), NULL, EBADF, FM_CLOSED_HEAP, other, NULL);
	WRONG_CALL(c, fm_close(other), -1, EBADF, FM_CLOSED_HEAP, other, NULL);
}

/* The thread's window into a heap is not a way around its being closed. */
static void with_slots_at_hand(struct misuse_case *c)
{
	const void *mem = c->heap->mem;
	fm_heap *heap = c->heap;

	for (unsigned i = 0; i < 100; i++)
		NEED(fm_malloc(heap, 48));
	closed(c);
	for (unsigned i = 0; i < 3; i++)
		WRONG_CALL(c, fm_malloc(heap, 48), NULL, EBADF, FM_CLOSED_HEAP, heap, NULL);
	open_again(c, mem);
}

static void *close_it(void *heap)
{
	NEED(fm_close(heap) == 0);
	return NULL;
}

static void closed_by_another_thread(struct misuse_case *c)
{
	const void *mem = c->heap->mem;
	fm_heap *heap = c->heap;
	pthread_t thread;

	for (unsigned i = 0; i < 100; i++)
		NEED(fm_malloc(heap, 48));
	misuse_snapshot(c);
	NEED(pthread_create(&thread, NULL, close_it, heap) == 0 && pthread_join(thread, NULL) == 0);
	c->blind = true;
	WRONG_CALL(c, fm_malloc(heap, 48), NULL, EBADF, FM_CLOSED_HEAP, heap, NULL);
	WRONG_CALL(c, fm_close(heap), -1, EBADF, FM_CLOSED_HEAP, heap, NULL);
	wrong_free(c, c->objects[1], FM_FOREIGN_POINTER, NULL);
	open_again(c, mem);
}

MISUSE_TEST(malloc_)
MISUSE_TEST(malloc_large)
MISUSE_TEST(calloc_)
MISUSE_TEST(realloc_of_null)
MISUSE_TEST(realloc_)
MISUSE_TEST(reallocarray_)
MISUSE_TEST(aligned_alloc_)
MISUSE_TEST(strdup_)
MISUSE_TEST(strndup_)
MISUSE_TEST(close_twice)
MISUSE_TEST(sync_)
MISUSE_TEST(root_get)
MISUSE_TEST(root_set)
MISUSE_TEST(root_remove)
MISUSE_TEST(root_each)
MISUSE_TEST(at_checked)
MISUSE_TEST(stats_)
MISUSE_TEST(walk)
MISUSE_TEST(check)
MISUSE_TEST(pointers)
MISUSE_TEST(an_invented_heap)
MISUSE_TEST(an_object_as_heap)
MISUSE_TEST(an_unmapped_heap)
MISUSE_TEST(with_another_open)
MISUSE_TEST(with_slots_at_hand)
MISUSE_TEST(closed_by_another_thread)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_malloc_),
		cmocka_unit_test(test_malloc_large),
		cmocka_unit_test(test_calloc_),
		cmocka_unit_test(test_realloc_of_null),
		cmocka_unit_test(test_realloc_),
		cmocka_unit_test(test_reallocarray_),
		cmocka_unit_test(test_aligned_alloc_),
		cmocka_unit_test(test_strdup_),
		cmocka_unit_test(test_strndup_),
		cmocka_unit_test(test_close_twice),
		cmocka_unit_test(test_sync_),
		cmocka_unit_test(test_root_get),
		cmocka_unit_test(test_root_set),
		cmocka_unit_test(test_root_remove),
		cmocka_unit_test(test_root_each),
		cmocka_unit_test(test_at_checked),
		cmocka_unit_test(test_stats_),
		cmocka_unit_test(test_walk),
		cmocka_unit_test(test_check),
		cmocka_unit_test(test_pointers),
		cmocka_unit_test(test_an_invented_heap),
		cmocka_unit_test(test_an_object_as_heap),
		cmocka_unit_test(test_an_unmapped_heap),
		cmocka_unit_test(test_with_another_open),
		cmocka_unit_test(test_with_slots_at_hand),
		cmocka_unit_test(test_closed_by_another_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
