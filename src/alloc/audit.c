/* SPDX-License-Identifier: Apache-2.0 */
#include "audit.h"

#include "directory.h"
#include "owner.h"
#include "segment.h"

#include <errno.h>

static void report(struct audit *audit, uint64_t off, uint64_t value, const char *text)
{
	struct fm_finding finding = {off, value, text};

	audit->count++;
	if (audit->finding)
		audit->finding(&finding, audit->arg);
}

/* Report `word`; mended it is `better`. Returns what the word counts as from here on. */
static uint64_t wrong(struct audit *audit, uint64_t *word, uint64_t better, const char *text)
{
	report(audit, (uint64_t)((uint8_t *)word - audit->heap->store.base), truth_load(word), text);
	if (audit->mend)
		truth_store(word, better);
	return better;
}

/* ---------------------------------------------------------------- a segment with metadata */

static void audit_slab(struct audit *audit, uint64_t segment_no, unsigned u, uint64_t word)
{
	uint64_t slots = ((uint64_t)slab_word_units(word) << UNIT_SHIFT) / slab_word_slot_size(word);
	uint64_t *pairs = unit_words(audit->heap, segment_no) + u * (PAIRS_LEN / 8);
	unsigned colour = pair_colour(segment_no, u);

	for (unsigned w = 0; w < PAIRS && (w == 0 || (w - 1) * 64 < slots); w++) {
		uint64_t *pair = pairs + 2 * (w ^ colour);
		uint64_t exist = w * 64 < slots ? low_mask((unsigned)min_u64(slots - w * 64, 64)) : 0;

		for (unsigned i = 0; i < 2; i++)
			if (truth_load(&pair[i]) & ~exist)
				wrong(audit, &pair[i], truth_load(&pair[i]) & exist,
				      i ? "remote bit of a slot that does not exist"
				        : "live bit of a slot that does not exist");
	}
}

/* Word `u` says something impossible. A head can't be told from garbage: kept as one unit in use. */
static uint64_t mend_unit_word(struct audit *audit, uint64_t *word, unsigned u, unsigned first)
{
	if (u < first)
		return wrong(audit, word, UNIT_FREE, "unit word of a unit that holds metadata");
	if (unit_word_kind(truth_load(word)) <= UNIT_INTERIOR)
		return wrong(audit, word, UNIT_FREE, "bits beside the kind of a free unit");
	return wrong(audit, word, run_word(UNIT_PAGES), "unit word that is no valid head");
}

static void audit_segment(struct audit *audit, uint64_t segment_no)
{
	uint64_t *words = unit_words(audit->heap, segment_no);
	unsigned first = metadata_unit(segment_no) + 1;
	unsigned head = 0, reach = 0; /* units [head, reach) belong to the head at `head` */

	for (unsigned u = 0; u < SEGMENT_UNITS; u++) {
		uint64_t word = truth_load(&words[u]);
		unsigned kind = unit_word_kind(word);
		unsigned n = (unsigned)min_u64(unit_word_units(word), SEGMENT_UNITS + 1);
		bool is_head = kind > UNIT_INTERIOR && unit_word_is_valid(word, u, first);

		if (u < reach) {
			if (word == UNIT_INTERIOR)
				continue;
			if (!is_head || n <= reach - head) {
				wrong(audit, &words[u], UNIT_INTERIOR, is_head ? "head inside a longer object"
				                                              : "no interior word inside an object");
				continue;
			}
			wrong(audit, &words[head], UNIT_FREE, "object overlapped by a longer one");
		} else if (!is_head && (kind > UNIT_INTERIOR || word != kind || (u < first && word))) {
			word = mend_unit_word(audit, &words[u], u, first);
			n = (unsigned)unit_word_units(word);
			is_head = n > 0;
		}
		if (is_head) {
			head = u;
			reach = u + n;
		}
	}
	for (unsigned u = first; u < SEGMENT_UNITS; u++) {
		uint64_t word = truth_load(&words[u]);

		if (unit_word_is_valid(word, u, first) && unit_word_kind(word) == UNIT_SLAB)
			audit_slab(audit, segment_no, u, word);
	}
	for (unsigned i = UNIT_WORDS_LEN / 8; i < PAIRS_LEN / 8; i++)
		if (truth_load(&words[i]))
			wrong(audit, &words[i], 0, "reserved bytes of a metadata unit");
}

