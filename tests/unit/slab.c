/* SPDX-License-Identifier: Apache-2.0
 *
 * From an offset in a slab to the number of its slot: slab_slot_at() multiplies by a reciprocal, and has
 * to be exact for every slot size that a file may name and every offset. Also where the words of a slab
 * stand. Uses the library's internal headers.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "alloc/slab.h"

static struct heap heap; /* only what slab_describe() uses */
static struct unit units[2 * SEGMENT_UNITS];

static int setup(void **state)
{
	(void)state;
	classes_init();
	heap.units = units;
	heap.store.base = aligned_alloc(SEGMENT_SIZE, 2 * SEGMENT_SIZE);
	if (!heap.store.base)
		return -1;
	memset(heap.store.base, 0, 2 * SEGMENT_SIZE);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(heap.store.base);
	return 0;
}

static const struct unit *describe(unsigned n, uint32_t slot_size)
{
	slab_describe(&heap, SEGMENT_UNITS + 1, slab_word(n, slot_size));
	return &units[SEGMENT_UNITS + 1];
}

static void expect(const struct unit *slab, uint64_t off)
{
	uint64_t slot = off / slab->slot_size;
	uint32_t expected = off % slab->slot_size == 0 && slot < slab->slots ? (uint32_t)slot : UINT32_MAX;

	if (slab_slot_at(slab, off) != expected)
		fail_msg("slots of %u bytes: offset %llu is slot %u, not %u", slab->slot_size,
		         (unsigned long long)off, slab_slot_at(slab, off), expected);
}

/* Offsets around each slot's start, up to the end of the longest slab. */
static void expect_near_slots(const struct unit *slab, uint64_t end)
{
	for (uint64_t off = 0; off < end; off += slab->slot_size) {
		expect(slab, off);
		expect(slab, off + 1);
		expect(slab, off + 8);
		expect(slab, off + slab->slot_size / 2);
		expect(slab, off + slab->slot_size - 8);
		expect(slab, off + slab->slot_size - 1);
	}
	expect(slab, end - 1);
	expect(slab, end);
}

static void test_every_class(void **state)
{
	(void)state;
	for (unsigned c = 0; c < CLASSES; c++) {
		const struct size_class *class = &size_classes[c];
		const struct unit *slab = describe(class->units, class->slot_size);

		assert_int_equal(slab->slots, class->slots);
		assert_int_equal(slab->class_no, c);
		for (uint64_t off = 0; off <= (uint64_t)class->units << UNIT_SHIFT; off++)
			expect(slab, off);
	}
}

/* Files of other versions may name any multiple of 8, and up to 63 units. */
static void test_every_slot_size(void **state)
{
	(void)state;
	for (uint32_t size = SLOT_MIN_SIZE; size <= 63 << UNIT_SHIFT; size += size < 8192 ? 8 : 8 * 137) {
		uint64_t most = SLAB_MAX_SLOTS * (uint64_t)size >> UNIT_SHIFT;
		unsigned least = (unsigned)((size + UNIT_SIZE - 1) >> UNIT_SHIFT);
		unsigned n = (unsigned)(most < 63 ? most : 63);
		const struct unit *slab = describe(n < least ? least : n, size);

		expect_near_slots(slab, (uint64_t)slab->units << UNIT_SHIFT);
	}
}

/* The pairs of a slab: 64 different places within the unit's 1024 bytes, live and remote side by side,
 * as docs/format.md says. */
static void test_pairs(void **state)
{
	(void)state;
	for (unsigned segment_no = 0; segment_no < 2; segment_no++) {
		for (unsigned u = metadata_unit(segment_no) + 1; u < SEGMENT_UNITS; u++) {
			uint64_t unit_no = segment_no * SEGMENT_UNITS + u, seen = 0;
			const uint64_t *metadata = (const uint64_t *)(const void *)(heap.store.base +
			                                                            metadata_off(segment_no));

			slab_describe(&heap, unit_no, slab_word(1, 16));
			for (unsigned w = 0; w < PAIRS; w++) {
				uint64_t at = (uint64_t)(slab_pair(&units[unit_no], w) - metadata) * 8;
				unsigned place = (unsigned)(at - u * 1024) / 16;

				assert_in_range(at, u * 1024, u * 1024 + 1023);
				assert_int_equal(at % 16, 0);
				assert_int_equal(place, w ^ 4 * ((u / 4 + segment_no) % 16));
				seen |= UINT64_C(1) << place;
			}
			assert_true(seen == UINT64_MAX);
		}
	}
}

/* Slots of the last word that exist. */
static void test_word_masks(void **state)
{
	(void)state;
	for (unsigned c = 0; c < CLASSES; c++) {
		const struct unit *slab = describe(size_classes[c].units, size_classes[c].slot_size);
		unsigned bits = 0;

		assert_int_equal(slab_all_words(slab), low_mask((slab->slots + 63u) / 64));
		for (unsigned w = 0; w < slab->words; w++)
			bits += count_bits(slab_word_mask(slab, w));
		assert_int_equal(bits, slab->slots);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_class),
		cmocka_unit_test(test_every_slot_size),
		cmocka_unit_test(test_pairs),
		cmocka_unit_test(test_word_masks),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
