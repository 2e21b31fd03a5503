/* SPDX-License-Identifier: Apache-2.0
 *
 * Traversing a list by each kind of link: `count=` nodes (1000) of 24 bytes in our heap, linked in the order of their
 * addresses, or at random with shuffle=1, walked again and again for `ms=` milliseconds (400). An operation is one
 * node: follow its link, add its value. The places of the nodes are the same for all kinds:
 *
 *   kind=0   raw pointers
 *   kind=1   C offsets: the heap's address, added by hand
 *   kind=2   self-relative: the distance from the member to what it points to
 *   kind=3   fm_ptr(T) and fm_get in C
 *   kind=4   fm_ptr<T> in C++ (traverse_cpp.cpp)
 */
#include "bench.h"
#include "heap.h"
#include "traverse.h"

struct raw_node {
	struct raw_node *next;
	uint64_t value[2];
};

struct typed_node {
	fm_ptr(struct typed_node) next;
	uint64_t value[2];
};

static uint64_t walk_raw(const fm_heap *heap, void *head)
{
	uint64_t sum = 0;

	(void)heap;
	for (struct raw_node *node = head; node; node = node->next)
		sum += node->value[0];
	return sum;
}

static uint64_t walk_offset(const fm_heap *heap, void *head)
{
	const char *base = heap->mem;
	uint64_t sum = 0;

	for (uint64_t at = fm_offset_of(heap, head); at;) {
		const struct node *node = (const void *)(base + at);

		sum += node->value[0];
		at = node->next;
	}
	return sum;
}

static uint64_t walk_self_relative(const fm_heap *heap, void *head)
{
	uint64_t sum = 0;

	(void)heap;
	for (const struct node *node = head; node;) {
		sum += node->value[0];
		node = node->next ? (const void *)((const char *)node + node->next) : NULL;
	}
	return sum;
}

static uint64_t walk_typed(const fm_heap *heap, void *head)
{
	uint64_t sum = 0;

	for (struct typed_node *node = head; node; node = fm_get(heap, node->next))
		sum += node->value[0];
	return sum;
}

static uint64_t link_raw(const struct node *from, const struct node *to)
{
	(void)from;
	return (uint64_t)(uintptr_t)to;
}

static uint64_t link_offset(const struct node *from, const struct node *to)
{
	(void)from;
	return heap_link(to);
}

static uint64_t link_self_relative(const struct node *from, const struct node *to)
{
	return to ? (uint64_t)to - (uint64_t)from : 0;
}

static const struct {
	uint64_t (*link)(const struct node *from, const struct node *to);
	uint64_t (*walk)(const fm_heap *heap, void *head);
} kinds[] = {
	{link_raw, walk_raw},      {link_offset, walk_offset},  {link_self_relative, walk_self_relative},
	{link_offset, walk_typed}, {link_offset, walk_typed_cpp},
};

static void shuffle(struct node **nodes, size_t count)
{
	uint64_t state = 88172645463325252u;

	for (size_t i = count; i-- > 1;) {
		size_t k = random_next(&state) % (i + 1);
		struct node *node = nodes[i];

		nodes[i] = nodes[k];
		nodes[k] = node;
	}
}

static struct node *make_list(size_t count, unsigned kind)
{
	struct node **nodes = bench_table(count + 1, sizeof(*nodes)); /* and NULL behind the last */
	struct node *head;

	for (size_t i = 0; i < count; i++)
		nodes[i] = bench_need(heap_alloc(sizeof(**nodes)));
	if (bench_option("shuffle", 0))
		shuffle(nodes, count);
	for (size_t i = 0; i < count; i++) {
		nodes[i]->next = kinds[kind].link(nodes[i], nodes[i + 1]);
		nodes[i]->value[0] = nodes[i]->value[1] = i;
	}
	head = nodes[0];
	return head;
}

int main(int argc, char **argv)
{
	uint64_t count, kind, end, start, cpu, walks = 0, sum = 0;
	struct node *head;

	bench_begin(argc, argv);
	count = bench_option("count", 1000);
	kind = bench_option("kind", 0) % (sizeof(kinds) / sizeof(kinds[0]));
	heap_open(bench_folder, count * 24);
	head = make_list(count, (unsigned)kind);
	sum += kinds[kind].walk(heap_ours, head);
	cpu = cpu_ns();
	start = wall_ns();
	end = start + bench_option("ms", 400) * 1000000;
	do {
		sum += kinds[kind].walk(heap_ours, head);
		walks++;
	} while (wall_ns() < end);
	bench_report((double)(wall_ns() - start), (double)(cpu_ns() - cpu), walks * count, sum / (walks + 1));
	heap_remove();
	return 0;
}
