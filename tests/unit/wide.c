/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects larger than a unit, and in which segments threads take units.
 *
 *   FM_SEED   sizes and order of what two threads replace
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"

#include "alloc/alloc.h"
#include "alloc/heap.h"
#include "alloc/owner.h"

#include <pthread.h>

#define TWO_SLOTS (96 * KIB)  /* a class whose slabs have two slots in three units */
#define ONE_SLOT  (128 * KIB)
#define UNITS(size) (((size) + UNIT_SIZE - 1) / UNIT_SIZE)

static char *dir;
static char path[300];
static fm_heap *heap;

static int open_it(void **state)
{
	(void)state;
	unlink(path);
	heap = fm_open(path, FM_CREATE, NULL);
	return heap ? 0 : -1;
}

static int close_it(void **state)
{
	(void)state;
	return fm_check(heap, NULL, NULL) == 0 && fm_close(heap) == 0 ? 0 : -1;
}

static struct object object_at(const void *p)
{
	struct object object;

	assert_true(alloc_object_at(heap_of_handle(heap), fm_offset_of(heap, p), &object));
	assert_true(object.is_live);
	return object;
}

static bool is_run(const void *p)
{
	return object_at(p).kind == UNIT_IS_RUN;
}

static void *get(size_t size)
{
	void *p = fm_malloc(heap, size);

	assert_non_null(p);
	assert_true(fm_usable_size(p) >= size);
	memset(p, 1, size);
	return p;
}

/* ---------------------------------------------------------------- runs or slabs */

/* One object of each wide class takes the units that it needs, and no others. */
static void one_of_each_is_a_run(void **state)
{
	(void)state;
	for (unsigned c = WIDE_FROM; c < CLASSES; c++) {
		size_t size = size_classes[c].slot_size;
		const struct unit *unit = object_at(get(size)).unit;

		assert_int_equal(unit_state(unit), UNIT_IS_RUN);
		assert_int_equal(load_relaxed(&unit->units), UNITS(size));
	}
	assert_int_equal(size_classes[WIDE_FROM].slot_size > UNIT_SIZE, true);
	assert_int_equal(size_classes[WIDE_FROM - 1].slot_size, UNIT_SIZE);
}

/* Many of a class whose slabs are denser are in slabs, but for the first. */
static void many_are_in_slabs(void **state)
{
	unsigned runs = 0;
	void *p[40];

	(void)state;
	for (unsigned i = 0; i < 40; i++) {
		p[i] = get(TWO_SLOTS);
		assert_int_equal(is_run(p[i]), i < ALONE_MAX);
	}
	/* slots that are free are taken first */
	assert_int_equal(fm_free(p[39]), 0);
	for (unsigned i = 0; i < ALONE_MAX; i++)
		assert_int_equal(fm_free(p[i]), 0);
	p[39] = fm_aligned_alloc(heap, 4096, TWO_SLOTS);
	assert_non_null(p[39]);
	assert_false(is_run(p[39]));
	/* then runs again, as many as were freed */
	for (unsigned i = 0; i < 40; i++)
		runs += is_run(get(TWO_SLOTS));
	assert_int_equal(runs, ALONE_MAX);
}

/* Where a slab has one slot, it would be no denser than a run. */
static void one_slot_is_always_a_run(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 300; i++)
		assert_true(is_run(get(ONE_SLOT)));
}

static void *free_them(void *arg)
{
	void **p = arg;
	intptr_t failed = 0;

	for (unsigned i = 0; p[i]; i++)
		failed += fm_free(p[i]) != 0;
	return (void *)failed;
}

/* What another thread frees is not counted by either: slabs come sooner, and nothing else. */
static void another_thread_frees(void **state)
{
	void *p[9] = {NULL}, *failed;
	pthread_t thread;

	(void)state;
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 8; i++)
			p[i] = get(TWO_SLOTS);
		assert_int_equal(is_run(p[7]), round == 0);
		assert_int_equal(pthread_create(&thread, NULL, free_them, p), 0);
		assert_int_equal(pthread_join(thread, &failed), 0);
		assert_null(failed);
	}
}

