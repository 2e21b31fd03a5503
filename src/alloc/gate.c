/* SPDX-License-Identifier: Apache-2.0 */
#include "gate.h"

#include "../os/os.h"

#include <stddef.h>

/* The committer waits so many turns for threads that commit as often as it does: some 20 us. */
#define GATHER_TRIES 64

/* And expects one more after so many meetings. */
#define RAISE_AFTER 8

void gate_init(struct gate *gate)
{
	pthread_mutex_init(&gate->mutex, NULL);
	pthread_cond_init(&gate->opened, NULL);
	pthread_cond_init(&gate->left, NULL);
	pthread_cond_init(&gate->given, NULL);
}

void gate_destroy(struct gate *gate)
{
	pthread_mutex_destroy(&gate->mutex);
	pthread_cond_destroy(&gate->opened);
	pthread_cond_destroy(&gate->left);
	pthread_cond_destroy(&gate->given);
}

void gate_enter(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	while (gate->is_closed)
		pthread_cond_wait(&gate->opened, &gate->mutex);
	gate->inside++;
	pthread_mutex_unlock(&gate->mutex);
}

void gate_leave(struct gate *gate, bool is_abort)
{
	pthread_mutex_lock(&gate->mutex);
	gate->inside--;
	if (is_abort)
		gate->is_canceled = true;
	if (gate->is_closed && gate->inside == 0)
		pthread_cond_signal(&gate->left);
	pthread_mutex_unlock(&gate->mutex);
}

void gate_take(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->takers++;
	while (gate->has_committer)
		pthread_cond_wait(&gate->given, &gate->mutex);
	gate->takers--;
	gate->has_committer = true;
	pthread_mutex_unlock(&gate->mutex);
}

void gate_give(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->has_committer = false;
	gate->is_handed_over = false;
	/* one of those who wait becomes the next, and serves the others; if somebody else is faster, they are served
	 * by that one */
	if (gate->takers)
		pthread_cond_signal(&gate->given);
	else if (gate->waiting)
		pthread_cond_signal(&gate->waiting->woken);
	pthread_mutex_unlock(&gate->mutex);
}

void gate_hand_over(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->is_handed_over = true;
	pthread_mutex_unlock(&gate->mutex);
}

void gate_close(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->is_closed = true;
	while (gate->inside)
		pthread_cond_wait(&gate->left, &gate->mutex);
	pthread_mutex_unlock(&gate->mutex);
}

void gate_open(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->is_closed = false;
	pthread_cond_broadcast(&gate->opened);
	pthread_mutex_unlock(&gate->mutex);
}

bool gate_ask(struct gate *gate, struct gate_waiter *waiter)
{
	bool leads = false;

	waiter->is_done = false;
	pthread_cond_init(&waiter->woken, NULL);
	pthread_mutex_lock(&gate->mutex);
	waiter->next = gate->waiting;
	gate->waiting = waiter;
	gate->asked++;
	gate->is_shared |= gate->has_committer && !gate->is_handed_over;
	while (!waiter->is_done && !leads) {
		leads = !gate->has_committer && !gate->takers;
		if (leads)
			gate->has_committer = true;
		else
			pthread_cond_wait(&waiter->woken, &gate->mutex);
	}
	pthread_mutex_unlock(&gate->mutex);
	if (!leads)
		pthread_cond_destroy(&waiter->woken);
	return leads;
}

static unsigned asked_now(struct gate *gate, bool *is_shared)
{
	unsigned asked;

	pthread_mutex_lock(&gate->mutex);
	asked = gate->asked;
	*is_shared = gate->is_shared;
	pthread_mutex_unlock(&gate->mutex);
	return asked;
}

static void expect(struct gate *gate, unsigned asked)
{
	gate->expected = asked;
	gate->met = 0;
	pthread_mutex_lock(&gate->mutex);
	gate->is_shared = false;
	pthread_mutex_unlock(&gate->mutex);
}

void gate_gather(struct gate *gate)
{
	bool is_shared;
	unsigned asked = asked_now(gate, &is_shared);

	for (unsigned i = 0; i < GATHER_TRIES && asked < gate->expected; i++) {
		os->yield();
		asked = asked_now(gate, &is_shared);
	}
	/* what was not met is expected no longer; now and then one more is tried, if one is there at all: a thread that
	 * is alone waits for nobody */
	if (asked != gate->expected)
		expect(gate, asked);
	else if (++gate->met >= RAISE_AFTER && is_shared)
		expect(gate, asked + 1);
}

struct gate_waiter *gate_group(struct gate *gate)
{
	struct gate_waiter *group;

	pthread_mutex_lock(&gate->mutex);
	group = gate->waiting;
	gate->waiting = NULL;
	gate->asked = 0;
	pthread_mutex_unlock(&gate->mutex);
	return group;
}

void gate_serve(struct gate *gate, struct gate_waiter *group, int result)
{
	pthread_mutex_lock(&gate->mutex);
	while (group) {
		struct gate_waiter *next = group->next; /* gone as soon as its thread sees that it is done */

		group->result = result;
		group->is_done = true;
		pthread_cond_signal(&group->woken);
		group = next;
	}
	pthread_mutex_unlock(&gate->mutex);
}