/* Where the segment's last used unit ends, by its words, must be in the file. */
static void audit_segment_end(struct audit *audit, uint64_t segment_no)
{
	uint64_t *words = unit_words(audit->heap, segment_no);
	unsigned first = metadata_unit(segment_no) + 1;

	for (unsigned u = first; u < SEGMENT_UNITS; u++) {
		uint64_t word = truth_load(&words[u]);
		uint64_t end = (segment_no << SEGMENT_SHIFT) + ((u + unit_word_units(word)) << UNIT_SHIFT);

		if (unit_word_is_valid(word, u, first) && end > audit->heap->store.size)
			wrong(audit, &words[u], UNIT_FREE, "object beyond the file's end");
	}
}

/* ---------------------------------------------------------------- the directory */

static bool is_extent(const struct heap *heap, uint64_t segment_no)
{
	for (unsigned i = 0; i < DIRECTORY_EXTENTS; i++)
		if (heap->directory_segment[i] == segment_no)
			return true;
	return false;
}

/* A directory word as it may be; pages of huge objects within the file. */
static bool directory_word_is_valid(const struct heap *heap, uint64_t segment_no, uint64_t word)
{
	uint64_t start = segment_no << SEGMENT_SHIFT;

	switch (segment_word_kind(word)) {
	case SEGMENT_FREE:
	case SEGMENT_INTERIOR:
	case SEGMENT_DIRECTORY:
		return word == segment_word_kind(word);
	case SEGMENT_METADATA:
		return !(word & ~(SEGMENT_METADATA | SEGMENT_FULL_HINT)) &&
		       metadata_off(segment_no) + UNIT_SIZE <= heap->store.size;
	case SEGMENT_HUGE:
		return word == huge_word(huge_word_pages(word)) && huge_word_pages(word) > 0 &&
		       start + huge_word_pages(word) * LENGTH_PAGE <= heap->store.size;
	default:
		return false;
	}
}

/* Segment 0 always has metadata: only the hint may stand in its word. */
static bool segment_0_is_valid(uint64_t word)
{
	return !(word & ~(SEGMENT_METADATA | SEGMENT_FULL_HINT));
}

static void audit_directory(struct audit *audit)
{
	struct heap *heap = audit->heap;
	uint64_t last = directory_last(heap);
	uint64_t reach = min_u64(directory_reach(heap), heap->segments_max);
	uint64_t *head = NULL;
	uint64_t head_no = 0, end = 0; /* segments [head_no, end) belong to *head */

	for (uint64_t s = 0; s < reach; s++) {
		uint64_t *word_at = directory_word(heap, s);
		uint64_t word = truth_load(word_at);
		unsigned kind = segment_word_kind(word);

		if (s > last) {
			if (word)
				wrong(audit, word_at, SEGMENT_FREE, "directory word beyond the last segment");
			continue;
		}
		if (s == 0) {
			if (!segment_0_is_valid(word))
				wrong(audit, word_at, SEGMENT_METADATA, "directory word of segment 0");
			continue;
		}
		if (!directory_word_is_valid(heap, s, word)) {
			bool in_file = ((s + 1) << SEGMENT_SHIFT) <= heap->store.size;

			word = wrong(audit, word_at,
			             kind == SEGMENT_METADATA && in_file ? SEGMENT_METADATA
			             : in_file && s >= end               ? huge_word(SEGMENT_PAGES)
			                                                 : SEGMENT_FREE,
			             "directory word that says nothing valid");
			kind = segment_word_kind(word);
		}
		if (s < end && kind != SEGMENT_INTERIOR) {
			uint64_t n = kind == SEGMENT_HUGE ? huge_segments(huge_word_pages(word)) : 1;

			if (kind == SEGMENT_DIRECTORY && is_extent(heap, s)) {
				n = end - head_no + 1; /* what names it decides */
			}
			if (n <= end - head_no) {
				wrong(audit, word_at, SEGMENT_INTERIOR, "segment inside a huge object");
				continue;
			}
			wrong(audit, head, SEGMENT_FREE, "huge object overlapped by a longer one");
			end = s;
		}
		if (kind == SEGMENT_HUGE) {
			head = word_at;
			head_no = s;
			end = s + huge_segments(huge_word_pages(word));
			if (end > last + 1) {
				wrong(audit, word_at, SEGMENT_FREE, "huge object beyond the last segment");
				end = s;
			}
		}
	}
}

