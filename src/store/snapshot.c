/* SPDX-License-Identifier: Apache-2.0
 *
 * A copy of the last commit while the heap is in use.
 *
 *   1  begin      everything is applied. Where the file system shares blocks, they are shared now, and that is the copy
 *   2  copy       else the file is copied while commits go on, which note the pages that they apply; those are copied
 *                 again, until few are left
 *   3  catch up   the rest, while no commit is applied: a bounded time
 *   4  publish    a superblock with a UUID of its own, everything on the device, then the name
 *
 *   N1  a page that is applied while the file is copied is in the set of touched ones after it was written, and leaves
 *       the set before it is copied: each page is copied after it was written last
 *   N2  the last round is the committer's, with everything applied: the copy is exactly a commit
 *
 * Journal and superblocks are not shared: a commit must not need a new block for its record.
 */
#include "atomic.h"

#include "../base/status.h"

#include <errno.h>
#include <string.h>

#define CHUNK (64 * KIB)

/* Pages that may be left for step 3, and how often step 2 tries. */
#define LEFT_MAX 2048
#define ROUNDS   16

/* The journal's extents are not part of the copy. Where does the one at or behind `off` begin and end? */
static void next_extent(const struct store *store, uint64_t off, uint64_t *begin, uint64_t *end)
{
	*begin = *end = UINT64_MAX;
	for (unsigned i = 0; i < store->reserved_extents; i++) {
		const struct extent_rec *e = &store->reserved_extent[i];

		if (e->off + e->len > off && e->off < *begin) {
			*begin = e->off;
			*end = e->off + e->len;
		}
	}
}

static int copy_range(struct snapshot *snapshot, const struct store *from, uint64_t off, uint64_t end)
{
	while (off < end) {
		uint64_t n = min_u64(end - off, CHUNK);
		int fd = store_borrow(from);
		ssize_t got = fd < 0 ? fd : os->pread_full(fd, snapshot->bytes, n, off);
		int r = got < 0 ? (int)got : os->pwrite_full(snapshot->store.fd, snapshot->bytes, (size_t)got, off);

		store_give_back(from, fd);

		if (r)
			return r;
		if (got < (ssize_t)n)
			break;
		off += n;
	}
	return 0;
}

/* Call `copy` on each part of [off, end) that is not the journal's. */
static int each_part(struct snapshot *snapshot, const struct store *from, uint64_t off, uint64_t end,
                     int (*copy)(struct snapshot *, const struct store *, uint64_t, uint64_t))
{
	while (off < end) {
		uint64_t begin, behind;
		int r = 0;

		next_extent(from, off, &begin, &behind);
		if (off < begin)
			r = copy(snapshot, from, off, min_u64(end, begin));
		if (r)
			return r;
		off = behind;
	}
	return 0;
}

static int clone_range(struct snapshot *snapshot, const struct store *from, uint64_t off, uint64_t end)
{
	int fd = store_borrow(from);
	int r = fd < 0 ? fd : os->clone(fd, snapshot->store.fd, off, end - off);

	store_give_back(from, fd);
	return r;
}

/* Let the file have its length, and blocks for all of it: zeros are no holes. */
static int make_room(struct snapshot *snapshot, uint64_t size)
{
	int fd = snapshot->store.fd, r;

	if (size > os->file_size_limit())
		return -EFBIG;
	r = os->allocate(fd, 0, size);
	return r == -EOPNOTSUPP ? os->truncate(fd, size) : r;
}

int snapshot_begin(struct snapshot *snapshot, struct atomic *atomic, const char *path)
{
	const struct store *from = atomic->store;
	int r = atomic_catch_up(atomic);

	memset(snapshot, 0, sizeof(*snapshot));
	snapshot->request.path = path;
	snapshot->store.fd = snapshot->store.lock_fd = -1;
	memcpy(snapshot->store.boot_id, from->boot_id, sizeof(from->boot_id));
	snapshot->size = from->size;
	if (r)
		return fail(-r, "bringing the last commit to its place:");
	r = os->reserve_memory(CHUNK, &snapshot->bytes);
	if (!r)
		r = os->protect(snapshot->bytes, CHUNK, true, true);
	if (r)
		return fail(-r, "memory for the snapshot:");
	if (store_create_unnamed(&snapshot->store, &snapshot->request, snapshot->temporary))
		return -1;
	os->no_copy_on_write(snapshot->store.fd);
	r = os->truncate(snapshot->store.fd, snapshot->size);
	if (!r)
		snapshot->is_cloned = each_part(snapshot, from, UNIT_SIZE, snapshot->size, clone_range) == 0;
	if (!r && snapshot->is_cloned)
		r = copy_range(snapshot, from, 0, UNIT_SIZE);
	if (r)
		return fail(-r, "writing the snapshot %s:", path);
	if (snapshot->is_cloned)
		return 0;
	r = pageset_make(&snapshot->touched, from->reserved / LENGTH_PAGE);
	if (!r)
		r = pageset_make(&snapshot->again, from->reserved / LENGTH_PAGE);
	if (r)
		return fail(-r, "memory for the snapshot:");
	atomic->place.copied = &snapshot->touched;
	return 0;
}

