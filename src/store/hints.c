/* SPDX-License-Identifier: Apache-2.0 */
#include "hints.h"

#include "format.h"

#include <errno.h>

/* A scan of fewer pages costs less than samples of all page faults. */
#define WORTH_PAGES 4096

/* A look at a hint costs as much as scanning so many pages [measured on Linux 6.18: 1.7 us, and 0.9 ns]. */
#define LOOK_PAGES 2048

/* They end after so many finds that they did not help, and begin again when so many, one after the other, had few faults. */
#define USELESS_MAX 32
#define WAIT        256

#define CHUNK 64

void hints_begin(struct hints *hints, uint64_t pages)
{
	int r;

	if (hints->is_on || hints->is_refused || hints->wait || pages < WORTH_PAGES)
		return;
	r = os->sample_faults(&hints->samples);
	hints->is_on = r == 0;
	hints->is_refused = r && r != -E2BIG;
	hints->useless = 0;
	hints->wait = WAIT;
}

void hints_end(struct hints *hints)
{
	if (hints->is_on)
		os->end_samples(&hints->samples);
	hints->is_on = false;
}

/* False: there is no room for it. */
static bool insert(struct hints *hints, uint64_t block)
{
	unsigned i = hints->n;

	while (i > 0 && hints->block[i - 1] > block)
		i--;
	if (i > 0 && hints->block[i - 1] == block)
		return true;
	if (hints->n == HINTS_MAX)
		return false;
	for (unsigned j = hints->n++; j > i; j--)
		hints->block[j] = hints->block[j - 1];
	hints->block[i] = block;
	return true;
}

void hints_take(struct hints *hints, const void *base, uint64_t pages)
{
	uint64_t addresses[CHUNK];
	bool fits = true;
	unsigned n;

	hints->n = 0;
	if (!hints->is_on)
		return;
	do {
		n = os->read_samples(&hints->samples, addresses, CHUNK);
		for (unsigned i = 0; fits && i < n; i++) {
			uint64_t page = (addresses[i] - (uintptr_t)base) / LENGTH_PAGE; /* below it: huge */

			fits = page >= pages || insert(hints, page / HINT_PAGES);
		}
	} while (n == CHUNK);
	if (!fits || hints->n * LOOK_PAGES > pages)
		hints->n = 0;
}

void hints_learn(struct hints *hints, bool helped, uint64_t faults, uint64_t pages)
{
	bool are_few = faults <= HINTS_MAX && faults * LOOK_PAGES <= pages;

	if (!hints->is_on)
		hints->wait = !are_few ? WAIT : hints->wait ? hints->wait - 1 : 0;
	else if (helped)
		hints->useless = 0;
	else if (++hints->useless == USELESS_MAX)
		hints_end(hints);
}