/* ---------------------------------------------------------------- roots */

/* Slots of word `w` that are joined to the one before, by the file: of the slab at unit `head` with head word `word`. */
static uint64_t file_joined(const uint64_t *words, unsigned head, uint64_t segment_no, uint64_t word, uint64_t w)
{
	const uint64_t *pairs = words + head * (PAIRS_LEN / 8);
	unsigned colour = pair_colour(segment_no, head);
	uint64_t slots = (slab_word_units(word) << UNIT_SHIFT) / slab_word_slot_size(word);

	if (slots > JOINT_WORDS * 64)
		return 0;
	return joined_slots(truth_load(&pairs[2 * (w ^ colour)]), truth_load(&pairs[2 * ((w + 32) ^ colour)]));
}

/* The object whose first byte is at `off`, by the file's words: its length, all of it in the file, or 0.
 * With `mend`, a free slot there is made live. */
static uint64_t object_len(struct audit *audit, uint64_t off, bool mend)
{
	struct heap *heap = audit->heap;
	uint64_t segment_no = off >> SEGMENT_SHIFT;
	unsigned u = index_in_segment(off >> UNIT_SHIFT), head = u;
	uint64_t *words, *pair;
	uint64_t word, in_slab, slot, len, joined;

	if (off % 8 || off >= heap->store.size || segment_no > directory_last(heap))
		return 0;
	word = truth_load(directory_word(heap, segment_no));
	if (segment_no > 0 && !directory_word_is_valid(heap, segment_no, word))
		return 0;
	if (directory_kind(heap, segment_no) == SEGMENT_HUGE)
		return off % SEGMENT_SIZE ? 0 : huge_word_pages(word) * LENGTH_PAGE;
	if (directory_kind(heap, segment_no) != SEGMENT_METADATA)
		return 0;
	words = unit_words(heap, segment_no);
	while (head > 0 && truth_load(&words[head]) == UNIT_INTERIOR)
		head--;
	word = truth_load(&words[head]);
	if (!unit_word_is_valid(word, head, metadata_unit(segment_no) + 1) || head + unit_word_units(word) <= u)
		return 0;
	in_slab = off - (segment_no << SEGMENT_SHIFT) - ((uint64_t)head << UNIT_SHIFT);
	if (unit_word_kind(word) == UNIT_RUN) {
		len = run_word_pages(word) * LENGTH_PAGE;
		return in_slab == 0 && off + len <= heap->store.size ? len : 0;
	}
	len = slab_word_slot_size(word);
	slot = in_slab / len;
	if (in_slab % len || slot >= (unit_word_units(word) << UNIT_SHIFT) / len || off + len > heap->store.size)
		return 0;
	pair = words + head * (PAIRS_LEN / 8) +
	       2 * ((slot / 64) ^ pair_colour(segment_no, head));
	joined = file_joined(words, head, segment_no, word, slot / 64);
	if (bit_is_set(joined, slot))
		return 0;
	len *= 1 + count_bits(joined_to(UINT64_C(1) << slot % 64, joined));
	if (!((truth_load(&pair[0]) & ~truth_load(&pair[1])) >> slot % 64 & 1)) {
		if (!mend)
			return 0;
		wrong(audit, &pair[1], truth_load(&pair[1]) & ~(UINT64_C(1) << slot % 64), "root's object is free");
		truth_store(&pair[0], truth_load(&pair[0]) | UINT64_C(1) << slot % 64);
	}
	return len;
}

