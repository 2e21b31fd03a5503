/* SPDX-License-Identifier: Apache-2.0
 *
 * Growth by realloc: each thread has `arrays=` (8), which grow in turn, as vectors do, by half from `from=` bytes (16)
 * to `to=` (65536); each time the new end is written. Then they are freed and begin again. An operation is one
 * realloc.
 */
#include "bench.h"
#include "heap.h"

static size_t from, to;
static unsigned arrays;

static void prepare(struct worker *worker)
{
	worker->own = bench_table(arrays, sizeof(void *));
}

static void grow(struct worker *worker, char **array, size_t size)
{
	*array = bench_need(heap_realloc(*array, size));
	if (size == from)
		**array = 1;
	(*array)[size - 1] = 1;
	worker->checksum += (uint64_t)**array; /* moved along */
}

static uint64_t step(struct worker *worker)
{
	char **own = worker->own;
	uint64_t operations = 0;

	for (size_t size = from; size <= to; size = (size + size / 2 + 7) & ~(size_t)7)
		for (unsigned i = 0; i < arrays; i++, operations++)
			grow(worker, &own[i], size);
	for (unsigned i = 0; i < arrays; i++) {
		heap_free(own[i]);
		own[i] = NULL;
	}
	return operations;
}

int main(int argc, char **argv)
{
	static const struct work work = {.prepare = prepare, .step = step};

	bench_begin(argc, argv);
	from = bench_option("from", 16);
	to = bench_option("to", 65536);
	arrays = (unsigned)bench_option("arrays", 8);
	heap_open(bench_folder, to * arrays * 2);
	bench_work(&work);
	heap_remove();
	return 0;
}
