/* SPDX-License-Identifier: Apache-2.0
 *
 * Producers and consumers: `threads=` (an even number, 2) form pairs. The first of a pair allocates objects of 16
 * to 256 bytes, writes them and passes them through a ring to the second, which reads and frees them. An operation
 * is one object that went through: a malloc in one thread and a free in another.
 */
#include "bench.h"
#include "heap.h"

#include <sched.h>
#include <stdatomic.h>

#define RING  4096
#define BATCH 64 /* objects passed on at once, so that the ring itself costs little */

struct ring {
	_Alignas(128) _Atomic uint64_t produced;
	_Alignas(128) _Atomic uint64_t consumed;
	_Alignas(128) uint64_t *objects[RING];
};

static struct ring *rings;

static uint64_t produce(struct worker *worker, struct ring *ring)
{
	uint64_t at = atomic_load_explicit(&ring->produced, memory_order_relaxed);

	while (at + BATCH - atomic_load_explicit(&ring->consumed, memory_order_acquire) > RING) {
		if (bench_is_over())
			return 0;
		sched_yield();
	}
	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t random = random_next(&worker->random);
		uint64_t *object = bench_need(heap_alloc(16 + random_high(random, 241)));

		*object = random;
		ring->objects[(at + i) % RING] = object;
	}
	atomic_store_explicit(&ring->produced, at + BATCH, memory_order_release);
	return 0; /* counted where it arrives */
}

static uint64_t consume(struct worker *worker, struct ring *ring)
{
	uint64_t at = atomic_load_explicit(&ring->consumed, memory_order_relaxed);

	while (atomic_load_explicit(&ring->produced, memory_order_acquire) == at) {
		if (bench_is_over())
			return 0;
		sched_yield();
	}
	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t *object = ring->objects[(at + i) % RING];

		worker->checksum += *object;
		heap_free(object);
	}
	atomic_store_explicit(&ring->consumed, at + BATCH, memory_order_release);
	return BATCH;
}

static uint64_t step(struct worker *worker)
{
	struct ring *ring = &rings[worker->no / 2];

	return worker->no % 2 ? consume(worker, ring) : produce(worker, ring);
}

int main(int argc, char **argv)
{
	static const struct work work = {.step = step};

	bench_begin(argc, argv);
	rings = bench_table(bench_option("threads", 1) / 2 + 1, sizeof(*rings));
	heap_open(bench_folder, 0);
	bench_work(&work);
	heap_remove();
	return 0;
}
