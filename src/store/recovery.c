/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening an atomic heap: what the journal holds comes to its place.
 *
 *   R1  if the heap was in use since the machine was started, the needed records are written again, and synced, before
 *       anything relies on them: what this boot's page cache shows may not be on the device, and may be there only
 *       because a failed write was forgotten. Of another boot's records it has what the device has: they stay
 *       untouched, since a device may garble what it is writing
 *   R2  the commits are applied in order, and the file synced, also if there are none
 *   R3  the superblock names a new generation, in which nothing is needed; only then may a commit begin. On the same boot
 *       the file is synced before, a clean one too
 *
 * A crash before R3 leaves the old generation with the same records: all begins again, with the same result. The
 * superblock is not written again before R3, and R3 goes over the copy that does not count, on the device either: a
 * superblock that a killed process was writing is there after the sync, and one that the device refused was taken back
 * (J10).
 */
#include "../base/status.h"
#include "atomic.h"
#include "replay.h"

#include <errno.h>
#include <string.h>

/* ---------------------------------------------------------------- putting entries to their places */

static bool overlaps(const struct record_entry *entry, uint64_t off, uint64_t len)
{
	return entry->off < off + len && off < entry->off + entry->len;
}

/* J9: nothing of the journal's own, and nothing beyond the file. */
static int judge_entry(const struct store *store, const struct record_entry *entry)
{
	const struct extent_rec *journal = store->super.rec.journal;
	bool bad = overlaps(entry, SUPER_COPY_1_OFF, LENGTH_PAGE) || overlaps(entry, SUPER_COPY_2_OFF, LENGTH_PAGE) ||
	           entry->off + entry->len > store->size;

	for (unsigned i = 0; i < JOURNAL_EXTENTS && journal[i].len; i++)
		bad = bad || overlaps(entry, journal[i].off, journal[i].len);
	return bad ? fail(EBADMSG, "the journal has a record for a place that no commit writes") : 0;
}

static int put_into_file(void *arg, const struct record_entry *entry)
{
	const struct store *store = arg;

	if (judge_entry(store, entry))
		return -1;
	if (entry->off + entry->len > os->file_size_limit())
		return -EFBIG;
	return os->pwrite_full(store->fd, entry->data, entry->len, entry->off);
}

static int put_into_memory(void *arg, const struct record_entry *entry)
{
	const struct store *store = arg;

	if (judge_entry(store, entry))
		return -1;
	memcpy(store->base + entry->off, entry->data, entry->len);
	return 0;
}

/* ---------------------------------------------------------------- for writing */

static int rewrite_records(struct replay *replay)
{
	struct store *store = replay->store;

	for (uint64_t i = 0; i < replay->needed; i++) {
		const struct replay_item *item = &replay->items[i];
		int r = replay_read(replay, item);

		if (r)
			return -1;
		r = os->pwrite_full(store->fd, replay->bytes, item->len, item->position);
		if (r)
			return fail(-r, "writing the journal again:");
	}
	return 0;
}

static int sync_file(const struct store *store)
{
	int r = os->sync(store->fd);

	return r ? fail(-r, "syncing the heap that is recovered:") : 0;
}

static int begin_generation(struct store *store)
{
	struct super_rec next = store->super.rec;
	int r;

	next.generation++;
	next.journal_oldest = 1;
	store_stamp(store, &next);
	r = super_write(store->fd, &store->super, &next);
	return r ? fail(-r, "beginning a generation of commits:") : 0;
}

int recover_atomic(struct store *store)
{
	struct replay replay;
	int r;

	if (replay_load(&replay, store))
		return -1;
	r = replay.needed && !store_is_of_another_boot(store) ? rewrite_records(&replay) : 0;
	if (!r && replay.needed)
		r = sync_file(store) || replay_each(&replay, put_into_file, store);
	/* also the holes that a process punched when it was killed: commits compare with the zeros there; and the superblock
	 * that it was writing, which may be the clean one: R3 */
	if (!r && (store->super.rec.state != SUPER_CLEAN || !store_is_of_another_boot(store)))
		r = sync_file(store);
	if (!r)
		r = begin_generation(store);
	replay_drop(&replay);
	return r ? -1 : 0;
}

/* ---------------------------------------------------------------- for reading */

int recover_into_memory(struct store *store)
{
	struct replay replay;
	int r;

	if (replay_load(&replay, store))
		return -1;
	r = replay.needed ? os->protect(store->base, store->size, true, true) : 0;
	if (r)
		r = fail(-r, "mapping the heap:");
	else if (replay.needed)
		r = replay_each(&replay, put_into_memory, store);
	if (!r && replay.needed && os->protect(store->base, store->size, true, false))
		r = fail(ENOMEM, "mapping the heap:");
	replay_drop(&replay);
	return r ? -1 : 0;
}
