/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests that run on every way of finding written pages name it in FMALLOC_TRACK. That of declared writes is for heaps
 * that were opened for it alone.
 */
#ifndef WAY_H
#define WAY_H

#include <stdlib.h>
#include <string.h>

#include "fmalloc.h"

/* The flags of an atomic heap on the way that is set. */
static inline unsigned atomic_heap(void)
{
	const char *way = getenv("FMALLOC_TRACK");

	return way && strcmp(way, "declared") == 0 ? FM_ATOMIC | FM_DECLARED : FM_ATOMIC;
}

#endif
