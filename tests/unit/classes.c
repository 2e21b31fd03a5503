/* SPDX-License-Identifier: Apache-2.0
 *
 * The size classes, each size one by one. Uses the library's internal headers.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "alloc/classes.h"
#include "store/format.h"

static int setup(void **state)
{
	(void)state;
	classes_init();
	return 0;
}

/* Slots grow from class to class, are at least 16 bytes and multiples of 8, and end with SMALL_MAX. */
static void test_table(void **state)
{
	(void)state;
	assert_int_equal(size_classes[0].slot_size, SLOT_MIN_SIZE);
	assert_int_equal(size_classes[CLASSES - 1].slot_size, SMALL_MAX);
	for (unsigned c = 0; c < CLASSES; c++) {
		const struct size_class *class = &size_classes[c];

		assert_int_equal(class->slot_size % 8, 0);
		if (c > 0)
			assert_true(class->slot_size > size_classes[c - 1].slot_size);
		assert_in_range(class->units, 1, SEGMENT_UNITS - 2); /* segment 0 has two fewer */
		assert_int_equal(class->slots, class->units * UNIT_SIZE / class->slot_size);
		assert_in_range(class->slots, 1, SLAB_MAX_SLOTS);
		assert_int_equal(class_with_slot(class->slot_size), c);
		assert_int_equal(class_with_slot(class->slot_size + 1), NO_CLASS);
	}
	assert_int_equal(class_with_slot(0), NO_CLASS);
	assert_int_equal(class_with_slot(8), NO_CLASS);
	assert_int_equal(class_with_slot(UINT32_MAX), NO_CLASS);
	/* the sizes of list nodes cost no more than they are */
	assert_int_equal(size_classes[class_of(24)].slot_size, 24);
	assert_int_equal(size_classes[class_of(40)].slot_size, 40);
}

/* Every size meets the smallest class that holds it; from 128 bytes on at most an eighth of the slot is
 * wasted, below at most 7 bytes; a multiple of 16 meets slots that are multiples of 16. */
static void test_every_size(void **state)
{
	unsigned smallest = 0;

	(void)state;
	for (size_t size = 0; size <= SMALL_MAX; size++) {
		unsigned c = class_of(size);
		uint32_t slot = size_classes[c].slot_size;

		while (size_classes[smallest].slot_size < size)
			smallest++;
		if (c != smallest)
			fail_msg("size %zu: class %u of %u bytes, not %u", size, c, slot, smallest);
		if (size > 128 && (slot - size) * 8 > slot)
			fail_msg("size %zu: a slot of %u bytes wastes more than an eighth", size, slot);
		if (size > 16 && size <= 128 && slot - size > 7)
			fail_msg("size %zu: a slot of %u bytes", size, slot);
		if (size && size % 16 == 0 && slot % 16)
			fail_msg("size %zu: a slot of %u bytes is no multiple of 16", size, slot);
	}
}

/* What is left at a slab's end is at most a 32nd of it, or no number of units up to 16 does better. */
static void test_slab_tails(void **state)
{
	(void)state;
	for (unsigned c = 0; c < CLASSES; c++) {
		const struct size_class *class = &size_classes[c];
		uint64_t len = class->units * UNIT_SIZE, tail = len % class->slot_size;

		if (tail * 32 <= len)
			continue;
		for (uint64_t units = 1; units <= 16; units++)
			if (units * UNIT_SIZE >= class->slot_size &&
			    units * UNIT_SIZE % class->slot_size * len < tail * (units * UNIT_SIZE))
				fail_msg("slots of %u bytes: a tail of %llu in %u units", class->slot_size,
				         (unsigned long long)tail, class->units);
	}
}

static unsigned slow_class_aligned(size_t size, size_t alignment)
{
	for (unsigned c = 0; c < CLASSES; c++)
		if (size_classes[c].slot_size >= size && size_classes[c].slot_size % alignment == 0)
			return c;
	return NO_CLASS;
}

/* The smallest class whose slots are all aligned; a slab is aligned to a unit, so larger alignments have
 * none. */
static void test_aligned(void **state)
{
	(void)state;
	for (size_t alignment = 8; alignment <= SEGMENT_SIZE; alignment *= 2) {
		for (unsigned c = 0; c < CLASSES; c++) {
			for (int step = -1; step <= 1; step++) {
				size_t size = size_classes[c].slot_size + (size_t)step;
				unsigned found;

				if (size > SMALL_MAX)
					continue;
				found = class_aligned(size, alignment);
				if (alignment <= UNIT_SIZE)
					assert_int_equal(found, slow_class_aligned(size, alignment));
				else
					assert_int_equal(found, NO_CLASS);
			}
		}
		for (size_t size = 0; size < 3000; size++)
			assert_int_equal(class_aligned(size, alignment),
			                 alignment <= UNIT_SIZE ? slow_class_aligned(size, alignment) : NO_CLASS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_every_size),
		cmocka_unit_test(test_slab_tails),
		cmocka_unit_test(test_aligned),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
