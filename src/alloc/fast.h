/* SPDX-License-Identifier: Apache-2.0
 *
 * The fast paths: a slot from the thread's window, and freeing a slot of an own slab. No lock, no atomic
 * read-modify-write, no system call.
 */
#ifndef FM_ALLOC_FAST_H
#define FM_ALLOC_FAST_H

#include "owner.h"

/* Take a slot of the thread's window for `size`, at most TABLE_MAX, for *p; false if it has none. */
static forced_inline bool fast_take(struct tcache *tcache, size_t size, void **p)
{
	return window_take(tcache, (struct window *)((uintptr_t)tcache + tcache->window_at[(size + 7) / 8]), p);
}

/* Free the slot at `p` if it lies in the first unit of a slab of the cache's thread, in which no other thread has freed
 * something since. Else false, and nothing has changed. Keeps S1, S4, S5. */
static forced_inline bool fast_free(struct tcache *tcache, const void *p)
{
	uint64_t unit_no = ((uintptr_t)p - (uintptr_t)tcache->base) >> UNIT_SHIFT;
	struct unit *slab = &tcache->units[unit_no];
	uint64_t *pair;
	uint64_t live, slot;

	if (unlikely(unit_no >= tcache->units_len || load_relaxed(&slab->quick_owner) != tcache->id))
		return false;
	/* the slab is the thread's: its fields stay, and plain loads are parts of other instructions */
	if (unlikely(!divide_offset((uint16_t)(uintptr_t)p, slab->reciprocal, slab->remainders, &slot)))
		return false;
	pair = pair_from(slab->pair_0, slot / 64);
	live = truth_load(pair);
	if (unlikely(!take_bit(&live, slot)))
		return false;
	truth_store_own(pair, live);
	if (unlikely(live < slab->alarm))
		tcache_slot_freed(tcache, slab, (unsigned)slot / 64, live);
	return true;
}

#endif
