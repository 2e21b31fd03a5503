/* SPDX-License-Identifier: Apache-2.0
 *
 * FM_RECOVER: making a live heap consistent after a power cut, when its pages are any mixture of versions.
 */
#ifndef FM_ALLOC_RECOVER_H
#define FM_ALLOC_RECOVER_H

#include "heap.h"

/* Mend the mapped heap. 0, with what was found in fm_last_error(), or -1 after fail(). Killed half-way it can be
 * repeated. */
int recover_heap(struct heap *heap);

#endif
