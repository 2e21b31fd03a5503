/* SPDX-License-Identifier: Apache-2.0
 *
 * The file's size and blocks. A store into a hole of a full file system is a SIGBUS on every file system,
 * so whatever is handed out was backed by fallocate before.
 */
#include "../base/atomics.h"
#include "../base/bits.h"
#include "atomic.h"
#include "truth.h"

#include <errno.h>

static int write_again(int fd, uint64_t off)
{
	uint8_t page[LENGTH_PAGE];
	ssize_t n = os->pread_full(fd, page, sizeof(page), off);

	if (n < 0)
		return (int)n;
	for (size_t i = (size_t)n; i < sizeof(page); i++)
		page[i] = 0;
	return os->pwrite_full(fd, page, sizeof(page), off);
}

/* Without fallocate: every page is read and written again as it is, and zeros make the file longer. Not the pages of an
 * atomic heap's journal, which has its blocks, and into which another thread may be writing. A page that is free now may
 * belong to the last commit, which is being applied: C5. */
static int back_by_writing(const struct store *store, int fd, uint64_t off, uint64_t len)
{
	struct atomic *atomic = store->atomic;
	int r = 0;

	for (uint64_t end = off + len; !r && off < end; off += LENGTH_PAGE) {
		if (store_is_journal(store, off >> SEGMENT_SHIFT))
			continue;
		if (atomic)
			pthread_mutex_lock(&atomic->place.lock);
		r = write_again(fd, off);
		if (atomic)
			pthread_mutex_unlock(&atomic->place.lock);
	}
	return r;
}

/* Back a range whose blocks may belong to another file as well. */
static int allocate_unshared(const struct store *store, int fd, uint64_t off, uint64_t len)
{
	int r = os->unshare(fd, off, len);

	if (r != -EOPNOTSUPP && r != -EINVAL)
		return r;
	r = os->allocate(fd, off, len);
	if (r)
		return r;
	return os->is_shared(fd, off, len) == 1 ? back_by_writing(store, fd, off, len) : 0;
}

static int allocate_in(struct store *store, int fd, uint64_t off, uint64_t len)
{
	struct os_stat st;
	int r;

	if (off + len > os->file_size_limit())
		return -EFBIG; /* beyond it the kernel would send SIGXFSZ */
	if (!store->zeroes_only) {
		r = store->unshares ? allocate_unshared(store, fd, off, len) : os->allocate(fd, off, len);
		if (r != -EOPNOTSUPP)
			return r;
		store->zeroes_only = true;
	}
	r = back_by_writing(store, fd, off, len);
	/* the file ends at least there, also if that is in an extent that is planned */
	if (!r && store->is_atomic && os->stat_fd(fd, &st) == 0 && st.size < off + len)
		r = os->truncate(fd, off + len);
	return r;
}

/* Without a descriptor: the kernel takes blocks for pages that are written, through the mapping, as far as the
 * file is long. Where it can't this is an error and no signal. */
static int allocate_mapped(struct store *store, uint64_t off, uint64_t len)
{
	bool is_new = off + len > store->size;
	int r = is_new ? os->protect(store->base + off, len, true, true) : 0;

	if (r)
		return r;
	r = os->advise(store->base + off, len, OS_POPULATE_WRITE);
	if (r && is_new)
		os->protect(store->base + max_u64(off, store->size), off + len - max_u64(off, store->size), false, false);
	return r ? -ENOSPC : 0;
}

static int allocate(struct store *store, uint64_t off, uint64_t len)
{
	int fd, r;

	if (store->is_memory)
		return 0; /* there are no blocks */
	fd = store_borrow(store);
	if (fd < 0)
		return store->base && !store->is_atomic ? allocate_mapped(store, off, len) : fd; /* its pages are none of the file's */
	r = allocate_in(store, fd, off, len);
	store_give_back(store, fd);
	return r;
}

void store_may_dump(const struct store *store, uint64_t off, uint64_t len, bool may)
{
	/* of an atomic heap's reservation the kernel dumps what was stored, and nothing else */
	if (!store->is_atomic)
		os->advise(store->base + off, round_up(len, os->page_size()), may ? OS_DUMP : OS_DONT_DUMP);
}

int store_stat(const struct store *store, struct os_stat *st)
{
	int r = store->fd < 0 ? -EBADF : os->stat_fd(store->fd, st);

	/* no copy of the descriptor: one call says both what is asked and whose file it is */
	return r || store_is_same_file(&st->id, &store->id) ? r : -EBADF;
}

