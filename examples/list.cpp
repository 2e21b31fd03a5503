/* SPDX-License-Identifier: Apache-2.0
 *
 * A list in a file: written at the first run, read at the next.
 *
 *     list FILE
 */
#include <fmalloc.hpp>

#define NODES 10

struct node {
	int val;
	fm_ptr<struct node> next;
};

/* What the program keeps in the application page, which starts as zeros. */
struct app_page {
	fm_ptr<struct node> head;
};

static int write_nodes(struct app_page *page)
{
	int n = 0;
	for (int i = NODES; i > 0; i--) {
		struct node *first = (struct node *)fmalloc(sizeof(struct node));
		if (!first) {
			fprintf(stderr, "list: %s\n", fm_last_error());
			return 1;
		}
		first->val = i;
		first->next = page->head;
		std::atomic_signal_fence(std::memory_order_seq_cst); // filled before it is linked
		page->head = first;
		n++;
	}
	printf("wrote %d nodes\n", n);
	return 0;
}

static void read_nodes(struct node *head)
{
	int n = 0;
	for (struct node *i = head; i; i = i->next) {
		printf("%d\n", i->val);
		n++;
	}
	printf("read %d nodes\n", n);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: list FILE\n");
		return 2;
	}

	bool init = false;
	struct fm_info *heap = fmalloc_init(argv[1], &init);
	if (!heap) {
		fprintf(stderr, "list: %s\n", fm_last_error());
		return 1;
	}
	fmalloc_set_target(heap);

	struct app_page *page = (struct app_page *)((char *)heap->mem + PAGE_SIZE);
	int status = 0;
	if (init)
		status = write_nodes(page);
	else
		read_nodes(page->head);

	if (fm_close(heap)) {
		fprintf(stderr, "list: %s\n", fm_last_error());
		return 1;
	}
	return status;
}
