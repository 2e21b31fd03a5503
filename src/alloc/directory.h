/* SPDX-License-Identifier: Apache-2.0
 *
 * The directory: one word for each segment. All functions need heap->lock unless said otherwise.
 */
#ifndef FM_ALLOC_DIRECTORY_H
#define FM_ALLOC_DIRECTORY_H

#include "heap.h"

/* Validate where the directory lies. 0, or -1 after fail(). At opening. */
int directory_open(struct heap *heap);

/* Address of segment `segment_no`'s word, or NULL if the directory does not reach so far. */
uint64_t *directory_word(const struct heap *heap, uint64_t segment_no);

/* Segments whose words exist. */
uint64_t directory_reach(const struct heap *heap);

static inline uint64_t directory_last(const struct heap *heap)
{
	return truth_load(&store_truth(&heap->store)->last_segment);
}

/* Kind of a segment by its own word; segment 0 has metadata whatever its word says. */
unsigned directory_kind(const struct heap *heap, uint64_t segment_no);

/* J9: does the directory leave the journal's segments alone? Reads their words, and those of a huge object before
 * them. 0, or -1 after fail(). */
int directory_judge_journal(const struct heap *heap);

/* Read all words once and set every segment's state. Costs 8 bytes read for each segment. */
void directory_scan(struct heap *heap);

/* State of a segment, after a scan. */
enum segment_state segment_state(const struct heap *heap, uint64_t segment_no);

/* Free segments, one after the other, for `len` bytes, and blocks for these bytes: *first is the first of them, or 0:
 * there is no address space. 0 or -errno: there are no blocks. Extends file and directory if need be. Changes nothing that
 * counts but that. */
int directory_find(struct heap *heap, uint64_t len, uint64_t *first);

/* The same among the segments up to the last one: the first of them, or 0. */
uint64_t directory_find_inside(struct heap *heap, uint64_t len);

/* The same where this process knows that the blocks are there, so that it can't fail on a full disk. */
uint64_t directory_find_backed(struct heap *heap, uint64_t len);

/* The same with room to grow in place: inside as many free segments behind it, and before it, where there are so many;
 * or, if it may grow, at the file's end behind a hole for what is before. The first segment, or 0: there is no such place,
 * or the heap is not small beside what it may grow to. Of live heaps. */
uint64_t directory_find_roomy(struct heap *heap, uint64_t len, bool may_grow);

/* Make [first, first + n) count as segments that were used: before any of their words is stored. */
void directory_reach_to(struct heap *heap, uint64_t last);

/* Forget free segments at the end. */
void directory_shrink(struct heap *heap);

/* Make the descriptors of segments below `n` accessible. 0 or -errno. */
int descriptors_cover(struct heap *heap, uint64_t n);

#endif
