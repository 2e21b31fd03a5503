/* SPDX-License-Identifier: Apache-2.0 */
#include "large.h"

#include "../base/status.h"
#include "backing.h"
#include "directory.h"
#include "segment.h"
#include "units.h"

#include <errno.h>

static uint64_t pages_for(size_t size)
{
	return size ? (size + LENGTH_PAGE - 1) / LENGTH_PAGE : 1;
}

static uint64_t units_for(uint64_t pages)
{
	return (pages + UNIT_PAGES - 1) / UNIT_PAGES;
}

unsigned large_units(size_t size)
{
	return (unsigned)units_for(pages_for(size));
}

/* ---------------------------------------------------------------- runs */

static uint64_t *head_word(const struct heap *heap, uint64_t unit_no)
{
	return unit_words(heap, segment_of_unit(unit_no)) + index_in_segment(unit_no);
}

/* Units [from, n) of the run become interior: its head's store makes that count. */
static void set_interiors(struct heap *heap, uint64_t unit_no, unsigned from, unsigned n)
{
	describe_interiors(heap, unit_no, from, n, UNIT_IS_RUN);
	for (unsigned i = from; i < n; i++)
		truth_store(head_word(heap, unit_no) + i, UNIT_INTERIOR);
}

/* Make the `n` units, which the caller has taken, a run. */
static void run_make(struct heap *heap, uint64_t unit_no, unsigned n, uint64_t pages)
{
	set_interiors(heap, unit_no, 1, n);
	run_describe(heap, unit_no, run_word(pages));
	truth_store(head_word(heap, unit_no), run_word(pages));
}

static uint64_t run_alloc(struct heap *heap, struct near *near, uint64_t pages, size_t alignment)
{
	unsigned n = (unsigned)units_for(pages);
	uint64_t unit_no = units_take(heap, near, n, (unsigned)max_u64(alignment >> UNIT_SHIFT, 1));

	if (unit_no)
		run_make(heap, unit_no, n, pages);
	return unit_no << UNIT_SHIFT;
}

static bool run_resize(struct heap *heap, struct near *near, struct unit *unit, uint64_t pages)
{
	uint64_t unit_no = unit_no_of(heap, unit);
	uint64_t n = units_for(pages), was = run_word(load_relaxed(&unit->pages));
	unsigned old = load_relaxed(&unit->units);

	if (n > RUN_MAX_UNITS)
		return false;
	if (run_word(pages) == was)
		return truth_load(head_word(heap, unit_no)) == was;
	if (n > old) {
		if (!units_take_at(heap, unit_no + old, (unsigned)n - old))
			return false;
		backing_take(heap, (unit_no + old) << UNIT_SHIFT, (n - old) << UNIT_SHIFT);
		set_interiors(heap, unit_no, old, (unsigned)n);
	}
	if (!truth_replace(head_word(heap, unit_no), was, run_word(pages))) {
		/* freed by another thread under our hands */
		if (n > old)
			units_release(heap, near, unit_no + old, (unsigned)n - old);
		return false;
	}
	store_relaxed(&unit->units, (uint8_t)n);
	store_relaxed(&unit->pages, pages);
	if (n < old)
		units_release(heap, near, unit_no + n, old - (unsigned)n);
	return true;
}

/* ---------------------------------------------------------------- huge objects */

/* Free segments with blocks for a huge object: *first is 0 if there is no address space. 0 or -errno: there are no
 * blocks. Before the file grows, and where it can't, segments without used units become free ones. */
static int find_segments(struct heap *heap, uint64_t pages, uint64_t *first)
{
	*first = directory_find_inside(heap, pages * LENGTH_PAGE);
	if (*first)
		return 0;
	units_release_segments(heap);
	return directory_find(heap, pages * LENGTH_PAGE, first);
}

