/* SPDX-License-Identifier: Apache-2.0
 *
 * Large objects, random replacement: each thread keeps `live=` objects (16) of 64 KiB to 4 MiB, each power of two
 * equally likely. The first 8 bytes of every `stride=`-th byte (4096) are written; 0: of the object alone. An
 * operation is one replacement: a free and a malloc.
 */
#include "bench.h"
#include "heap.h"

static unsigned live;
static size_t stride;

static uint64_t *new_object(uint64_t random)
{
	size_t power = (size_t)65536 << random_high(random, 6);
	size_t size = power + (random >> 8) % power;
	char *object = bench_need(heap_alloc(size));

	for (size_t at = stride; stride && at + 8 <= size; at += stride)
		memcpy(object + at, &random, 8);
	memcpy(object, &random, 8);
	return (uint64_t *)object;
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

	for (unsigned i = 0; i < 20; i++) {
		uint64_t random = random_next(&worker->random);
		unsigned k = random_low(random, live);

		worker->checksum += *objects[k];
		heap_free(objects[k]);
		objects[k] = new_object(random);
	}
	return 20;
}

int main(int argc, char **argv)
{
	static const struct work work = {.prepare = prepare, .step = step};

	bench_begin(argc, argv);
	live = (unsigned)bench_option("live", 16);
	stride = bench_option("stride", 4096);
	heap_open(bench_folder, (uint64_t)live * 4 << 20);
	bench_work(&work);
	heap_remove();
	return 0;
}
