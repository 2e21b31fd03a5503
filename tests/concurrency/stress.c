/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads on one heap (test 14 of the plan): they free their own objects and each other's, pass them on
 * through a ring, swap them at random, come and go by the hundred, while others open and close another
 * heap. Every object's content is checked by whoever frees it. At the end everything is freed: fm_check
 * finds nothing, nothing is alive, and the reopened heap has no unit left in use.
 *
 * Meant for SAN=thread as well.
 *
 *   FM_SCALE    per cent of the default numbers of operations and threads
 *   FM_THREADS  threads at a time (4)
 *   FM_SEED     of everything random
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define MAX_THREADS 64
#define SLOTS       512

static struct {
	fm_heap *heap;
	int fd;
	uint64_t seed, scale;
	unsigned threads;
	void *_Atomic slot[SLOTS]; /* objects that anybody may take */
	_Atomic uint64_t next_id, made, freed;
	_Atomic bool stop;
	_Atomic unsigned failures;
	char failure[200];
} t;

static void fail_thread(const char *what)
{
	if (atomic_fetch_add(&t.failures, 1) == 0)
		snprintf(t.failure, sizeof(t.failure), "%s (%s)", what, fm_last_error());
}

/* ---------------------------------------------------------------- objects that know their content */

struct object {
	uint64_t id, size;
};

static size_t random_size(uint64_t *rng)
{
	switch (proc_below(rng, 64)) {
	case 0:
		return 512 * 1024 + proc_below(rng, 2 << 20);
	case 1:
	case 2:
		return 16384 + proc_below(rng, 500 * 1024);
	case 3:
	case 4:
	case 5:
	case 6:
		return 1024 + proc_below(rng, 16384);
	default:
		return sizeof(struct object) + proc_below(rng, 400);
	}
}

static void *make(fm_heap *heap, size_t size)
{
	struct object *object = fm_malloc(heap, size);

	if (!object) {
		fail_thread("malloc");
		return NULL;
	}
	object->id = atomic_fetch_add(&t.next_id, 1);
	object->size = size;
	proc_fill(object + 1, object->id, size - sizeof(*object));
	atomic_fetch_add(&t.made, 1);
	return object;
}

static void drop(void *p)
{
	struct object *object = p;

	if (!p)
		return;
	if (object->size < sizeof(*object) || object->size > fm_usable_size(p) ||
	    !proc_intact(object + 1, object->id, object->size - sizeof(*object), SIZE_MAX))
		fail_thread("an object is damaged");
	object->id = 0; /* whoever got the same address would notice */
	if (fm_free(p) != 0)
		fail_thread("free");
	atomic_fetch_add(&t.freed, 1);
}

static void *regrow(void *p, uint64_t *rng)
{
	struct object *object = p;
	uint64_t id = object->id;
	size_t old = object->size, size = random_size(rng);

	object = fm_realloc(t.heap, p, size);
	if (!object) {
		fail_thread("realloc");
		return p;
	}
	if (!proc_intact(object + 1, id, old - sizeof(*object), size - sizeof(*object)))
		fail_thread("realloc lost the content");
	object->size = size;
	proc_fill(object + 1, id, size - sizeof(*object));
	return object;
}

/* ---------------------------------------------------------------- the heap, before and after */

static int before(void **state)
{
	(void)state;
	t.fd = memfd_create("stress", MFD_CLOEXEC);
	t.heap = fm_open_fd(t.fd, FM_CREATE, NULL);
	atomic_store(&t.stop, false);
	atomic_store(&t.failures, 0);
	return t.heap ? 0 : -1;
}

static int after(void **state)
{
	(void)state;
	return close(t.fd);
}

/* All threads are gone: free what is left, and look whether anything stays. */
static void expect_empty(void)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	assert_int_equal(proc_check(t.heap), 0);
	assert_int_equal(fm_stats(t.heap, &stats), 0);
	assert_int_equal(stats.live_objects, t.made - t.freed);
	for (unsigned i = 0; i < SLOTS; i++)
		drop(atomic_exchange(&t.slot[i], NULL));
	if (atomic_load(&t.failures))
		fail_msg("%u failures; the first: %s", t.failures, t.failure);
	assert_int_equal(t.made, t.freed);
	assert_int_equal(proc_count_objects(t.heap), 0);
	assert_int_equal(proc_check(t.heap), 0);
	assert_int_equal(fm_close(t.heap), 0);
	t.heap = fm_open_fd(t.fd, 0, NULL);
	assert_non_null(t.heap);
	assert_int_equal(proc_check(t.heap), 0);
	assert_int_equal(fm_stats(t.heap, &stats), 0);
	assert_int_equal(stats.live_objects, 0);
	assert_int_equal(stats.slab_bytes, 0);
	assert_int_equal(stats.remote_frees, 0);
	assert_int_equal(stats.file_size, 131072);
	assert_int_equal(fm_close(t.heap), 0);
}