static void audit_roots(struct audit *audit)
{
	struct heap *heap = audit->heap;
	struct truth_page_rec *truth = store_truth(&heap->store);
	uint64_t table_off = truth_load(&truth->root_table);
	struct root_table_rec *table;
	uint64_t len;

	if (table_off == 0)
		return;
	len = object_len(audit, table_off, audit->mend);
	table = len < sizeof(*table) ? NULL : (struct root_table_rec *)(void *)(heap->store.base + table_off);
	if (!table || (len - sizeof(*table)) / 8 < table->capacity) {
		wrong(audit, &truth->root_table, 0, "root table that is no object");
		return;
	}
	for (uint64_t i = 0; i < table->capacity; i++) {
		uint64_t off = truth_load(&table->word[i]);
		const struct root_rec *root;

		if (off == 0)
			continue;
		len = object_len(audit, off, audit->mend);
		root = len < sizeof(*root) ? NULL : (const struct root_rec *)(void *)(heap->store.base + off);
		if (!root || root->name_len == 0 || root->name_len > ROOT_NAME_MAX ||
		    offsetof(struct root_rec, name) + root->name_len > len)
			wrong(audit, &table->word[i], 0, "root that is no object, or damaged");
	}
}

/* ---------------------------------------------------------------- all of it */

static void audit_super(struct audit *audit)
{
	struct super super;
	enum super_verdict verdict;
	const struct store *store = &audit->heap->store;
	int fd = store_borrow(store);

	if (fd == -EBADF)
		return; /* the program has closed it: nothing to be seen */
	if (store_read_super(&audit->heap->store, fd, &super, &verdict) || verdict != SUPER_OK || !super.both_valid)
		report(audit, 0, verdict, "superblock of which not both copies are valid");
	store_give_back(store, fd);
}

static void audit_truth_page(struct audit *audit)
{
	struct truth_page_rec *truth = store_truth(&audit->heap->store);

	for (unsigned i = 0; i < DIRECTORY_EXTENTS; i++)
		if (truth_load(&truth->directory_extent[i]) != audit->heap->directory_segment[i])
			wrong(audit, &truth->directory_extent[i], audit->heap->directory_segment[i],
			      "directory extent behind a missing one");
	for (unsigned i = 0; i < sizeof(truth->reserved) / 8; i++)
		if (truth_load(&truth->reserved[i]))
			wrong(audit, &truth->reserved[i], 0, "reserved bytes of the truth page");
}

void audit_heap(struct audit *audit)
{
	struct heap *heap = audit->heap;

	if (!audit->mend)
		audit_super(audit);
	audit_truth_page(audit);
	audit_directory(audit);
	for (uint64_t s = 0; s <= directory_last(heap) && s < heap->segments_max; s++) {
		if (directory_kind(heap, s) != SEGMENT_METADATA || metadata_off(s) + UNIT_SIZE > heap->store.size)
			continue;
		audit_segment_end(audit, s);
		audit_segment(audit, s);
	}
	audit_roots(audit);
}

/* ---------------------------------------------------------------- derived state */

static void audit_unit(struct audit *audit, uint64_t unit_no, uint64_t word, unsigned from_head)
{
	const struct unit *unit = &audit->heap->units[unit_no];
	unsigned kind = unit_word_kind(word);
	bool agrees;

	if (unit->back != from_head) {
		agrees = false;
	} else if (from_head) {
		return;
	} else if (kind == UNIT_SLAB) {
		agrees = unit_state(unit) == UNIT_IS_SLAB && unit->slot_size == slab_word_slot_size(word) &&
		         unit->units == slab_word_units(word) && load_relaxed(&unit->owner) != 0;
	} else if (kind == UNIT_RUN) {
		agrees = unit_state(unit) == UNIT_IS_RUN && unit->pages == run_word_pages(word) &&
		         load_relaxed(&unit->owner) == 0;
	} else {
		agrees = unit_state(unit) == UNIT_IS_FREE && load_relaxed(&unit->owner) == 0;
	}
	if (!agrees)
		report(audit, unit_no << UNIT_SHIFT, word, "descriptor that disagrees with the file");
}

