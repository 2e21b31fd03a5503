/* SPDX-License-Identifier: Apache-2.0
 *
 * Directory invariants
 *   D1  a word of a segment above last_segment is 0
 *   D2  the directory reaches at least one segment beyond those in use: so a segment for the next
 *       extent can always be had
 *   D3  an extent's own word is in the header's words or in an extent before it
 *   D4  a huge object ends in the file, and at or before last_segment, which is raised before the head's word is stored
 */
#include "directory.h"

#include "../base/status.h"
#include "backing.h"
#include "segment.h"

#include <errno.h>

/* Huge objects get room to grow while the heap takes at most 1 / ROOMY_SHARE of what it may grow to: room breaks the
 * space into pieces. */
#define ROOMY_SHARE 4

uint64_t directory_reach(const struct heap *heap)
{
	uint64_t reach = DIRECTORY_INLINE_WORDS;

	for (unsigned i = 0; i < DIRECTORY_EXTENTS && heap->directory_segment[i]; i++)
		reach += DIRECTORY_EXTENT_WORDS;
	return reach;
}

uint64_t *directory_word(const struct heap *heap, uint64_t segment_no)
{
	uint64_t extent, index;

	if (segment_no < DIRECTORY_INLINE_WORDS)
		return (uint64_t *)(void *)(heap->store.base + DIRECTORY_OFF) + segment_no;
	extent = (segment_no - DIRECTORY_INLINE_WORDS) / DIRECTORY_EXTENT_WORDS;
	index = (segment_no - DIRECTORY_INLINE_WORDS) % DIRECTORY_EXTENT_WORDS;
	if (extent >= DIRECTORY_EXTENTS || !heap->directory_segment[extent])
		return NULL;
	return (uint64_t *)(void *)(heap->store.base + (heap->directory_segment[extent] << SEGMENT_SHIFT)) +
	       index;
}

unsigned directory_kind(const struct heap *heap, uint64_t segment_no)
{
	const uint64_t *word = directory_word(heap, segment_no);

	if (segment_no == 0)
		return SEGMENT_METADATA;
	return word ? segment_word_kind(truth_load(word)) : SEGMENT_FREE;
}

void directory_reach_to(struct heap *heap, uint64_t last)
{
	if (last > directory_last(heap))
		truth_store(&store_truth(&heap->store)->last_segment, last);
}

/* After a power cut the page that names the extent may be newer than its own word, the number of the last
 * segment, and the file's length. 0, or -1 after fail(). */
static int recover_extent(struct heap *heap, uint64_t segment_no)
{
	uint64_t off = segment_no << SEGMENT_SHIFT;
	int r;

	if (segment_no >= directory_reach(heap) || segment_no >= heap->segments_max)
		return 0; /* refused by the caller */
	r = backing_ensure(heap, off, SEGMENT_SIZE);
	if (r)
		return fail(-r, "recovery needs the heap's directory at offset %llu:", (unsigned long long)off);
	directory_reach_to(heap, segment_no);
	if (directory_kind(heap, segment_no) != SEGMENT_DIRECTORY)
		truth_store(directory_word(heap, segment_no), SEGMENT_DIRECTORY);
	return 0;
}

int directory_open(struct heap *heap)
{
	const struct truth_page_rec *truth = store_truth(&heap->store);

	for (unsigned i = 0; i < DIRECTORY_EXTENTS; i++) {
		uint64_t segment_no = truth_load(&truth->directory_extent[i]);

		if (segment_no == 0)
			break;
		if (heap->store.is_unclean && recover_extent(heap, segment_no))
			return -1;
		if (segment_no > directory_last(heap) || segment_no >= directory_reach(heap) ||
		    ((segment_no + 1) << SEGMENT_SHIFT) > heap->store.size ||
		    directory_kind(heap, segment_no) != SEGMENT_DIRECTORY)
			return fail(EBADMSG, "extent %u of the heap's directory is damaged", i);
		heap->directory_segment[i] = segment_no;
	}
	if (directory_last(heap) >= directory_reach(heap) || directory_last(heap) >= heap->segments_max)
		return fail(EBADMSG, "the heap's directory is damaged: last segment %llu",
		            (unsigned long long)directory_last(heap));
	return 0;
}

