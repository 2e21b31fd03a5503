/* SPDX-License-Identifier: Apache-2.0 */
#include "backing.h"

#include "../base/status.h"
#include "directory.h"
#include "segment.h"

#include <errno.h>

/* The file grows by an eighth of itself while that is little, so that a small heap is not extended for each slab;
 * then by a 32nd, so that what was not needed yet stays little beside what was. */
#define GROWTH_SMALL_SHARE 8
#define GROWTH_SMALL       (1 * MIB)
#define GROWTH_SHARE       32
#define GROWTH_MAX         (64 * MIB)

static uint64_t growth_step(uint64_t size)
{
	uint64_t small = min_u64(size / GROWTH_SMALL_SHARE, GROWTH_SMALL);

	return round_up(max_u64(small, min_u64(size / GROWTH_SHARE, GROWTH_MAX)), UNIT_SIZE);
}

/* Call `set` on each segment's part of [off, off + len), units rounded outwards. */
static void for_units(struct heap *heap, uint64_t off, uint64_t len,
                      void (*set)(struct segment *segment, uint64_t units, bool *all_zero), bool *all_zero)
{
	uint64_t unit = off >> UNIT_SHIFT;
	uint64_t end = round_up(off + len, UNIT_SIZE) >> UNIT_SHIFT;

	while (unit < end) {
		uint64_t segment_no = segment_of_unit(unit);
		uint64_t here = min_u64(end, (segment_no + 1) * SEGMENT_UNITS) - unit;

		set(&heap->segments[segment_no], range_mask(index_in_segment(unit), (unsigned)here), all_zero);
		unit += here;
	}
}

static void set_fresh(struct segment *segment, uint64_t units, bool *all_zero)
{
	(void)all_zero;
	fetch_or_seq(&segment->zero, units);
	fetch_or_seq(&segment->backed, units);
}

static void set_backed(struct segment *segment, uint64_t units, bool *all_zero)
{
	(void)all_zero;
	fetch_or_seq(&segment->backed, units);
}

static void set_taken(struct segment *segment, uint64_t units, bool *all_zero)
{
	uint64_t zero = load_relaxed(&segment->zero) & units;

	if (zero != units)
		*all_zero = false;
	if (zero)
		fetch_and_seq(&segment->zero, ~units);
	if (load_relaxed(&segment->idle) & units)
		fetch_and_seq(&segment->idle, ~units);
}

static void set_punched(struct segment *segment, uint64_t units, bool *all_zero)
{
	(void)all_zero;
	fetch_and_seq(&segment->backed, ~units);
	fetch_and_seq(&segment->idle, ~units);
	fetch_or_seq(&segment->zero, units);
}

bool backing_take(struct heap *heap, uint64_t off, uint64_t len)
{
	bool all_zero = true;

	for_units(heap, off, len, set_taken, &all_zero);
	return all_zero;
}

void backing_note_used(struct heap *heap, uint64_t off, uint64_t len)
{
	for_units(heap, off, len, set_backed, NULL);
}

int backing_punch(struct heap *heap, uint64_t off, uint64_t len)
{
	int r = store_punch(&heap->store, off, len);

	if (!r)
		for_units(heap, off, len, set_punched, NULL);
	return r;
}

/* Let the file reach `end`, with blocks from `from` on, which is not inside the file. */
static int extend(struct heap *heap, uint64_t from, uint64_t end)
{
	uint64_t old = heap->store.size;
	uint64_t step = growth_step(old);
	uint64_t least = round_up(end, UNIT_SIZE);
	uint64_t want = max_u64(least, min_u64(old + step, heap->store.max_size)), hole;
	int r;

	if (least > heap->store.max_size)
		return -EFBIG;
	r = descriptors_cover(heap, segment_of_unit((want - 1) >> UNIT_SHIFT) + 1);
	if (r)
		return r;
	r = store_extend(&heap->store, from, want);
	if (r && want > least) {
		want = least;
		r = store_extend(&heap->store, from, want);
	}
	if (r)
		return r;
	if (heap->store.is_ragged) {
		for_units(heap, old, UNIT_SIZE, set_backed, NULL);
		heap->store.is_ragged = false;
		old = round_up(old + 1, UNIT_SIZE);
	}
	from = max_u64(old, from);
	hole = store_hole(old, from);
	if (old < hole)
		for_units(heap, old, hole - old, set_fresh, NULL);
	if (hole < from)
		for_units(heap, hole, from - hole, set_punched, NULL);
	if (from < want)
		for_units(heap, from, want - from, set_fresh, NULL);
	return 0;
}

static bool is_backed(const struct heap *heap, uint64_t unit_no)
{
	return bit_is_set(load_relaxed(&heap->segments[segment_of_unit(unit_no)].backed), index_in_segment(unit_no));
}

