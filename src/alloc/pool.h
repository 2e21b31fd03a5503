/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for thread states: never unmapped, reused by later threads, wiped in forked children, and not from
 * malloc, which may be us.
 */
#ifndef FM_ALLOC_POOL_H
#define FM_ALLOC_POOL_H

#include "owner.h"

struct thread *pool_get_thread(void);
struct tcache *pool_get_tcache(void);
void pool_put_thread(struct thread *thread);
void pool_put_tcache(struct tcache *tcache);

/* Pages of zeros that a fork wipes; NULL if they can't be had. Never freed. */
void *pool_pages(uint64_t len);

/* For the fork handlers. */
void pool_before_fork(void);
void pool_after_fork(void);

#endif
