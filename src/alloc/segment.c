/* SPDX-License-Identifier: Apache-2.0
 *
 * Segment invariants, for an examined segment. G1 and G3 but for units that a thread is just taking or releasing.
 *   G1  a unit is in free_units  <=>  no valid head of the segment covers it, by the file's words
 *   G3  every descriptor says what the file's words say
 */
#include "segment.h"

#include "../base/status.h"
#include "backing.h"
#include "directory.h"
#include "slab.h"
#include "units.h"

#include <errno.h>

/* Segments of earlier processes that are examined before the file grows by a step. */
#define EXAMINE_AT_ONCE 64

/* ---------------------------------------------------------------- descriptors */

struct unit *describe_units(struct heap *heap, uint64_t unit_no, uint64_t n, enum unit_state state)
{
	struct unit *unit = &heap->units[unit_no];

	for (uint64_t i = 0; i < n; i++) {
		store_relaxed(&unit[i].quick_owner, 0);
		store_relaxed(&unit[i].owner, 0);
		store_relaxed(&unit[i].back, (uint8_t)0);
		unit_set_state(&unit[i], state);
	}
	return unit;
}

void huge_describe(struct heap *heap, uint64_t segment_no, uint64_t pages)
{
	describe_units(heap, segment_no * SEGMENT_UNITS, 1, UNIT_IS_HUGE);
	huge_set_pages(heap, segment_no, pages);
}

void huge_set_pages(struct heap *heap, uint64_t segment_no, uint64_t pages)
{
	uint64_t left = (pages + UNIT_PAGES - 1) / UNIT_PAGES;

	store_relaxed(&heap->units[segment_no * SEGMENT_UNITS].pages, pages);
	for (uint64_t s = segment_no; left; s++) {
		heap->segments[s].used = (uint8_t)min_u64(left, SEGMENT_UNITS);
		left -= heap->segments[s].used;
	}
}

void describe_interiors(struct heap *heap, uint64_t unit_no, unsigned from, unsigned n, enum unit_state state)
{
	for (unsigned i = from; i < n; i++) {
		store_relaxed(&heap->units[unit_no + i].back, (uint8_t)i);
		unit_set_state(&heap->units[unit_no + i], state);
	}
}

void run_describe(struct heap *heap, uint64_t unit_no, uint64_t word)
{
	struct unit *unit = &heap->units[unit_no];

	store_relaxed(&unit->units, (uint8_t)unit_word_units(word));
	store_relaxed(&unit->pages, run_word_pages(word));
	describe_units(heap, unit_no, 1, UNIT_IS_RUN);
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
	fetch_or_seq(&segment->backed, ~free_units); /* used units were backed when they were handed out */
	describe_units(heap, unit_0, first, UNIT_IS_META);
	describe_units(heap, unit_0 + first, SEGMENT_UNITS - first, UNIT_IS_FREE);
	for (unsigned u = first; u < SEGMENT_UNITS;) {
		uint64_t word = truth_load(&words[u]);
		unsigned n = (unsigned)unit_word_units(word);

		if (n == 0) {
			u++;
			continue;
		}
		if (unit_word_kind(word) == UNIT_SLAB) {
			describe_interiors(heap, unit_0 + u, 1, n, UNIT_IS_SLAB);
			slab_describe(heap, unit_0 + u, word);
			slab_set_owner(&heap->units[unit_0 + u], OWNER_NONE);
			slab_settle(heap, &heap->units[unit_0 + u]);
		} else {
			describe_interiors(heap, unit_0 + u, 1, n, UNIT_IS_RUN);
			run_describe(heap, unit_0 + u, word);
		}
		u += n;
	}
	/* not before all is described: what threads take then is theirs to describe */
	units_offer(heap, segment_no, free_units);
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
		if (load_relaxed(&heap->segments[s].free_units))
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
		bool has_space = load_relaxed(&heap->segments[s].free_units) != 0;

		if (heap->segments[s].state != SEG_EXAMINED)
			continue;
		for (unsigned u = 0; u < SEGMENT_UNITS && !has_space; u++)
			has_space = slab_is_listed(&heap->units[s * SEGMENT_UNITS + u]);
		if (!has_space)
			truth_store(directory_word(heap, s), truth_load(directory_word(heap, s)) | SEGMENT_FULL_HINT);
	}
}

/* ---------------------------------------------------------------- making and releasing segments */

/* Give the free segment, whose first unit is backed, metadata. */
static void make_segment(struct heap *heap, uint64_t segment_no)
{
	if (backing_take(heap, metadata_off(segment_no), UNIT_SIZE))
		store_prefault(&heap->store, metadata_off(segment_no), UNIT_SIZE);
	store_metadata(&heap->store, metadata_off(segment_no), UNIT_SIZE);
	truth_clear_words(unit_words(heap, segment_no), PAIRS_LEN / 8);
	directory_reach_to(heap, segment_no);
	truth_store(directory_word(heap, segment_no), SEGMENT_METADATA);
	heap->segments[segment_no].state = SEG_EXAMINED;
	describe_units(heap, segment_no * SEGMENT_UNITS, 1, UNIT_IS_META);
	describe_units(heap, segment_no * SEGMENT_UNITS + 1, SEGMENT_UNITS - 1, UNIT_IS_FREE);
	units_offer(heap, segment_no, data_units(segment_no));
}

bool segment_create(struct heap *heap)
{
	uint64_t segment_no;
	int r = directory_find(heap, UNIT_SIZE, &segment_no);

	if (r)
		return cannot_grow(heap, r), false;
	if (segment_no == 0)
		return fail(ENOMEM, "no address space is left for the heap"), false;
	make_segment(heap, segment_no);
	return true;
}

bool segment_create_backed(struct heap *heap, unsigned n)
{
	uint64_t segment_no = directory_find_backed(heap, (uint64_t)n << UNIT_SHIFT);

	if (segment_no)
		make_segment(heap, segment_no);
	return segment_no != 0;
}

bool segment_release_if_empty(struct heap *heap, uint64_t segment_no)
{
	struct segment *segment = &heap->segments[segment_no];

	/* not by the descriptor: the journal's segments may have none */
	if (segment_no == 0 || segment_state(heap, segment_no) != SEG_EXAMINED || !heap_may_write(heap) ||
	    !units_withdraw(heap, segment_no, data_units(segment_no)))
		return false;
	truth_store(directory_word(heap, segment_no), SEGMENT_FREE);
	describe_units(heap, segment_no * SEGMENT_UNITS, SEGMENT_UNITS, UNIT_UNKNOWN);
	segment->state = SEG_FREE;
	heap->free_hint = min_u64(heap->free_hint, segment_no);
	return true;
}
