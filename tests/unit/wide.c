/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects larger than a unit, in which segments threads take units, and that all releases count for the decay.
 *
 *   FM_SEED   sizes and order of what two threads replace
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"

#include "alloc/alloc.h"
#include "alloc/heap.h"
#include "alloc/owner.h"

#include <pthread.h>

#define SLOTTED   (96 * KIB)  /* a class whose slabs have two slots in three units: alone it would waste a quarter */
#define ALONE     (112 * KIB) /* alone it wastes an eighth; a slab would have four slots in seven units */
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

/* An object of each class that wastes an eighth of its units at most is a run of those units; others are slots. */
static void one_of_each(void **state)
{
	unsigned runs = 0;

	(void)state;
	for (unsigned c = class_of(UNIT_SIZE) + 1; c < CLASSES; c++) {
		size_t size = size_classes[c].slot_size, len = UNITS(size) * UNIT_SIZE;
		const struct unit *unit = object_at(get(size)).unit;
		bool is_alone = (len - size) * 8 <= len;

		assert_int_equal(unit_state(unit), is_alone ? UNIT_IS_RUN : UNIT_IS_SLAB);
		if (is_alone)
			assert_int_equal(load_relaxed(&unit->units), UNITS(size));
		runs += is_alone;
	}
	assert_in_range(runs, 12, 20); /* both happen */
	assert_false(is_run(get(UNIT_SIZE)));
}

static void atomic_heaps_have_slots(void **state)
{
	(void)state;
	assert_int_equal(fm_close(heap), 0);
	unlink(path);
	heap = fm_open(path, FM_CREATE | FM_ATOMIC, NULL);
	assert_non_null(heap);
	assert_false(is_run(get(ALONE)));
	assert_true(is_run(get(600 * KIB)));
}

/* Free slots that the file has are used first. Slabs of the class are made in atomic heaps. */
static void slots_that_are_there_come_first(void **state)
{
	void *slot;

	atomic_heaps_have_slots(state);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_close(heap), 0);
	heap = fm_open(path, FM_CONVERT, NULL);
	assert_non_null(heap);
	fm_check(heap, NULL, NULL); /* all segments are examined */
	slot = get(SLOTTED);
	assert_int_equal(fm_free(slot), 0);
	slot = get(ALONE);
	assert_false(is_run(slot));
	assert_int_equal(fm_free(slot), 0);
	slot = fm_aligned_alloc(heap, 4096, ALONE);
	assert_non_null(slot);
	assert_false(is_run(slot));
}

/* Also where they lie in segments that nobody has looked at. The heap has no other space, but could grow. */
static void slots_in_unknown_segments(void **state)
{
	void *p[160];
	unsigned slots = 0;

	(void)state;
	assert_int_equal(fm_close(heap), 0);
	unlink(path);
	heap = fm_open(path, FM_CREATE | FM_ATOMIC, NULL);
	assert_non_null(heap);
	for (unsigned i = 0; i < 160; i++)
		p[i] = get(ALONE);
	for (unsigned i = 0; i < 160; i++)
		if (i % 4)
			assert_int_equal(fm_free(p[i]), 0);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_close(heap), 0);
	for (unsigned i = 0; i < 20; i++) {
		heap = fm_open(path, i ? 0 : FM_CONVERT, NULL);
		assert_non_null(heap);
		slots += !is_run(get(ALONE));
		if (i < 19)
			assert_int_equal(fm_close(heap), 0);
	}
	assert_int_equal(slots, 20);
}

/* There a release needs the lock, so empty slabs are kept. */
static void atomic_heaps_keep_slabs(void **state)
{
	void *p[4];

	atomic_heaps_have_slots(state);
	for (unsigned i = 0; i < 4; i++)
		p[i] = get(128 * KIB);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(fm_free(p[i]), 0);
	assert_non_null(thread_current->cache[heap_of_handle(heap)->slot]->kept);
}

static uint64_t file_size(void)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	assert_int_equal(fm_stats(heap, &stats), 0);
	return stats.file_size;
}

/* `n` objects of `size`, of which every `step`-th stays. */
static void fill_and_free(unsigned n, size_t size, unsigned step)
{
	void **p = calloc(n, sizeof(*p));

	assert_non_null(p);
	for (unsigned i = 0; i < n; i++)
		p[i] = get(size);
	for (unsigned i = 0; i < n; i++)
		if (i % step)
			assert_int_equal(fm_free(p[i]), 0);
	free(p);
}

/* Empty slabs that the thread has kept are units again before the heap grows. */
static void kept_slabs_come_before_growth(void **state)
{
	void **p = calloc(40000, sizeof(*p));
	uint64_t size;

	(void)state;
	assert_non_null(p);
	for (unsigned i = 0; i < 40000; i++)
		p[i] = get(1000);
	size = file_size();
	for (unsigned i = 30000; i < 40000; i++)
		assert_int_equal(fm_free(p[i]), 0);
	free(p);
	for (unsigned i = 0; i < 60; i++) {
		void *run = fm_aligned_alloc(heap, 64, ALONE); /* not of joined slots, before which they are released, too */

		assert_non_null(run);
		assert_true(is_run(run));
	}
	assert_int_equal(file_size(), size);
}

