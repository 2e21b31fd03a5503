/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments with metadata: validating, making and releasing them. All functions need heap->lock.
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

/* Give a free segment metadata. False with errno ENOMEM. */
bool segment_create(struct heap *heap);

/* The same with one of which the first `n` units have blocks already. False if there is none. */
bool segment_create_backed(struct heap *heap, unsigned n);

/* Make an examined segment without used units a free one; true if it was. */
bool segment_release_if_empty(struct heap *heap, uint64_t segment_no);

/* Note in the directory which segments are full, for the next process. At closing. */
void segment_note_full(struct heap *heap);

/* Is `word` a valid head for unit `u` of a segment whose data units begin at `first`? */
bool unit_word_is_valid(uint64_t word, unsigned u, unsigned first);

/* Fill in descriptors: of `n` units that are nothing in particular, of a huge object (or its length alone), of a run
 * with head `word`, of the units behind the first of a slab or run of `n` units. For the first and the last two the
 * units must be the caller's, the lock need not. */
struct unit *describe_units(struct heap *heap, uint64_t unit_no, uint64_t n, enum unit_state state);
void huge_describe(struct heap *heap, uint64_t segment_no, uint64_t pages);
void huge_set_pages(struct heap *heap, uint64_t segment_no, uint64_t pages);
void run_describe(struct heap *heap, uint64_t unit_no, uint64_t word);
void describe_interiors(struct heap *heap, uint64_t unit_no, unsigned from, unsigned n, enum unit_state state);

#endif
