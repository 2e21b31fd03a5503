/* SPDX-License-Identifier: Apache-2.0 */
#include "recover.h"

#include "../base/status.h"
#include "audit.h"
#include "backing.h"
#include "directory.h"

#include <errno.h>

/* A mended conflict may show another; each pass resolves at least one head for good. */
#define MAX_PASSES 64

/* The page with last_segment may be older than the directory's: raise it to the last segment that says to
 * be in use and that the file has. The object that it ends in may have grown since. */
static void raise_last_segment(struct heap *heap)
{
	uint64_t segments = min_u64((heap->store.size + SEGMENT_SIZE - 1) >> SEGMENT_SHIFT,
	                            min_u64(directory_reach(heap), heap->segments_max));
	uint64_t last = directory_last(heap), s = last;

	while (s > 0 && s < segments && directory_kind(heap, s) == SEGMENT_INTERIOR)
		s--;
	for (; s < segments; s++) {
		uint64_t word = truth_load(directory_word(heap, s));
		uint64_t n = huge_segments(huge_word_pages(word)); /* 0 in a damaged file */

		if (segment_word_kind(word) == SEGMENT_METADATA)
			last = max_u64(last, s);
		if (segment_word_kind(word) == SEGMENT_HUGE && n && s + n <= segments)
			last = max_u64(last, s + n - 1);
	}
	directory_reach_to(heap, last);
}

/* The file's length may be older than what its words say is used. Only what lies below the end of the last
 * segment is believed. */
static int lengthen(struct heap *heap)
{
	uint64_t last = directory_last(heap);
	uint64_t limit = min_u64((last + 1) << SEGMENT_SHIFT, heap->store.max_size);
	uint64_t want = heap->store.size;

	for (uint64_t s = 0; s <= last; s++) {
		uint64_t end = backing_used_end(heap, s);

		if (end <= limit)
			want = max_u64(want, end);
	}
	if (want > heap->store.size) {
		int r = backing_ensure(heap, 0, want);

		if (r)
			return fail(-r, "recovery needs the file to have %llu bytes:", (unsigned long long)want);
	}
	return 0;
}

int recover_heap(struct heap *heap)
{
	struct audit audit = {.heap = heap, .mend = true};
	long total = 0;

	raise_last_segment(heap);
	if (lengthen(heap))
		return -1;
	for (unsigned pass = 0; pass < MAX_PASSES; pass++) {
		audit.count = 0;
		audit_heap(&audit);
		if (audit.count == 0) {
			/* blocks may be missing as well */
			heap->store.is_moved = true;
			fail(EUCLEAN, "recovered, %ld findings mended; data may be newer or older than the "
			              "allocator's records: trace from the roots before writing", total);
			return 0;
		}
		total += audit.count;
	}
	return fail(EBADMSG, "the heap is damaged beyond repair");
}
