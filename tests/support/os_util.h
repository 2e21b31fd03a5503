/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests that put functions of their own into the table of system calls.
 */
#ifndef OS_UTIL_H
#define OS_UTIL_H

#include "../../src/os/os.h"

#include <errno.h>

/* For a table that looks at writes: what would be copied into a view of the file goes through its pwrite_full, too. */
static inline int view_by_writing(int fd, void *view, const struct os_piece *pieces, unsigned n)
{
	int r = 0;

	(void)view;
	for (unsigned i = 0; !r && i < n; i++)
		r = os->pwrite_full(fd, pieces[i].data, pieces[i].len, pieces[i].off);
	return r;
}

/* And what would be synced through the view, through its sync. */
static inline int sync_view_by_sync(int fd, void *at, uint64_t len)
{
	(void)at;
	(void)len;
	return os->sync(fd);
}

/* A view on any file system. */
static inline bool always_cheaply(int fd)
{
	(void)fd;
	return true;
}

static inline int no_view(int fd, void *at, bool replace, uint64_t len, void **result)
{
	(void)fd;
	(void)at;
	(void)replace;
	(void)len;
	(void)result;
	return -ENOMEM;
}

#endif
