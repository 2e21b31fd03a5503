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
static int next_stretch(const struct store *store, const uint8_t *bytes, int fd, uint64_t *from, uint64_t *to)
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
		while (*from < end && is_zero(bytes + *from, min_u64(CHUNK, end - *from)))
			*from += CHUNK;
		*to = min_u64(*from + CHUNK, end);
		r = 0;
	}
	*from = round_down(*from, LENGTH_PAGE);
	return !r && *from >= end ? -ENXIO : r;
}

/* To the file `fd`, or to `memory` if that is not NULL. */
static int copy_from(const struct store *store, const uint8_t *bytes, int from_fd, int fd, uint8_t *memory)
{
	uint64_t from = 0, to;
	int r;

	while ((r = next_stretch(store, bytes, from_fd, &from, &to)) == 0) {
		if (memory)
			memcpy(memory + from, bytes + from, to - from);
		else
			r = os->pwrite_full(fd, bytes + from, to - from, from);
		if (r)
			return r;
		from = to;
	}
	return r == -ENXIO ? 0 : r;
}

static int copy_bytes(const struct store *store, int from_fd, int fd, uint8_t *memory)
{
	bool reads = from_fd < 0 || memory; /* by instructions, and not by a system call, which can fail */
	int r = reads ? -EFAULT : copy_from(store, store->base, from_fd, fd, NULL);
	void *view;

	if (r != -EFAULT)
		return r;
	/* the program may have made pages unreadable; private memory has no second mapping */
	if (os->view(store->base, store->size, &view))
		return reads ? copy_from(store, store->base, from_fd, fd, memory) : -ENOMEM;
	r = copy_from(store, view, from_fd, fd, memory);
	os->unmap(view, store->size);
	return r;
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
			r = copy_bytes(store, from_fd, fd, NULL);
	}
	/* the holes of a clone, and the tail of a file system without fallocate */
	if (!r)
		r = os->allocate(fd, 0, store->size);
	if (r == -EOPNOTSUPP)
		r = os->pwrite_full(fd, "", 1, store->size - 1);
	store_give_back(store, from_fd);
	return r;
}

int store_copy_to_memory(struct store *store, void **memory)
{
	int from_fd, r;

	if (store->size > os->memory_limit())
		return -ENOMEM;
	r = os->reserve_memory(store->size, memory);
	if (r)
		return r;
	from_fd = store_borrow(store);
	r = os->protect(*memory, store->size, true, true);
	if (!r)
		r = copy_bytes(store, from_fd, -1, *memory);
	store_give_back(store, from_fd);
	if (r)
		os->unmap(*memory, store->size);
	return r;
}

/* ---------------------------------------------------------------- another file at the same place */

/* Descriptions of the child's own where the kernel gives them. */
static int open_one(int fd)
{
	int own = os->reopen(fd, true);

	/* no /proc, or a filter of system calls; the other two: `fd` is not open for reading and writing */
	return own < 0 && own != -EACCES && own != -EBADF ? os->copy_fd(fd) : own;
}

static int open_both(struct store *next, int fd)
{
	next->fd = open_one(fd);
	if (next->fd < 0)
		return fail(-next->fd, "opening the copy:");
	next->lock_fd = open_one(fd);
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

/* Keep the first `len` bytes of the reservation. */
static void shrink(struct store *store, uint64_t len)
{
	len = max_u64(round_down(len, SEGMENT_SIZE), round_up(store->size, SEGMENT_SIZE));
	if (len >= store->reserved)
		return;
	os->unmap(store->base + len, store->reserved - len);
	store->reserved = len;
	store->max_size = min_u64(store->max_size, len);
}

/* RLIMIT_AS may have been set since the reservation was made: then a part of it goes, twice as much as must. */
static int map_in_place(struct store *next, struct store *store)
{
	uint64_t was = store->reserved, before;
	void *result;
	int r;

	do {
		before = store->reserved;
		r = os->reserve_file(next->fd, next->base, true, before, &result);
		if (r == -ENOMEM || (!r && before < was))
			shrink(store, before / 2);
	} while (r == -ENOMEM && store->reserved < before);
	next->reserved = store->reserved;
	next->max_size = store->max_size;
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
	/* first: perhaps no other number is free. The mapping stays */
	store_close_lock(store);
	store_close_fd(store);
	if (open_both(&next, fd) || take_copy(&next, store) || map_in_place(&next, store)) {
		store_close_file(&next);
		return -1;
	}
	next.is_marked = next.is_unclean = next.sync_failed = next.zeroes_only = false;
	next.is_moved = true; /* the mark names the parent's file */
	*store = next;
	r = store_back(store, 0, store->size);
	return r ? fail(-r, "backing the copy:") : 0;
}

/* ---------------------------------------------------------------- no file */

/* Its bytes in anonymous memory, where no descriptor is left to map privately. */
static int detach_to_memory(struct store *store)
{
	void *memory;
	int r = store_copy_to_memory(store, &memory);

	if (r)
		return r;
	r = os->move_memory(memory, store->base, store->size);
	if (r)
		os->unmap(memory, store->size);
	return r;
}

/* Replace what follows the first `size` bytes by anonymous memory, as much as can be had. */
static void reserve_rest(struct store *store)
{
	uint64_t was = store->reserved, before;
	void *rest;
	int r;

	do {
		before = store->reserved;
		if (before == store->size)
			return;
		r = os->reserve_memory(before - store->size, &rest);
		if (!r && os->move_memory(rest, store->base + store->size, before - store->size))
			os->unmap(rest, before - store->size);
		if (r || before < was)
			shrink(store, before / 2);
	} while (r && store->reserved < before);
}

int store_adopt(struct store *store, void *memory, uint64_t len)
{
	uint64_t size = min_u64(store->size, len);
	int r = os->move_memory(memory, store->base, size);

	if (r)
		return fail(-r, "taking the copy into use:");
	/* another thread may have made the heap shorter or longer since */
	if (size < len)
		os->unmap((uint8_t *)memory + size, len - size);
	store_close_lock(store);
	store_close_fd(store);
	store->size = size;
	store->is_memory = store->is_marked = true;
	reserve_rest(store);
	return 0;
}

int store_detach(struct store *store)
{
	int fd, r;

	shrink(store, 0); /* it will not grow, and a new heap needs the address space */
	fd = store_borrow(store);
	r = fd < 0 ? detach_to_memory(store) : os->map_private(fd, store->base, store->size);

	store_give_back(store, fd);
	if (r)
		return fail(-r, "mapping the heap privately:");
	store_close_lock(store);
	store_close_fd(store);
	return 0;
}