/* Aligned ones, and ones that are made larger and smaller, keep what they hold. */
static void aligned_and_resized(void **state)
{
	char *p = fm_aligned_alloc(heap, 4096, 70 * KIB);

	(void)state;
	assert_non_null(p);
	assert_int_equal((uintptr_t)p % 4096, 0);
	memset(p, 7, 70 * KIB);
	for (size_t size = 80 * KIB; size < 600 * KIB; size += 30 * KIB) {
		p = fm_realloc(heap, p, size);
		assert_non_null(p);
		for (size_t i = 0; i < 70 * KIB; i += 512)
			assert_int_equal(p[i], 7);
	}
	for (size_t size = 500 * KIB; size > 70 * KIB; size -= 90 * KIB) {
		p = fm_realloc(heap, p, size);
		assert_non_null(p);
		assert_true(fm_usable_size(p) >= size);
		for (size_t i = 0; i < 70 * KIB; i += 512)
			assert_int_equal(p[i], 7);
	}
	assert_int_equal(fm_free(p), 0);
}

/* ---------------------------------------------------------------- segments */

#define LIVE  12
#define TURNS 4000

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned turn; /* of the thread whose number this is, modulo two */
} turns = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

struct worker {
	unsigned no;
	uint64_t rng;
	unsigned own, foreign; /* units taken in the second half of its turns: in segments of its own, or not */
	bool failed;
};

static void replace(struct worker *worker, void **p, bool counts)
{
	struct heap *h = heap_of_handle(heap);
	size_t size = (size_t)65536 << proc_below(&worker->rng, 5);
	const struct segment *segment;

	if (*p)
		worker->failed |= fm_free(*p) != 0;
	*p = fm_malloc(heap, size + proc_below(&worker->rng, size));
	worker->failed |= !*p;
	if (!*p || !counts)
		return;
	segment = &h->segments[fm_offset_of(heap, *p) >> SEGMENT_SHIFT];
	if (load_relaxed(&segment->taker) == thread_current->cache[h->slot]->near.id)
		worker->own++;
	else
		worker->foreign++;
}

/* By turns, so that who takes what is the same each time. */
static void *take_turns(void *arg)
{
	struct worker *worker = arg;
	void *live[LIVE] = {NULL};

	for (unsigned i = 0; i < TURNS; i++) {
		pthread_mutex_lock(&turns.mutex);
		while (turns.turn % 2 != worker->no)
			pthread_cond_wait(&turns.changed, &turns.mutex);
		replace(worker, &live[proc_below(&worker->rng, LIVE)], i >= TURNS / 2);
		turns.turn++;
		pthread_cond_broadcast(&turns.changed);
		pthread_mutex_unlock(&turns.mutex);
	}
	return NULL;
}

static void threads_keep_apart(void **state)
{
	uint64_t seed = proc_seed();
	struct worker worker[2] = {{.no = 0, .rng = seed}, {.no = 1, .rng = seed + 1}};
	pthread_t thread[2];

	(void)state;
	turns.turn = 0;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, take_turns, &worker[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_join(thread[i], NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		print_message("# thread %u: %u in own segments, %u in others\n", i, worker[i].own, worker[i].foreign);
		assert_false(worker[i].failed);
		assert_true(worker[i].own > 4 * worker[i].foreign);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_of_each_is_a_run, open_it, close_it),
		cmocka_unit_test_setup_teardown(many_are_in_slabs, open_it, close_it),
		cmocka_unit_test_setup_teardown(one_slot_is_always_a_run, open_it, close_it),
		cmocka_unit_test_setup_teardown(another_thread_frees, open_it, close_it),
		cmocka_unit_test_setup_teardown(aligned_and_resized, open_it, close_it),
		cmocka_unit_test_setup_teardown(threads_keep_apart, open_it, close_it),
	};
	int failed;

	dir = proc_dir_make();
	snprintf(path, sizeof(path), "%s/heap", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(dir);
	return failed;
}
