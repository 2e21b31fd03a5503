/* SPDX-License-Identifier: Apache-2.0
 *
 * Comparing a written page with its committed version, line by line.
 */
#include "atomic.h"

#include <errno.h>
#include <string.h>

#define PAGE_LINE (LENGTH_PAGE / LINE)

/* Do 64 bytes differ? */
static bool differs(const uint8_t *a, const uint8_t *b)
{
	uint64_t x[8], y[8], d = 0;

	memcpy(x, a, LINE);
	memcpy(y, b, LINE);
	for (unsigned i = 0; i < 8; i++)
		d |= x[i] ^ y[i];
	return d != 0;
}

/* A bit for each line of 64 bytes among `which` that differs, widened to whole lines of atomic->line. */
static uint64_t lines_of(const struct atomic *atomic, const uint8_t *now, const uint8_t *before, uint64_t which)
{
	unsigned wide = (unsigned)(atomic->line / LINE);
	uint64_t lines = 0;

	for (; which; which &= which - 1) {
		unsigned i = lowest_bit(which);

		lines |= (uint64_t)differs(now + i * LINE, before + i * LINE) << i;
	}
	if (wide == 1 || lines == 0)
		return lines;
	for (unsigned i = 0; i < PAGE_LINE; i += wide)
		if (lines & range_mask(i, wide))
			lines |= range_mask(i, wide);
	return lines;
}

/* The committed version of the page: mapped, or read into `copy`. NULL with *r set. */
static const uint8_t *committed_page(const struct atomic *atomic, uint64_t page, uint8_t *copy, int *r)
{
	ssize_t n;
	int fd;

	if (atomic->committed)
		return atomic->committed + page * LENGTH_PAGE;
	fd = store_borrow(atomic->store);
	n = fd < 0 ? fd : os->pread_full(fd, copy, LENGTH_PAGE, page * LENGTH_PAGE);
	store_give_back(atomic->store, fd);
	if (n == (ssize_t)LENGTH_PAGE)
		return copy;
	*r = n < 0 ? (int)n : -EIO;
	return NULL;
}

int diff_lines(const struct atomic *atomic, uint64_t page, uint64_t which, uint64_t *lines)
{
	_Alignas(64) uint8_t copy[LENGTH_PAGE];
	int r = 0;
	const uint8_t *before = which ? committed_page(atomic, page, copy, &r) : NULL;

	*lines = 0;
	if (before)
		*lines = lines_of(atomic, atomic->store->base + page * LENGTH_PAGE, before, which);
	return r;
}

/* Take the lowest run of set bits out of *lines. */
static unsigned next_run(uint64_t *lines, unsigned *from)
{
	uint64_t rest;
	unsigned n;

	*from = lowest_bit(*lines);
	rest = *lines >> *from;
	n = ~rest ? lowest_bit(~rest) : 64;
	*lines &= ~range_mask(*from, n);
	return n;
}

int diff_page(struct atomic *atomic, uint64_t page)
{
	struct record before = atomic->record;
	const uint8_t *now = atomic->store->base + page * LENGTH_PAGE;
	uint64_t lines = 0, last_word = 0;
	int r = diff_lines(atomic, page, track_lines(&atomic->track, page), &lines);

	if (r || !lines)
		return r;
	if (before.last)
		memcpy(&last_word, before.bytes + before.last, 8);
	while (lines) {
		unsigned from, n = next_run(&lines, &from);

		if (record_put(&atomic->record, page * LENGTH_PAGE + from * LINE, now + from * LINE, n * LINE))
			continue;
		/* the last entry may have been made longer */
		if (before.last)
			memcpy(before.bytes + before.last, &last_word, 8);
		atomic->record = before;
		return DIFF_FULL;
	}
	return 1;
}

int64_t diff_size(struct atomic *atomic, uint64_t page)
{
	uint64_t lines = 0;
	int64_t size = 0;
	int r = diff_lines(atomic, page, track_lines(&atomic->track, page), &lines);

	if (r)
		return r;
	while (lines) {
		unsigned from;

		size += 8 + next_run(&lines, &from) * (int64_t)LINE;
	}
	return size;
}
