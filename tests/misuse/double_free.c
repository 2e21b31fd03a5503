/* SPDX-License-Identifier: Apache-2.0
 *
 * Misuse: an object that was freed is freed, resized or asked for its size again.
 */
#include "../support/misuse_case.h"

/* Allocate `size` bytes, free them, and use them once more. A neighbour of the same size stays. */
static void twice(struct misuse_case *c, size_t size)
{
	void *neighbour = fm_malloc(c->heap, size);
	void *p = fm_malloc(c->heap, size);

	NEED(neighbour && p);
	NEED(fm_free(p) == 0);
	wrong_pointer(c, p, FM_DOUBLE_FREE, c->heap);
	NEED(fm_free(neighbour) == 0);
}

static void small(struct misuse_case *c)
{
	twice(c, 48);
}

static void every_small_size(struct misuse_case *c)
{
	for (size_t size = 1; size <= 1024; size += 41)
		twice(c, size);
}

static void zero_bytes(struct misuse_case *c)
{
	twice(c, 0);
}

static void medium_8_kib(struct misuse_case *c)
{
	twice(c, 8 * KIB);
}

static void medium_100_kib(struct misuse_case *c)
{
	twice(c, 100 * KIB);
}

static void largest_in_a_slab(struct misuse_case *c)
{
	twice(c, 448 * KIB);
}

static void run_1_mib(struct misuse_case *c)
{
	twice(c, 1 * MIB);
}

static void huge_20_mib(struct misuse_case *c)
{
	twice(c, 20 * MIB);
}

static void aligned(struct misuse_case *c)
{
	static const size_t alignments[] = { 64, 4096, 65536, 4 * 1024 * 1024 };

	for (unsigned i = 0; i < 4; i++) {
		void *p = fm_aligned_alloc(c->heap, alignments[i], 200);

		NEED(p && (uintptr_t)p % alignments[i] == 0);
		NEED(fm_free(p) == 0);
		wrong_pointer(c, p, FM_DOUBLE_FREE, c->heap);
	}
}

/* realloc moved the object: its old address is no longer one. */
static void moved_by_realloc(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 100), *q;

	NEED(p);
	memset(p, 7, 100);
	q = fm_realloc(c->heap, p, 50000);
	NEED(q && q != p && q[0] == 7 && q[99] == 7);
	wrong_pointer(c, p, FM_DOUBLE_FREE, c->heap);
	NEED(fm_free(q) == 0);
}

static void a_string(struct misuse_case *c)
{
	char *p = fm_strdup(c->heap, "to be freed twice");

	NEED(p);
	NEED(fm_free(p) == 0);
	wrong_pointer(c, p, FM_DOUBLE_FREE, c->heap);
}

/* Many other objects come and go between the two. */
static void delayed(struct misuse_case *c)
{
	void *p = fm_malloc(c->heap, 300), *neighbour = fm_malloc(c->heap, 300);

	NEED(p && neighbour);
	NEED(fm_free(p) == 0);
	for (unsigned i = 0; i < 20000; i++) {
		void *q = fm_malloc(c->heap, i % 2 ? 24 : 5000);

		NEED(q && fm_free(q) == 0);
	}
	wrong_pointer(c, p, FM_DOUBLE_FREE, c->heap);
}

/* All objects of whole slabs are freed, so that their units may have gone back. */
static void of_an_emptied_slab(struct misuse_case *c)
{
	enum { N = 8000 };
	static void *p[N];

	for (unsigned i = 0; i < N; i++)
		NEED((p[i] = fm_malloc(c->heap, 56)));
	for (unsigned i = 0; i < N; i++)
		NEED(fm_free(p[i]) == 0);
	for (unsigned i = 0; i < N; i += 999)
		wrong_pointer(c, p[i], FM_NO_OBJECT, c->heap);
}

