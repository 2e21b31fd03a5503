// SPDX-License-Identifier: Apache-2.0
#include "traverse.h"

#include <fmptr.hpp>

struct typed_node {
	fm_ptr<typed_node> next;
	uint64_t value[2];
} __attribute__((packed));

uint64_t walk_typed_cpp(const fm_heap *, void *head)
{
	uint64_t sum = 0;

	for (typed_node *node = static_cast<typed_node *>(head); node; node = node->next)
		sum += node->value[0];
	return sum;
}
