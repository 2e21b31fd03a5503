/* SPDX-License-Identifier: Apache-2.0
 *
 * The fast paths: a slot from the thread's window, and freeing a slot of an own slab. No lock, no atomic
 * read-modify-write, no system call.
 */
#ifndef FM_ALLOC_FAST_H
#define FM_ALLOC_FAST_H

#include "owner.h"

/* The thread's window of `class_no`, if it has a slot; else NULL. */
static inline struct window *fast_window(struct tcache *tcache, unsigned class_no)
{
	struct window *window = &tcache->window[class_no];

	return likely(window->avail != 0) ? window : NULL;
}

/* Free the slot at `off` of `slab`'s heap if the thread owns the slab and all is well; else false, and
 * nothing has changed. Keeps S1, S4, S5. */
static inline __attribute__((always_inline)) bool fast_free_in(struct tcache *tcache, struct unit *slab,
                                                               uint64_t off)
{
	uint64_t *pair;
	uint64_t live;
	uint32_t slot;
	unsigned w;

	if (unlikely(load_relaxed(&slab->owner) != tcache->id))
		return false;
	if (unlikely(!slab_divide(slab, off - slab->start, &slot)))
		return false;
	w = slot / 64;
	pair = slab_pair(slab, w);
	live = truth_load(&pair[0]);
	if (unlikely(!((live & ~truth_load(&pair[1])) >> slot % 64 & 1)))
		return false;
	live &= ~(UINT64_C(1) << slot % 64);
	truth_store_own(&pair[0], live);
	slab->summary |= UINT64_C(1) << w;
	if (unlikely(live == 0 || !slab->is_listed))
		tcache_slot_freed(tcache, slab, w, live);
	return true;
}

/* The same by the offset alone, below tcache->size. In a unit behind the first of its slab the descriptor has no
 * owner: false too, for fast_free_behind. */
static inline __attribute__((always_inline)) bool fast_free(struct tcache *tcache, uint64_t off)
{
	return fast_free_in(tcache, &tcache->units[off >> UNIT_SHIFT], off);
}

static inline bool fast_free_behind(struct tcache *tcache, uint64_t off)
{
	struct unit *unit = &tcache->units[off >> UNIT_SHIFT];

	return fast_free_in(tcache, unit - load_relaxed(&unit->back), off);
}

#endif
