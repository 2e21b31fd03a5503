/* SPDX-License-Identifier: Apache-2.0
 *
 * The fast paths: a slot from the thread's window, and freeing a slot of an own slab. No lock, no atomic
 * read-modify-write, no system call.
 */
#ifndef FM_ALLOC_FAST_H
#define FM_ALLOC_FAST_H

#include "owner.h"

static inline bool fast_has(const struct tcache *tcache, unsigned class_no)
{
	return likely(tcache->window[class_no].avail != 0);
}

/* A slot of `class_no`; requires fast_has(). Keeps S1, S2. */
static inline void *fast_take(struct tcache *tcache, unsigned class_no)
{
	struct window *window = &tcache->window[class_no];
	uint64_t avail = window->avail;
	unsigned slot = lowest_bit(avail);

	window->avail = avail & (avail - 1);
	truth_store_own(window->live, truth_load(window->live) | UINT64_C(1) << slot);
	return window->base + (size_t)slot * window->slot_size;
}

/* Free the slot at `off` (below tcache->size) if the thread owns its slab and all is well; else false, and
 * nothing has changed. Keeps S1, S4, S5. */
static inline __attribute__((always_inline)) bool fast_free(struct tcache *tcache, uint64_t off)
{
	struct unit *slab = &tcache->units[off >> UNIT_SHIFT];
	uint64_t *pair;
	uint64_t bit, live;
	uint32_t slot;
	unsigned w;

	slab -= load_relaxed(&slab->back);
	if (unlikely(load_relaxed(&slab->owner) != tcache->id))
		return false;
	slot = slab_slot_at(slab, off - ((uint64_t)(slab - tcache->units) << UNIT_SHIFT));
	if (unlikely(slot == UINT32_MAX))
		return false;
	w = slot / 64;
	bit = UINT64_C(1) << slot % 64;
	pair = slab_pair(slab, w);
	live = truth_load(&pair[0]);
	if (unlikely(!(live & ~truth_load(&pair[1]) & bit)))
		return false;
	live &= ~bit;
	truth_store_own(&pair[0], live);
	slab->summary |= UINT64_C(1) << w;
	if (unlikely(live == 0))
		slab->empty |= UINT64_C(1) << w;
	if (unlikely(live == 0 || !slab->is_listed))
		tcache_slot_freed(tcache, slab);
	return true;
}

#endif
