/* SPDX-License-Identifier: Apache-2.0 */
#include "replay.h"

#include "../base/crc32c.h"
#include "../base/status.h"

#include <errno.h>
#include <string.h>

/* The journal is read in pieces of this size. */
#define CHUNK (256 * KIB)

/* ---------------------------------------------------------------- memory */

/* Let *memory have `need` bytes. 0 or -errno. */
static int grow(void **memory, uint64_t *room, uint64_t need)
{
	uint64_t want = round_up(max_u64(need, *room * 2), os->page_size());
	void *larger;
	int r;

	if (need <= *room)
		return 0;
	r = os->reserve_memory(want, &larger);
	if (r)
		return r;
	r = os->protect(larger, want, true, true);
	if (r) {
		os->unmap(larger, want);
		return r;
	}
	if (*memory) {
		memcpy(larger, *memory, *room);
		os->unmap(*memory, *room);
	}
	*memory = larger;
	*room = want;
	return 0;
}

static int grow_items(struct replay *replay)
{
	void *items = replay->items;
	int r = grow(&items, &replay->room, (replay->count + 1) * sizeof(*replay->items));

	replay->items = items;
	return r;
}

static int grow_bytes(struct replay *replay, uint64_t need)
{
	void *bytes = replay->bytes;
	int r = grow(&bytes, &replay->bytes_room, need);

	replay->bytes = bytes;
	return r;
}

void replay_drop(struct replay *replay)
{
	if (replay->items)
		os->unmap(replay->items, replay->room);
	if (replay->bytes)
		os->unmap(replay->bytes, replay->bytes_room);
	if (replay->chunk)
		os->unmap(replay->chunk, replay->chunk_room);
	memset(replay, 0, sizeof(*replay));
}

/* ---------------------------------------------------------------- reading */

static bool overlaps(const struct extent_rec *a, const struct extent_rec *b)
{
	return a->off < b->off + b->len && b->off < a->off + a->len;
}

static bool extent_is_valid(const struct store *store, const struct extent_rec *e)
{
	if (e->off + e->len > store->size)
		return false;
	if (e->off == FIRST_JOURNAL_OFF)
		return e->len == FIRST_JOURNAL_LEN;
	return e->off >= SEGMENT_SIZE && e->off % SEGMENT_SIZE == 0 && e->len % SEGMENT_SIZE == 0;
}

/* J9: no value of the superblock is used unchecked. */
static int judge_extents(const struct store *store)
{
	const struct extent_rec *journal = store->super.rec.journal;
	unsigned n = 0;

	while (n < JOURNAL_EXTENTS && journal[n].len)
		n++;
	for (unsigned i = 0; i < JOURNAL_EXTENTS; i++) {
		if (i >= n && journal[i].len)
			return fail(EBADMSG, "the heap's journal extents are damaged");
		if (i < n && !extent_is_valid(store, &journal[i]))
			return fail(EBADMSG, "journal extent %u is damaged, or the file was cut", i);
		for (unsigned k = 0; k < i && i < n; k++)
			if (overlaps(&journal[i], &journal[k]))
				return fail(EBADMSG, "journal extents %u and %u overlap", k, i);
	}
	return n ? 0 : fail(EBADMSG, "the heap has no journal");
}

/* Read the record at `position` whole into replay->bytes. 1, 0 if it is none, -1 after fail(). */
static int read_record(struct replay *replay, uint64_t position, uint64_t len)
{
	const struct record_rec *header;
	const struct super_rec *super = &replay->store->super.rec;
	ssize_t n;
	int r = grow_bytes(replay, len);

	if (r)
		return fail(-r, "memory for a journal record:");
	n = os->pread_full(replay->store->fd, replay->bytes, len, position);
	if (n < 0)
		return fail(-(int)n, "reading the journal:");
	header = (const struct record_rec *)(const void *)replay->bytes;
	return n == (ssize_t)len && record_len(header, len) == len && header->position == position &&
	       memcmp(header->uuid, super->uuid, sizeof(super->uuid)) == 0 && record_is_valid(header);
}

/* A record of this generation was found and is in replay->bytes. */
static int note(struct replay *replay)
{
	const struct record_rec *header = (const struct record_rec *)(const void *)replay->bytes;
	struct replay_item *item;
	int r = grow_items(replay);

	if (r)
		return fail(-r, "memory for the journal's records:");
	item = &replay->items[replay->count++];
	item->sequence = header->sequence;
	item->commit = header->commit;
	item->position = header->position;
	item->len = header->len;
	item->first = header->first;
	item->file_size = header->file_size;
	item->kind = header->kind;
	item->checksum = header->checksum;
	item->chain_checksum = header->chain_checksum;
	return 0;
}

/* Look at the header at `position`, which is in `block`. Returns the bytes to go on by, or 0 after fail(). */
static uint64_t look(struct replay *replay, const struct record_rec *block, uint64_t position, uint64_t end,
                     uint64_t *oldest)
{
	const struct super_rec *super = &replay->store->super.rec;
	struct record_rec header = *block;
	uint64_t len = record_len(&header, end - position);
	int r;

	if (!len || header.position != position || memcmp(header.uuid, super->uuid, sizeof(super->uuid)) != 0 ||
	    header.generation < super->generation)
		return RECORD_ALIGN;
	r = read_record(replay, position, len);
	if (r <= 0)
		return r ? 0 : RECORD_ALIGN;
	if (header.generation > super->generation) {
		fail(EBADMSG, "the heap's superblock is older than its journal: the newer copy is damaged");
		return 0;
	}
	if (note(replay))
		return 0;
	*oldest = max_u64(*oldest, header.oldest);
	return len;
}

