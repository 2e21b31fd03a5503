/* SPDX-License-Identifier: Apache-2.0
 *
 * Segment invariants, for an examined segment
 *   G1  a unit is in free_units  <=>  no valid head of the segment covers it, by the file's words
 *   G2  the segment is in bucket b  <=>  b is the length of its longest run of free units, b > 0
 *   G3  every descriptor says what the file's words say
 */
#include "segment.h"

#include "../base/status.h"
#include "backing.h"
#include "directory.h"
#include "giveback.h"
#include "slab.h"

#include <errno.h>

/* Segments of earlier processes that are examined before the file grows by a step. */
#define EXAMINE_AT_ONCE 64

static uint64_t data_units(uint64_t segment_no)
{
	return ~low_mask(metadata_unit(segment_no) + 1);
}

/* ---------------------------------------------------------------- buckets */

static void bucket_remove(struct heap *heap, uint64_t segment_no)
{
	struct segment *segment = &heap->segments[segment_no];
	unsigned b = segment->bucket;

	if (b == 0)
		return;
	if (segment->prev)
		heap->segments[segment->prev - 1].next = segment->next;
	else
		heap->bucket[b] = segment->next;
	if (segment->next)
		heap->segments[segment->next - 1].prev = segment->prev;
	if (!heap->bucket[b])
		heap->buckets_used &= ~(UINT64_C(1) << b);
	segment->bucket = 0;
	segment->next = segment->prev = 0;
}

static void bucket_update(struct heap *heap, uint64_t segment_no)
{
	struct segment *segment = &heap->segments[segment_no];
	unsigned b = longest_run(segment->free_units);

	if (b == segment->bucket)
		return;
	bucket_remove(heap, segment_no);
	if (b == 0)
		return;
	segment->bucket = (uint8_t)b;
	segment->next = heap->bucket[b];
	if (segment->next)
		heap->segments[segment->next - 1].prev = (uint32_t)segment_no + 1;
	heap->bucket[b] = (uint32_t)segment_no + 1;
	heap->buckets_used |= UINT64_C(1) << b;
}

/* ---------------------------------------------------------------- descriptors */

static struct unit *describe_units(struct heap *heap, uint64_t unit_no, uint64_t n, enum unit_state state)
{
	struct unit *unit = &heap->units[unit_no];

	for (uint64_t i = 0; i < n; i++) {
		store_relaxed(&unit[i].quick_owner, 0);
		store_relaxed(&unit[i].owner, 0);
		store_relaxed(&unit[i].back, (uint8_t)0);
		unit[i].state = (uint8_t)state;
	}
	return unit;
}

void huge_describe(struct heap *heap, uint64_t segment_no, uint64_t pages)
{
	struct unit *unit = describe_units(heap, segment_no * SEGMENT_UNITS, 1, UNIT_IS_HUGE);

	unit->pages = pages;
}

void describe_interiors(struct heap *heap, uint64_t unit_no, unsigned n, enum unit_state state)
{
	for (unsigned i = 1; i < n; i++) {
		store_relaxed(&heap->units[unit_no + i].back, (uint8_t)i);
		heap->units[unit_no + i].state = (uint8_t)state;
	}
}

void run_describe(struct heap *heap, uint64_t unit_no, uint64_t word)
{
	struct unit *unit = describe_units(heap, unit_no, 1, UNIT_IS_RUN);

	unit->units = (uint8_t)unit_word_units(word);
	unit->pages = run_word_pages(word);
}

/* ---------------------------------------------------------------- examining */

bool unit_word_is_valid(uint64_t word, unsigned u, unsigned first)
{
	uint64_t units = unit_word_units(word);
	uint64_t slots;

	if (units == 0 || u < first || u + units > SEGMENT_UNITS)
		return false;
	if (unit_word_kind(word) == UNIT_RUN)
		return word == run_word(run_word_pages(word));
	if (word != slab_word(slab_word_units(word), slab_word_slot_size(word)) ||
	    slab_word_slot_size(word) < SLOT_MIN_SIZE || slab_word_slot_size(word) % 8)
		return false;
	slots = (units << UNIT_SHIFT) / slab_word_slot_size(word);
	return slots >= 1 && slots <= SLAB_MAX_SLOTS;
}

/* Do heads and interiors of the segment make sense, within the file? Sets the free units. */
static bool judge_words(struct heap *heap, uint64_t segment_no, uint64_t *free_units)
{
	const uint64_t *words = unit_words(heap, segment_no);
	unsigned first = metadata_unit(segment_no) + 1;
	uint64_t free = data_units(segment_no);

	for (unsigned u = first; u < SEGMENT_UNITS;) {
		uint64_t word = truth_load(&words[u]);
		unsigned n = (unsigned)min_u64(unit_word_units(word), SEGMENT_UNITS);

		if (unit_word_kind(word) <= UNIT_INTERIOR) {
			if (word != unit_word_kind(word))
				return false;
			u++;
			continue;
		}
		if (!unit_word_is_valid(word, u, first) ||
		    (segment_no << SEGMENT_SHIFT) + ((uint64_t)(u + n) << UNIT_SHIFT) > heap->store.size)
			return false;
		for (unsigned i = u + 1; i < u + n; i++)
			if (truth_load(&words[i]) != UNIT_INTERIOR)
				return false;
		free &= ~range_mask(u, n);
		u += n;
	}
	*free_units = free;
	return true;
}

