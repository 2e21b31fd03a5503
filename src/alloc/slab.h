/* SPDX-License-Identifier: Apache-2.0
 *
 * Slabs: slots of one size, one live bit and one remote bit each.
 *
 * Invariants
 *   S1  a slot is allocated  <=>  its live bit is 1 and its remote bit is 0, in the file
 *   S2  a slot enters a window only if both bits are 0
 *   S3  bits of slots that do not exist are 0 and never set, also in the pair behind the last one in use
 *   S4  summary has bit w  <=>  word w has a slot that may enter a window, and that no window has; of the
 *       word in a window it may be set without one, after a harvest
 *   S5  empty has bit w  <=>  live word w is 0; of the word in a window it says nothing
 *   S6  is_listed  <=>  the slab is in exactly one list, or current in a window
 * S4 and S5 hold for owned slabs; remote bits not yet harvested are not counted.
 *
 * Freeing from another thread sets the remote bit; harvesting clears the live bit and then the remote bit.
 * A kill between the two leaves live 0, remote 1: free, and harvested again.
 */
#ifndef FM_ALLOC_SLAB_H
#define FM_ALLOC_SLAB_H

#include "heap.h"

/* Live word of pair `w`; the remote word stands behind it. */
static inline uint64_t *slab_pair(const struct unit *slab, unsigned w)
{
	return (uint64_t *)(void *)((uint8_t *)slab->pairs + (w * 16 ^ slab->colour));
}

/* Does a slot begin `offset` bytes into the slab? *slot is its number, at most slab->slots: one slot may begin in
 * the tail, and has the bits of no slot. The high half of the product is the quotient; the low half is below
 * the reciprocal exactly if nothing remains (Lemire, Kaser, Kurz: Faster remainder by direct computation, 2019;
 * offset and slot size are at most 2^20). */
static inline bool slab_divide(const struct unit *slab, uint64_t offset, uint32_t *slot)
{
	unsigned __int128 product = (unsigned __int128)offset * slab->reciprocal;

	*slot = (uint32_t)(product >> 64);
	return (uint64_t)product < slab->reciprocal;
}

/* Number of the slot that begins `offset` bytes into the slab, or UINT32_MAX if none does. */
static inline uint32_t slab_slot_at(const struct unit *slab, uint64_t offset)
{
	uint32_t slot;

	return slab_divide(slab, offset, &slot) && slot < slab->slots ? slot : UINT32_MAX;
}

/* Slots of word `w` that exist. */
static inline uint64_t slab_word_mask(const struct unit *slab, unsigned w)
{
	return low_mask((unsigned)min_u64(slab->slots - w * 64u, 64));
}

static inline uint64_t slab_all_words(const struct unit *slab)
{
	return low_mask(slab->words);
}

/* Move remote frees of word `w` into its live word, which is returned. Requires ownership. */
uint64_t slab_harvest_word(struct unit *slab, unsigned w);

/* Harvest the words in `words` and update summary and empty. Requires ownership. */
void slab_harvest(struct unit *slab, uint64_t words);

/* Fill in the descriptor of the slab whose head is `word`: unowned, listed nowhere. Needs heap->lock. */
void slab_describe(struct heap *heap, uint64_t unit_no, uint64_t word);

/* Make a slab of `class_no` for `owner`, or NULL with errno ENOMEM. Needs heap->lock. */
struct unit *slab_make(struct heap *heap, unsigned class_no, uint64_t owner);

/* Bring an unowned slab where it belongs: its units are released if it is empty, else it is listed if it has
 * free slots. Harvests. Needs heap->lock. */
void slab_settle(struct heap *heap, struct unit *slab);

/* The same for a slab that was settled before: only words with pending frees are harvested. */
void slab_collect(struct heap *heap, struct unit *slab);

/* Take an unowned slab with free slots of `class_no` from the heap's list; NULL if there is none. Its
 * owner is `owner` then, and it is harvested. Needs heap->lock. */
struct unit *slab_adopt(struct heap *heap, unsigned class_no, uint64_t owner);

/* The empty slab's units are free. It must be in no list. Needs heap->lock. */
void slab_release(struct heap *heap, struct unit *slab);

/* Allocate one slot without owning a slab: for threads without cache. Needs heap->lock. */
void *slab_take_unowned(struct heap *heap, unsigned class_no);

#endif