/* The free segments from `first` on, whose blocks are there, become a huge object: its offset, or 0 after fail(). */
static uint64_t huge_make(struct heap *heap, uint64_t first, uint64_t pages)
{
	uint64_t n = huge_segments(pages);
	int r = descriptors_cover(heap, first + n);

	if (r)
		return cannot_grow(heap, r), 0;
	directory_reach_to(heap, first + n - 1);
	for (uint64_t s = first + 1; s < first + n; s++) {
		heap->segments[s].state = SEG_INTERIOR;
		truth_store(directory_word(heap, s), SEGMENT_INTERIOR);
	}
	heap->segments[first].state = SEG_HUGE;
	huge_describe(heap, first, pages);
	truth_store(directory_word(heap, first), huge_word(pages));
	return first << SEGMENT_SHIFT;
}

static uint64_t huge_alloc(struct heap *heap, uint64_t pages)
{
	uint64_t first;
	int r = find_segments(heap, pages, &first);

	if (first == 0)
		return fail(ENOMEM, "no address space is left for %llu pages", (unsigned long long)pages), 0;
	if (r)
		return cannot_grow(heap, r), 0;
	return huge_make(heap, first, pages);
}

/* Segments [first, first + n), all that a huge object had up to `end`, are free. */
static void release_segments(struct heap *heap, uint64_t first, uint64_t n, uint64_t end)
{
	backing_note_used(heap, first << SEGMENT_SHIFT, end - (first << SEGMENT_SHIFT));
	for (uint64_t s = first; s < first + n; s++) {
		heap->segments[s].state = SEG_FREE;
		unit_set_state(&heap->units[s * SEGMENT_UNITS], UNIT_UNKNOWN);
	}
	heap->free_hint = min_u64(heap->free_hint, first);
	units_count_release(heap, NULL);
}

static bool huge_resize(struct heap *heap, struct unit *unit, uint64_t pages)
{
	uint64_t first = segment_of_unit(unit_no_of(heap, unit));
	uint64_t off = first << SEGMENT_SHIFT;
	uint64_t old = huge_segments(unit->pages);
	uint64_t n = huge_segments(pages);

	if (pages > unit->pages) {
		uint64_t from = off + unit->pages * LENGTH_PAGE;

		if (first + n > heap->segments_max || first + n >= directory_reach(heap))
			return false;
		for (uint64_t s = first + old; s < first + n; s++)
			if (segment_state(heap, s) != SEG_FREE && !segment_release_if_empty(heap, s))
				return false;
		if (backing_ensure(heap, from, off + pages * LENGTH_PAGE - from) ||
		    descriptors_cover(heap, first + n))
			return false;
		backing_take(heap, from, off + pages * LENGTH_PAGE - from);
		directory_reach_to(heap, first + n - 1);
		for (uint64_t s = first + old; s < first + n; s++) {
			heap->segments[s].state = SEG_INTERIOR;
			truth_store(directory_word(heap, s), SEGMENT_INTERIOR);
		}
	}
	truth_store(directory_word(heap, first), huge_word(pages));
	if (pages < unit->pages)
		backing_note_used(heap, off + pages * LENGTH_PAGE, (unit->pages - pages) * LENGTH_PAGE);
	if (n < old)
		release_segments(heap, first + n, old - n, off + unit->pages * LENGTH_PAGE);
	huge_set_pages(heap, first, pages);
	return true;
}

/* ---------------------------------------------------------------- both */

/* How many units a run of so many pages takes; 0: it is a huge object. */
static unsigned run_units(uint64_t pages, size_t alignment)
{
	uint64_t n = units_for(pages);

	return n > SEGMENT_UNITS - max_u64(alignment >> UNIT_SHIFT, 1) ? 0 : (unsigned)n;
}

void *large_alloc_near(struct heap *heap, struct near *near, size_t size, size_t alignment, bool *is_zero)
{
	uint64_t pages, unit_no;
	unsigned n;

	if (size > SEGMENT_SIZE || alignment > UNIT_SIZE)
		return NULL;
	pages = pages_for(size);
	n = run_units(pages, alignment);
	if (n == 0)
		return NULL;
	unit_no = units_take_near(heap, near, n, BACKED);
	if (unit_no == 0)
		return NULL;
	*is_zero = backing_take(heap, unit_no << UNIT_SHIFT, pages * LENGTH_PAGE);
	run_make(heap, unit_no, n, pages);
	return heap->store.base + (unit_no << UNIT_SHIFT);
}

