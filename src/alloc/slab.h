/* SPDX-License-Identifier: Apache-2.0
 *
 * Slabs: slots of one size, one live bit and one remote bit each.
 *
 * Invariants
 *   S1  a slot is allocated  <=>  its live bit is 1 and its remote bit is 0, in the file
 *   S2  a slot of a window is handed out only if its live bit is 0; the window's word was harvested before, so
 *       that its remote bit is 0 too
 *   S3  bits of slots that do not exist are 0 and never set, also in the pair behind the last one in use
 *   S4  summary has bit w  =>  word w has a free slot or a freed one that is not harvested. It is a hint: freeing by the
 *       fast path adds nothing to it. Of a slab
 *         in a list of slabs with free slots  it has a bit at least
 *         full, in no list                    it is 0, and there is no free slot
 *         in a window                         it says nothing of the window's word
 *         without owner                       it has all such words
 *   S5  empty has bit w  <=>  live word w is 0; of a slab in a window, or a source, it says nothing
 *   S6  alarm is ALARM_NEVER  <=>  the slab is in a window, or a source of joined slots; ALARM_KEPT  <=>  it is empty and in its owner's list of
 *       those; ALARM_EMPTY  <=>  it is in a list of slabs with free slots; ALARM_ALWAYS  <=>  it is full, in none
 *   S7  the joint bit of a free slot is 0; and without has_joined all are
 * S4 to S7 hold for owned slabs, S6 for listed unowned ones too; remote bits not yet harvested are not counted.
 *
 * Freeing from another thread sets the remote bit; harvesting clears the live bit and then the remote bit.
 * A kill between the two leaves live 0, remote 1: free, and harvested again.
 */
#ifndef FM_ALLOC_SLAB_H
#define FM_ALLOC_SLAB_H

#include "units.h"

/* Freeing leaves a live word below the alarm: something is to be done about the slab. */
#define ALARM_NEVER  UINT64_C(0)
#define ALARM_EMPTY  UINT64_C(1) /* the word has become 0 */
#define ALARM_KEPT   UINT64_C(2) /* there is nothing to free */
#define ALARM_ALWAYS UINT64_MAX  /* a live word that has just lost a bit is less */

static inline bool slab_is_listed(const struct unit *slab)
{
	return slab->alarm == ALARM_EMPTY;
}

/* The unit's pairs fill 1 KiB that is aligned so, and pair w stands at place w xor that of pair 0. */
static inline uint64_t *pair_from(uint64_t *pair_0, uint64_t w)
{
	return (uint64_t *)((uintptr_t)pair_0 ^ w * 16);
}

/* Live word of pair `w`; the remote word stands behind it. */
static inline uint64_t *slab_pair(const struct unit *slab, uint64_t w)
{
	return pair_from(load_relaxed(&slab->pair_0), w);
}

/* Joint word of pair `w`; only of a slab with joint words. */
static inline uint64_t *slab_joint(const struct unit *slab, uint64_t w)
{
	return slab_pair(slab, w + 32);
}

static inline bool slab_can_join(const struct unit *slab)
{
	return slab->words <= JOINT_WORDS;
}

/* Slots of word `w` that are joined to the one before. */
static inline uint64_t slab_joined(const struct unit *slab, unsigned w)
{
	return load_relaxed(&slab->has_joined)
	               ? joined_slots(truth_load(slab_pair(slab, w)), truth_load(slab_joint(slab, w)))
	               : 0;
}

/* The slots of the object that begins at `slot`: a mask for its word. */
static inline uint64_t slab_object_slots(const struct unit *slab, uint32_t slot)
{
	uint64_t head = UINT64_C(1) << slot % 64;

	return head | joined_to(head, slab_joined(slab, slot / 64));
}

/* Does a slot begin `offset` bytes into a slab's first unit? *slot is its number, at most slab->slots: one slot
 * may begin in the tail, and has the bits of no slot. The high half of the product is the quotient; the low half
 * is below the reciprocal exactly if nothing remains (Lemire, Kaser, Kurz: Faster remainder by direct
 * computation, 2019; the offset is below 2^16, and of slots from 2^16 bytes on only the first begins there). */
