/* SPDX-License-Identifier: Apache-2.0 */
#include "place.h"

#include "../base/atomics.h"
#include "../os/os.h"

#include <errno.h>

/* Entries that are brought to their places together, and as many as a record must have to be copied. */
#define BATCH     64
#define VIEW_FROM 8

/* Pages that may be dirty for each that was applied to: on average folios of 16 KiB, which a device writes about as fast. */
#define DIRTY_MAX 4

/* Unmapped at once: meanwhile nobody can change the address space. */
#define UNMAP_STEP (64 * MIB)

/* Dirty bytes that are synced at once, if they lie everywhere in the file: some milliseconds of the device's time, which the
 * record of a commit that comes then has to wait. */
#define SYNC_STEP (8 * MIB)

static uint8_t *map(int fd, uint64_t len)
{
	void *view;

	if (os->reserve_file(fd, NULL, false, len, &view))
		return NULL;
	if (os->protect(view, len, true, true) == 0)
		return view;
	os->unmap(view, len);
	return NULL;
}

/* By a description that nobody else has: what a sync of the view says of lost pages, it says to that one alone. */
static uint8_t *map_view(int fd, uint64_t len)
{
	int own = os->stores_cheaply(fd) ? os->reopen(fd, true) : -1;
	uint8_t *view;

	if (own < 0)
		return NULL;
	view = map(own, len);
	os->close(own);
	return view;
}

void place_open(struct place *place, int fd, uint64_t len, bool with_view)
{
	*place = (struct place){.len = len};
	pthread_mutex_init(&place->lock, NULL);
	if (with_view)
		place->view = map_view(fd, len);
}

void place_close(struct place *place)
{
	if (place->view)
		os->unmap(place->view, place->len);
	pthread_mutex_destroy(&place->lock);
}

/* ---------------------------------------------------------------- a batch of entries */

/* The entries at *at and behind it: how many; *at is moved behind them. */
static unsigned take(const struct record_rec *header, uint64_t *at, struct os_piece *pieces)
{
	struct record_entry entry;
	unsigned n = 0;

	while (n < BATCH && record_next(header, at, &entry))
		pieces[n++] = (struct os_piece){entry.off, entry.len, entry.data};
	return n;
}

static uint64_t first_page(const struct os_piece *piece)
{
	return piece->off / LENGTH_PAGE;
}

static uint64_t end_page(const struct os_piece *piece)
{
	return (piece->off + piece->len + LENGTH_PAGE - 1) / LENGTH_PAGE;
}

/* N1: behind the write, of which a part may be there if it failed. */
static void note(struct place *place, const struct os_piece *pieces, unsigned n)
{
	for (unsigned i = 0; place->copied && i < n; i++)
		pageset_add_changed(place->copied, first_page(&pieces[i]), end_page(&pieces[i]));
}

static uint64_t pages_of(const struct os_piece *pieces, unsigned n)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < n; i++)
		pages += end_page(&pieces[i]) - first_page(&pieces[i]);
	return pages;
}

/* T4: its page faults are counted, and none of a signal handler that stores into the heap: signals are held. */
static int copy(struct place *place, int fd, const struct os_piece *pieces, unsigned n)
{
	uint64_t before;
	sigset_t signals;
	int r;

	os->hold_signals(&signals);
	before = os->fault_count();
	r = os->write_view(fd, place->view, pieces, n);
	place->faults += os->fault_count() - before;
	os->release_signals(&signals);
	place->is_refused = r != 0;
	return r;
}

static int write_each(int fd, const struct os_piece *pieces, unsigned n)
{
	uint64_t limit = os->file_size_limit();
	int r = 0;

	for (unsigned i = 0; !r && i < n; i++)
		r = pieces[i].off + pieces[i].len > limit
		            ? -EFBIG
		            : os->pwrite_full(fd, pieces[i].data, pieces[i].len, pieces[i].off);
	return r;
}

/* May `pages` more be stored into by the view? Only behind as many that were written, which show how large folios are. */
static bool is_frugal(const struct place *place, uint64_t pages)
{
	return place->pages >= pages && place->dirtied <= DIRTY_MAX * place->pages;
}

/* Bring a batch of a record's `entries` to its place: C6. */
static int bring(struct place *place, int fd, const struct os_piece *pieces, unsigned n, uint32_t entries)
{
	uint64_t before = os->dirtied(), pages = pages_of(pieces, n);
	bool copies = place->view && entries >= VIEW_FROM && !place->is_refused && is_frugal(place, pages);
	int r = copies ? copy(place, fd, pieces, n) : -EAGAIN;

	if (r)
		r = write_each(fd, pieces, n);
	place->pages += pages;
	place->dirtied += (os->dirtied() - before) / LENGTH_PAGE;
	note(place, pieces, n);
	return r;
}

/* ---------------------------------------------------------------- records */

int place_write(struct place *place, int fd, const struct record_rec *header)
{
	struct os_piece pieces[BATCH];
	uint64_t at = 0, bytes = header->used - sizeof(*header) - header->entries * sizeof(uint64_t);
	int r = 0;

	pthread_mutex_lock(&place->lock);
	for (unsigned n; !r && (n = take(header, &at, pieces)) != 0;)
		r = bring(place, fd, pieces, n, header->entries);
	if (!r)
		count(&place->bytes, bytes);
	pthread_mutex_unlock(&place->lock);
	return r;
}

/* ---------------------------------------------------------------- checkpoint */

static void unmap(const struct place *place, uint64_t off, uint64_t end)
{
	for (; off < end; off += UNMAP_STEP)
		os->advise(place->view + off, min_u64(UNMAP_STEP, end - off), OS_DROP);
}

/* What was made dirty since the last checkpoint: bytes. The next one's begins. */
static uint64_t take_dirtied(struct place *place)
{
	uint64_t dirtied;

	pthread_mutex_lock(&place->lock);
	dirtied = place->dirtied * LENGTH_PAGE;
	place->is_refused = false;
	place->pages = place->dirtied = 0;
	pthread_mutex_unlock(&place->lock);
	return dirtied;
}

bool place_sync(struct place *place, int fd, uint64_t size, uint64_t *flushes)
{
	uint64_t steps = take_dirtied(place) / SYNC_STEP + 1;
	uint64_t step = round_up(size / steps + 1, SEGMENT_SIZE);

	if (!place->view)
		return false;
	for (uint64_t off = 0; off < size; off += step) {
		uint64_t end = min_u64(off + step, place->len);

		unmap(place, off, end);
		count(flushes, 1);
		if (os->sync_view(fd, place->view + off, end - off))
			return false;
	}
	return true;
}
