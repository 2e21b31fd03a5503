/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is woken when (src/alloc/gate.h): all of a group that was served, nobody of the next one, and of that
 * one who leads it.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "alloc/gate.h"
#include "base/atomics.h"

#include <sched.h>
#include <unistd.h>

#define MEMBERS 8u
#define ROUNDS  500u

/* Who waits for ever ends the test. */
#define SECONDS 120

static struct {
	struct gate gate;
	uint64_t led, served, wrong; /* atomic; members of groups that led, that came back, and with another result */
	bool is_held;                /* the leader waits with serving until it is false */
} t;

static unsigned asked(void)
{
	unsigned n;

	pthread_mutex_lock(&t.gate.mutex);
	n = t.gate.asked;
	pthread_mutex_unlock(&t.gate.mutex);
	return n;
}

static void wait_until_asked(unsigned n)
{
	while (asked() != n)
		sched_yield();
}

/* Ask, and if it is to be: take the group of all members, and serve it. `arg`: the result it is to get. */
static void *member(void *arg)
{
	struct gate_waiter waiter, *group;
	int result = (int)(intptr_t)arg;

	if (gate_ask(&t.gate, &waiter)) {
		unsigned n = 0;

		count(&t.led, 1);
		group = gate_group(&t.gate);
		for (const struct gate_waiter *w = group; w; w = w->next)
			n++;
		count(&t.wrong, n != MEMBERS);
		while (load_acquire(&t.is_held))
			sched_yield();
		gate_serve(&t.gate, group, result);
		gate_give(&t.gate);
	}
	count(&t.wrong, waiter.result != result);
	count(&t.served, 1);
	return NULL;
}

static void begin_group(pthread_t *threads, unsigned n, int result)
{
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, member, (void *)(intptr_t)result), 0);
}

static void join_group(const pthread_t *threads)
{
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static void begin(void)
{
	memset(&t, 0, sizeof(t));
	gate_init(&t.gate);
	alarm(SECONDS);
}

static void end(uint64_t groups)
{
	assert_int_equal(t.wrong, 0);
	assert_int_equal(t.led, groups);
	assert_int_equal(t.served, groups * MEMBERS);
	gate_destroy(&t.gate);
	alarm(0);
}

/* They ask while somebody is at work, and sleep. */
static void all_of_a_group_are_woken(void **state)
{
	pthread_t threads[MEMBERS];

	(void)state;
	begin();
	for (unsigned round = 0; round < ROUNDS; round++) {
		gate_take(&t.gate);
		begin_group(threads, MEMBERS, (int)round + 1);
		wait_until_asked(MEMBERS);
		if (round % 2)
			proc_sleep_us(100); /* until the last ones sleep, too */
		gate_give(&t.gate);
		join_group(threads);
	}
	end(ROUNDS);
}

/* A second group gathers while the first one is written: it is not served with it, and is led afterwards. */
static void the_next_group_waits(void **state)
{
	pthread_t first[MEMBERS], second[MEMBERS];

	(void)state;
	begin();
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t before = 2 * round * MEMBERS;

		gate_take(&t.gate);
		begin_group(first, MEMBERS, 2 * (int)round + 1);
		wait_until_asked(MEMBERS);
		store_release(&t.is_held, true);
		gate_give(&t.gate);
		wait_until_asked(0);
		begin_group(second, MEMBERS, 2 * (int)round + 2);
		wait_until_asked(MEMBERS);
		assert_int_equal(load_acquire(&t.served), before);
		/* as if somebody waited in gate_take, who goes first */
		pthread_mutex_lock(&t.gate.mutex);
		t.gate.takers++;
		pthread_mutex_unlock(&t.gate.mutex);
		store_release(&t.is_held, false);
		join_group(first);
		assert_int_equal(load_acquire(&t.served), before + MEMBERS);
		pthread_mutex_lock(&t.gate.mutex);
		t.gate.takers--;
		pthread_mutex_unlock(&t.gate.mutex);
		gate_take(&t.gate);
		gate_give(&t.gate);
		join_group(second);
	}
	end(2 * ROUNDS);
}

/* The numbers of groups wrap around. */
static void numbers_wrap_around(void **state)
{
	pthread_t threads[MEMBERS];

	(void)state;
	begin();
	t.gate.group = UINT32_MAX - 5;
	t.gate.turn[0].served = t.gate.turn[1].served = UINT32_MAX - 6;
	for (unsigned round = 0; round < 12; round++) {
		gate_take(&t.gate);
		begin_group(threads, MEMBERS, (int)round + 1);
		wait_until_asked(MEMBERS);
		gate_give(&t.gate);
		join_group(threads);
	}
	assert_int_equal(t.gate.group, 6);
	end(12);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_of_a_group_are_woken),
		cmocka_unit_test(the_next_group_waits),
		cmocka_unit_test(numbers_wrap_around),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
