/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FOLDER_UTIL_H
#define FOLDER_UTIL_H

#include <stdio.h>
#include <stdlib.h>

/* Make a folder `name`-XXXXXX where temporary files go; `path` is its path, of less than `len` bytes. 0 or -1. */
static inline int folder_make(char *path, size_t len, const char *name)
{
	const char *base = getenv("TMPDIR");

	if (snprintf(path, len, "%s/%s-XXXXXX", base && *base ? base : P_tmpdir, name) >= (int)len)
		return -1;
	return mkdtemp(path) ? 0 : -1;
}

#endif
