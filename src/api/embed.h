/* SPDX-License-Identifier: Apache-2.0
 *
 * For a library in which fmalloc() and ffree() are malloc and free (preload/, the only one that includes this): it is
 * asked where they would fail, off their fast paths.
 */
#ifndef FM_API_EMBED_H
#define FM_API_EMBED_H

#include <stdbool.h>
#include <stddef.h>

struct fm_info;

struct embedder {
	void *(*no_target)(size_t size); /* no heap is open, or it is the parent's: memory, or NULL with errno */
	bool (*free_foreign)(void *p);   /* true: `p` was not of a heap of this process, and is dealt with */
};

/* NULL members: nobody is asked. Set before there are threads. */
extern struct embedder embedder __attribute__((visibility("hidden")));

/* For a fork where a copy in a file is not to be had. Before it, in the parent: all of the heap to anonymous memory, in which
 * the child goes on with embed_adopt(), as after fm_child_reopen() but without a file. 0, or -1 with errno. */
int embed_copy(struct fm_info *heap, void **memory, size_t *len);
int embed_adopt(struct fm_info *heap, void *memory, size_t len);

/* Bytes that a copy of the heap takes. */
size_t embed_file_size(const struct fm_info *heap);

#endif