/* Read [at, at + len) of the journal into the chunk. */
static int read_chunk(struct replay *replay, uint64_t at, uint64_t len)
{
	void *chunk = replay->chunk;
	int r = grow(&chunk, &replay->chunk_room, len);
	ssize_t n;

	replay->chunk = chunk;
	if (r)
		return fail(-r, "memory for reading the journal:");
	n = os->pread_full(replay->store->fd, replay->chunk, len, at);
	if (n < 0)
		return fail(-(int)n, "reading the journal:");
	return n == (ssize_t)len ? 0 : fail(EBADMSG, "the journal is cut short");
}

static int scan_extent(struct replay *replay, const struct extent_rec *extent, uint64_t *oldest)
{
	uint64_t end = extent->off + extent->len;
	uint64_t from = 0, to = 0; /* what is in the chunk */

	for (uint64_t at = extent->off; at < end;) {
		uint64_t step;

		if (at >= to) {
			from = at;
			to = min_u64(end, at + CHUNK);
			if (read_chunk(replay, from, to - from))
				return -1;
		}
		step = look(replay, (const struct record_rec *)(const void *)(replay->chunk + (at - from)), at, end,
		            oldest);
		if (step == 0)
			return -1;
		at += step;
	}
	return 0;
}

/* ---------------------------------------------------------------- which commits are complete */

static void sift(struct replay_item *items, uint64_t at, uint64_t n)
{
	for (;;) {
		uint64_t child = 2 * at + 1;
		struct replay_item swap;

		if (child >= n)
			return;
		if (child + 1 < n && items[child].sequence < items[child + 1].sequence)
			child++;
		if (items[at].sequence >= items[child].sequence)
			return;
		swap = items[at];
		items[at] = items[child];
		items[child] = swap;
		at = child;
	}
}

/* By sequence; without memory of its own, whatever order a hostile file has them in. */
static void sort_items(struct replay_item *items, uint64_t n)
{
	for (uint64_t i = n / 2; i-- > 0;)
		sift(items, i, n);
	for (uint64_t i = n; i-- > 1;) {
		struct replay_item swap = items[0];

		items[0] = items[i];
		items[i] = swap;
		sift(items, 0, i);
	}
}

/* Are items [i - k, i) exactly the parts of the chain that `closing`, item i, names? */
static bool chain_is_complete(const struct replay *replay, uint64_t i)
{
	const struct replay_item *closing = &replay->items[i];
	uint64_t parts = closing->sequence - closing->first;
	uint32_t crc = 0;

	if (parts > i)
		return false;
	for (uint64_t k = i - parts; k < i; k++) {
		const struct replay_item *part = &replay->items[k];

		if (part->sequence != closing->first + (k - (i - parts)) || part->kind != RECORD_PART ||
		    part->commit != closing->commit)
			return false;
		crc = crc32c_extend(crc, &part->checksum, sizeof(part->checksum));
	}
	return crc == closing->chain_checksum;
}

/* Move what is to be applied to the front, in order. */
static int choose(struct replay *replay, uint64_t oldest)
{
	uint64_t next = oldest, needed = 0, count = replay->count;

	sort_items(replay->items, count);
	for (uint64_t i = 0; i < count; i++) {
		struct replay_item item = replay->items[i];
		uint64_t parts;

		if (item.kind != RECORD_COMMIT || item.commit < oldest)
			continue;
		/* J2: commits become durable one after the other, and a chain's parts before its end */
		if (item.commit != next || !chain_is_complete(replay, i))
			return fail(EBADMSG, "the journal has commit %llu and not all of commit %llu before it",
			            (unsigned long long)item.commit, (unsigned long long)next);
		/* J6; what is retired may have been made when the file was longer */
		if (item.file_size > replay->store->size)
			return fail(EBADMSG, "the file was cut: it ends at %llu, and a commit was made with %llu bytes",
			            (unsigned long long)replay->store->size, (unsigned long long)item.file_size);
		parts = item.sequence - item.first;
		for (uint64_t k = i - parts; k <= i; k++)
			replay->items[needed++] = replay->items[k];
		next++;
	}
	replay->needed = needed;
	return 0;
}

int replay_load(struct replay *replay, struct store *store)
{
	const struct super_rec *super = &store->super.rec;
	uint64_t oldest = super->journal_oldest;

	memset(replay, 0, sizeof(*replay));
	replay->store = store;
	if (judge_extents(store))
		return -1;
	/* a clean heap has nothing to replay; if a copy of its superblock is lost, the journal may know better */
	if (super->state == SUPER_CLEAN && store->super.both_valid)
		return 0;
	for (unsigned i = 0; i < JOURNAL_EXTENTS && super->journal[i].len; i++)
		if (scan_extent(replay, &super->journal[i], &oldest))
			goto failed;
	if (choose(replay, oldest))
		goto failed;
	return 0;
failed:
	replay_drop(replay);
	return -1;
}

int replay_read(struct replay *replay, const struct replay_item *item)
{
	int r = read_record(replay, item->position, item->len);

	if (r == 0)
		return fail(EIO, "a journal record changed while it was replayed");
	return r < 0 ? -1 : 0;
}

int replay_each(struct replay *replay, int (*put)(void *arg, const struct record_entry *entry), void *arg)
{
	for (uint64_t i = 0; i < replay->needed; i++) {
		const struct replay_item *item = &replay->items[i];
		struct record_entry entry;
		uint64_t at = 0;
		int r;

		if (replay_read(replay, item))
			return -1;
		while (record_next((const struct record_rec *)(const void *)replay->bytes, &at, &entry)) {
			r = put(arg, &entry);
			if (r)
				return r == -1 ? -1 : fail(-r, "replaying the journal:");
		}
	}
	return 0;
}
