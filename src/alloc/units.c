/* SPDX-License-Identifier: Apache-2.0
 *
 * Buckets
 *   G2  a segment that is not stale is in bucket b  =>  its longest run of free units is at most b; it is in a bucket if
 *       it has free units
 * Taking makes runs shorter and leaves the bucket to whoever looks into it with the lock. Releasing makes them longer
 * and the segment stale: on a list that is emptied before anything is looked for.
 *   U1  set the bits in free_units;  U2  set is_stale; if it was set, whoever set it does the rest;  U3  push
 *   V1  take the whole list; for each: V2  clear is_stale;  V3  read free_units
 * U1 before U2 and V2 before V3 are a Dekker pair, all sequentially consistent: no released unit is overlooked for
 * longer than from U2 to U3.
 */
#include "units.h"

#include "../base/status.h"
#include "backing.h"
#include "directory.h"
#include "segment.h"

#include <errno.h>
#include <string.h>

/* Releases that a thread counts for itself. */
#define RELEASES_A_STEP 8

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
	unsigned b = longest_run(load_seq(&segment->free_units)); /* V3 */

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

/* U2, U3 */
static void note_stale(struct heap *heap, uint64_t segment_no)
{
	struct segment *segment = &heap->segments[segment_no];
	uint64_t head;

	if (load_seq(&segment->is_stale) || exchange_seq(&segment->is_stale, (uint8_t)1))
		return;
	head = load_seq(&heap->stale);
	do
		store_relaxed(&segment->stale_next, (uint32_t)head);
	while (!compare_exchange_seq(&heap->stale, &head, segment_no + 1));
}

void units_settle(struct heap *heap)
{
	uint64_t next, s;

	if (!load_seq(&heap->stale))
		return;
	for (s = exchange_seq(&heap->stale, UINT64_C(0)); s; s = next) {
		next = load_relaxed(&heap->segments[s - 1].stale_next);
		store_seq(&heap->segments[s - 1].is_stale, (uint8_t)0);
		/* what a commit finds free may be given back after it */
		if (!heap->store.is_atomic || !segment_release_if_empty(heap, s - 1))
			bucket_update(heap, s - 1);
	}
}

void units_release_segments(struct heap *heap)
{
	uint32_t next;

	units_settle(heap);
	for (uint32_t s = heap->bucket[SEGMENT_UNITS - 1]; s; s = next) {
		next = heap->segments[s - 1].next;
		/* units were taken of it without the lock: it would be looked at each time */
		if (!segment_release_if_empty(heap, s - 1))
			bucket_update(heap, s - 1);
	}
}

void units_offer(struct heap *heap, uint64_t segment_no, uint64_t units)
{
	fetch_or_seq(&heap->segments[segment_no].free_units, units);
	bucket_update(heap, segment_no);
}

/* ---------------------------------------------------------------- taking */

/* Clear `units` in free_units; false if one of them is not free. */
static bool claim(struct segment *segment, uint64_t units)
{
	uint64_t free = load_seq(&segment->free_units);

	do {
		if (units & ~free)
			return false;
	} while (!compare_exchange_seq(&segment->free_units, &free, free & ~units));
	return true;
}

bool units_withdraw(struct heap *heap, uint64_t segment_no, uint64_t units)
{
	if (!claim(&heap->segments[segment_no], units))
		return false;
	bucket_update(heap, segment_no);
	return true;
}

static uint64_t mask_of(const struct segment *segment, enum which_units which)
{
	uint64_t units = load_seq(&segment->free_units);

	if (which != ANY)
		units &= load_seq(&segment->backed);
	if (which == USED_BEFORE)
		units &= ~load_relaxed(&segment->zero);
	return units;
}

/* Bits at multiples of `align`. */
static uint64_t aligned_positions(unsigned align)
{
	uint64_t mask = 0;

	for (unsigned u = 0; u < SEGMENT_UNITS; u += align)
		mask |= UINT64_C(1) << u;
	return mask;
}

/* Where runs of `n` units begin that would do. */
static uint64_t starts_in(const struct segment *segment, unsigned n, unsigned align, enum which_units which)
{
	uint64_t starts = run_starts(mask_of(segment, which), n);

	return align > 1 ? starts & aligned_positions(align) : starts;
}

/* Which of the `starts` in the segment to take for less than a lane, where other threads allocate too: the first one in
 * the thread's lane, or else in a lane of which nothing is taken, or else of all. */