/* How long somebody made the file beyond the heap, so that it can grow without a descriptor; 0: nobody did. */
static uint64_t made_long(const struct store *store)
{
	struct os_stat st;

	return store->no_sync && store_stat(store, &st) == 0 && st.size > store->size ? st.size : 0;
}

/* Cut the file to `size` bytes, and make it `length` bytes long again if that is more. */
static int cut(const struct store *store, uint64_t size, uint64_t length)
{
	int fd = store_borrow(store);
	int r = fd < 0 ? fd : os->truncate(fd, size);

	if (!r && length > size && length <= os->file_size_limit())
		os->truncate(fd, length);
	store_give_back(store, fd);
	return r;
}

void store_record_blocks(struct store *store)
{
	struct os_stat st;

	/* an atomic heap's page of truth changes by commits only, and a commit can't fail for lack of a block */
	if (store->is_atomic)
		return;
	/* a restoration that failed for lack of space must be tried again at the next opening */
	if (!store->is_restoring && store_stat(store, &st) == 0)
		truth_store(&store_truth(store)->backed_blocks, st.blocks);
}

bool store_has_lost_blocks(struct store *store)
{
	struct os_stat st;

	if (store->is_atomic)
		return false;
	return store_stat(store, &st) != 0 || st.blocks < truth_load(&store_truth(store)->backed_blocks);
}

/* Where the file ends; behind `size` there may be the journal of an atomic heap. */
static uint64_t file_end(const struct store *store)
{
	struct os_stat st;

	return store->is_atomic && store_stat(store, &st) == 0 ? max_u64(st.size, store->size) : store->size;
}

/* What failed half-way is cut off: nothing of it was handed out. `end` is where the file ended, `length` what
 * made_long() said. If an extent of an atomic heap's journal is planned behind that, it may just be made: then all
 * stays until the heap is closed. */
static void undo_extension(struct store *store, uint64_t end, uint64_t length)
{
	if (!store->is_atomic || store->end <= end)
		cut(store, end, length);
}

int store_extend(struct store *store, uint64_t from, uint64_t size)
{
	uint64_t end, length, hole;
	int r;

	if (size <= store->size)
		return 0;
	if (size > store->max_size)
		return -EFBIG;
	end = file_end(store);
	length = made_long(store);
	hole = store_hole(store->size, from);
	r = hole > store->size ? allocate(store, store->size, hole - store->size) : 0;
	if (!r)
		r = allocate(store, from, size - from);
	if (!r)
		r = os->protect(store->base + store->size, size - store->size, true, true);
	if (!r && store->atomic)
		r = atomic_extended(store, size);
	if (r) {
		undo_extension(store, end, length);
		return r;
	}
	store_may_dump(store, store->size, size - store->size, true);
	store_release(&store->size, size); /* pairs with readers that check an address against it */
	store_record_blocks(store);
	return 0;
}

int store_back(struct store *store, uint64_t off, uint64_t len)
{
	return allocate(store, off, len);
}

int store_punch(struct store *store, uint64_t off, uint64_t len)
{
	int fd = store_borrow(store);
	int r = store->is_memory ? os->advise(store->base + off, len, OS_DROP) : fd < 0 ? fd : os->punch(fd, off, len);

	store_give_back(store, fd);
	if (!r)
		store_record_blocks(store);
	return r;
}

int store_truncate(struct store *store, uint64_t size)
{
	uint64_t old = store->size, length;
	int r;

	/* the journal stays; what was only reserved for it goes */
	for (unsigned i = 0; store->is_atomic && i < JOURNAL_EXTENTS; i++)
		size = max_u64(size, store->super.rec.journal[i].off + store->super.rec.journal[i].len);
	if (size >= old)
		return store->is_atomic && size < store->end ? cut(store, size, 0) : 0;
	length = made_long(store);
	/* no access beyond the end while it moves */
	store_release(&store->size, size);
	os->protect(store->base + size, old - size, false, false);
	r = store->is_memory ? os->advise(store->base + size, old - size, OS_DROP) : cut(store, size, length);
	if (r) {
		if (os->protect(store->base + size, old - size, true, true) == 0)
			store_release(&store->size, old);
		return r;
	}
	store_may_dump(store, size, old - size, false);
	store_record_blocks(store);
	return 0;
}
