/* SPDX-License-Identifier: Apache-2.0
 *
 * What traverse.c and traverse_cpp.cpp share.
 */
#ifndef TRAVERSE_H
#define TRAVERSE_H

#include <fmalloc.h>

struct node {
	uint64_t next, value[2];
};

#ifdef __cplusplus
extern "C" {
#endif

/* The sum of the values of the list that begins at `head`, by fm_ptr<T>. */
uint64_t walk_typed_cpp(const fm_heap *heap, void *head);

#ifdef __cplusplus
}
#endif

#endif
