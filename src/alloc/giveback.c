/* SPDX-License-Identifier: Apache-2.0 */
#include "giveback.h"

#include "backing.h"
#include "directory.h"
#include "segment.h"

/* One release in so many asks for the time. */
#define RELEASES_A_LOOK 16

/* A look punches holes of at least so much, and stops after so much: it holds up one call of one thread. */
#define HOLE_AT_LEAST (MIB / 2)
#define LOOK_AT_MOST  (64 * MIB)

/* Units of the segment of which this process knows that they are free and have blocks. */
static uint64_t free_backed(const struct heap *heap, uint64_t segment_no)
{
	const struct segment *segment = &heap->segments[segment_no];
	/* an atomic heap that is being closed has forgotten what it had backed, and a hole may be punched twice */
	uint64_t backed = heap->store.is_atomic ? ~UINT64_C(0) : segment->backed;

	switch (segment_state(heap, segment_no)) {
	case SEG_FREE:
		return backed;
	case SEG_EXAMINED:
		return segment->free_units & backed;
	default:
		return 0;
	}
}

/* Segments that the file has a part of, and descriptors. */
static uint64_t segments_end(const struct heap *heap)
{
	return min_u64((heap->store.size + SEGMENT_SIZE - 1) >> SEGMENT_SHIFT, heap->covered);
}

/* Is the unit free, backed, and idle if `idle_only`? */
static bool can_go(const struct heap *heap, uint64_t unit_no, bool idle_only)
{
	uint64_t segment_no = segment_of_unit(unit_no);
	uint64_t units = free_backed(heap, segment_no);

	if (idle_only)
		units &= heap->segments[segment_no].idle;
	return bit_is_set(units, index_in_segment(unit_no));
}

/* The last run of units that can go and ends at or before unit `end`: its length, and where it begins in *first. */
static uint64_t last_run(const struct heap *heap, uint64_t end, bool idle_only, uint64_t *first)
{
	uint64_t n = 0;

	while (end > 0 && !can_go(heap, end - 1, idle_only)) {
		/* most segments have nothing that can go */
		if (end % SEGMENT_UNITS == 0 && !free_backed(heap, segment_of_unit(end - 1)))
			end -= SEGMENT_UNITS;
		else
			end--;
	}
	while (n < end && can_go(heap, end - 1 - n, idle_only))
		n++;
	*first = end - n;
	return n;
}

/* Punch runs of at least `min_len`, the last ones first, up to `want_len` bytes in all; how many bytes went. */
static uint64_t punch(struct heap *heap, uint64_t want_len, uint64_t min_len, bool idle_only)
{
	uint64_t end = min_u64(heap->store.size >> UNIT_SHIFT, segments_end(heap) * SEGMENT_UNITS);
	uint64_t done = 0, n;

	while (done < want_len && (n = last_run(heap, end, idle_only, &end)) != 0) {
		uint64_t len = min_u64(n << UNIT_SHIFT, round_up(want_len - done, UNIT_SIZE));

		if (n << UNIT_SHIFT < min_len)
			continue;
		if (backing_punch(heap, ((end + n) << UNIT_SHIFT) - len, len))
			break; /* the file system can't: the blocks stay, which is no error */
		done += len;
	}
	return done;
}

static void look(struct heap *heap)
{
	if (punch(heap, LOOK_AT_MOST, HOLE_AT_LEAST, true) >= LOOK_AT_MOST)
		return; /* the next release goes on */
	for (uint64_t s = 0; s < segments_end(heap); s++)
		heap->segments[s].idle = free_backed(heap, s);
	heap->looked_ms = os->now_ms();
}

void giveback_note(struct heap *heap)
{
	if (heap->decay_ms < 0 || ++heap->releases % RELEASES_A_LOOK || !giveback_may(heap))
		return;
	if (os->now_ms() - heap->looked_ms >= (uint64_t)heap->decay_ms)
		look(heap);
}

bool giveback_now(struct heap *heap, uint64_t keep_len, uint64_t min_len)
{
	uint64_t have = 0;

	for (uint64_t s = 0; s < segments_end(heap); s++)
		have += (uint64_t)count_bits(free_backed(heap, s)) << UNIT_SHIFT;
	return have > keep_len && punch(heap, have - keep_len, min_len, false) > 0;
}

bool giveback_tail(struct heap *heap)
{
	uint64_t last, end, first;

	directory_shrink(heap);
	last = directory_last(heap);
	while (last > 0 && segment_state(heap, last) == SEG_INTERIOR)
		last--;
	if (segment_state(heap, last) == SEG_DAMAGED)
		return false;
	end = max_u64(round_up(backing_used_end(heap, last), UNIT_SIZE), HEAP_MIN_SIZE);
	/* the journal of an atomic heap may have been cut, behind the heap's end */
	if ((end >= heap->store.size && !heap->store.is_atomic) || store_truncate(&heap->store, end))
		return false;
	first = segment_of_unit(end >> UNIT_SHIFT);
	for (uint64_t s = first; s < heap->covered; s++) {
		uint64_t keep = s == first ? low_mask(index_in_segment(end >> UNIT_SHIFT)) : 0;

		heap->segments[s].backed &= keep;
		heap->segments[s].zero &= keep;
		heap->segments[s].idle &= keep;
	}
	return true;
}
