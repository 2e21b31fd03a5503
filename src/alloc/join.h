/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects of several neighbouring slots. Where the heap would have to grow for a slab of one class, free slots that
 * stand side by side in one live word of another class's slab serve as one object: so heaps stay dense when a
 * program's sizes change. One store of the live word allocates all slots of the object, one frees them.
 *
 * The slab of which a thread makes such objects for a class is that class's *source*: it is in no list meanwhile. Frees
 * in a slab with joined slots are not quick (quick_owner), so that those in other slabs need not know of them.
 */
#ifndef FM_ALLOC_JOIN_H
#define FM_ALLOC_JOIN_H

#include "owner.h"

/* Allocate an object of `class_no`, aligned to 16 bytes if its slots are multiples of that, from the class's source or
 * another slab with such a run of free slots; or NULL: then the class needs a slab of its own. Looks at a few
 * slabs at most. */
void *join_take(struct tcache *tcache, unsigned class_no);

/* The class has its source no longer. */
void join_end(struct tcache *tcache, unsigned class_no);

#endif
