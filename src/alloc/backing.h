/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks behind units: nothing is handed out before a store into it can no longer fail. All functions but
 * backing_take need heap->lock.
 */
#ifndef FM_ALLOC_BACKING_H
#define FM_ALLOC_BACKING_H

#include "heap.h"

/* Let the file reach [off, off + len) and back all of it. 0 or -errno. Grows the file by steps that rise
 * with its size, less if that much is not there. Descriptors are made accessible as far as needed. */
int backing_ensure(struct heap *heap, uint64_t off, uint64_t len);

/* The same, but what the file had to grow over before `off` is a hole. */
int backing_ensure_apart(struct heap *heap, uint64_t off, uint64_t len);

/* fail() with ENOMEM, and in the text why backing_ensure gave `r`. */
int cannot_grow(const struct heap *heap, int r);

/* The units of [off, off + len), which the caller has taken, are handed out. True if all of them read as zero. */
bool backing_take(struct heap *heap, uint64_t off, uint64_t len);

/* The units of [off, off + len) are in use, maybe since an earlier process: so they have blocks. */
void backing_note_used(struct heap *heap, uint64_t off, uint64_t len);

/* Give the blocks of the units [off, off + len), which nobody can take, back. 0 or -errno: the file system can't, and nothing has
 * changed. */
int backing_punch(struct heap *heap, uint64_t off, uint64_t len);

/* End of the last used unit of segment `segment_no` (which is in use), as offset; 0 if it is damaged. */
uint64_t backing_used_end(struct heap *heap, uint64_t segment_no);

/* Back all that the truth says is used: of a file that has moved or lost blocks. 0, or -1 after fail(). */
int backing_restore(struct heap *heap);

#endif
