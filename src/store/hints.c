/* SPDX-License-Identifier: Apache-2.0 */
#include "hints.h"

#include "../base/atomics.h"
#include "../base/bits.h"
#include "store.h"

#include <errno.h>

/* A scan of fewer pages costs less than samples of all page faults. */
#define WORTH_PAGES 4096

/* A look at a hint costs as much as scanning so many pages [measured on Linux 6.18: 1.7 us, and 0.9 ns]. */
#define LOOK_PAGES 2048

/* They begin when so many finds, one after the other, had few faults; they end after so many that they did
 * not help, and then it takes longer, and each time longer, until they begin again. */
#define WAIT_FIRST  8
#define WAIT_AGAIN  256
#define WAIT_MAX    65536
#define USELESS_MAX 32

/* Samples that are read at once, and how many times at most: as many as all rings hold. */
#define CHUNK      64
#define CHUNKS_MAX 128

/* Atomic: a heap of this process has them. */
static bool is_taken;

void hints_begin(struct hints *hints, uint64_t pages)
{
	int r;

	if (!hints->wait)
		hints->wait = WAIT_FIRST;
	if (hints->is_on || hints->is_refused || hints->few < hints->wait || pages < WORTH_PAGES)
		return;
	hints->few = 0;
	if (__atomic_exchange_n(&is_taken, true, __ATOMIC_ACQUIRE))
		return;
	r = os->sample_faults(&hints->samples);
	hints->is_on = r == 0;
	hints->is_refused = r == -EACCES;
	hints->useless = 0;
	if (r)
		store_release(&is_taken, false);
	hints->wait = hints->wait < WAIT_AGAIN ? WAIT_AGAIN : (unsigned)min_u64(2 * hints->wait, WAIT_MAX);
}

void hints_end(struct hints *hints)
{
	if (!hints->is_on)
		return;
	os->end_samples(&hints->samples);
	hints->is_on = false;
	store_release(&is_taken, false);
}

/* False: there is no room for it. */
static bool insert(struct hints *hints, uint64_t page)
{
	unsigned i = hints->n;

	while (i > 0 && hints->page[i - 1] > page)
		i--;
	if (i > 0 && hints->page[i - 1] == page)
		return true;
	if (hints->n == HINTS_MAX)
		return false;
	for (unsigned j = hints->n++; j > i; j--)
		hints->page[j] = hints->page[j - 1];
	hints->page[i] = page;
	return true;
}

unsigned hints_group_end(const struct hints *hints, unsigned i)
{
	/* with a neighbour of each, and nothing but one page between them */
	uint64_t near = 3 * store_page_ratio();

	do
		i++;
	while (i < hints->n && hints->page[i] - hints->page[i - 1] <= near);
	return i;
}

/* Looks that they cost. */
static unsigned count_groups(const struct hints *hints)
{
	unsigned groups = 0;

	for (unsigned i = 0; i < hints->n; i = hints_group_end(hints, i))
		groups++;
	return groups;
}

void hints_take(struct hints *hints, const void *base, uint64_t pages)
{
	uint64_t addresses[CHUNK], ratio = store_page_ratio();
	bool fits = true;
	unsigned n = CHUNK;

	hints->n = 0;
	if (!hints->is_on)
		return;
	/* other threads may fault meanwhile */
	for (unsigned chunk = 0; n == CHUNK && chunk < CHUNKS_MAX; chunk++) {
		n = os->read_samples(&hints->samples, addresses, CHUNK);
		for (unsigned i = 0; fits && i < n; i++) {
			uint64_t page = (addresses[i] - (uintptr_t)base) / LENGTH_PAGE; /* below it: huge */

			fits = page >= pages || insert(hints, round_down(page, ratio));
		}
	}
	if (!fits || count_groups(hints) * LOOK_PAGES > pages)
		hints->n = 0;
}

bool hints_have(const struct hints *hints, uint64_t page)
{
	unsigned low = 0, high = hints->n;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (hints->page[middle] < page)
			low = middle + 1;
		else
			high = middle;
	}
	return low < hints->n && hints->page[low] == page;
}

void hints_learn(struct hints *hints, bool helped, uint64_t faults, uint64_t pages)
{
	bool are_few = faults <= HINTS_MAX && faults * LOOK_PAGES <= pages;

	if (!hints->is_on)
		hints->few = are_few ? hints->few + 1 : 0;
	else if (helped)
		hints->useless = 0;
	else if (++hints->useless == USELESS_MAX)
		hints_end(hints);
}