/* Once the place is handed out again it is the new object's, and nobody's misuse. */
static void handed_out_again(struct misuse_case *c)
{
	void *p = fm_malloc(c->heap, 1 * MIB), *q;

	NEED(p && fm_free(p) == 0);
	for (unsigned i = 0; i < 500; i++) {
		q = fm_malloc(c->heap, 1 * MIB);
		NEED(q);
		if (q == p)
			break;
	}
	NEED(q == p);
	NEED(fm_free(q) == 0);
	NEED(c->seen.calls == 0);
	wrong_free(c, p, FM_DOUBLE_FREE, c->heap);
}

static void many_times(struct misuse_case *c)
{
	void *p = fm_malloc(c->heap, 72);

	NEED(p && fm_free(p) == 0);
	for (unsigned i = 0; i < 50; i++)
		wrong_free(c, p, FM_DOUBLE_FREE, c->heap);
}

/* What is freed inside fm_walk's visitor is freed. */
static int free_visited(void *p, size_t usable, void *arg)
{
	void **wanted = arg;

	(void)usable;
	if (p != *wanted)
		return 0;
	return fm_free(p) == 0 ? 1 : -1;
}

static void during_a_walk(struct misuse_case *c)
{
	void *p = c->objects[20];

	NEED(fm_walk(c->heap, free_visited, &p) == 1);
	wrong_pointer(c, p, FM_DOUBLE_FREE, c->heap);
}

/* ---------------------------------------------------------------- with threads */

struct task {
	struct misuse_case *c;
	void *p[8];
	void (*act)(struct task *);
};

static void *run_task(void *arg)
{
	struct task *task = arg;

	task->act(task);
	return NULL;
}

static void in_thread(struct task *task, void (*act)(struct task *))
{
	pthread_t thread;

	task->act = act;
	NEED(pthread_create(&thread, NULL, run_task, task) == 0);
	NEED(pthread_join(thread, NULL) == 0);
}

static const size_t task_sizes[8] = { 16, 48, 200, 1000, 8192, 200000, 1048576, 20 * 1024 * 1024 };

static void allocate_all(struct task *task)
{
	for (unsigned i = 0; i < 8; i++)
		NEED((task->p[i] = fm_malloc(task->c->heap, task_sizes[i])));
}

static void free_all(struct task *task)
{
	for (unsigned i = 0; i < 8; i++)
		NEED(fm_free(task->p[i]) == 0);
}

static void misuse_all(struct task *task)
{
	for (unsigned i = 0; i < 8; i++)
		wrong_pointer(task->c, task->p[i], FM_DOUBLE_FREE, task->c->heap);
}

static void second_free_by_another_thread(struct misuse_case *c)
{
	struct task task = { .c = c };

	allocate_all(&task);
	free_all(&task);
	in_thread(&task, misuse_all);
}

static void first_free_by_another_thread(struct misuse_case *c)
{
	struct task task = { .c = c };

	allocate_all(&task);
	in_thread(&task, free_all);
	misuse_all(&task);
}

static void free_both_ways(struct task *task)
{
	free_all(task);
	misuse_all(task);
}

static void both_frees_by_another_thread(struct misuse_case *c)
{
	struct task task = { .c = c };

	allocate_all(&task);
	in_thread(&task, free_both_ways);
}

static void each_free_by_a_thread_of_its_own(struct misuse_case *c)
{
	struct task task = { .c = c };

	in_thread(&task, allocate_all);
	in_thread(&task, free_all);
	in_thread(&task, misuse_all);
}

static void freed_by_an_owner_that_is_gone(struct misuse_case *c)
{
	struct task task = { .c = c };

	in_thread(&task, allocate_all);
	free_all(&task);
	misuse_all(&task);
}

static void allocate_and_free(struct task *task)
{
	allocate_all(task);
	free_all(task);
}

static void all_by_a_thread_that_is_gone(struct misuse_case *c)
{
	struct task task = { .c = c };

	in_thread(&task, allocate_and_free);
	misuse_all(&task);
}

