/* SPDX-License-Identifier: Apache-2.0
 *
 * Where an owner has its slabs: all in one list, those with free slots by class, empty ones that are kept. An alarm says
 * which (S6 in slab.h). By the owner's thread only, or with heap->lock where the cache is not in use.
 */
#ifndef FM_ALLOC_LISTS_H
#define FM_ALLOC_LISTS_H

#include "owner.h"

/* The slab is the cache's, or no longer. */
void owned_push(struct tcache *tcache, struct unit *slab);
void owned_remove(struct tcache *tcache, struct unit *slab);

/* The own empty slab's units are free. With or without the lock. */
void owned_release(struct tcache *tcache, struct unit *slab);

/* Keep the own slab, which is empty and in no list. */
void kept_push(struct tcache *tcache, struct unit *slab);

/* Take a kept slab of the class; NULL if there is none. */
struct unit *kept_take(struct tcache *tcache, unsigned class_no);

/* Release kept slabs until they have at most `units` units, or all that are left wait in the inbox. */
void kept_release(struct tcache *tcache, uint64_t units);

/* As many as the cache may keep. */
void kept_trim(struct tcache *tcache);

/* The slab has got free slots, or an empty word: list it if it was full, keep or release it if it is empty. */
void slab_changed(struct tcache *tcache, struct unit *slab);

#endif
