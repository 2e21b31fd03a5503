/* SPDX-License-Identifier: Apache-2.0
 *
 * Forgetting what was derived from the file, as if it were opened anew where it is. What is not truth: the file's
 * length, which never shrinks here, and the segments that the journal has.
 */
#include "commit.h"
#include "directory.h"

#include <errno.h>
#include <string.h>

static int clear_tables(struct heap *heap)
{
	uint64_t page = os->page_size();
	int r = os->advise(heap->units, round_up(heap->covered * SEGMENT_UNITS * sizeof(struct unit), page), OS_DROP);

	if (!r)
		r = os->advise(heap->segments, round_up(heap->covered * sizeof(struct segment), page), OS_DROP);
	return r;
}

int heap_reset(struct heap *heap)
{
	int r;

	tcache_discard_all(heap);
	r = clear_tables(heap);
	if (r)
		return r;
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
