/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread that brings long commits to their place beside the program. It is the committer while it does (gate.h):
 * whoever commits next, rolls back or closes waits for it, and nobody else.
 */
#ifndef FM_ALLOC_APPLIER_H
#define FM_ALLOC_APPLIER_H

#include <pthread.h>
#include <stdbool.h>

struct heap;

struct applier {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	pthread_t thread;
	bool may_run; /* not forbidden, and it could be begun */
	bool runs;
	bool is_due;  /* the committer's role is the thread's */
	bool ends;
};

void applier_init(struct applier *applier, bool may_run);

/* Committer, after a commit: the thread goes on as committer, applies and gives the role back. False: it can't, the role
 * stays the caller's. */
bool applier_hand_over(struct heap *heap);

/* Committer: the thread ends, if there is one, and the applier is gone. */
void applier_destroy(struct applier *applier);

#endif