/* The head whose object `segment_no` is an interior of; 0: none, the word does not count. */
static uint64_t head_before(const struct heap *heap, uint64_t segment_no)
{
	while (segment_no > 0 && directory_kind(heap, segment_no) == SEGMENT_INTERIOR)
		segment_no--;
	return directory_kind(heap, segment_no) == SEGMENT_HUGE ? segment_no : 0;
}

/* Does the directory have a use for segment `segment_no`? */
static bool is_used_by_words(const struct heap *heap, uint64_t segment_no)
{
	uint64_t head;

	switch (directory_kind(heap, segment_no)) {
	case SEGMENT_FREE:
		return false;
	case SEGMENT_INTERIOR:
		head = head_before(heap, segment_no);
		return head && head + huge_segments(huge_word_pages(truth_load(directory_word(heap, head)))) > segment_no;
	default:
		return true;
	}
}

int directory_judge_journal(const struct heap *heap)
{
	const struct store *store = &heap->store;

	for (unsigned i = 0; i < store->reserved_extents; i++) {
		const struct extent_rec *e = &store->reserved_extent[i];
		uint64_t first = e->off >> SEGMENT_SHIFT;
		uint64_t end = min_u64((e->off + e->len) >> SEGMENT_SHIFT, directory_last(heap) + 1);

		/* an interior behind the first one belongs to a head that is in the extent itself, or to none */
		for (uint64_t s = first; s < end; s++)
			if ((s == first || directory_kind(heap, s) != SEGMENT_INTERIOR) && is_used_by_words(heap, s))
				return fail(EBADMSG, "the heap's journal lies where its directory says that segment %llu is used",
				            (unsigned long long)s);
	}
	return 0;
}

static bool is_named_extent(const struct heap *heap, uint64_t segment_no)
{
	for (unsigned i = 0; i < DIRECTORY_EXTENTS; i++)
		if (heap->directory_segment[i] == segment_no)
			return segment_no != 0;
	return false;
}

void directory_scan(struct heap *heap)
{
	uint64_t last = directory_last(heap);
	uint64_t covered = 0; /* segments below are parts of the huge object seen last */

	if (heap->is_scanned)
		return;
	heap->is_scanned = true;
	heap->free_hint = 1;
	for (uint64_t s = 0; s <= last && s < heap->covered; s++) {
		struct segment *segment = &heap->segments[s];
		uint64_t word = truth_load(directory_word(heap, s));
		uint64_t pages = huge_word_pages(word);
		unsigned kind = directory_kind(heap, s);

		if (s < covered && kind != SEGMENT_INTERIOR) {
			segment->state = SEG_DAMAGED;
			continue;
		}
		switch (kind) {
		case SEGMENT_FREE:
			segment->state = SEG_FREE;
			break;
		case SEGMENT_INTERIOR:
			segment->state = s < covered ? SEG_INTERIOR : SEG_FREE;
			break;
		case SEGMENT_METADATA:
			if (segment->state != SEG_EXAMINED)
				segment->state = metadata_off(s) + UNIT_SIZE <= heap->store.size ? SEG_METADATA
				                                                                 : SEG_DAMAGED;
			break;
		case SEGMENT_DIRECTORY:
			segment->state = is_named_extent(heap, s) ? SEG_DIRECTORY : SEG_FREE;
			break;
		case SEGMENT_HUGE:
			/* D4; a tail that lies beyond would be handed out again */
			if (pages == 0 || pages > heap->store.size / LENGTH_PAGE ||
			    (s << SEGMENT_SHIFT) + pages * LENGTH_PAGE > heap->store.size ||
			    s + huge_segments(pages) > last + 1) {
				segment->state = SEG_DAMAGED;
				break;
			}
			segment->state = SEG_HUGE;
			covered = s + huge_segments(pages);
			huge_describe(heap, s, pages);
			break;
		default:
			segment->state = SEG_DAMAGED;
		}
	}
}

enum segment_state segment_state(const struct heap *heap, uint64_t segment_no)
{
	if (unlikely(heap->store.reserved_extents) && store_is_journal(&heap->store, segment_no))
		return SEG_JOURNAL;
	if (segment_no > directory_last(heap) || segment_no >= heap->covered)
		return SEG_FREE;
	return heap->segments[segment_no].state;
}