static void run_threads(void *(*main)(void *), unsigned n)
{
	pthread_t thread[MAX_THREADS];

	for (unsigned i = 0; i < n; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, main, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
}

static uint64_t random_state(const void *arg)
{
	return proc_mix(t.seed + (uintptr_t)arg * 7919);
}

static uint64_t scaled(uint64_t n)
{
	n = n * t.scale / 100;
	return n ? n : 1;
}

/* ---------------------------------------------------------------- each its own */

static void *own_main(void *arg)
{
	uint64_t rng = random_state(arg), ops = scaled(800000);
	void *mine[100] = {NULL};

	for (uint64_t i = 0; i < ops; i++) {
		unsigned k = (unsigned)proc_below(&rng, 100);

		if (mine[k] && proc_below(&rng, 8) == 0) {
			mine[k] = regrow(mine[k], &rng);
			continue;
		}
		drop(mine[k]);
		mine[k] = proc_below(&rng, 3) ? make(t.heap, random_size(&rng)) : NULL;
	}
	for (unsigned k = 0; k < 100; k++)
		drop(mine[k]);
	return NULL;
}

static void test_own(void **state)
{
	(void)state;
	run_threads(own_main, t.threads);
	expect_empty();
}

/* ---------------------------------------------------------------- everybody everybody's */

/* Put a new object, or none, into a place and free what was there. */
static void swap_one(uint64_t *rng)
{
	void *_Atomic *slot = &t.slot[proc_below(rng, SLOTS)];
	void *p = proc_below(rng, 4) ? make(t.heap, random_size(rng)) : NULL;

	p = atomic_exchange(slot, p);
	if (p && proc_below(rng, 16) == 0) {
		p = atomic_exchange(slot, regrow(p, rng));
	}
	drop(p);
}

static void *swap_main(void *arg)
{
	uint64_t rng = random_state(arg), ops = scaled(800000);

	for (uint64_t i = 0; i < ops; i++)
		swap_one(&rng);
	return NULL;
}

static void test_swapping(void **state)
{
	(void)state;
	run_threads(swap_main, t.threads);
	expect_empty();
}

/* ---------------------------------------------------------------- producers and consumers */

#define RING 256

static struct {
	void *_Atomic place[RING];
	_Atomic uint64_t put, taken;
	uint64_t count; /* objects that pass through in all */
} ring;

static void *ring_main(void *arg)
{
	uint64_t rng = random_state(arg);
	bool is_producer = (uintptr_t)arg % 2 == 0;

	for (;;) {
		uint64_t n = atomic_fetch_add(is_producer ? &ring.put : &ring.taken, 1);
		void *_Atomic *place = &ring.place[n % RING];
		void *p = NULL, *expected = NULL;

		if (n >= ring.count)
			return NULL;
		if (is_producer) {
			p = make(t.heap, random_size(&rng));
			while (!atomic_compare_exchange_weak(place, &expected, p)) {
				expected = NULL;
				sched_yield();
			}
		} else {
			while (!(p = atomic_exchange(place, NULL)))
				if (atomic_load(&t.failures))
					return NULL;
				else
					sched_yield();
			drop(p);
		}
	}
}

static void test_ring(void **state)
{
	(void)state;
	memset(&ring, 0, sizeof(ring));
	ring.count = scaled(800000);
	run_threads(ring_main, (t.threads + 1) / 2 * 2);
	expect_empty();
}

/* ---------------------------------------------------------------- coming and going */

static void *short_main(void *arg)
{
	uint64_t rng = random_state(arg);
	unsigned n = 1 + (unsigned)proc_below(&rng, 60);

	for (unsigned i = 0; i < n; i++)
		swap_one(&rng);
	return NULL;
}

static void *start_short_ones(void *arg)
{
	uint64_t n = scaled(1000);

	for (uint64_t i = 0; i < n; i++) {
		pthread_t thread[3];

		for (unsigned k = 0; k < 3; k++)
			if (pthread_create(&thread[k], NULL, short_main,
			                   (void *)(((uintptr_t)arg + 100) * 100000 + i * 3 + k)) != 0)
				abort();
		for (unsigned k = 0; k < 3; k++)
			pthread_join(thread[k], NULL);
	}
	atomic_store(&t.stop, true);
	return NULL;
}

/* Another heap in the same process, used by short-lived threads too. */
static void *other_main(void *arg)
{
	fm_heap *heap = arg;
	void *p[50];

	for (unsigned i = 0; i < 50; i++)
		p[i] = fm_malloc(heap, 10 + i * i);
	for (unsigned i = 0; i < 50; i++)
		if (!p[i] || fm_heap_of(p[i]) != heap || fm_free(p[i]) != 0)
			fail_thread("in the other heap");
	return NULL;
}

static void open_and_close(void)
{
	struct fm_options options = {.size = sizeof(options), .address_space = 64 << 20};
	int fd = memfd_create("other", MFD_CLOEXEC);
	fm_heap *heap = fm_open_fd(fd, FM_CREATE, &options);
	pthread_t thread;

	if (!heap) {
		fail_thread("opening another heap");
		return;
	}
	other_main(heap);
	if (pthread_create(&thread, NULL, other_main, heap) != 0)
		abort();
	pthread_join(thread, NULL);
	if (proc_count_objects(heap) != 0 || fm_check(heap, NULL, NULL) != 0 || fm_close(heap) != 0)
		fail_thread("closing another heap");
	close(fd);
}

/* What a thread does while others come and go: swap, open and close, or look. */
static void *staying_main(void *arg)
{
	uint64_t rng = random_state(arg);
	unsigned n = (unsigned)(uintptr_t)arg;

	if (n == 0)
		return start_short_ones(arg);
	while (!atomic_load(&t.stop)) {
		struct fm_statistics stats = {.size = sizeof(stats)};

		if (n == 1) {
			open_and_close();
		} else if (n == 2 && proc_below(&rng, 50) == 0) {
			if (fm_stats(t.heap, &stats) != 0)
				fail_thread("fm_stats");
		} else {
			swap_one(&rng);
		}
	}
	return NULL;
}

static void test_coming_and_going(void **state)
{
	(void)state;
	run_threads(staying_main, t.threads < 4 ? 4 : t.threads);
	expect_empty();
}

/* ---------------------------------------------------------------- fm_malloc on the target, roots */

static void *target_main(void *arg)
{
	uint64_t rng = random_state(arg), ops = scaled(200000);

	if ((uintptr_t)arg % 2)
		fmalloc_set_target(t.heap);
	for (uint64_t i = 0; i < ops; i++) {
		void *p = fmalloc(16 + proc_below(&rng, 200));
		void *_Atomic *slot = &t.slot[proc_below(&rng, SLOTS)];

		if (!p) {
			fail_thread("fmalloc");
			continue;
		}
		p = atomic_exchange(slot, p);
		ffree(p);
	}
	return NULL;
}

static void test_target(void **state)
{
	(void)state;
	run_threads(target_main, t.threads);
	for (unsigned i = 0; i < SLOTS; i++)
		ffree(atomic_exchange(&t.slot[i], NULL));
	expect_empty();
}

static void *root_main(void *arg)
{
	uint64_t rng = random_state(arg), ops = scaled(20000);

	for (uint64_t i = 0; i < ops; i++) {
		unsigned n = (unsigned)proc_below(&rng, 20);
		char name[32];
		uint64_t *p;

		snprintf(name, sizeof(name), "root %u", n);
		if (proc_below(&rng, 3) == 0) {
			p = fm_malloc(t.heap, 8); /* never freed: others may be reading it */
			*p = n;
			if (fm_root_set(t.heap, name, p, n) != 0)
				fail_thread("fm_root_set");
		} else if (proc_below(&rng, 8) == 0) {
			if (fm_root_remove(t.heap, name) != 0 && errno != ENOENT)
				fail_thread("fm_root_remove");
		} else {
			p = fm_root_get(t.heap, name, n);
			if (p ? *p != n : errno != ENOENT)
				fail_thread("fm_root_get");
		}
	}
	return NULL;
}

static int free_it(void *p, size_t usable, void *arg)
{
	(void)usable;
	(void)arg;
	return fm_free(p);
}

static void test_roots(void **state)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	(void)state;
	run_threads(root_main, t.threads);
	if (atomic_load(&t.failures))
		fail_msg("%u failures; the first: %s", t.failures, t.failure);
	assert_int_equal(proc_check(t.heap), 0);
	assert_int_equal(fm_walk(t.heap, free_it, NULL), 0);
	for (unsigned i = 0; i < 20; i++) {
		char name[32];

		snprintf(name, sizeof(name), "root %u", i);
		if (fm_root_remove(t.heap, name) != 0)
			assert_int_equal(errno, ENOENT);
	}
	assert_int_equal(fm_close(t.heap), 0);
	t.heap = fm_open_fd(t.fd, 0, NULL);
	assert_non_null(t.heap);
	assert_int_equal(fm_stats(t.heap, &stats), 0);
	assert_int_equal(stats.live_objects, 0);
	assert_int_equal(stats.slab_bytes, 65536); /* of the root table */
	assert_int_equal(fm_close(t.heap), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, before, after)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_own),
		TEST(test_swapping),
		TEST(test_ring),
		TEST(test_coming_and_going),
		TEST(test_target),
		TEST(test_roots),
	};

	t.seed = proc_seed();
	t.scale = proc_env("FM_SCALE", 100);
	t.threads = (unsigned)proc_env("FM_THREADS", 4);
	if (t.threads < 1 || t.threads > MAX_THREADS)
		t.threads = 4;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