void *large_alloc(struct heap *heap, struct near *near, size_t size, size_t alignment, bool *is_zero)
{
	uint64_t pages = pages_for(size);
	uint64_t off;

	if (size > heap->store.reserved)
		return fail(ENOMEM, "%zu bytes are more than the heap has address space for", size), NULL;
	if (pages * LENGTH_PAGE > heap->store.max_size)
		return fail(ENOMEM, "%zu bytes are more than the heap may grow to", size), NULL;
	if (run_units(pages, alignment))
		off = run_alloc(heap, near, pages, alignment);
	else
		off = huge_alloc(heap, pages);
	if (off == 0)
		return NULL;
	*is_zero = backing_take(heap, off, pages * LENGTH_PAGE);
	return heap->store.base + off;
}

void *large_alloc_roomy(struct heap *heap, size_t size)
{
	uint64_t pages = pages_for(size), off = 0, first;

	if (size > heap->store.max_size || run_units(pages, 1))
		return NULL;
	first = directory_find_roomy(heap, pages * LENGTH_PAGE, false);
	if (!first) {
		units_release_segments(heap);
		first = directory_find_roomy(heap, pages * LENGTH_PAGE, true);
	}
	if (first)
		off = huge_make(heap, first, pages);
	if (!off)
		return NULL;
	backing_take(heap, off, pages * LENGTH_PAGE);
	return heap->store.base + off;
}

bool large_is_there(const struct heap *heap, const struct unit *unit, enum unit_state *kind, uint64_t *len)
{
	uint64_t unit_no = unit_no_of(heap, unit), pages;

	*kind = unit_state(unit);
	pages = load_relaxed(&unit->pages);
	*len = pages * LENGTH_PAGE;
	/* the descriptor may be another one's by now, in part; the head's word alone decides */
	if (*kind == UNIT_IS_RUN)
		return truth_load(head_word(heap, unit_no)) == run_word(pages);
	return *kind == UNIT_IS_HUGE &&
	       truth_load(directory_word(heap, segment_of_unit(unit_no))) == huge_word(pages);
}

bool large_free_run(struct heap *heap, struct near *near, struct unit *unit)
{
	uint64_t unit_no = unit_no_of(heap, unit);
	uint64_t pages = load_relaxed(&unit->pages);

	/* whoever makes the head say so has the units */
	if (!truth_replace(head_word(heap, unit_no), run_word(pages), UNIT_FREE))
		return false;
	units_release(heap, near, unit_no, (unsigned)units_for(pages));
	return true;
}

bool large_free_huge(struct heap *heap, struct unit *unit)
{
	uint64_t segment_no = segment_of_unit(unit_no_of(heap, unit));

	if (!truth_replace(directory_word(heap, segment_no), huge_word(unit->pages), SEGMENT_FREE))
		return false;
	release_segments(heap, segment_no, huge_segments(unit->pages),
	                 (segment_no << SEGMENT_SHIFT) + unit->pages * LENGTH_PAGE);
	return true;
}

bool large_resize(struct heap *heap, struct near *near, struct unit *unit, size_t size)
{
	uint64_t pages = pages_for(size);

	if (size > heap->store.reserved)
		return false;
	switch (unit_state(unit)) {
	case UNIT_IS_RUN:
		return run_resize(heap, near, unit, pages);
	case UNIT_IS_HUGE:
		return huge_resize(heap, unit, pages);
	default:
		return false; /* freed by another thread under our hands */
	}
}

bool large_resize_within(struct heap *heap, struct unit *unit, size_t size)
{
	uint64_t pages = pages_for(size);

	return unit_state(unit) == UNIT_IS_RUN && units_for(pages) == load_relaxed(&unit->units) &&
	       run_resize(heap, NULL, unit, pages);
}
