/* SPDX-License-Identifier: Apache-2.0 */
#include "journal.h"

#include "../base/atomics.h"
#include "../base/status.h"

#include <errno.h>
#include <string.h>

/* The first extent of its own, and by how much the next ones are larger than all before: few of the
 * superblock's eight places serve for the largest journal. */
#define EXTENT_MIN   SEGMENT_SIZE
#define EXTENT_RATIO 3

/* Not before so many times its length was written to it. */
#define GROW_AFTER 2

/* Records of up to this length are written past the page cache. ext4, mean of a synchronous write: 4 KiB 90 us instead of
 * 102, 32 KiB the same either way, 256 KiB the longer way [measured]. */
#define DIRECT_MAX (16 * KIB)

/* A new extent is zeroed in pieces of this size. */
#define ZERO_CHUNK (256 * KIB)

int journal_poison(struct journal *journal, int err)
{
	pthread_mutex_lock(&journal->lock);
	if (!journal->error)
		journal->error = err;
	pthread_cond_broadcast(&journal->changed);
	pthread_mutex_unlock(&journal->lock);
	return -err;
}

bool journal_is_poisoned(struct journal *journal)
{
	return load_relaxed(&journal->error) != 0;
}

/* ---------------------------------------------------------------- the ring */

/* Where virtual position `at` is in the file, and how many bytes its extent has from there. */
static uint64_t place_of(const struct journal *journal, uint64_t at, uint64_t *rest)
{
	uint64_t off = at % journal->capacity;
	unsigned i = 0;

	while (off >= journal->extent[i].len)
		off -= journal->extent[i++].len;
	*rest = journal->extent[i].len - off;
	return journal->extent[i].off + off;
}

/* Where a record of `len` bytes would go: *at; it lies in one extent. Needs the lock. Keeps J4: what is needed
 * is not overwritten. */
static bool find_room(const struct journal *journal, uint64_t len, uint64_t *at)
{
	uint64_t rest;

	*at = journal->head;
	for (unsigned i = 0; i <= journal->extents; i++) {
		place_of(journal, *at, &rest);
		if (rest >= len)
			return *at + len - journal->tail <= journal->capacity;
		*at += rest;
	}
	return false;
}

bool journal_is_short(const struct journal *journal)
{
	return journal->head - journal->tail > journal->capacity - journal->reserve;
}

uint64_t journal_longest(const struct journal *journal)
{
	uint64_t longest = 0;

	for (unsigned i = 0; i < journal->extents; i++)
		longest = max_u64(longest, journal->extent[i].len);
	return longest;
}

/* ---------------------------------------------------------------- descriptors */

bool journal_is_harmless(int r)
{
	return r == -EBADF || r == -EFBIG;
}

int journal_sync(const struct journal *journal, int own)
{
	int fd = store_borrow_of(journal->store, own);
	int r = fd < 0 ? fd : os->sync(fd);

	store_give_back_of(own, fd);
	return r;
}

static int write_by(const struct journal *journal, int own, const void *bytes, uint64_t len, uint64_t off)
{
	int fd = store_borrow_of(journal->store, own);
	int r = fd < 0 ? fd : os->pwrite_sync(fd, bytes, len, off);

	store_give_back_of(own, fd);
	return r;
}

/* Past the page cache, if that is worth it. Not in the header: there a folio of the cache may have pages of the heap
 * beside the journal's, and they would be written and waited for. Segments share no folio. */
static int write_durably(struct journal *journal, const void *bytes, uint64_t len, uint64_t off)
{
	int r;

	if (journal->direct_fd < 0 || len > DIRECT_MAX || off < SEGMENT_SIZE)
		return write_by(journal, journal->fd, bytes, len, off);
	r = write_by(journal, journal->direct_fd, bytes, len, off);
	if (r != -EINVAL && r != -EOPNOTSUPP)
		return r;
	/* a file system that says only now that it can't, and is asked once; what it may have written is written again */
	store_close_own(journal->store, journal->direct_fd);
	journal->direct_fd = -1;
	return write_by(journal, journal->fd, bytes, len, off);
}

/* ---------------------------------------------------------------- superblock */

int journal_update_super(struct journal *journal, void (*change)(struct super_rec *rec, uint64_t value), uint64_t value)
{
	struct store *store = journal->store;
	struct super_rec next;
	int fd = store_borrow(store);
	int r = fd;

	if (fd < 0)
		return r;
	pthread_mutex_lock(&journal->super_lock);
	next = store->super.rec;
	change(&next, value);
	r = super_write(fd, &store->super, &next);
	pthread_mutex_unlock(&journal->super_lock);
	store_give_back(store, fd);
	return r;
}

