/* SPDX-License-Identifier: Apache-2.0
 *
 * The first stores into new parts of the file. Each of them is a page fault, which on a disk's file system costs about
 * ten times what it costs in anonymous memory: page cache, block lookup, dirtying, a page each. Where the file system
 * keeps its cache in folios of several pages, a write() makes one folio of what it writes, and a fault maps all of it.
 * So zeros are written over zeros, a folio at a time, and then there is one fault instead of four.
 *
 * A folio is dirty as a whole: a byte stored anywhere in it later sends all of it to the device. FOLIO is small for
 * that reason (docs/design.md has the measurements).
 */
#include "../base/bits.h"
#include "store.h"

#define FOLIO (16 * 1024)

/* A heap that takes less than this after it was opened is left alone. The last slab of every size in use is written
 * to its end and used in part: with 40 sizes some 300 KiB more are resident, and 1 MiB of zeros goes to the device, once.
 * That is to stay little beside the heap. */
#define TAKEN_BEFORE (16 * MIB)

/* Whether it pays depends on the kernel, its configuration and the file system, so it is tried. Where pages are in the
 * cache already, one by one, because the kernel has read around an earlier fault, a trial says nothing; a step of growth
 * ends that. */
#define PATIENCE 256
#define TRIED    64 /* of it for a trial without a gain, 1 for a unit that was in the cache */

/* A write takes microseconds, unless it waits for a device or a server (mount -o sync, FUSE): not then. */
#define SLOW_MS 2

/* Never written, so that all its pages are the kernel's one page of zeros. */
static uint8_t zeros[FOLIO];

static bool try_folio(const struct store *store, int fd, uint64_t off)
{
	uint64_t start = os->now_ms();
	uint64_t faults;

	if (os->pwrite_full(fd, zeros, FOLIO, off) || os->now_ms() - start >= SLOW_MS)
		return false;
	faults = os->fault_count();
	return os->advise(store->base + off, FOLIO, OS_POPULATE_WRITE) == 0 &&
	       2 * (os->fault_count() - faults) <= FOLIO / os->page_size();
}

/* Try it at `off`, unless that would say nothing. */
static void try_at(struct store *store, int fd, uint64_t off)
{
	struct prefault *prefault = &store->prefault;

	if (os->is_cached(store->base + off, FOLIO)) {
		prefault->tried++;
	} else {
		prefault->pays = try_folio(store, fd, off);
		prefault->tried += TRIED;
	}
}

static void write_folios(struct prefault *prefault, int fd, uint64_t off, uint64_t end)
{
	for (; off < end && prefault->pays; off += FOLIO)
		if (os->pwrite_full(fd, zeros, FOLIO, off)) {
			prefault->pays = false;
			prefault->tried = PATIENCE;
		}
}

void store_prefault(struct store *store, uint64_t off, uint64_t len)
{
	struct prefault *prefault = &store->prefault;
	uint64_t end = off + round_down(len, FOLIO);
	int fd;

	/* the pages of an atomic heap's mapping are copies, made one by one */
	if (store->is_atomic || (!prefault->pays && prefault->tried >= PATIENCE))
		return;
	prefault->taken += len;
	if (prefault->taken <= TAKEN_BEFORE || end > os->file_size_limit())
		return;
	fd = store_borrow(store);
	if (fd < 0)
		return;
	if (!prefault->pays) {
		try_at(store, fd, off);
		off += FOLIO;
	}
	write_folios(prefault, fd, off, end);
	store_give_back(store, fd);
}
