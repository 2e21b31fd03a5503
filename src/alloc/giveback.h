/* SPDX-License-Identifier: Apache-2.0
 *
 * Giving free space back to the file system: late, because a hole costs up to 400 us to punch and as much again
 * to fill, and programs mostly need soon what they just freed.
 *
 * While the heap is in use, units that were free at two looks in a row lose their blocks; looks are decay_ms
 * apart and made by whoever releases units. At closing, and when asked, the file is cut behind its last unit in use.
 */
#ifndef FM_ALLOC_GIVEBACK_H
#define FM_ALLOC_GIVEBACK_H

#include "heap.h"

/* May a heap in use give space back? What is free in an atomic heap may be used by its last commit, which a hole or a
 * shorter file would destroy: there space is given back at closing alone, when all is as committed. */
static inline bool giveback_may(const struct heap *heap)
{
	return heap_may_write(heap) && !heap->store.is_atomic;
}

/* Units were released without the lock. */
void giveback_note(struct heap *heap);

/* Give back blocks of free units, the last ones of the file first, until at most `keep_len` bytes of free space have
 * blocks; holes of less than `min_len` bytes are not made. True if something was given back. Needs heap->lock. */
bool giveback_now(struct heap *heap, uint64_t keep_len, uint64_t min_len);

/* Cut the file behind the last unit in use; true if it was longer. Needs heap->lock. */
bool giveback_tail(struct heap *heap);

#endif