/* The hint may be wrong from now on: this process may free something here. */
static void clear_full_hint(struct heap *heap, uint64_t segment_no)
{
	uint64_t *word = directory_word(heap, segment_no);

	if (heap_may_write(heap) && truth_load(word) & SEGMENT_FULL_HINT)
		truth_store(word, truth_load(word) & ~SEGMENT_FULL_HINT);
}

void segment_examine(struct heap *heap, uint64_t segment_no)
{
	struct segment *segment = &heap->segments[segment_no];
	uint64_t unit_0 = segment_no * SEGMENT_UNITS;
	unsigned first = metadata_unit(segment_no) + 1;
	const uint64_t *words = unit_words(heap, segment_no);
	uint64_t free_units;

	store_metadata(&heap->store, metadata_off(segment_no), UNIT_SIZE);
	if (!judge_words(heap, segment_no, &free_units)) {
		segment->state = SEG_DAMAGED;
		return;
	}
	clear_full_hint(heap, segment_no);
	segment->state = SEG_EXAMINED;
	segment->free_units = free_units;
	segment->backed |= ~free_units; /* used units were backed when they were handed out */
	describe_units(heap, unit_0, first, UNIT_IS_META);
	describe_units(heap, unit_0 + first, SEGMENT_UNITS - first, UNIT_IS_FREE);
	bucket_update(heap, segment_no);
	for (unsigned u = first; u < SEGMENT_UNITS;) {
		uint64_t word = truth_load(&words[u]);
		unsigned n = (unsigned)unit_word_units(word);

		if (n == 0) {
			u++;
			continue;
		}
		if (unit_word_kind(word) == UNIT_SLAB) {
			describe_interiors(heap, unit_0 + u, n, UNIT_IS_SLAB);
			slab_describe(heap, unit_0 + u, word);
			slab_settle(heap, &heap->units[unit_0 + u]);
		} else {
			describe_interiors(heap, unit_0 + u, n, UNIT_IS_RUN);
			run_describe(heap, unit_0 + u, word);
		}
		u += n;
	}
	/* a kill between the last unit's release and the segment's */
	segment_release_if_empty(heap, segment_no);
}

void segment_resolve(struct heap *heap, uint64_t unit_no)
{
	uint64_t segment_no = segment_of_unit(unit_no);

	directory_scan(heap);
	if (segment_state(heap, segment_no) == SEG_METADATA)
		segment_examine(heap, segment_no);
}

bool segment_examine_some(struct heap *heap)
{
	uint64_t last;
	unsigned examined = 0;

	directory_scan(heap);
	last = directory_last(heap);
	while (heap->examine_cursor <= last && examined < EXAMINE_AT_ONCE) {
		uint64_t s = heap->examine_cursor++;

		if (segment_state(heap, s) != SEG_METADATA || truth_load(directory_word(heap, s)) & SEGMENT_FULL_HINT)
			continue;
		segment_examine(heap, s);
		examined++;
		if (heap->segments[s].free_units)
			return true;
		for (unsigned u = 0; u < SEGMENT_UNITS; u++)
			if (slab_is_listed(&heap->units[s * SEGMENT_UNITS + u]))
				return true;
	}
	return false;
}

void segment_note_full(struct heap *heap)
{
	for (uint64_t s = 0; s <= directory_last(heap) && s < heap->covered; s++) {
		bool has_space = heap->segments[s].free_units != 0;

		if (heap->segments[s].state != SEG_EXAMINED)
			continue;
		for (unsigned u = 0; u < SEGMENT_UNITS && !has_space; u++)
			has_space = slab_is_listed(&heap->units[s * SEGMENT_UNITS + u]);
		if (!has_space)
			truth_store(directory_word(heap, s), truth_load(directory_word(heap, s)) | SEGMENT_FULL_HINT);
	}
}

/* ---------------------------------------------------------------- taking and releasing units */

/* Give a free segment metadata. False with errno ENOMEM. */
static bool segment_create(struct heap *heap)
{
	uint64_t segment_no = directory_find(heap, 1);
	struct segment *segment;
	int r;

	if (segment_no == 0)
		return fail(ENOMEM, "no address space is left for the heap"), false;
	r = backing_ensure(heap, metadata_off(segment_no), UNIT_SIZE);
	if (r)
		return cannot_grow(heap, r), false;
	backing_take(heap, metadata_off(segment_no), UNIT_SIZE);
	store_metadata(&heap->store, metadata_off(segment_no), UNIT_SIZE);
	truth_clear_words(unit_words(heap, segment_no), PAIRS_LEN / 8);
	directory_reach_to(heap, segment_no);
	truth_store(directory_word(heap, segment_no), SEGMENT_METADATA);
	segment = &heap->segments[segment_no];
	segment->state = SEG_EXAMINED;
	segment->free_units = data_units(segment_no);
	describe_units(heap, segment_no * SEGMENT_UNITS, 1, UNIT_IS_META);
	describe_units(heap, segment_no * SEGMENT_UNITS + 1, SEGMENT_UNITS - 1, UNIT_IS_FREE);
	bucket_update(heap, segment_no);
	return true;
}

