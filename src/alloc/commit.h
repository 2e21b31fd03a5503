/* SPDX-License-Identifier: Apache-2.0
 *
 * Commit, rollback and sections of an atomic heap. Functions return 0, or -1 after fail(). The heap must be usable,
 * atomic and open for writing. No lock may be held.
 */
#ifndef FM_ALLOC_COMMIT_H
#define FM_ALLOC_COMMIT_H

#include "owner.h"

int heap_commit(struct heap *heap);
int heap_rollback(struct heap *heap);
int heap_begin(struct heap *heap);
int heap_end(struct heap *heap);
int heap_abort(struct heap *heap);
int heap_snapshot(struct heap *heap, const char *path);
int heap_will_write(struct heap *heap, const void *addr, size_t len);

/* Fill in the part of atomic heaps. Of any heap. */
void heap_commit_stats(struct heap *heap, struct fm_statistics *stats);

/* A thread ends inside its section. */
void heap_section_abandoned(struct heap *heap);

/* The calling thread is inside a section of the heap. */
bool heap_is_inside(struct heap *heap);

/* ---- reset.c */

/* Forget everything that was derived from the file, caches of threads included: the file says something else now.
 * Needs membership and heap->lock; no thread may be inside a section. 0 or -errno. */
int heap_reset(struct heap *heap);

#endif