/* Back the units of [off, off + len) of which this is not known, in as few calls as there are gaps. */
static int back_unknown(struct heap *heap, uint64_t off, uint64_t len)
{
	uint64_t end = round_up(off + len, UNIT_SIZE);

	for (off = round_down(off, UNIT_SIZE); off < end;) {
		uint64_t from, to;
		int r;

		for (from = off; from < end; from += UNIT_SIZE) {
			uint64_t unit = from >> UNIT_SHIFT;

			if (!is_backed(heap, unit))
				break;
		}
		for (to = from; to < end; to += UNIT_SIZE) {
			uint64_t unit = to >> UNIT_SHIFT;

			if (is_backed(heap, unit))
				break;
		}
		if (from < to) {
			r = store_back(&heap->store, from, to - from);
			if (r)
				return r;
			store_record_blocks(&heap->store);
			for_units(heap, from, to - from, set_backed, NULL);
		}
		off = to;
	}
	return 0;
}

int backing_ensure(struct heap *heap, uint64_t off, uint64_t len)
{
	int r = descriptors_cover(heap, segment_of_unit((off + len - 1) >> UNIT_SHIFT) + 1);

	if (!r && off + len > heap->store.size)
		r = extend(heap, heap->store.size, off + len);
	return r ? r : back_unknown(heap, off, len);
}

int backing_ensure_apart(struct heap *heap, uint64_t off, uint64_t len)
{
	int r = descriptors_cover(heap, segment_of_unit((off + len - 1) >> UNIT_SHIFT) + 1);

	/* a ragged end is no place for a hole */
	if (!r && off >= heap->store.size && !heap->store.is_ragged)
		r = extend(heap, off, off + len);
	return r ? r : backing_ensure(heap, off, len);
}

int cannot_grow(const struct heap *heap, int r)
{
	if (r == -EFBIG)
		return fail(ENOMEM, "the heap has reached its limit at %llu bytes",
		            (unsigned long long)heap->store.size);
	return fail(ENOMEM, "the heap can't grow beyond %llu bytes: %s", (unsigned long long)heap->store.size,
	            status_describe(-r));
}

uint64_t backing_used_end(struct heap *heap, uint64_t segment_no)
{
	uint64_t start = segment_no << SEGMENT_SHIFT;
	const uint64_t *word = directory_word(heap, segment_no);
	const uint64_t *units;
	unsigned kind = word ? directory_kind(heap, segment_no) : SEGMENT_FREE;
	uint64_t end;

	if (kind == SEGMENT_HUGE)
		return start + huge_word_pages(truth_load(word)) * LENGTH_PAGE;
	if (kind == SEGMENT_DIRECTORY)
		return start + SEGMENT_SIZE;
	if (kind != SEGMENT_METADATA)
		return 0;
	end = metadata_off(segment_no) + UNIT_SIZE;
	if (end > heap->store.size)
		return end;
	units = unit_words(heap, segment_no);
	for (unsigned u = metadata_unit(segment_no) + 1; u < SEGMENT_UNITS; u++) {
		uint64_t unit_word = truth_load(&units[u]);
		uint64_t n = unit_word_units(unit_word);

		if (n)
			end = max_u64(end, start + ((u + n) << UNIT_SHIFT));
	}
	return end;
}

/* Back the metadata and the used units of a segment, by its words. Nothing of it is changed. 0 or -errno. */
static int restore_segment(struct heap *heap, uint64_t segment_no)
{
	uint64_t start = segment_no << SEGMENT_SHIFT;
	unsigned first = metadata_unit(segment_no) + 1;
	const uint64_t *words;
	int r = backing_ensure(heap, metadata_off(segment_no), UNIT_SIZE);

	words = unit_words(heap, segment_no);
	for (unsigned u = first; !r && u < SEGMENT_UNITS; u++) {
		uint64_t word = truth_load(&words[u]);
		uint64_t off = start + ((uint64_t)u << UNIT_SHIFT);
		uint64_t len = unit_word_units(word) << UNIT_SHIFT;

		if (unit_word_is_valid(word, u, first) && off + len <= heap->store.size)
			r = backing_ensure(heap, off, len);
	}
	return r;
}

int backing_restore(struct heap *heap)
{
	uint64_t last = directory_last(heap);
	int r;

	/* a copy may be a reflink: a store into a shared block takes a new one, which a full disk hasn't got */
	heap->store.unshares = true;
	heap->store.is_restoring = true;
	r = backing_ensure(heap, 0, HEAP_MIN_SIZE);
	directory_scan(heap);
	for (uint64_t s = 0; !r && s <= last; s++) {
		uint64_t start = s << SEGMENT_SHIFT;
		enum segment_state state = segment_state(heap, s);

		if (state == SEG_METADATA)
			r = restore_segment(heap, s);
		else if (state == SEG_HUGE || state == SEG_DIRECTORY)
			r = backing_ensure(heap, start, backing_used_end(heap, s) - start);
	}
	/* records are written without asking for blocks; what failed there would poison the heap */
	for (unsigned i = 0; !r && i < heap->store.reserved_extents; i++)
		r = store_back(&heap->store, heap->store.reserved_extent[i].off, heap->store.reserved_extent[i].len);
	heap->store.unshares = false;
	if (!r)
		heap->store.is_restoring = false;
	return r ? fail(-r, "the file has holes where the heap uses it (a sparse copy?); backing them:") : 0;
}
