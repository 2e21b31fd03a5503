/* SPDX-License-Identifier: Apache-2.0
 *
 * For a library in which fmalloc() and ffree() are malloc and free (preload/, the only one that includes this): it is
 * asked where they would fail, off their fast paths.
 */
#ifndef FM_API_EMBED_H
#define FM_API_EMBED_H

#include <stdbool.h>
#include <stddef.h>

struct embedder {
	void *(*no_target)(size_t size); /* no heap is open, or it is the parent's: memory, or NULL with errno */
	bool (*free_foreign)(void *p);   /* true: `p` was not of a heap of this process, and is dealt with */
};

/* NULL members: nobody is asked. Set before there are threads. */
extern struct embedder embedder __attribute__((visibility("hidden")));

#endif