/* Copy once more what was applied meanwhile; *n: how many pages. N1: out of the set first, then copied. */
static int copy_touched(struct snapshot *snapshot, const struct store *from, uint64_t *n)
{
	*n = 0;
	pageset_move(&snapshot->touched, &snapshot->again);
	for (uint64_t page = pageset_next(&snapshot->again, 0); page != UINT64_MAX;
	     page = pageset_next(&snapshot->again, page)) {
		int r = copy_range(snapshot, from, page * LENGTH_PAGE, (page + 1) * LENGTH_PAGE);

		if (r)
			return r;
		pageset_remove(&snapshot->again, page);
		++*n;
	}
	return 0;
}

int snapshot_copy(struct snapshot *snapshot, struct atomic *atomic)
{
	const struct store *from = atomic->store;
	uint64_t n = UINT64_MAX;
	int r;

	if (snapshot->is_cloned)
		return 0;
	r = make_room(snapshot, snapshot->size);
	if (!r)
		r = each_part(snapshot, from, 0, snapshot->size, copy_range);
	for (unsigned i = 0; !r && n > LEFT_MAX && i < ROUNDS; i++)
		r = copy_touched(snapshot, from, &n);
	return r ? fail(-r, "writing the snapshot %s:", snapshot->request.path) : 0;
}

int snapshot_catch_up(struct snapshot *snapshot, struct atomic *atomic)
{
	const struct store *from = atomic->store;
	uint64_t size = from->size, n;
	int r = atomic_catch_up(atomic); /* N2 */

	if (snapshot->is_cloned)
		return 0;
	if (!r && size > snapshot->size) {
		r = make_room(snapshot, size);
		if (!r)
			r = each_part(snapshot, from, snapshot->size, size, copy_range);
		snapshot->size = size;
	}
	if (!r)
		r = copy_touched(snapshot, from, &n);
	atomic->place.copied = NULL;
	return r ? fail(-r, "writing the snapshot %s:", snapshot->request.path) : 0;
}

static int write_supers(const struct snapshot *snapshot, const struct super_rec *rec)
{
	int r = os->pwrite_sync(snapshot->store.fd, rec, sizeof(*rec), SUPER_COPY_1_OFF);

	return r ? r : os->pwrite_sync(snapshot->store.fd, rec, sizeof(*rec), SUPER_COPY_2_OFF);
}

int snapshot_publish(struct snapshot *snapshot, struct atomic *atomic)
{
	struct super_rec rec = journal_super(&atomic->journal);
	struct os_stat st;
	uint8_t uuid[16];
	int r = os->random(uuid, sizeof(uuid));

	if (!r)
		r = os->stat_fd(snapshot->store.fd, &st);
	/* heaps end with a whole unit */
	if (!r && st.size % UNIT_SIZE)
		r = os->truncate(snapshot->store.fd, round_up(st.size, UNIT_SIZE));
	if (!r)
		r = os->sync(snapshot->store.fd);
	if (r)
		return fail(-r, "finishing the snapshot %s:", snapshot->request.path);
	super_set_uuid(&rec, uuid);
	snapshot->store.id = st.id;
	store_stamp(&snapshot->store, &rec);
	rec.state = SUPER_CLEAN;
	rec.sequence = 1;
	rec.generation++; /* its records are none of the copied journal's */
	rec.journal_oldest = 1;
	memset(&rec.journal[1], 0, (JOURNAL_EXTENTS - 1) * sizeof(rec.journal[1]));
	super_seal(&rec);
	r = write_supers(snapshot, &rec);
	if (!r)
		r = store_publish(&snapshot->store, &snapshot->request, snapshot->temporary);
	if (r)
		return fail(-r, "linking the snapshot to %s:", snapshot->request.path);
	snapshot->is_linked = true;
	return 0;
}

void snapshot_drop(struct snapshot *snapshot, struct atomic *atomic)
{
	int saved = errno;

	if (atomic->place.copied == &snapshot->touched)
		atomic->place.copied = NULL;
	if (snapshot->bytes)
		os->unmap(snapshot->bytes, CHUNK);
	pageset_drop(&snapshot->touched);
	pageset_drop(&snapshot->again);
	if (*snapshot->temporary && !snapshot->is_linked)
		os->unlink(snapshot->temporary);
	store_close_file(&snapshot->store);
	errno = saved;
}
