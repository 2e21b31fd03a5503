/* SPDX-License-Identifier: Apache-2.0
 *
 * First touch: a list of `count=` nodes (5000000) of 24 bytes is built in a new heap and kept. No warm-up: growing,
 * page faults and the operating system's zeroing are what is measured; opening the heap is not. An operation is one
 * node. Links are offsets in our heap and raw addresses elsewhere.
 */
#include "bench.h"
#include "heap.h"

struct node {
	uint64_t next, value[2];
};

int main(int argc, char **argv)
{
	uint64_t count, resident, start, cpu;
	struct node *head = NULL;

	bench_begin(argc, argv);
	count = bench_option("count", 5000000);
	heap_open(bench_folder, count * 24);
	resident = resident_kib();
	cpu = cpu_ns();
	start = wall_ns();
	for (uint64_t i = 0; i < count; i++) {
		struct node *node = bench_need(heap_alloc(sizeof(*node)));

		node->next = heap_link(head);
		node->value[0] = node->value[1] = i;
		head = node;
	}
	start = wall_ns() - start;
	cpu = cpu_ns() - cpu;
	bench_add("live_bytes", (double)count * sizeof(struct node));
	bench_add("file_bytes", (double)heap_file_bytes());
	bench_add("resident_bytes", (double)(resident_kib() - resident) * 1024);
	bench_report((double)start, (double)cpu, count, head ? head->value[0] : 0);
	heap_remove();
	return 0;
}