static inline bool divide_offset(uint16_t offset, uint64_t reciprocal, uint32_t remainders, uint64_t *slot)
{
	uint64_t product = (uint64_t)offset * reciprocal;

	*slot = product >> 32;
	return (uint32_t)product < remainders;
}

/* Number of the slot that begins `offset` bytes into the slab, or UINT32_MAX if none does. */
static inline uint32_t slab_slot_at(const struct unit *slab, uint64_t offset)
{
	uint64_t slot = 0;
	bool begins;

	if (likely(offset < UNIT_SIZE)) {
		begins = divide_offset((uint16_t)offset, load_relaxed(&slab->reciprocal),
		                       load_relaxed(&slab->remainders), &slot);
	} else {
		uint64_t slot_size = load_relaxed(&slab->slot_size);

		slot = offset / slot_size;
		begins = slot * slot_size == offset;
	}
	return begins && slot < load_relaxed(&slab->slots) ? (uint32_t)slot : UINT32_MAX;
}

/* A smaller size keeps the object in place as long as it uses at least this part of it. */
#define KEEP_SHARE 2

/* May the object of `len` bytes at `off` have `size` bytes, and stay? */
static inline bool slot_suits(const struct unit *slab, uint64_t off, uint64_t len, size_t size)
{
	/* a multiple of 16 is promised that alignment, which not every larger slot has */
	if (size > len || (size % 16 == 0 && off % 16))
		return false;
	return size >= len / KEEP_SHARE || class_of(size) == load_relaxed(&slab->class_no);
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

/* The words of the slab that have free slots, or such as other threads freed, are in its summary: freeing notes the
 * first alone. Requires ownership. */
void slab_look(struct unit *slab);

/* The slab belongs to the tcache with id `owner`, or to none. */
static inline void slab_set_owner(struct unit *slab, uint64_t owner)
{
	store_seq(&slab->owner, owner);
	store_seq(&slab->quick_owner, load_relaxed(&slab->has_joined) ? OWNER_NONE : owner);
}

/* Move remote frees of word `w` into its live word, which is returned. Requires ownership. */
uint64_t slab_harvest_word(struct unit *slab, unsigned w);

/* Word `w`: joint bits of free slots become 0. Requires ownership. */
void slab_unjoin(struct unit *slab, unsigned w);

/* If no slots are joined any more, frees may be quick again, once the owner has harvested. Requires ownership. */
void slab_forget_joined(struct unit *slab);

/* Harvest the words in `words` and update summary and empty. Requires ownership. */
void slab_harvest(struct unit *slab, uint64_t words);

/* What follows from the head of a slab alone: sizes, and where its live words are. */
void slab_lay_out(const struct heap *heap, struct unit *slab, uint64_t unit_no, uint64_t word);

/* Fill in the descriptor of the slab whose head is `word`: listed nowhere. The units are the caller's, or the lock is
 * held. Its owner is 0 as before, and is to be set last: with OWNER_NONE it would be the lock's holder's. */
void slab_describe(struct heap *heap, uint64_t unit_no, uint64_t word);

/* Make a slab of `class_no` for `owner` of the units from `unit_no` on, which the caller has taken;
 * with heap->lock, unless they were used before. */
struct unit *slab_make(struct heap *heap, uint64_t unit_no, unsigned class_no, uint64_t owner);

/* Bring an unowned slab where it belongs: its units are released if it is empty, else it is listed if it has
 * free slots. Harvests. Needs heap->lock. */
void slab_settle(struct heap *heap, struct unit *slab);

/* The same for a slab that was settled before: only words with pending frees are harvested. */
void slab_collect(struct heap *heap, struct unit *slab);

/* Take an unowned slab with free slots of `class_no` from the heap's list; NULL if there is none. Its
 * owner is `owner` then, and it is harvested. Needs heap->lock. */
struct unit *slab_adopt(struct heap *heap, unsigned class_no, uint64_t owner);

/* The empty slab's units are free. It must be in no list, and the caller its owner; or it has none, and the lock is
 * held. `near` may be NULL. */
void slab_release(struct heap *heap, struct near *near, struct unit *slab);

/* Allocate one slot without owning a slab: for threads without cache. Needs heap->lock. */
void *slab_take_unowned(struct heap *heap, unsigned class_no);

#endif