/* And so are free slots side by side, where nothing else is free. */
static void joined_slots_come_before_growth(void **state)
{
	uint64_t size;
	unsigned joined = 0;

	(void)state;
	fill_and_free(1600, 20 * KIB, 16); /* sixteen in each slab */
	size = file_size();
	for (unsigned i = 0; i < 100; i++)
		joined += !is_run(get(ALONE));
	assert_true(joined > 0);
	assert_int_equal(file_size(), size);
}

/* A length in pages that stays is nothing to be written down, and one in the same units nothing to wait for. */
static void same_units(void **state)
{
	char *p = get(ALONE - 4000);
	struct object object = object_at(p);

	(void)state;
	alarm(20);
	heap_lock(heap_of_handle(heap)); /* it would wait for ever */
	assert_ptr_equal(fm_realloc(heap, p, ALONE - 100), p);
	assert_int_equal(object_at(p).len, object.len);
	assert_ptr_equal(fm_realloc(heap, p, ALONE + 1), p);
	assert_int_equal(object_at(p).len, ALONE + 4096);
	assert_ptr_equal(fm_realloc(heap, p, UNIT_SIZE + 1), p);
	assert_int_equal(object_at(p).len, UNIT_SIZE + 4096);
	heap_unlock(heap_of_handle(heap));
	alarm(0);
	assert_ptr_equal(fm_realloc(heap, p, 3 * ALONE), p); /* the units behind are free */
	assert_int_equal(object_at(p).len, 3 * ALONE);
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

/* ---------------------------------------------------------------- decay */

#define RELEASES 7u /* of a thread: fewer than it counts for itself */
#define RUN      (600 * KIB)

static uint64_t disk_size(const char *name)
{
	struct stat st;

	assert_int_equal(stat(name, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static fm_heap *open_decaying(const char *name)
{
	struct fm_options options = {.size = sizeof(options), .decay_ms = 30};
	fm_heap *h;

	unlink(name);
	h = fm_open(name, FM_CREATE, &options);
	assert_non_null(h);
	return h;
}

/* 32 MiB that nobody uses any more. */
static void make_free_space(fm_heap *h)
{
	void *p[8];

	for (unsigned i = 0; i < 8; i++)
		assert_non_null(p[i] = fm_malloc(h, 3 * MIB));
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(fm_free(p[i]), 0);
}

static void *release_little(void *arg)
{
	fm_heap *h = arg;
	intptr_t failed = 0;

	for (unsigned i = 0; i < RELEASES; i++)
		failed += fm_free(fm_malloc(h, RUN)) != 0;
	return (void *)failed;
}

/* None of the threads releases often enough for a look of its own. */
static void threads_that_release_little(void **state)
{
	fm_heap *h;
	pthread_t thread;
	void *failed;
	char name[320];
	unsigned ms;

	(void)state;
	snprintf(name, sizeof(name), "%s/decaying", dir);
	h = open_decaying(name);
	make_free_space(h);
	for (ms = 0; ms < 10000 && disk_size(name) > 8 * MIB; ms += 10) {
		assert_int_equal(pthread_create(&thread, NULL, release_little, h), 0);
		assert_int_equal(pthread_join(thread, &failed), 0);
		assert_null(failed);
		proc_sleep_us(10000);
	}
	print_message("# the space was given back after %u ms\n", ms);
	assert_in_range(disk_size(name), 0, 8 * MIB);
	assert_int_equal(fm_close(h), 0);
	unlink(name);
}

/* Every second release of the thread is another heap's. */
static void two_heaps_by_turns(void **state)
{
	char name[2][320];
	fm_heap *h[2];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		snprintf(name[i], sizeof(name[i]), "%s/decaying-%u", dir, i);
		h[i] = open_decaying(name[i]);
		make_free_space(h[i]);
	}
	for (unsigned ms = 0; ms < 10000 && disk_size(name[0]) + disk_size(name[1]) > 16 * MIB; ms++) {
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(fm_free(fm_malloc(h[i % 2], RUN)), 0);
		proc_sleep_us(1000);
	}
	for (unsigned i = 0; i < 2; i++) {
		assert_in_range(disk_size(name[i]), 0, 8 * MIB);
		assert_int_equal(fm_close(h[i]), 0);
		unlink(name[i]);
	}
}

/* Objects of whole segments are freed by another way. */
static void huge_objects_count(void **state)
{
	char name[320];
	fm_heap *h;

	(void)state;
	snprintf(name, sizeof(name), "%s/decaying", dir);
	h = open_decaying(name);
	make_free_space(h);
	for (unsigned ms = 0; ms < 10000 && disk_size(name) > 12 * MIB; ms += 2) {
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(fm_free(fm_malloc(h, 5 * MIB)), 0);
		proc_sleep_us(2000);
	}
	assert_in_range(disk_size(name), 0, 12 * MIB);
	assert_int_equal(fm_close(h), 0);
	unlink(name);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, open_it, close_it)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(one_of_each),
		CASE(atomic_heaps_have_slots),
		CASE(slots_that_are_there_come_first),
		CASE(slots_in_unknown_segments),
		CASE(atomic_heaps_keep_slabs),
		CASE(kept_slabs_come_before_growth),
		CASE(joined_slots_come_before_growth),
		CASE(same_units),
		CASE(aligned_and_resized),
		CASE(threads_keep_apart),
		CASE(threads_that_release_little),
		CASE(two_heaps_by_turns),
		CASE(huge_objects_count),
	};
	int failed;

	dir = proc_dir_make();
	snprintf(path, sizeof(path), "%s/heap", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(dir);
	return failed;
}
