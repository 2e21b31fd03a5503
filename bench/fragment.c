/* SPDX-License-Identifier: Apache-2.0
 *
 * Fragmentation: `count=` objects (500000) of 16 to 512 bytes fill a new heap, 90 % of them are freed at random, and
 * objects of 1 KiB take the freed bytes' place. The figures are the live bytes, and what the heap takes for them: of
 * the file, and of resident memory. An operation is one allocation, frees included.
 */
#include "bench.h"
#include "heap.h"

static uint64_t state = 88172645463325252u, checksum;

struct object {
	uint64_t *p;
	size_t size;
};

static uint64_t fill(struct object *objects, size_t count)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < count; i++) {
		objects[i].size = 16 + random_high(random_next(&state), 497);
		objects[i].p = bench_need(heap_alloc(objects[i].size));
		memset(objects[i].p, 1, objects[i].size);
		bytes += objects[i].size;
	}
	return bytes;
}

/* Returns the bytes freed. */
static uint64_t free_most(struct object *objects, size_t count)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < count; i++) {
		if (random_high(random_next(&state), 10) == 0)
			continue;
		checksum += *objects[i].p;
		heap_free(objects[i].p);
		bytes += objects[i].size;
	}
	return bytes;
}

int main(int argc, char **argv)
{
	uint64_t resident, live, freed, filled, start, cpu, count;
	struct object *objects;

	bench_begin(argc, argv);
	count = bench_option("count", 500000);
	objects = bench_table(count, sizeof(*objects));
	heap_open(bench_folder, count * 512);
	resident = resident_kib();
	cpu = cpu_ns();
	start = wall_ns();
	live = fill(objects, count);
	freed = free_most(objects, count);
	for (filled = 0; filled + 1024 <= freed; filled += 1024)
		memset(bench_need(heap_alloc(1024)), 1, 1024);
	start = wall_ns() - start;
	cpu = cpu_ns() - cpu;
	bench_add("live_bytes", (double)(live - freed + filled));
	bench_add("file_bytes", (double)heap_file_bytes());
	bench_add("resident_bytes", (double)(resident_kib() - resident) * 1024);
	bench_report((double)start, (double)cpu, count + filled / 1024, checksum);
	heap_remove();
	return 0;
}
