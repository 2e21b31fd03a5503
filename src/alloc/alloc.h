/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole of allocating and freeing, behind the fast paths (fast.h). The heap must be usable
 * (heap_is_usable). No lock may be held.
 */
#ifndef FM_ALLOC_ALLOC_H
#define FM_ALLOC_ALLOC_H

#include "owner.h"

/* Allocate; alignment is a power of two up to SEGMENT_SIZE, 8 for none in particular. *is_zero tells whether the
 * bytes are known to be zero. NULL after fail(): ENOMEM, EROFS. */
void *alloc_new(struct heap *heap, size_t size, size_t alignment, bool *is_zero);

/* Free `p`, which lies in the heap's reservation. 0, or -1 after fail(); *misuse is set if that is why. */
int alloc_free(struct heap *heap, void *p, enum fm_misuse_kind *misuse);

/* Free the run of `unit` without the lock; `tcache` may be NULL. False if it is freed already. */
bool alloc_free_run(struct heap *heap, struct tcache *tcache, struct unit *unit);

/* Usable size of the live object `p`, or 0 after fail() with *misuse set. */
size_t alloc_usable_size(struct heap *heap, const void *p, enum fm_misuse_kind *misuse);

/* Give free space back, but for `keep_len` bytes of it: 1 or 0, was there any; -1 after fail(). */
int alloc_trim(struct heap *heap, uint64_t keep_len);

/* Change the size of `p`. NULL after fail(); *misuse is set if that is why. */
void *alloc_resize(struct heap *heap, void *p, size_t size, enum fm_misuse_kind *misuse);

/* An object, live or not: where its slot, run or segments begin and how long they are. */
struct object {
	struct unit *unit;
	enum unit_state kind; /* UNIT_IS_SLAB, UNIT_IS_RUN or UNIT_IS_HUGE */
	uint64_t off, len; /* bytes */
	uint32_t slot;     /* of a slab */
	bool is_live;
};

/* What object would byte `off` belong to? False if none: header, metadata, free or damaged space. Examines
 * the segment if need be. Takes heap->lock. */
bool alloc_object_at(struct heap *heap, uint64_t off, struct object *object);

#endif