struct super_rec journal_super(struct journal *journal)
{
	struct super_rec rec;

	pthread_mutex_lock(&journal->super_lock);
	rec = journal->store->super.rec;
	pthread_mutex_unlock(&journal->super_lock);
	return rec;
}

/* ---------------------------------------------------------------- writing */

/* Wait until `len` bytes fit; the room is *at. Called with the lock held, and returns so. */
static int wait_for_room(struct journal *journal, uint64_t len, uint64_t *at)
{
	bool waited = false;

	while (!find_room(journal, len, at)) {
		int r = 0;

		if (journal->error)
			return -EIO;
		if (journal->tail == journal->applied_head)
			return -ENOSPC; /* nothing that could be retired */
		if (waited && journal->checkpoint_result)
			return journal->checkpoint_result;
		if (!waited)
			count(&journal->waits, 1);
		waited = true;
		if (journal->has_thread) {
			journal->is_wanted = true;
			pthread_cond_broadcast(&journal->changed);
			pthread_cond_wait(&journal->changed, &journal->lock);
			continue;
		}
		pthread_mutex_unlock(&journal->lock);
		r = journal_checkpoint(journal);
		pthread_mutex_lock(&journal->lock);
		if (r)
			return r;
	}
	return journal->error ? -EIO : 0;
}

/* Growth must be on the device before a commit relies on it: J6. */
static int sync_growth(struct journal *journal)
{
	int r;

	if (!load_acquire(&journal->must_sync))
		return 0;
	store_release(&journal->must_sync, false);
	r = journal_sync(journal, journal->fd);
	if (journal_is_harmless(r)) {
		store_release(&journal->must_sync, true);
		return r;
	}
	count(&journal->growth_flushes, 1);
	return r ? journal_poison(journal, EIO) : 0;
}

int journal_write(struct journal *journal, struct record *record, enum record_kind kind, uint64_t first,
                  uint32_t chain_checksum, uint64_t *position)
{
	struct record_rec *header = record_header(record);
	uint64_t len = round_up(record->used, RECORD_ALIGN), at, rest;
	int r = sync_growth(journal);

	if (r)
		return r;
	pthread_mutex_lock(&journal->lock);
	r = wait_for_room(journal, len, &at);
	header->commit = journal->commit;
	header->sequence = journal->sequence;
	header->oldest = journal->oldest;
	pthread_mutex_unlock(&journal->lock);
	if (r)
		return r;
	memcpy(header->uuid, journal->uuid, sizeof(header->uuid));
	header->generation = journal->generation;
	header->position = *position = place_of(journal, at, &rest);
	header->kind = kind;
	header->first = first ? first : header->sequence;
	header->chain_checksum = chain_checksum;
	if (header->position + len > os->file_size_limit())
		return -EFBIG;
	record_seal(record);
	r = write_durably(journal, record->bytes, len, header->position);
	if (journal_is_harmless(r))
		return r;
	count(&journal->flushes, 1);
	if (r)
		return journal_poison(journal, EIO); /* J5: it may be there or not */
	count(&journal->bytes, len);
	pthread_mutex_lock(&journal->lock);
	journal->head = at + len;
	journal->sequence++;
	pthread_mutex_unlock(&journal->lock);
	return 0;
}

void journal_committed(struct journal *journal)
{
	pthread_mutex_lock(&journal->lock);
	journal->commit++;
	pthread_mutex_unlock(&journal->lock);
}

void journal_applied(struct journal *journal)
{
	bool is_full;

	pthread_mutex_lock(&journal->lock);
	journal->applied = journal->commit - 1;
	journal->applied_head = journal->head;
	/* what is left is for the commits until the checkpoint is done */
	is_full = journal_is_short(journal);
	if (is_full && !journal->is_wanted) {
		journal->is_wanted = true;
		pthread_cond_broadcast(&journal->changed);
	}
	pthread_mutex_unlock(&journal->lock);
	/* begun when there is something to do for it; without it the commits do its work: slower, and no error */
	if (is_full && journal->may_thread && !journal->has_thread)
		journal->may_thread = checkpoint_start(journal) == 0;
}

void journal_abandon(struct journal *journal)
{
	/* the space is free again: no complete chain will ever name these records */
	pthread_mutex_lock(&journal->lock);
	journal->head = journal->applied_head;
	pthread_mutex_unlock(&journal->lock);
}

/* ---------------------------------------------------------------- growing */

