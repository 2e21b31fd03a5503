/* SPDX-License-Identifier: Apache-2.0
 *
 * Exchange: all threads share a table of `live=` places (4096). A thread allocates an object of 16 to 512 bytes,
 * swaps it into a random place and frees what it got back, which with n threads was made by another one in n - 1 of
 * n cases. An operation is one exchange: a malloc and a free.
 */
#include "bench.h"
#include "heap.h"

#include <stdatomic.h>

static unsigned live;
static uint64_t *_Atomic *places;

static uint64_t step(struct worker *worker)
{
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t random = random_next(&worker->random);
		uint64_t *object = bench_need(heap_alloc(16 + random_high(random, 497)));

		*object = random;
		object = atomic_exchange_explicit(&places[random_low(random, live)], object, memory_order_acq_rel);
		if (object) {
			worker->checksum += *object;
			heap_free(object);
		}
	}
	return 1000;
}

int main(int argc, char **argv)
{
	static const struct work work = {.step = step};

	bench_begin(argc, argv);
	live = (unsigned)bench_option("live", 4096);
	places = bench_table(live, sizeof(*places));
	heap_open(bench_folder, (uint64_t)live * 512);
	bench_work(&work);
	heap_remove();
	return 0;
}