/* First of `n` consecutive free segments at or above `from`, among all that the reservation has. */
static uint64_t find_free(const struct heap *heap, uint64_t from, uint64_t n)
{
	uint64_t last = directory_last(heap);
	uint64_t have = 0;

	if (n > heap->segments_max)
		return 0;
	for (uint64_t s = from; s < heap->segments_max; s++) {
		if (s > last && !heap->store.reserved_extents) {
			/* all free from here on */
			uint64_t first = s - have;

			return first + n <= heap->segments_max ? first : 0;
		}
		have = segment_state(heap, s) == SEG_FREE ? have + 1 : 0;
		if (have == n)
			return s - n + 1;
	}
	return 0;
}

/* Put the next extent of the directory into the first free segment. 0 or -errno. */
static int add_extent(struct heap *heap)
{
	uint64_t segment_no = find_free(heap, heap->free_hint, 1);
	uint64_t off = segment_no << SEGMENT_SHIFT;
	unsigned i = 0;
	int r;

	while (i < DIRECTORY_EXTENTS && heap->directory_segment[i])
		i++;
	if (i == DIRECTORY_EXTENTS || segment_no == 0 || segment_no >= directory_reach(heap))
		return -EFBIG;
	r = backing_ensure(heap, off, SEGMENT_SIZE);
	if (r)
		return r;
	store_metadata(&heap->store, off, SEGMENT_SIZE);
	if (!backing_take(heap, off, SEGMENT_SIZE))
		truth_clear_words((uint64_t *)(void *)(heap->store.base + off), DIRECTORY_EXTENT_WORDS);
	directory_reach_to(heap, segment_no);
	truth_store(directory_word(heap, segment_no), SEGMENT_DIRECTORY);
	/* the extent counts, and its segment is not free, from here on */
	truth_store(&store_truth(&heap->store)->directory_extent[i], segment_no);
	heap->segments[segment_no].state = SEG_DIRECTORY;
	heap->directory_segment[i] = segment_no;
	return 0;
}

static void raise_free_hint(struct heap *heap)
{
	directory_scan(heap);
	while (heap->free_hint <= directory_last(heap) &&
	       segment_state(heap, heap->free_hint) != SEG_FREE)
		heap->free_hint++;
}

static uint64_t segments_for(uint64_t len)
{
	return (len + SEGMENT_SIZE - 1) >> SEGMENT_SHIFT;
}

/* `n` consecutive free segments for whose words there is room: the first of them, or 0. */
static uint64_t find_or_extend(struct heap *heap, uint64_t n)
{
	raise_free_hint(heap);
	for (;;) {
		uint64_t first = find_free(heap, heap->free_hint, n);

		if (first == 0 || first + n < directory_reach(heap))
			return first;
		if (add_extent(heap))
			return 0;
	}
}

static bool is_inside(const struct heap *heap, uint64_t first, uint64_t n)
{
	return first && first + n - 1 <= directory_last(heap) && first + n < directory_reach(heap);
}

uint64_t directory_find_inside(struct heap *heap, uint64_t len)
{
	uint64_t n = segments_for(len), first;

	raise_free_hint(heap);
	first = find_free(heap, heap->free_hint, n);
	return is_inside(heap, first, n) && !backing_ensure(heap, first << SEGMENT_SHIFT, len) ? first : 0;
}

/* Units of a free segment that have blocks. */
static uint64_t free_blocks(const struct heap *heap, uint64_t segment_no)
{
	return segment_state(heap, segment_no) == SEG_FREE ? load_relaxed(&heap->segments[segment_no].backed) : 0;
}

uint64_t directory_find_backed(struct heap *heap, uint64_t len)
{
	uint64_t n = segments_for(len), whole = 0; /* segments before `s` with all their blocks */
	uint64_t tail = low_mask((unsigned)(((len - 1) % SEGMENT_SIZE >> UNIT_SHIFT) + 1));
	/* bits of what the file has no more are clear, and D2 */
	uint64_t end = min_u64(heap->covered, directory_reach(heap) - 1);

	raise_free_hint(heap);
	for (uint64_t s = heap->free_hint; s < end; s++) {
		uint64_t units = free_blocks(heap, s);

		if (whole + 1 >= n && (units & tail) == tail)
			return s + 1 - n;
		whole = units == UINT64_MAX ? whole + 1 : 0;
	}
	return 0;
}