/* Bits at multiples of `align`. */
static uint64_t aligned_positions(unsigned align)
{
	uint64_t mask = 0;

	for (unsigned u = 0; u < SEGMENT_UNITS; u += align)
		mask |= UINT64_C(1) << u;
	return mask;
}

/* Which free units will do. */
enum which { ANY, BACKED, USED_BEFORE };

static uint64_t mask_of(const struct segment *segment, enum which which)
{
	switch (which) {
	case BACKED:
		return segment->free_units & segment->backed;
	case USED_BEFORE:
		return segment->free_units & segment->backed & ~segment->zero;
	default:
		return segment->free_units;
	}
}

/* The tightest segment with a fitting run. */
static uint64_t find_units(const struct heap *heap, unsigned n, unsigned align, enum which which)
{
	uint64_t used = heap->buckets_used & ~low_mask(n);

	while (used) {
		unsigned b = lowest_bit(used);

		for (uint32_t s = heap->bucket[b]; s; s = heap->segments[s - 1].next) {
			const struct segment *segment = &heap->segments[s - 1];
			uint64_t starts = run_starts(mask_of(segment, which), n);

			if (align > 1)
				starts &= aligned_positions(align);
			if (starts)
				return (s - 1) * (uint64_t)SEGMENT_UNITS + lowest_bit(starts);
		}
		used &= used - 1;
	}
	return 0;
}

static void take(struct heap *heap, uint64_t unit_no, unsigned n)
{
	uint64_t segment_no = segment_of_unit(unit_no);

	heap->segments[segment_no].free_units &= ~range_mask(index_in_segment(unit_no), n);
	bucket_update(heap, segment_no);
}

bool units_are_at_hand(const struct heap *heap, unsigned n)
{
	return find_units(heap, n, 1, USED_BEFORE) != 0;
}

uint64_t units_take(struct heap *heap, unsigned n, unsigned align_units)
{
	uint64_t unit_no;
	int r;

	directory_scan(heap);
	if (segment_state(heap, 0) == SEG_METADATA)
		segment_examine(heap, 0);
	while (!(unit_no = find_units(heap, n, align_units, ANY))) {
		if (segment_examine_some(heap) || segment_create(heap))
			continue;
		/* it can't grow: then all segments are looked at, however many */
		if (heap->examine_cursor > directory_last(heap))
			return 0;
	}
	r = backing_ensure(heap, unit_no << UNIT_SHIFT, (uint64_t)n << UNIT_SHIFT);
	if (r) {
		/* the disk is full; what was freed in this process is backed still */
		unit_no = find_units(heap, n, align_units, BACKED);
		if (unit_no == 0)
			return cannot_grow(heap, r), 0;
	}
	take(heap, unit_no, n);
	return unit_no;
}

bool units_take_at(struct heap *heap, uint64_t unit_no, unsigned n)
{
	const struct segment *segment = &heap->segments[segment_of_unit(unit_no)];
	unsigned u = index_in_segment(unit_no);

	if (u == 0 || u + n > SEGMENT_UNITS || range_mask(u, n) & ~segment->free_units ||
	    backing_ensure(heap, unit_no << UNIT_SHIFT, (uint64_t)n << UNIT_SHIFT))
		return false;
	take(heap, unit_no, n);
	return true;
}

bool segment_release_if_empty(struct heap *heap, uint64_t segment_no)
{
	struct segment *segment = &heap->segments[segment_no];

	if (segment_no == 0 || segment->state != SEG_EXAMINED || segment->free_units != data_units(segment_no) ||
	    !heap_may_write(heap))
		return false;
	truth_store(directory_word(heap, segment_no), SEGMENT_FREE);
	bucket_remove(heap, segment_no);
	describe_units(heap, segment_no * SEGMENT_UNITS, SEGMENT_UNITS, UNIT_UNKNOWN);
	segment->free_units = 0;
	segment->state = SEG_FREE;
	heap->free_hint = min_u64(heap->free_hint, segment_no);
	return true;
}

void units_release(struct heap *heap, uint64_t unit_no, unsigned n)
{
	uint64_t segment_no = segment_of_unit(unit_no);
	struct segment *segment = &heap->segments[segment_no];

	describe_units(heap, unit_no, n, UNIT_IS_FREE);
	segment->free_units |= range_mask(index_in_segment(unit_no), n);
	if (!segment_release_if_empty(heap, segment_no))
		bucket_update(heap, segment_no);
	giveback_note(heap);
}
