/* SPDX-License-Identifier: Apache-2.0 */
#include "track.h"

#include "../base/bits.h"
#include "../base/status.h"

#include <errno.h>
#include <string.h>

/* The best first. */
static const struct track_way *const ways[] = {&track_uffd, &track_mprotect, &track_pagemap_bits};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

/* ---------------------------------------------------------------- descriptors, which the program may close */

struct os_file_id track_id_of(int fd)
{
	struct os_stat st;

	return os->stat_fd(fd, &st) ? (struct os_file_id){0} : st.id;
}

int track_open_pagemap(struct track *track)
{
	track->pagemap_fd = os->pagemap();
	if (track->pagemap_fd < 0)
		return track->pagemap_fd;
	track->pagemap_id = track_id_of(track->pagemap_fd);
	return 0;
}

int track_check_pagemap(const struct track *track)
{
	return store_is_file(&track->pagemap_id, track->pagemap_fd) ? 0 : -EBADF;
}

void track_close_pagemap(struct track *track)
{
	if (store_is_file(&track->pagemap_id, track->pagemap_fd))
		os->close(track->pagemap_fd);
	track->pagemap_fd = -1;
}

/* ---------------------------------------------------------------- ways */

static int try_way(struct track *track, const struct track_way *way)
{
	track->way = way;
	return way->open(track);
}

static bool is_way(const char *name)
{
	for (unsigned i = 0; i < WAYS; i++)
		if (strcmp(name, ways[i]->name) == 0)
			return true;
	return false;
}

/* By the way of that name, or the first that works. */
static int try_ways(struct track *track, const char *name)
{
	int r = -ENOSYS;

	for (unsigned i = 0; i < WAYS && r; i++)
		if (!name || strcmp(name, ways[i]->name) == 0)
			r = try_way(track, ways[i]);
	return r;
}

int track_open(struct track *track, struct store *store, bool declared, const char *name)
{
	uint64_t pages = store->reserved / LENGTH_PAGE;
	int r;

	/* whoever sets the environment does not know whether the program declares: a store that it does not is lost */
	if (!declared && name && strcmp(name, track_declared.name) == 0)
		return fail(EINVAL, "FMALLOC_TRACK=%s is for heaps that the program opens with FM_DECLARED", name);
	if (!declared && name && !is_way(name))
		return fail(EINVAL, "FMALLOC_TRACK=%s is not uffd, mprotect or pagemap", name);

	memset(track, 0, sizeof(*track));
	track->store = store;
	track->watch_fd = track->pagemap_fd = -1;
	pthread_mutex_init(&track->lock, NULL);
	r = pageset_make(&track->found, pages);
	if (!r)
		r = pageset_make(&track->noted, pages);
	if (r) {
		pageset_drop(&track->found);
		pthread_mutex_destroy(&track->lock);
		return fail(-r, "memory for the sets of written pages:");
	}
	r = declared ? try_way(track, &track_declared) : try_ways(track, name);
	if (!r)
		return 0;
	pageset_drop(&track->found);
	pageset_drop(&track->noted);
	pthread_mutex_destroy(&track->lock);
	if (declared)
		name = track_declared.name;
	return fail(-r, "finding written pages by %s:", name ? name : "any means");
}

int track_note(struct track *track, uint64_t from, uint64_t to)
{
	pageset_add(&track->noted, from / LENGTH_PAGE, (to + LENGTH_PAGE - 1) / LENGTH_PAGE);
	return 0;
}

uint64_t track_lines(const struct track *track, uint64_t page)
{
	uint64_t lines;

	if (track->found_lines)
		return track->found_lines[page];
	return tally_knows(&track->tally, page, &lines) ? lines : ALL_LINES;
}

void track_settled(struct track *track, uint64_t page)
{
	pageset_remove(&track->found, page);
	if (track->found_lines)
		track->found_lines[page] = 0;
}

int track_extended(struct track *track, uint64_t from, uint64_t to)
{
	return track->way->extended ? track->way->extended(track, from, to) : 0;
}

int track_find(struct track *track, bool whole)
{
	int r;

	pthread_mutex_lock(&track->lock);
	if (whole)
		tally_forget(&track->tally);
	r = track->way->find(track);
	pthread_mutex_unlock(&track->lock);
	return r;
}

void track_rest(struct track *track)
{
	if (track->way->rest)
		track->way->rest(track);
}

void track_dropped(struct track *track)
{
	pthread_mutex_lock(&track->lock);
	if (track->way->dropped)
		track->way->dropped(track);
	else
		pageset_clear(&track->noted);
	pageset_clear(&track->found);
	pthread_mutex_unlock(&track->lock);
}

int track_will_write_beside(struct track *track, uint64_t from, uint64_t to)
{
	int r;

	pthread_mutex_lock(&track->lock);
	r = track->way->will_write(track, from, to);
	pthread_mutex_unlock(&track->lock);
	return r;
}

void track_close(struct track *track)
{
	track->way->close(track);
	pageset_drop(&track->metadata);
	pageset_drop(&track->always);
	pageset_drop(&track->found);
	pageset_drop(&track->noted);
	pthread_mutex_destroy(&track->lock);
}