static unsigned start_apart(const struct heap *heap, const struct near *near, uint64_t segment_no, uint64_t starts)
{
	const uint64_t lane = low_mask(LANE_UNITS);
	uint64_t first_lane = segment_no * SEGMENT_UNITS / LANE_UNITS + 1;
	uint64_t in_own = 0, in_free;

	if (near->lane - first_lane < SEGMENT_UNITS / LANE_UNITS)
		in_own = starts & lane << (near->lane - first_lane) * LANE_UNITS;
	if (in_own)
		return lowest_bit(in_own);
	in_free = starts & starts_in(&heap->segments[segment_no], LANE_UNITS, LANE_UNITS, ANY);
	return lowest_bit(in_free ? in_free : starts);
}

static bool are_several(const struct heap *heap)
{
	return load_relaxed(&heap->cache_count) > 1;
}

/* The thread has taken units: it becomes the taker of a segment that is mostly free. */
static void note_taker(struct segment *segment, const struct near *near)
{
	if (load_relaxed(&segment->taker) != near->id && count_bits(load_relaxed(&segment->free_units)) >= SEGMENT_UNITS / 2)
		store_relaxed(&segment->taker, near->id);
}

/* Take a run of the segment that would do: its first unit, or 0. */
static uint64_t take_in(struct heap *heap, struct near *near, uint64_t segment_no, unsigned n, unsigned align,
                        enum which_units which)
{
	struct segment *segment = &heap->segments[segment_no];
	bool apart = near && n < LANE_UNITS && are_several(heap);
	uint64_t starts;

	while ((starts = starts_in(segment, n, align, which)) != 0) {
		unsigned first = apart ? start_apart(heap, near, segment_no, starts) : lowest_bit(starts);
		uint64_t units = range_mask(first, n);
		uint64_t unit_no = segment_no * SEGMENT_UNITS + first;

		if (!claim(segment, units))
			continue;
		/* a hole may have been punched between the look and the claim, or the file cut and extended */
		if (which == ANY || ((load_seq(&segment->backed) & units) == units &&
		                     (which == BACKED || !(load_relaxed(&segment->zero) & units)))) {
			if (near && n < LANE_UNITS)
				near->lane = unit_no / LANE_UNITS + 1;
			if (near)
				note_taker(segment, near);
			return unit_no;
		}
		fetch_or_seq(&segment->free_units, units);
		note_stale(heap, segment_no);
	}
	return 0;
}

/* The tightest segment with a fitting run, or none: *segment_no. Buckets on the way are put right. */
static bool find(struct heap *heap, unsigned n, unsigned align, enum which_units which, uint64_t *segment_no)
{
	units_settle(heap);
	for (uint64_t used = heap->buckets_used & ~low_mask(n); used; used &= used - 1) {
		uint32_t next;

		for (uint32_t s = heap->bucket[lowest_bit(used)]; s; s = next) {
			next = heap->segments[s - 1].next;
			*segment_no = s - 1;
			if (starts_in(&heap->segments[s - 1], n, align, which))
				return true;
			bucket_update(heap, s - 1);
		}
	}
	return false;
}

bool units_are_at_hand(struct heap *heap, unsigned n)
{
	uint64_t segment_no;

	return find(heap, n, 1, USED_BEFORE, &segment_no);
}

/* Take a run of the tightest segment: its first unit, or 0. */
static uint64_t take_tightest(struct heap *heap, struct near *near, unsigned n, unsigned align, enum which_units which)
{
	uint64_t segment_no, unit_no;

	while (find(heap, n, align, which, &segment_no)) {
		unit_no = take_in(heap, near, segment_no, n, align, which);
		bucket_update(heap, segment_no);
		if (unit_no)
			return unit_no;
	}
	return 0;
}

/* What was looked at is as follows. */
static void near_set(const struct heap *heap, const struct near *near, struct near_segment *segment, unsigned below)
{
	segment->below = (uint8_t)below;
	segment->is_own = load_relaxed(&heap->segments[segment->no - 1].taker) == near->id;
}

/* The segment is one of the near ones, and has more free units than it had. */
static void near_note(const struct heap *heap, struct near *near, uint64_t segment_no)
{
	uint32_t no = (uint32_t)segment_no + 1;
	unsigned i = 0;

	if (!near)
		return;
	while (i < near->n && near->segment[i].no < no)
		i++;
	if (i == near->n || near->segment[i].no != no) {
		if (near->n == NEAR_SEGMENTS) {
			/* in turn: what a thread still uses comes back */
			unsigned out = near->turn++ % NEAR_SEGMENTS;

			memmove(&near->segment[out], &near->segment[out + 1], (--near->n - out) * sizeof(*near->segment));
			i -= i > out;
		}
		memmove(&near->segment[i + 1], &near->segment[i], (near->n++ - i) * sizeof(*near->segment));
		near->segment[i].no = no;
	}
	near_set(heap, near, &near->segment[i], SEGMENT_UNITS);
}

