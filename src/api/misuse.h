/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_API_MISUSE_H
#define FM_API_MISUSE_H

#include "../../include/fmalloc.h"

/* Call the program's handler for the misuse that the last fail() described, then restore errno and the text.
 * With FMALLOC_DEBUG=abort in the environment, abort. No lock may be held. */
void misuse_report(enum fm_misuse_kind kind, const void *address, fm_heap *heap);

/* For the fork handlers. */
void misuse_before_fork(void);
void misuse_after_fork(void);

#endif