int directory_find(struct heap *heap, uint64_t len, uint64_t *first)
{
	uint64_t backed;
	int r = 0;

	*first = find_or_extend(heap, segments_for(len));
	if (*first)
		r = backing_ensure(heap, *first << SEGMENT_SHIFT, len);
	if (*first && (!r || r == -EFBIG))
		return r;
	/* the disk is full: the lowest place may be a hole, and others have their blocks still */
	backed = directory_find_backed(heap, len);
	if (backed) {
		*first = backed;
		r = 0;
	}
	return r;
}

/* Room is left only while the heap, up to segment `end`, is small beside what it may grow to. */
static bool may_leave_room(const struct heap *heap, uint64_t end)
{
	return end << SEGMENT_SHIFT <= min_u64(heap->store.max_size, heap->store.reserved) / ROOMY_SHARE;
}

/* Segments behind the last one and before `first` are free ones inside: whatever their words say, which by D1 is
 * nothing, and in a damaged file would begin to count. */
static void pass_over(struct heap *heap, uint64_t first)
{
	for (uint64_t s = directory_last(heap) + 1; s < first; s++) {
		if (truth_load(directory_word(heap, s)))
			truth_store(directory_word(heap, s), SEGMENT_FREE);
		heap->segments[s].state = SEG_FREE;
	}
}

/* At the end of the file, behind a hole. */
static uint64_t find_roomy_behind(struct heap *heap, uint64_t len)
{
	uint64_t n = segments_for(len), old = heap->store.size, first = find_free(heap, heap->free_hint, 2 * n);
	int fd = store_borrow(&heap->store);

	store_give_back(&heap->store, fd);
	/* without a descriptor no failed attempt could be cut off; and temporary files are copied whole (preload) */
	if (!first || fd < 0 || heap->store.no_sync || first + 2 * n >= directory_reach(heap) ||
	    !may_leave_room(heap, first + 3 * n) || backing_ensure_apart(heap, (first + n) << SEGMENT_SHIFT, len))
		return 0;
	/* the last segment's units are taken without the lock, one by one, if they have blocks */
	if (old < first << SEGMENT_SHIFT && segment_state(heap, first - 1) == SEG_EXAMINED)
		backing_ensure(heap, old, (first << SEGMENT_SHIFT) - old);
	pass_over(heap, first + n);
	return first + n;
}

uint64_t directory_find_roomy(struct heap *heap, uint64_t len, bool may_grow)
{
	uint64_t n = segments_for(len), first;

	raise_free_hint(heap);
	if (!may_leave_room(heap, directory_last(heap)))
		return 0;
	first = find_free(heap, heap->free_hint, 3 * n);
	if (is_inside(heap, first, 3 * n))
		first += n;
	else
		first = find_free(heap, heap->free_hint, 2 * n);
	if (is_inside(heap, first, 2 * n))
		return backing_ensure(heap, first << SEGMENT_SHIFT, len) ? 0 : first;
	return may_grow ? find_roomy_behind(heap, len) : 0;
}

void directory_shrink(struct heap *heap)
{
	uint64_t last = directory_last(heap);

	directory_scan(heap);
	while (last > 0 && (segment_state(heap, last) == SEG_FREE || segment_release_if_empty(heap, last))) {
		/* D1: an interior or directory word that did not count must not begin to */
		if (truth_load(directory_word(heap, last)))
			truth_store(directory_word(heap, last), SEGMENT_FREE);
		last--;
	}
	if (last < directory_last(heap))
		truth_store(&store_truth(&heap->store)->last_segment, last);
}

int descriptors_cover(struct heap *heap, uint64_t n)
{
	/* doubled, so that the kernel is asked a few times in a heap's life */
	uint64_t want = min_u64(max_u64(max_u64(n, 16), heap->covered * 2), heap->segments_max);
	uint64_t page = os->page_size();
	int r;

	if (n <= heap->covered)
		return 0;
	if (n > heap->segments_max)
		return -EFBIG;
	r = os->protect(heap->units, round_up(want * SEGMENT_UNITS * sizeof(struct unit), page), true, true);
	if (!r)
		r = os->protect(heap->segments, round_up(want * sizeof(struct segment), page), true, true);
	if (!r)
		heap->covered = want;
	return r;
}