/* The commits are faster than the checkpoints, not for the first time, and a worthwhile extent is within the limit. */
static bool may_grow(struct journal *journal, uint64_t limit)
{
	uint64_t written = load_relaxed(&journal->bytes) - journal->bytes_at_growth;
	bool busy;

	pthread_mutex_lock(&journal->lock);
	busy = journal_is_short(journal);
	pthread_mutex_unlock(&journal->lock);
	return busy && written >= GROW_AFTER * journal->capacity && limit >= journal->capacity + journal->capacity / 2;
}

/* Which of the superblock's extents the new one becomes: the next, or if all are taken it replaces the smallest behind
 * the header's; that one's segments stay reserved until the heap is closed. */
static unsigned place_of_new(const struct journal *journal)
{
	unsigned smallest = 1;

	if (journal->extents < JOURNAL_EXTENTS)
		return journal->extents;
	for (unsigned i = 2; i < JOURNAL_EXTENTS; i++)
		if (journal->extent[i].len < journal->extent[smallest].len)
			smallest = i;
	return smallest;
}

/* Bytes that the journal may have beside the heap's, whose segments may lie behind extents. */
static uint64_t limit_of(const struct journal *journal)
{
	uint64_t size = journal->store->size;

	for (unsigned i = 1; i < journal->extents; i++)
		if (journal->extent[i].off < journal->store->size)
			size -= min_u64(journal->extent[i].len, size);
	return min_u64(journal->limit, max_u64(size, EXTENT_MIN));
}

/* What was planned and could not be made is too short by now. Its place is free again, unless the heap has grown over it:
 * then units count as backed that the failure may have punched, and it stays reserved until the heap is closed. */
static void drop_plan(struct journal *journal)
{
	struct store *store = journal->store;

	if (journal->plan.len == 0 || journal->plan.off < store->size)
		return;
	store->reserved_extents--; /* the plan is the last one */
	store->end = journal->plan.off;
	journal->plan.len = 0;
}

bool journal_plan_growth(struct journal *journal, uint64_t total, uint64_t longest)
{
	struct store *store = journal->store;
	/* what is left at the end of each extent may be lost */
	uint64_t need = total + (journal->extents + 1) * longest, capacity = journal->capacity;
	bool must = need > capacity || longest > journal_longest(journal);
	unsigned place = place_of_new(journal);
	uint64_t stays = capacity - (place < journal->extents ? journal->extent[place].len : 0);
	uint64_t want, limit = limit_of(journal);

	if (!must && !may_grow(journal, limit))
		return false;
	if (journal->extents == JOURNAL_EXTENTS && !must)
		return false;
	want = limit > capacity ? max_u64(EXTENT_MIN, min_u64(capacity * EXTENT_RATIO, limit - capacity)) : EXTENT_MIN;
	if (must)
		/* one extent more, whose end may be lost too; doubled at least, for there are few places */
		want = max_u64(max_u64(want, longest), max_u64(capacity, need + longest > stays ? need + longest - stays : 0));
	want = round_up(want, SEGMENT_SIZE);
	if (journal->plan.len >= want)
		return true;
	drop_plan(journal);
	if (store->reserved_extents == RESERVED_EXTENTS)
		return false;
	/* J7: beyond the physical end nothing is used, neither by the last commit nor now */
	journal->plan.off = round_up(max_u64(max_u64(store->size, store->end), journal->floor), SEGMENT_SIZE);
	journal->plan.len = want;
	store->end = journal->plan.off + want;
	store->reserved_extent[store->reserved_extents++] = journal->plan;
	return true;
}

static int zero(int fd, uint64_t off, uint64_t len)
{
	static uint8_t zeros[ZERO_CHUNK];

	for (uint64_t end = off + len; off < end; off += ZERO_CHUNK) {
		int r = os->pwrite_full(fd, zeros, min_u64(ZERO_CHUNK, end - off), off);

		if (r)
			return r;
	}
	return 0;
}

/* The planned extent exists, is zero, and is on the device. */
static int make_extent(struct journal *journal)
{
	const struct extent_rec *plan = &journal->plan;
	int fd, r;

	if (plan->off + plan->len > os->file_size_limit())
		return -EFBIG;
	fd = store_borrow_of(journal->store, journal->fd);
	if (fd < 0)
		return fd;
	r = os->allocate(fd, plan->off, plan->len);
	if (!r || r == -EOPNOTSUPP)
		r = zero(fd, plan->off, plan->len);
	if (r)
		os->punch(fd, plan->off, plan->len);
	store_give_back_of(journal->fd, fd);
	if (r)
		return r;
	r = journal_sync(journal, journal->fd);
	if (journal_is_harmless(r))
		return r;
	count(&journal->growth_flushes, 2);
	return r ? journal_poison(journal, EIO) : 0;
}

