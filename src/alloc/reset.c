/* SPDX-License-Identifier: Apache-2.0
 *
 * Forgetting what was derived from the file, as if it were opened anew where it is. What is not truth: the file's
 * length, which never shrinks here, and the segments that the journal has.
 */
#include "commit.h"
#include "directory.h"

#include <errno.h>
#include <string.h>

/* Zero, and without memory if that can be had. */
static void clear(void *table, uint64_t len)
{
	if (os->advise(table, round_up(len, os->page_size()), OS_DROP))
		memset(table, 0, len);
}

int heap_reset(struct heap *heap)
{
	tcache_discard_all(heap);
	clear(heap->units, heap->covered * SEGMENT_UNITS * sizeof(struct unit));
	clear(heap->segments, heap->covered * sizeof(struct segment));
	heap->is_scanned = false;
	heap->free_hint = 0;
	heap->examine_cursor = 0;
	heap->buckets_used = heap->stale = 0;
	memset(heap->directory_segment, 0, sizeof(heap->directory_segment));
	memset(heap->bucket, 0, sizeof(heap->bucket));
	memset(heap->unowned, 0, sizeof(heap->unowned));
	/* it was valid at the last commit, or no commit would have been */
	return directory_open(heap) ? -EUCLEAN : 0;
}
