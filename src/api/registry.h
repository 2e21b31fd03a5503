/* SPDX-License-Identifier: Apache-2.0
 *
 * The heaps of this process. Handles are never freed, and are reused as late as possible, so that the use of
 * a closed one is noticed.
 */
#ifndef FM_API_REGISTRY_H
#define FM_API_REGISTRY_H

#include "../alloc/owner.h"

/* A zeroed heap with its slot, and the word that says in which process it lives; NULL after fail(). */
struct heap *registry_take(uint64_t **alive);

/* Let addresses be found in the heap, which is open now; and no longer, before it is closed. */
void registry_publish(struct heap *heap);
void registry_withdraw(struct heap *heap);

/* In a child: the heap's reservation has become shorter. */
void registry_shorten(struct heap *heap);

/* Give the slot back: after closing, or when opening failed. */
void registry_give(struct heap *heap);

/* The open heap in whose reservation `p` lies, or NULL. Lock-free. */
struct heap *registry_find(const void *p);

/* The heap opened first among those that are open, or NULL. */
struct heap *registry_first(void);

/* Call `visit` for each open heap. */
void registry_each(void (*visit)(struct heap *heap));

/* In a child: call `visit` for each heap of the parent, also those that were being opened or closed. */
void registry_each_inherited(void (*visit)(struct heap *heap));

/* May the program use this handle? 0, or -1 after fail() with *kind set if that is a misuse. */
int registry_check(const fm_heap *handle, enum fm_misuse_kind *kind);

/* The heap of a handle that the program passed, or NULL after fail() and the misuse handler: it is not
 * open, or of another process. */
struct heap *registry_usable(const fm_heap *handle);

/* In a child: the heap is this process's own from now on. */
void registry_revive(struct heap *heap);

void registry_lock(void);
void registry_unlock(void);

#endif
