/* SPDX-License-Identifier: Apache-2.0
 *
 * The calling thread's target: the heap that fmalloc(), ffree() and fm_ptr<T> work on.
 */
#ifndef FM_API_TARGET_H
#define FM_API_TARGET_H

#include "../alloc/owner.h"

/* The target's heap, or NULL after fail(). */
struct heap *target_heap(void);

/* The thread's cache of the target, made if need be; NULL: none, or no memory, or the thread is leaving. */
struct tcache *target_cache(void);

/* A heap was opened or closed: the process's first one may be another. */
void target_refresh(void);

/* `heap` is about to be closed by this thread. */
void target_forget(struct heap *heap);

#endif
