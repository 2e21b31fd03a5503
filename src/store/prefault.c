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

/* A heap that takes less than this after it was opened is left alone: of its slabs only the first pages may ever be
 * used, and it would be the slower to make. */
#define TAKEN_BEFORE (1 * MIB)

/* Whether it pays depends on the kernel, its configuration and the file system, so it is tried. A trial may meet pages
 * that are in the cache already, one by one, because the kernel read around an earlier fault. */
#define TRIALS 8

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

static void write_folios(struct prefault *prefault, int fd, uint64_t off, uint64_t end)
{
	for (; off < end && prefault->pays; off += FOLIO)
		if (os->pwrite_full(fd, zeros, FOLIO, off)) {
			prefault->pays = false;
			prefault->failed = TRIALS;
		}
}

void store_prefault(struct store *store, uint64_t off, uint64_t len)
{
	struct prefault *prefault = &store->prefault;
	uint64_t end = off + round_down(len, FOLIO);
	int fd;

	/* the pages of an atomic heap's mapping are copies, made one by one */
	if (store->is_atomic || prefault->failed == TRIALS)
		return;
	prefault->taken += len;
	if (prefault->taken <= TAKEN_BEFORE || end > os->file_size_limit())
		return;
	fd = store_borrow(store);
	if (fd < 0)
		return;
	if (!prefault->pays) {
		prefault->pays = try_folio(store, fd, off);
		prefault->failed += !prefault->pays;
		off += FOLIO;
	}
	write_folios(prefault, fd, off, end);
	store_give_back(store, fd);
}
