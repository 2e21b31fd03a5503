/* SPDX-License-Identifier: Apache-2.0
 *
 * After a fork the child has the parent's mapping and copies of its descriptors. Here it gets a file of its own
 * at the same addresses, or the parent's file without writing to it.
 */
#include "../base/bits.h"
#include "../base/status.h"
#include "store.h"

#include <errno.h>
#include <string.h>

#define CHUNK UINT64_C(65536)

/* ---------------------------------------------------------------- copying */

static bool is_zero(const uint8_t *bytes, uint64_t len)
{
	return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

/* The next stretch [*from, *to) at or after *from that is not all a hole. 0, -ENXIO: none, or -errno. */
static int next_stretch(const struct store *store, int fd, uint64_t *from, uint64_t *to)
{
	uint64_t end = store->size;
	int r = fd < 0 ? -EBADF : os->next_data(fd, from);

	*to = *from;
	if (!r && *from < end)
		r = os->next_hole(fd, to);
	if (!r)
		*to = min_u64(round_up(*to, LENGTH_PAGE), end);
	if (r != -ENXIO && r) {
		/* holes can't be told: what is zero is as good as one */
		while (*from < end && is_zero(store->base + *from, min_u64(CHUNK, end - *from)))
			*from += CHUNK;
		*to = min_u64(*from + CHUNK, end);
		r = 0;
	}
	*from = round_down(*from, LENGTH_PAGE);
	return !r && *from >= end ? -ENXIO : r;
}

static int copy_bytes(const struct store *store, int from_fd, int fd)
{
	uint64_t from = 0, to;
	int r;

	while ((r = next_stretch(store, from_fd, &from, &to)) == 0) {
		r = os->pwrite_full(fd, store->base + from, to - from, from);
		if (r)
			return r;
		from = to;
	}
	return r == -ENXIO ? 0 : r;
}

int store_copy(struct store *store, int fd)
{
	int from_fd = store_borrow(store);
	int r;

	os->no_copy_on_write(fd); /* as the heap's file, or it can't be cloned */
	if (store->size > os->file_size_limit())
		r = -EFBIG; /* beyond it the kernel would send SIGXFSZ */
	else
		r = from_fd < 0 ? -EBADF : os->clone_file(fd, from_fd);
	if (r && r != -EFBIG) {
		/* space first: the copy fails early where there is none */
		r = os->allocate(fd, 0, store->size);
		if (r == -EOPNOTSUPP)
			r = 0;
		if (!r)
			r = copy_bytes(store, from_fd, fd);
	}
	/* the holes of a clone, and the tail of a file system without fallocate */
	if (!r)
		r = os->allocate(fd, 0, store->size);
	if (r == -EOPNOTSUPP)
		r = os->pwrite_full(fd, "", 1, store->size - 1);
	store_give_back(store, from_fd);
	return r;
}

/* ---------------------------------------------------------------- another file at the same place */

/* Descriptions of the child's own where /proc is there. */
static int open_both(struct store *next, int fd)
{
	next->fd = os->reopen(fd, true);
	if (next->fd == -ENOENT)
		next->fd = os->copy_fd(fd);
	if (next->fd < 0)
		return fail(-next->fd, "opening the copy:");
	next->lock_fd = os->reopen(fd, true);
	if (next->lock_fd == -ENOENT)
		next->lock_fd = os->copy_fd(fd);
	return next->lock_fd < 0 ? fail(-next->lock_fd, "opening the copy:") : 0;
}

/* Is `next` a copy of `store` which nobody else has open? Takes its identity, length, superblock and lock. */
static int take_copy(struct store *next, const struct store *store)
{
	enum super_verdict verdict = SUPER_EMPTY;
	struct os_stat st;
	int r = os->stat_fd(next->fd, &st);

	if (!r)
		r = super_read(next->fd, st.size, &next->super, &verdict);
	if (r)
		return fail(-r, "reading the copy:");
	if (!st.is_regular || st.size < HEAP_MIN_SIZE || verdict != SUPER_OK ||
	    memcmp(next->super.rec.uuid, store->super.rec.uuid, sizeof(next->super.rec.uuid)) != 0)
		return fail(EILSEQ, "the file is no copy of this heap");
	if (os->lock(next->lock_fd, true))
		return fail(EBUSY, "the copy is in use by another heap handle or process");
	next->id = st.id;
	/* another thread may have made the heap longer since it was copied */
	next->size = min_u64(store->size, round_down(st.size, UNIT_SIZE));
	next->super.no_sync = store->no_sync;
	return 0;
}

static int map_in_place(const struct store *next)
{
	void *result;
	int r = os->reserve_file(next->fd, next->base, true, next->reserved, &result);

	if (!r)
		r = os->protect(next->base, next->size, true, true);
	if (!r)
		store_may_dump(next, 0, next->size, true);
	return r ? fail(-r, "mapping the copy:") : 0;
}

int store_reopen(struct store *store, int fd)
{
	struct store next = *store;
	int r;

	next.fd = next.lock_fd = -1;
	next.id = (struct os_file_id){0};
	if (open_both(&next, fd) || take_copy(&next, store) || map_in_place(&next)) {
		store_close_file(&next);
		return -1;
	}
	store_close_lock(store);
	store_close_fd(store);
	next.is_marked = next.is_unclean = next.sync_failed = next.zeroes_only = false;
	next.is_moved = true; /* the mark names the parent's file */
	*store = next;
	r = store_back(store, 0, store->size);
	return r ? fail(-r, "backing the copy:") : 0;
}

/* ---------------------------------------------------------------- no file */

/* Its bytes in anonymous memory, where no descriptor is left to map privately. */
static int detach_to_memory(const struct store *store)
{
	uint64_t from = 0, to;
	void *memory;
	uint8_t *bytes;
	int r = os->reserve_memory(store->size, &memory);

	if (r)
		return r;
	bytes = memory;
	r = os->protect(memory, store->size, true, true);
	while (!r && (r = next_stretch(store, -1, &from, &to)) == 0) {
		memcpy(bytes + from, store->base + from, to - from);
		from = to;
	}
	r = r == -ENXIO ? os->move_memory(memory, store->base, store->size) : r;
	if (r)
		os->unmap(memory, store->size);
	return r;
}

int store_detach(struct store *store)
{
	int fd = store_borrow(store);
	int r = fd < 0 ? detach_to_memory(store) : os->map_private(fd, store->base, store->size);

	store_give_back(store, fd);
	if (r)
		return fail(-r, "mapping the heap privately:");
	store_close_lock(store);
	store_close_fd(store);
	return 0;
}
