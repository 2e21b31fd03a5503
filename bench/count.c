/* SPDX-License-Identifier: Apache-2.0
 *
 * Loops whose instructions are counted (valgrind --tool=callgrind), `n=` times (1000), objects of `size=` bytes (64):
 *   kind=0   the loop alone: a table's element is stored, nothing allocated
 *   kind=1   malloc: each object is written and kept
 *   kind=2   the same, then all are freed in the order of their making
 *   kind=3   pairs: each object is written and freed before the next one is allocated
 * The difference of two lengths, divided by the difference of n, is what one turn takes, slow paths included.
 */
#include "bench.h"
#include "heap.h"

typedef volatile char object; /* each store is made */

static size_t size;

static void loop_alone(object **objects, uint64_t n, object *nothing)
{
	for (uint64_t i = 0; i < n; i++) {
		objects[i] = nothing;
		*objects[i] = 1;
	}
}

static void keep(object **objects, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		objects[i] = heap_alloc(size);
		*objects[i] = 1;
	}
}

static void release(object **objects, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		heap_free((void *)objects[i]);
}

static void pairs(object **objects, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		objects[i] = heap_alloc(size);
		*objects[i] = 1;
		heap_free((void *)objects[i]);
	}
}

int main(int argc, char **argv)
{
	object **objects, nothing;
	uint64_t n, kind;

	bench_begin(argc, argv);
	n = bench_option("n", 1000);
	kind = bench_option("kind", 3);
	size = bench_option("size", 64);
	objects = bench_table(n, sizeof(*objects));
	heap_open(bench_folder, n * size);
	heap_free(bench_need(heap_alloc(size)));
	if (kind == 0)
		loop_alone(objects, n, &nothing);
	else if (kind == 3)
		pairs(objects, n);
	else
		keep(objects, n);
	if (kind == 2)
		release(objects, n);
	bench_report(0, 0, n, kind);
	heap_remove();
	return 0;
}
