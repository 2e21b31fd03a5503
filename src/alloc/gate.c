/* SPDX-License-Identifier: Apache-2.0 */
#include "gate.h"

#include "../base/atomics.h"
#include "../os/os.h"

#include <limits.h>
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
	gate->group = 1;
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

static struct gate_turn *turn_of(struct gate *gate, uint32_t group)
{
	return &gate->turn[group % 2];
}

/* `n` of those who wait there. */
static void look_again(struct gate_turn *turn, int n)
{
	__atomic_fetch_add(&turn->events, 1, __ATOMIC_RELEASE);
	os->wake_word(&turn->events, n);
}

void gate_give(struct gate *gate)
{
	struct gate_turn *next = NULL;

	pthread_mutex_lock(&gate->mutex);
	gate->has_committer = false;
	gate->is_handed_over = false;
	/* one of those who wait becomes the next, and serves the others; if somebody else is faster, they are served
	 * by that one */
	if (gate->takers)
		pthread_cond_signal(&gate->given);
	else if (gate->waiting)
		next = turn_of(gate, gate->group);
	pthread_mutex_unlock(&gate->mutex);
	if (next)
		look_again(next, 1);
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

/* Under the lock: is the waiter to be the committer? Nobody is, and its group is the one that gathers. */
static bool may_lead(const struct gate *gate, const struct gate_waiter *waiter)
{
	return !gate->has_committer && !gate->takers && waiter->group == gate->group;
}

static bool is_served(const struct gate_turn *turn, const struct gate_waiter *waiter)
{
	/* pairs with the release in gate_serve. A later group may have been served, too; numbers wrap around */
	return (int32_t)(load_acquire(&turn->served) - waiter->group) >= 0;
}

bool gate_ask(struct gate *gate, struct gate_waiter *waiter)
{
	struct gate_turn *turn;
	bool leads = false;

	pthread_mutex_lock(&gate->mutex);
	waiter->next = gate->waiting;
	waiter->group = gate->group;
	gate->waiting = waiter;
	gate->asked++;
	gate->is_shared |= gate->has_committer && !gate->is_handed_over;
	turn = turn_of(gate, waiter->group);
	for (;;) {
		uint32_t events = load_acquire(&turn->events); /* before it is looked what has happened */

		leads = may_lead(gate, waiter);
		if (leads)
			gate->has_committer = true;
		pthread_mutex_unlock(&gate->mutex);
		if (leads || is_served(turn, waiter))
			return leads;
		os->wait_word(&turn->events, events);
		if (is_served(turn, waiter))
			return false;
		pthread_mutex_lock(&gate->mutex);
	}
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
	gate->group++;
	pthread_mutex_unlock(&gate->mutex);
	return group;
}

void gate_serve(struct gate *gate, struct gate_waiter *group, int result)
{
	struct gate_turn *turn = turn_of(gate, group->group);
	uint32_t number = group->group;
	bool is_alone = !group->next;

	for (struct gate_waiter *waiter = group; waiter; waiter = waiter->next)
		waiter->result = result;
	/* from here on the waiters may be gone */
	store_release(&turn->served, number);
	if (!is_alone)
		look_again(turn, INT_MAX);
}
