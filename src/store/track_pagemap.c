/* SPDX-License-Identifier: Apache-2.0
 *
 * Written pages by /proc/self/pagemap, which tells private copies from pages of the file: 25 ns a page of the
 * heap. All private copies are found every time, whether written since or not; so those that turn out unchanged are
 * dropped.
 */
#include "track.h"

#include "../base/atomics.h"
#include "../base/bits.h"

#define AT_ONCE 1024

static int open_pagemap(struct track *track)
{
	track->drops_unchanged = true;
	return track_open_pagemap(track);
}

static int find(struct track *track)
{
	uint64_t page_size = os->page_size(), ratio = page_size / LENGTH_PAGE;
	uint64_t pages = round_up(load_relaxed(&track->store->size), page_size) / page_size;
	uint8_t is_private[AT_ONCE];
	int r = track_check_pagemap(track);

	if (r)
		return r;
	pageset_move(&track->noted, &track->found);
	for (uint64_t page = 0; page < pages; page += AT_ONCE) {
		unsigned n = (unsigned)min_u64(pages - page, AT_ONCE);

		r = os->private_pages(track->pagemap_fd, (uintptr_t)track->store->base + page * page_size, n, is_private);
		if (r)
			return r;
		for (unsigned i = 0; i < n; i++)
			if (is_private[i])
				pageset_add(&track->found, (page + i) * ratio, (page + i + 1) * ratio);
	}
	return 0;
}

const struct track_way track_pagemap_bits = {
	.kind = TRACK_PAGEMAP,
	.name = "pagemap",
	.open = open_pagemap,
	.close = track_close_pagemap,
	.find = find,
	.will_write = track_note,
};
