/* SPDX-License-Identifier: Apache-2.0
 *
 * Large objects: runs of units inside a segment, and huge objects of whole segments. Their length, in pages
 * of 4 KiB, stands in the head word. All functions need heap->lock.
 */
#ifndef FM_ALLOC_LARGE_H
#define FM_ALLOC_LARGE_H

#include "heap.h"

#define RUN_MAX_UNITS (SEGMENT_UNITS - 1)

/* Allocate `size` bytes aligned to `alignment` (a power of two up to SEGMENT_SIZE). *is_zero tells whether
 * they read as zero. NULL with errno ENOMEM. */
void *large_alloc(struct heap *heap, size_t size, size_t alignment, bool *is_zero);

/* Free the run or huge object of `unit`. False if its head has changed meanwhile: freed already. */
bool large_free(struct heap *heap, struct unit *unit);

/* Make it `size` bytes long without moving it; false if that can't be. */
bool large_resize(struct heap *heap, struct unit *unit, size_t size);

static inline uint64_t large_size(const struct unit *unit)
{
	return unit->pages * LENGTH_PAGE;
}

#endif