static void add_extent(struct super_rec *rec, uint64_t journal_address)
{
	const struct journal *journal = (const struct journal *)(uintptr_t)journal_address;

	rec->journal[place_of_new(journal)] = journal->plan;
}

int journal_grow(struct journal *journal)
{
	unsigned place;
	int r = make_extent(journal);

	if (!r)
		r = journal_checkpoint(journal);
	if (r)
		return r;
	/* J8: nothing is needed, so that the ring may be laid out anew */
	r = journal_update_super(journal, add_extent, (uint64_t)(uintptr_t)journal);
	if (r)
		return journal_is_harmless(r) ? r : journal_poison(journal, EIO);
	pthread_mutex_lock(&journal->lock);
	place = place_of_new(journal);
	if (place == journal->extents)
		journal->extents++;
	else
		store_relaxed(&journal->capacity, journal->capacity - journal->extent[place].len);
	journal->extent[place] = journal->plan;
	journal->bytes_at_growth = load_relaxed(&journal->bytes);
	store_relaxed(&journal->capacity, journal->capacity + journal->plan.len);
	journal->reserve = journal->capacity / 2;
	journal->head = journal->applied_head = journal->tail = 0;
	pthread_mutex_unlock(&journal->lock);
	journal->plan.len = 0;
	return 0;
}

static void keep_first_extent(struct super_rec *rec, uint64_t ignored)
{
	(void)ignored;
	memset(&rec->journal[1], 0, (JOURNAL_EXTENTS - 1) * sizeof(rec->journal[1]));
}

int journal_shrink(struct journal *journal, uint64_t used)
{
	/* out of proportion, or behind a hole that a copy of the file may fill */
	bool is_large = journal->capacity > max_u64(used, 2 * EXTENT_MIN);
	bool is_far = journal->store->end > 2 * (used + journal->capacity);
	int r;

	if (journal->extents == 1 || (!is_large && !is_far))
		return 0;
	/* before the space is anybody else's: J7 */
	r = journal_update_super(journal, keep_first_extent, 0);
	if (r)
		return journal_is_harmless(r) ? r : journal_poison(journal, EIO);
	journal->extents = 1;
	journal->capacity = journal->extent[0].len;
	journal->reserve = journal->capacity / 2;
	journal->head = journal->applied_head = journal->tail = 0;
	return 0;
}

/* ---------------------------------------------------------------- opening */

static void load_extents(struct journal *journal)
{
	for (unsigned i = 0; i < JOURNAL_EXTENTS; i++) {
		const struct extent_rec *e = &journal->store->super.rec.journal[i];

		if (e->len == 0)
			break;
		journal->extent[journal->extents++] = *e;
		journal->capacity += e->len;
	}
	journal->reserve = journal->capacity / 2;
}

int journal_open(struct journal *journal, struct store *store, uint64_t limit, uint64_t floor, bool with_thread)
{
	int r;

	memset(journal, 0, sizeof(*journal));
	journal->store = store;
	memcpy(journal->uuid, store->super.rec.uuid, sizeof(journal->uuid));
	journal->generation = store->super.rec.generation;
	journal->limit = limit;
	journal->floor = floor;
	journal->commit = journal->oldest = 1;
	journal->sequence = 1;
	load_extents(journal);
	journal->sync_fd = -1;
	journal->fd = os->reopen(store->fd, true);
	if (journal->fd >= 0)
		journal->sync_fd = os->reopen(store->fd, true);
	r = journal->fd < 0 ? journal->fd : journal->sync_fd < 0 ? journal->sync_fd : 0;
	if (r) {
		if (journal->fd >= 0)
			os->close(journal->fd);
		return fail(-r, "opening the heap's file for its journal:");
	}
	journal->direct_fd = os->reopen_direct(store->fd);
	pthread_mutex_init(&journal->super_lock, NULL);
	pthread_mutex_init(&journal->checkpoint_lock, NULL);
	pthread_mutex_init(&journal->lock, NULL);
	pthread_cond_init(&journal->changed, NULL);
	journal->may_thread = with_thread;
	return 0;
}

void journal_close(struct journal *journal)
{
	checkpoint_stop(journal);
	store_close_own(journal->store, journal->fd);
	store_close_own(journal->store, journal->direct_fd);
	store_close_own(journal->store, journal->sync_fd);
	pthread_mutex_destroy(&journal->super_lock);
	pthread_mutex_destroy(&journal->checkpoint_lock);
	pthread_mutex_destroy(&journal->lock);
	pthread_cond_destroy(&journal->changed);
}
