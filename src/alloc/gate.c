/* SPDX-License-Identifier: Apache-2.0 */
#include "gate.h"

void gate_init(struct gate *gate)
{
	pthread_mutex_init(&gate->mutex, NULL);
	pthread_cond_init(&gate->changed, NULL);
}

void gate_destroy(struct gate *gate)
{
	pthread_mutex_destroy(&gate->mutex);
	pthread_cond_destroy(&gate->changed);
}

static void changed(struct gate *gate)
{
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->mutex);
}

void gate_enter(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	while (gate->is_closed)
		pthread_cond_wait(&gate->changed, &gate->mutex);
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
		pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->mutex);
}

void gate_take(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	while (gate->has_committer)
		pthread_cond_wait(&gate->changed, &gate->mutex);
	gate->has_committer = true;
	pthread_mutex_unlock(&gate->mutex);
}

void gate_give(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->has_committer = false;
	changed(gate);
}

void gate_close(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->is_closed = true;
	while (gate->inside)
		pthread_cond_wait(&gate->changed, &gate->mutex);
	pthread_mutex_unlock(&gate->mutex);
}

void gate_open(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->is_closed = false;
	changed(gate);
}

bool gate_ask(struct gate *gate, struct gate_waiter *waiter)
{
	bool leads = false;

	waiter->is_done = false;
	pthread_mutex_lock(&gate->mutex);
	waiter->next = gate->waiting;
	gate->waiting = waiter;
	while (!waiter->is_done && !leads) {
		leads = !gate->has_committer;
		if (leads)
			gate->has_committer = true;
		else
			pthread_cond_wait(&gate->changed, &gate->mutex);
	}
	pthread_mutex_unlock(&gate->mutex);
	return leads;
}

struct gate_waiter *gate_group(struct gate *gate)
{
	struct gate_waiter *group;

	pthread_mutex_lock(&gate->mutex);
	group = gate->waiting;
	gate->waiting = NULL;
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
		group = next;
	}
	changed(gate);
}