static void audit_examined(struct audit *audit, uint64_t segment_no)
{
	const uint64_t *words = unit_words(audit->heap, segment_no);
	unsigned first = metadata_unit(segment_no) + 1;
	uint64_t free = ~low_mask(first);
	unsigned head = 0, reach = 0;

	for (unsigned u = first; u < SEGMENT_UNITS; u++) {
		uint64_t word = truth_load(&words[u]);

		if (u >= reach && unit_word_kind(word) > UNIT_INTERIOR) {
			head = u;
			reach = u + (unsigned)min_u64(unit_word_units(word), SEGMENT_UNITS);
		}
		if (u < reach)
			free &= ~(UINT64_C(1) << u);
		audit_unit(audit, segment_no * SEGMENT_UNITS + u, word, u < reach ? u - head : 0);
	}
	if (free != load_relaxed(&audit->heap->segments[segment_no].free_units))
		report(audit, segment_no << SEGMENT_SHIFT, free, "free units that disagree with the file");
}

/* S4 to S6 of a slab that `tcache` owns, and that its window is of the slab. */
static void audit_owned(struct audit *audit, const struct tcache *tcache, const struct unit *slab)
{
	const struct window *window = &tcache->window[slab->class_no];
	bool is_current = tcache->current[slab->class_no] == slab, is_source = false;
	uint64_t start = unit_no_of(audit->heap, slab) << UNIT_SHIFT;

	for (unsigned c = 0; c < CLASSES; c++)
		is_source = is_source || tcache->source[c] == slab;
	if ((slab->alarm == ALARM_KEPT) != (!is_current && !is_source && slab->empty == slab_all_words(slab)))
		report(audit, start, slab->alarm, "empty slab that is not kept, or one in use that is");
	if ((is_current || is_source) != (slab->alarm == ALARM_NEVER) ||
	    (!is_current && !is_source && !slab->summary) != (slab->alarm == ALARM_ALWAYS))
		report(audit, start, slab->alarm, "alarm that disagrees with the slab's place");
	if (is_current && ((const uint8_t *)tcache + window->live != (const uint8_t *)slab_pair(slab, window->word) ||
	                   window->mask != slab_word_mask(slab, window->word)))
		report(audit, start, window->word, "window that is not of its word");

	for (unsigned w = 0; w < slab->words; w++) {
		const uint64_t *pair = slab_pair(slab, w);
		uint64_t live = truth_load(&pair[0]);
		uint64_t free = (~live | truth_load(&pair[1])) & slab_word_mask(slab, w);
		uint64_t off = (uint64_t)((const uint8_t *)pair - audit->heap->store.base);
		bool in_window = is_current && w == window->word;

		if (!is_current && !is_source && (slab->empty >> w & 1) != (live == 0))
			report(audit, off, live, "emptiness of a word that disagrees with the file");
		if (!in_window && slab->summary >> w & 1 && !free)
			report(audit, off, live, "summary of a word that disagrees with the file");
		if (slab->alarm == ALARM_ALWAYS && ~live & slab_word_mask(slab, w))
			report(audit, off, live, "free slots of a slab that counts as full");
	}
}

void audit_derived(struct audit *audit)
{
	struct heap *heap = audit->heap;

	if (!heap->is_scanned)
		return;
	for (uint64_t s = 0; s <= directory_last(heap) && s < heap->covered; s++)
		if (heap->segments[s].state == SEG_EXAMINED)
			audit_examined(audit, s);
	for (const struct tcache *tcache = heap->caches; tcache; tcache = tcache->heap_next)
		for (const struct unit *slab = tcache->owned; slab; slab = slab->owned_next)
			audit_owned(audit, tcache, slab);
}