/* ---------------------------------------------------------------- with reopening */

static void after_reopening(struct misuse_case *c)
{
	static const size_t sizes[] = { 16, 48, 200, 1000, 8192, 200000, 1048576, 20 * 1024 * 1024 };
	uint64_t offsets[8];

	for (unsigned i = 0; i < 8; i++) {
		void *p = fm_malloc(c->heap, sizes[i]);

		NEED(p);
		offsets[i] = fm_offset_of(c->heap, p);
		NEED(fm_malloc(c->heap, sizes[i]));
		NEED(fm_free(p) == 0);
	}
	NEED(fm_close(c->heap) == 0);
	NEED(misuse_open(c, 0));
	for (unsigned i = 0; i < 8; i++) {
		struct fm_statistics s = { .size = sizeof s };

		NEED(fm_stats(c->heap, &s) == 0);
		if (offsets[i] < s.file_size)
			wrong_pointer(c, fm_at(c->heap, offsets[i]), FM_DOUBLE_FREE, c->heap);
	}
}

static void freed_after_reopening(struct misuse_case *c)
{
	uint64_t offset = fm_offset_of(c->heap, c->objects[3]);
	void *p;

	NEED(fm_close(c->heap) == 0);
	NEED(misuse_open(c, 0));
	p = fm_at(c->heap, offset);
	NEED(fm_free(p) == 0);
	wrong_pointer(c, p, FM_DOUBLE_FREE, c->heap);
}

MISUSE_TEST(small)
MISUSE_TEST(every_small_size)
MISUSE_TEST(zero_bytes)
MISUSE_TEST(medium_8_kib)
MISUSE_TEST(medium_100_kib)
MISUSE_TEST(largest_in_a_slab)
MISUSE_TEST(run_1_mib)
MISUSE_TEST(huge_20_mib)
MISUSE_TEST(aligned)
MISUSE_TEST(moved_by_realloc)
MISUSE_TEST(a_string)
MISUSE_TEST(delayed)
MISUSE_TEST(of_an_emptied_slab)
MISUSE_TEST(handed_out_again)
MISUSE_TEST(many_times)
MISUSE_TEST(during_a_walk)
MISUSE_TEST(second_free_by_another_thread)
MISUSE_TEST(first_free_by_another_thread)
MISUSE_TEST(both_frees_by_another_thread)
MISUSE_TEST(each_free_by_a_thread_of_its_own)
MISUSE_TEST(freed_by_an_owner_that_is_gone)
MISUSE_TEST(all_by_a_thread_that_is_gone)
MISUSE_TEST(after_reopening)
MISUSE_TEST(freed_after_reopening)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_every_small_size),
		cmocka_unit_test(test_zero_bytes),
		cmocka_unit_test(test_medium_8_kib),
		cmocka_unit_test(test_medium_100_kib),
		cmocka_unit_test(test_largest_in_a_slab),
		cmocka_unit_test(test_run_1_mib),
		cmocka_unit_test(test_huge_20_mib),
		cmocka_unit_test(test_aligned),
		cmocka_unit_test(test_moved_by_realloc),
		cmocka_unit_test(test_a_string),
		cmocka_unit_test(test_delayed),
		cmocka_unit_test(test_of_an_emptied_slab),
		cmocka_unit_test(test_handed_out_again),
		cmocka_unit_test(test_many_times),
		cmocka_unit_test(test_during_a_walk),
		cmocka_unit_test(test_second_free_by_another_thread),
		cmocka_unit_test(test_first_free_by_another_thread),
		cmocka_unit_test(test_both_frees_by_another_thread),
		cmocka_unit_test(test_each_free_by_a_thread_of_its_own),
		cmocka_unit_test(test_freed_by_an_owner_that_is_gone),
		cmocka_unit_test(test_all_by_a_thread_that_is_gone),
		cmocka_unit_test(test_after_reopening),
		cmocka_unit_test(test_freed_after_reopening),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
