/* SPDX-License-Identifier: Apache-2.0
 *
 * Large objects: runs of units inside a segment, and huge objects of whole segments. Their length, in pages
 * of 4 KiB, stands in the head word. `near` may be NULL where the lock is needed.
 */
#ifndef FM_ALLOC_LARGE_H
#define FM_ALLOC_LARGE_H

#include "units.h"

#define RUN_MAX_UNITS (SEGMENT_UNITS - 1)

/* Units that a run of `size` bytes takes. */
unsigned large_units(size_t size);

/* Allocate `size` bytes aligned to `alignment` (a power of two up to SEGMENT_SIZE). *is_zero tells whether
 * they read as zero. NULL with errno ENOMEM. Needs heap->lock. */
void *large_alloc(struct heap *heap, struct near *near, size_t size, size_t alignment, bool *is_zero);

/* A huge object with room behind it, for one that grows and may do so again. NULL without an error: there is no such
 * place, or the object is no huge one. Of live heaps. Needs heap->lock. */
void *large_alloc_roomy(struct heap *heap, size_t size);

/* The same as large_alloc without the lock: NULL if there is no room near, or if it is no run. */
void *large_alloc_near(struct heap *heap, struct near *near, size_t size, size_t alignment, bool *is_zero);

/* Free the run of `unit`, without the lock. False if its head has changed meanwhile: freed already. */
bool large_free_run(struct heap *heap, struct near *near, struct unit *unit);

/* Free the huge object of `unit`; as above. Needs heap->lock. */
bool large_free_huge(struct heap *heap, struct unit *unit);

/* Make it `size` bytes long without moving it; false if that can't be. Needs heap->lock. */
bool large_resize(struct heap *heap, struct near *near, struct unit *unit, size_t size);

/* The same for a run that keeps its units, without the lock; false if it does not, or is none. */
bool large_resize_within(struct heap *heap, struct unit *unit, size_t size);

/* Is the run or huge object there whose head `unit` is, or was a moment ago? Without the lock. */
bool large_is_there(const struct heap *heap, const struct unit *unit, enum unit_state *kind, uint64_t *len);

static inline uint64_t large_size(const struct unit *unit)
{
	return load_relaxed(&unit->pages) * LENGTH_PAGE;
}

#endif
