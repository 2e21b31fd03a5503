/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may change an atomic heap, and when it stands still.
 *
 * Threads change the heap inside sections. The committer, one thread at a time, closes the gate: new outer sections
 * wait, open ones come to their end, and then nobody changes the heap: the pause. A thread that wants a commit puts
 * itself on the list; whoever finds no committer at work becomes it, and serves all that are on the list when the
 * pause begins: their changes were made before they asked.
 */
#ifndef FM_ALLOC_GATE_H
#define FM_ALLOC_GATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct gate_waiter {
	struct gate_waiter *next;
	uint32_t group;
	int result; /* 0 or -errno */
};

/* Where those wait who ask for a commit. All that one commit serves are a group: they are woken by one system
 * call, and need no lock any more. Groups are numbered; the one that is served and the one that gathers
 * meanwhile wait at two places. */
struct gate_turn {
	uint32_t served; /* number of the last group of this place that was served */
	uint32_t events; /* changes whenever somebody who waits here has to look again */
};

struct gate {
	pthread_mutex_t mutex;
	pthread_cond_t opened;  /* for those who wait to enter */
	pthread_cond_t left;    /* for the committer, who waits for the last one to leave */
	pthread_cond_t given;   /* for those who wait in gate_take */
	unsigned inside;     /* threads in a section */
	bool is_closed;      /* no outer section may begin */
	bool has_committer;
	bool is_handed_over; /* that is a thread which only brings a commit to its place */
	bool is_canceled;    /* fm_abort was called: commits fail until a rollback */
	struct gate_waiter *waiting; /* the group that gathers */
	uint32_t group;      /* its number */
	struct gate_turn turn[2]; /* atomic; by whether the number is odd */
	unsigned asked;      /* how many those are */
	unsigned takers;     /* threads in gate_take: they go first */
	unsigned expected;   /* the committer's guess of how many threads commit at the same time */
	unsigned met;        /* times that so many came since it was raised */
	bool is_shared;      /* a thread asked while another one was at work, since it was raised */
};

void gate_init(struct gate *gate);
void gate_destroy(struct gate *gate);

/* A thread's outermost section. */
void gate_enter(struct gate *gate);
void gate_leave(struct gate *gate, bool is_abort);

/* Become the committer, waiting for an earlier one; or no longer. */
void gate_take(struct gate *gate);
void gate_give(struct gate *gate);

/* Committer: the role is another thread's from now on. */
void gate_hand_over(struct gate *gate);

/* The committer's pause. */
void gate_close(struct gate *gate);
void gate_open(struct gate *gate);

/* Ask for a commit. True: the caller is the committer now, and is on the list; false: it was served,
 * waiter->result is what came out. */
bool gate_ask(struct gate *gate, struct gate_waiter *waiter);

/* Committer: let other threads run for a moment, if as many as lately have not asked yet: one write serves them too. */
void gate_gather(struct gate *gate);

/* In the pause: take the group. Later, once: all of it get `result`. */
struct gate_waiter *gate_group(struct gate *gate);
void gate_serve(struct gate *gate, struct gate_waiter *group, int result);

#endif
