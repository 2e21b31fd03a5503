/* SPDX-License-Identifier: Apache-2.0
 *
 * Going over all live objects, by rising offset.
 */
#ifndef FM_ALLOC_WALK_H
#define FM_ALLOC_WALK_H

#include "alloc.h"

/* Call `visit` for each live object but those of the root table until it returns something else than 0;
 * returns that, or 0; -1 after fail(). `visit` may free the object. */
int walk_objects(struct heap *heap, int (*visit)(const struct object *object, void *arg), void *arg);

/* Fill in all of *stats but `size`. 0, or -1 after fail(). */
int walk_stats(struct heap *heap, struct fm_statistics *stats);

#endif
