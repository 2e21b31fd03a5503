/* SPDX-License-Identifier: Apache-2.0
 *
 * list FILE: writes a linked list into a heap at the first run and reads it, in place, at every
 * later one.
 */
#include <errno.h>
#include <fmalloc.h>
#include <stdio.h>
#include <stdlib.h>

#define LIST_TAG 1 /* the program's own number for "a list of struct node, as declared here" */

struct node {
	uint64_t value;
	fm_ptr(struct node) next;
};

/* Ten squares, made from the last to the first. NULL when the heap is full. */
static struct node *make_list(fm_heap *heap)
{
	struct node *head = NULL;

	for (uint64_t i = 10; i > 0; i--) {
		struct node *n = fm_malloc(heap, sizeof(*n));

		if (!n)
			return NULL;
		n->value = i * i;
		fm_set(heap, &n->next, head);
		head = n;
	}
	return head;
}

static int use(fm_heap *heap)
{
	struct node *head = fm_root_get(heap, "squares", LIST_TAG);

	if (!head && errno == ENOENT) {
		// Nothing names the nodes until the root does, so a half-made list is never seen.
		head = make_list(heap);
		if (!head || fm_root_set(heap, "squares", head, LIST_TAG))
			return -1;
		puts("new heap, list written; run again to read it");
		return 0;
	}
	if (!head)
		return -1;
	printf("list found:");
	for (struct node *n = head; n; n = fm_get(heap, n->next))
		printf(" %llu", (unsigned long long)n->value);
	puts("");
	return 0;
}

int main(int argc, char **argv)
{
	fm_heap *heap;
	int failed;

	if (argc != 2) {
		fprintf(stderr, "usage: list FILE\n");
		return EXIT_FAILURE;
	}
	heap = fm_open(argv[1], FM_CREATE, NULL);
	if (!heap) {
		fprintf(stderr, "list: %s: %s\n", argv[1], fm_last_error());
		return EXIT_FAILURE;
	}
	failed = use(heap);
	if (failed)
		fprintf(stderr, "list: %s: %s\n", argv[1], fm_last_error());
	if (fm_close(heap)) {
		fprintf(stderr, "list: closing %s: %s\n", argv[1], fm_last_error());
		failed = -1;
	}
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
