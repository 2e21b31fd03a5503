/* SPDX-License-Identifier: Apache-2.0 */
#include "preload.h"

#include <errno.h>

_Alignas(16) char bootstrap_arena[BOOTSTRAP_SIZE];
static size_t used; /* atomic */

/* Before each block its size, 16 bytes for the alignment. */
#define HEADER 16u

void *bootstrap_alloc(size_t size, size_t alignment)
{
	size_t start = __atomic_load_n(&used, __ATOMIC_RELAXED), at;

	do {
		at = (start + HEADER + alignment - 1) & ~(alignment - 1);
		if (size > BOOTSTRAP_SIZE || alignment > 4096 || at + size > BOOTSTRAP_SIZE) {
			errno = ENOMEM;
			return NULL;
		}
		/* the arena itself is aligned to 16 only */
		at += -(uintptr_t)(bootstrap_arena + at) & (alignment - 1);
		if (at + size > BOOTSTRAP_SIZE) {
			errno = ENOMEM;
			return NULL;
		}
	} while (!__atomic_compare_exchange_n(&used, &start, (at + size + 15) & ~(size_t)15, false,
	                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	*(size_t *)(void *)(bootstrap_arena + at - HEADER) = size;
	return bootstrap_arena + at;
}

size_t bootstrap_usable_size(const void *p)
{
	return *(const size_t *)(const void *)((const char *)p - HEADER);
}
