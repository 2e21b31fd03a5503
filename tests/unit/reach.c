/* SPDX-License-Identifier: Apache-2.0
 *
 * How much of a slab windows use: few objects touch few pages, and all slots are used before another slab is made.
 *
 *   FM_SEED   which objects are replaced
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"

#include "alloc/heap.h"

/* Of some classes whose slabs have one unit and more than one word of live bits. */
static const size_t sizes[] = {16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 448};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static char *dir;
static char path[300];
static fm_heap *heap;
static uint64_t seed;

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

static const struct unit *slab_of(const void *p)
{
	return &heap_of_handle(heap)->units[fm_offset_of(heap, p) >> UNIT_SHIFT];
}

/* The word of live bits that has the object's. */
static unsigned word_of(const void *p)
{
	return (unsigned)(fm_offset_of(heap, p) % UNIT_SIZE / slab_of(p)->slot_size / 64);
}

/* `live` objects of `size` bytes, replaced at random: the first word behind all that were used; all in one slab. */
static unsigned words_used(size_t size, unsigned live)
{
	void *objects[600] = {NULL};
	const struct unit *slab = NULL;
	unsigned end = 0;

	assert_true(live <= 600);
	for (unsigned i = 0; i < 20000; i++) {
		void **p = &objects[proc_below(&seed, live)];

		fm_free(*p);
		*p = fm_malloc(heap, size);
		assert_non_null(*p);
		slab = slab ? slab : slab_of(*p);
		assert_ptr_equal(slab_of(*p), slab);
		end = word_of(*p) >= end ? word_of(*p) + 1 : end;
	}
	for (unsigned i = 0; i < live; i++)
		assert_int_equal(fm_free(objects[i]), 0);
	return end;
}

/* Those of one page, or as many as leave a third of their slots free. */
static void few_objects_use_few_words(void **state)
{
	(void)state;
	for (unsigned i = 0; i < SIZES; i++) {
		unsigned page = (unsigned)(4095 / (64 * sizes[i])) + 1; /* words whose slots begin in a page */

		assert_in_range(words_used(sizes[i], 80), 2, page > 2 ? page : 2);
	}
}

static void more_objects_use_more(void **state)
{
	(void)state;
	assert_int_equal(words_used(64, 60), 1);
	assert_int_equal(close_it(NULL) || open_it(NULL), 0);
	assert_int_equal(words_used(64, 100), 4);
	assert_int_equal(close_it(NULL) || open_it(NULL), 0);
	assert_int_equal(words_used(64, 600), 16);
}

static void all_slots_come_before_another_slab(void **state)
{
	(void)state;
	for (unsigned i = 0; i < SIZES; i++) {
		void *first = fm_malloc(heap, sizes[i]);
		unsigned slots = slab_of(first)->slots, same = 1;
		void *p = fm_malloc(heap, sizes[i]);

		for (; slab_of(p) == slab_of(first); same++)
			p = fm_malloc(heap, sizes[i]);
		assert_int_equal(same, slots);
	}
}

/* Of an opened file's slabs all words are used: their pages may be touched or not. */
static void an_opened_slab_is_used_whole(void **state)
{
	void *first = fm_malloc(heap, 64);
	uint64_t off = fm_offset_of(heap, first);
	unsigned n = 0, slots = slab_of(first)->slots;

	(void)state;
	for (unsigned i = 0; i < 300; i++)
		assert_non_null(fm_malloc(heap, 64));
	assert_int_equal(fm_close(heap), 0);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	for (unsigned i = 301; i < slots; i++)
		n += fm_offset_of(heap, fm_malloc(heap, 64)) >> UNIT_SHIFT == off >> UNIT_SHIFT;
	assert_int_equal(n, slots - 301);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(few_objects_use_few_words, open_it, close_it),
		cmocka_unit_test_setup_teardown(more_objects_use_more, open_it, close_it),
		cmocka_unit_test_setup_teardown(all_slots_come_before_another_slab, open_it, close_it),
		cmocka_unit_test_setup_teardown(an_opened_slab_is_used_whole, open_it, close_it),
	};
	int failed;

	seed = proc_seed();
	dir = proc_dir_make();
	snprintf(path, sizeof(path), "%s/heap", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(dir);
	return failed;
}