enum whose { ALL, OWN, OTHERS };

/* In the near segments, those that are the cache's own, or those that are not. */
static uint64_t take_near(struct heap *heap, struct near *near, unsigned n, enum which_units which, enum whose whose)
{
	for (unsigned i = 0; i < near->n; i++) {
		struct near_segment *segment = &near->segment[i];
		uint64_t unit_no;

		if (n >= segment->below || (whose != ALL && segment->is_own != (whose == OWN)))
			continue;
		unit_no = take_in(heap, near, segment->no - 1, n, 1, which);
		/* what other threads release there is found again with the lock */
		near_set(heap, near, segment, !unit_no && which == BACKED ? n : segment->below);
		if (unit_no)
			return unit_no;
	}
	return 0;
}

uint64_t units_take_near(struct heap *heap, struct near *near, unsigned n, enum which_units which)
{
	uint64_t unit_no;

	if (!are_several(heap))
		return take_near(heap, near, n, which, ALL);
	unit_no = take_near(heap, near, n, which, OWN);
	return unit_no ? unit_no : take_near(heap, near, n, which, OTHERS);
}

/* Back the units just taken, or they stay as they were. 0 or -errno. */
static int back(struct heap *heap, uint64_t unit_no, unsigned n)
{
	int r = backing_ensure(heap, unit_no << UNIT_SHIFT, (uint64_t)n << UNIT_SHIFT);

	if (r)
		units_offer(heap, segment_of_unit(unit_no), range_mask(index_in_segment(unit_no), n));
	return r;
}

/* The disk is full; what was freed in this process is backed still, in segments with metadata or in free ones. */
static uint64_t take_backed(struct heap *heap, struct near *near, unsigned n, unsigned align_units)
{
	uint64_t unit_no;

	do
		unit_no = take_tightest(heap, near, n, align_units, BACKED);
	while (unit_no == 0 && segment_create_backed(heap, align_units + n));
	return unit_no;
}

uint64_t units_take(struct heap *heap, struct near *near, unsigned n, unsigned align_units)
{
	uint64_t unit_no;
	int r;

	directory_scan(heap);
	if (segment_state(heap, 0) == SEG_METADATA)
		segment_examine(heap, 0);
	while (!(unit_no = take_tightest(heap, near, n, align_units, ANY))) {
		if (segment_examine_some(heap) || segment_create(heap))
			continue;
		/* it can't grow: then all segments are looked at, however many */
		if (heap->examine_cursor > directory_last(heap))
			return 0;
	}
	r = back(heap, unit_no, n);
	if (r) {
		/* a free lane may lie behind what the file can have, or in a hole; the lowest units need the least */
		unit_no = take_tightest(heap, NULL, n, align_units, ANY);
		if (unit_no)
			r = back(heap, unit_no, n);
	}
	if (r) {
		unit_no = take_backed(heap, near, n, align_units);
		if (unit_no == 0)
			return cannot_grow(heap, r), 0;
	}
	near_note(heap, near, segment_of_unit(unit_no));
	return unit_no;
}

bool units_take_at(struct heap *heap, uint64_t unit_no, unsigned n)
{
	unsigned u = index_in_segment(unit_no);

	if (u == 0 || u + n > SEGMENT_UNITS || !claim(&heap->segments[segment_of_unit(unit_no)], range_mask(u, n)))
		return false;
	bucket_update(heap, segment_of_unit(unit_no));
	return back(heap, unit_no, n) == 0;
}

/* ---------------------------------------------------------------- releasing */

/* That threads overwrite each other's is no harm. */
static void add_releases(struct heap *heap, uint32_t n)
{
	store_relaxed(&heap->releases, load_relaxed(&heap->releases) + n);
}

/* A count in the heap would be written by all processors at each release. */
void units_count_release(struct heap *heap, struct near *near)
{
	if (!near) {
		add_releases(heap, 1);
	} else if (++near->releases == RELEASES_A_STEP) {
		near->releases = 0;
		add_releases(heap, RELEASES_A_STEP);
	}
}

void units_leave(struct heap *heap, const struct near *near)
{
	add_releases(heap, near->releases);
}

void units_release(struct heap *heap, struct near *near, uint64_t unit_no, unsigned n)
{
	uint64_t segment_no = segment_of_unit(unit_no);

	describe_units(heap, unit_no, n, UNIT_IS_FREE);
	fetch_or_seq(&heap->segments[segment_no].free_units, range_mask(index_in_segment(unit_no), n)); /* U1 */
	near_note(heap, near, segment_no);
	units_count_release(heap, near);
	note_stale(heap, segment_no);
}
