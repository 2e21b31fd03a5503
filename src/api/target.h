/* SPDX-License-Identifier: Apache-2.0
 *
 * The calling thread's target: the heap that fmalloc(), ffree() and fm_ptr<T> work on.
 */
#ifndef FM_API_TARGET_H
#define FM_API_TARGET_H

#include "../alloc/owner.h"

/* The target's heap, or NULL after fail(). */
struct heap *target_heap(void);

/* The same; its cache becomes the one of the thread's fast paths, if it can have one. */
struct heap *target_use(void);

/* A heap was opened or closed: the process's first one may be another. */
void target_refresh(void);

/* `heap` is about to be closed by this thread. */
void target_forget(struct heap *heap);

#endif
