/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments with metadata: validating them, and the free units in them. All functions need heap->lock.
 *
 *   FREE --segment_create--> EXAMINED --last unit released--> FREE
 *   METADATA (from an earlier process) --segment_examine--> EXAMINED or DAMAGED
 */
#ifndef FM_ALLOC_SEGMENT_H
#define FM_ALLOC_SEGMENT_H

#include "heap.h"

/* Validate the metadata of segment `segment_no` (SEG_METADATA) and fill in its descriptors. */
void segment_examine(struct heap *heap, uint64_t segment_no);

/* Examine the segment in which `unit_no` lies, if that was not done yet. */
void segment_resolve(struct heap *heap, uint64_t unit_no);

/* Look into segments of earlier processes for free space, a bounded number of them. True if some was
 * found. Before the file grows. */
bool segment_examine_some(struct heap *heap);

/* Are there `n` consecutive free units that were used before, so that taking them needs no more blocks? */
bool units_are_at_hand(const struct heap *heap, unsigned n);

/* Take `n` consecutive units, the first at a multiple of `align_units` in its segment, backed; n is at most
 * SEGMENT_UNITS - align_units, since unit 0 is never free. Their truth and descriptors are the caller's to set.
 * Returns the first unit's number, or 0 and errno ENOMEM. */
uint64_t units_take(struct heap *heap, unsigned n, unsigned align_units);

/* Take units [unit_no, unit_no + n) of one segment if all are free and can be backed. */
bool units_take_at(struct heap *heap, uint64_t unit_no, unsigned n);

/* Make an examined segment without used units a free one; true if it was. */
bool segment_release_if_empty(struct heap *heap, uint64_t segment_no);

/* The units are free by truth now: so they are here. */
void units_release(struct heap *heap, uint64_t unit_no, unsigned n);

/* Note in the directory which segments are full, for the next process. At closing. */
void segment_note_full(struct heap *heap);

/* Is `word` a valid head for unit `u` of a segment whose data units begin at `first`? */
bool unit_word_is_valid(uint64_t word, unsigned u, unsigned first);

/* Fill in the descriptor of a huge object, of a run with head `word`, and of the units behind the first of a
 * slab or run of `n` units. */
void huge_describe(struct heap *heap, uint64_t segment_no, uint64_t pages);
void run_describe(struct heap *heap, uint64_t unit_no, uint64_t word);
void describe_interiors(struct heap *heap, uint64_t unit_no, unsigned n, enum unit_state state);

#endif
