/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects of one size, a batch at a time: `count=` objects (1000) of `size=` bytes (64) are allocated and
 * written, then read and freed in the order of their making. An operation is one object: a malloc and a free.
 */
#include "bench.h"
#include "heap.h"

static size_t size;
static unsigned count;

static void prepare(struct worker *worker)
{
	worker->own = bench_table(count, sizeof(void *));
}

static uint64_t step(struct worker *worker)
{
	uint64_t **objects = worker->own;

	for (unsigned i = 0; i < count; i++) {
		objects[i] = bench_need(heap_alloc(size));
		*objects[i] = i;
	}
	for (unsigned i = 0; i < count; i++) {
		worker->checksum += *objects[i];
		heap_free(objects[i]);
	}
	return count;
}

int main(int argc, char **argv)
{
	static const struct work work = {.prepare = prepare, .step = step};

	bench_begin(argc, argv);
	size = bench_option("size", 64);
	count = (unsigned)bench_option("count", 1000);
	heap_open(bench_folder, 0);
	bench_work(&work);
	heap_remove();
	return 0;
}
