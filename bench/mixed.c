/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixed sizes, random replacement: each thread keeps `live=` objects (1000) of 8 to 1024 bytes; again and again
 * a random one is freed and another size takes its place. An operation is one replacement: a free and a malloc.
 */
#include "bench.h"
#include "heap.h"

static unsigned live;

static uint64_t *new_object(uint64_t random)
{
	uint64_t *object = bench_need(heap_alloc(8 + random_high(random, 1017)));

	*object = random;
	return object;
}

static void prepare(struct worker *worker)
{
	uint64_t **objects = worker->own = bench_table(live, sizeof(void *));

	for (unsigned i = 0; i < live; i++)
		objects[i] = new_object(random_next(&worker->random));
}

static uint64_t step(struct worker *worker)
{
	uint64_t **objects = worker->own;

	for (unsigned i = 0; i < 1000; i++) {
		uint64_t random = random_next(&worker->random);
		unsigned k = random_low(random, live);

		worker->checksum += *objects[k];
		heap_free(objects[k]);
		objects[k] = new_object(random);
	}
	return 1000;
}

int main(int argc, char **argv)
{
	static const struct work work = {.prepare = prepare, .step = step};

	bench_begin(argc, argv);
	live = (unsigned)bench_option("live", 1000);
	heap_open(bench_folder, (uint64_t)live * 1024);
	bench_work(&work);
	heap_remove();
	return 0;
}
