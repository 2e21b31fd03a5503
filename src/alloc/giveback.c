/* SPDX-License-Identifier: Apache-2.0 */
#include "giveback.h"

#include "backing.h"
#include "directory.h"
#include "segment.h"
#include "units.h"

#include <errno.h>

/* One release in so many asks for the time. */
#define RELEASES_A_LOOK 16

/* A look punches holes of at least so much, and stops after so much: it holds up one call of one thread. */
#define HOLE_AT_LEAST (MIB / 2)
#define LOOK_AT_MOST  (64 * MIB)

/* Units of the segment of which this process knows that they are free, or behind a huge object's end, and have blocks. */
static uint64_t free_backed(const struct heap *heap, uint64_t segment_no)
{
	const struct segment *segment = &heap->segments[segment_no];
	/* an atomic heap that is being closed has forgotten what it had backed, and a hole may be punched twice */
	uint64_t backed = heap->store.is_atomic ? ~UINT64_C(0) : load_relaxed(&segment->backed);

	switch (segment_state(heap, segment_no)) {
	case SEG_FREE:
		return backed;
	case SEG_EXAMINED:
		return load_relaxed(&segment->free_units) & backed;
	case SEG_HUGE:
	case SEG_INTERIOR:
		return load_relaxed(&segment->backed) & ~low_mask(segment->used);
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
		units &= load_relaxed(&heap->segments[segment_no].idle);
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

/* What part of segment `segment_no` units [from, end) are. */
static uint64_t part_of(uint64_t segment_no, uint64_t from, uint64_t end)
{
	uint64_t first = max_u64(from, segment_no * SEGMENT_UNITS), behind = min_u64(end, (segment_no + 1) * SEGMENT_UNITS);

	return range_mask(index_in_segment(first), (unsigned)(behind - first));
}

/* The free units [from, end) can be taken again. */
static void offer(struct heap *heap, uint64_t from, uint64_t end)
{
	for (uint64_t s = segment_of_unit(from); from < end && s <= segment_of_unit(end - 1); s++)
		if (segment_state(heap, s) == SEG_EXAMINED)
			units_offer(heap, s, part_of(s, from, end));
}

/* Nobody takes the units [from, end) any more, if all are free; segments without metadata nobody takes without the
 * lock. */
static bool withdraw(struct heap *heap, uint64_t from, uint64_t end)
{
	for (uint64_t s = segment_of_unit(from); from < end && s <= segment_of_unit(end - 1); s++) {
		if (segment_state(heap, s) != SEG_EXAMINED || units_withdraw(heap, s, part_of(s, from, end)))
			continue;
		offer(heap, from, max_u64(from, s * SEGMENT_UNITS));
		return false;
	}
	return true;
}

/* Give back the blocks of units [from, end), unless one of them was taken since they were looked at. True if that can
 * go on. */
static bool punch_units(struct heap *heap, uint64_t from, uint64_t end, uint64_t *done)
{
	int r;

	if (!withdraw(heap, from, end))
		return true;
	r = backing_punch(heap, from << UNIT_SHIFT, (end - from) << UNIT_SHIFT);
	offer(heap, from, end);
	if (!r)
		*done += (end - from) << UNIT_SHIFT;
	return !r; /* the file system can't: the blocks stay, which is no error */
}

/* Punch runs of at least `min_len`, the last ones first, up to `want_len` bytes in all; how many bytes went. */
static uint64_t punch(struct heap *heap, uint64_t want_len, uint64_t min_len, bool idle_only)
{
	uint64_t end = min_u64(heap->store.size >> UNIT_SHIFT, segments_end(heap) * SEGMENT_UNITS);
	uint64_t done = 0, n;

	while (done < want_len && (n = last_run(heap, end, idle_only, &end)) != 0) {
		uint64_t want = min_u64(n, round_up(want_len - done, UNIT_SIZE) >> UNIT_SHIFT);

		if (n << UNIT_SHIFT >= min_len && !punch_units(heap, end + n - want, end + n, &done))
			break;
	}
	return done;
}

static void look(struct heap *heap)
{
	units_release_segments(heap);
	if (punch(heap, LOOK_AT_MOST, HOLE_AT_LEAST, true) >= LOOK_AT_MOST)
		return; /* the next release goes on */
	for (uint64_t s = 0; s < segments_end(heap); s++)
		store_relaxed(&heap->segments[s].idle, free_backed(heap, s));
	store_relaxed(&heap->looked_ms, os->now_ms());
}

static bool is_time(struct heap *heap)
{
	return os->now_ms() - load_relaxed(&heap->looked_ms) >= (uint64_t)heap->decay_ms;
}

/* Is it time for a look? One release in so many asks. */
static bool is_due(struct heap *heap)
{
	if (heap->decay_ms < 0 || load_relaxed(&heap->releases) < RELEASES_A_LOOK || !giveback_may(heap))
		return false;
	store_relaxed(&heap->releases, 0u);
	return is_time(heap);
}

void giveback_note(struct heap *heap)
{
	bool due = is_due(heap);
	int saved = errno;

	/* an atomic heap finds at closing what a commit says is free: so its empty segments are free ones at once */
	if (likely(!due && !(heap->store.is_atomic && load_seq(&heap->stale))))
		return;
	heap_lock(heap);
	/* another thread may have looked meanwhile */
	if (due && is_time(heap))
		look(heap);
	else
		units_settle(heap);
	heap_unlock(heap);
	errno = saved;
}

bool giveback_now(struct heap *heap, uint64_t keep_len, uint64_t min_len)
{
	uint64_t have = 0;

	units_release_segments(heap);
	for (uint64_t s = 0; s < segments_end(heap); s++)
		have += (uint64_t)count_bits(free_backed(heap, s)) << UNIT_SHIFT;
	return have > keep_len && punch(heap, have - keep_len, min_len, false) > 0;
}

bool giveback_tail(struct heap *heap)
{
	uint64_t last, end, first;
	bool cut;

	units_release_segments(heap);
	directory_shrink(heap);
	last = directory_last(heap);
	while (last > 0 && segment_state(heap, last) == SEG_INTERIOR)
		last--;
	if (segment_state(heap, last) == SEG_DAMAGED)
		return false;
	end = max_u64(round_up(backing_used_end(heap, last), UNIT_SIZE), HEAP_MIN_SIZE);
	/* the journal of an atomic heap may have been cut, behind the heap's end */
	if ((end >= heap->store.size && !heap->store.is_atomic) ||
	    !withdraw(heap, end >> UNIT_SHIFT, (last + 1) * SEGMENT_UNITS))
		return false;
	cut = store_truncate(&heap->store, end) == 0;
	first = segment_of_unit(end >> UNIT_SHIFT);
	/* by the size: half of the cut may have been done */
	for (uint64_t s = first; heap->store.size <= end && s < heap->covered; s++) {
		uint64_t keep = s == first ? low_mask(index_in_segment(end >> UNIT_SHIFT)) : 0;

		fetch_and_seq(&heap->segments[s].backed, keep);
		fetch_and_seq(&heap->segments[s].zero, keep);
		fetch_and_seq(&heap->segments[s].idle, keep);
	}
	offer(heap, end >> UNIT_SHIFT, (last + 1) * SEGMENT_UNITS);
	return cut;
}
