/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"
#include "heap.h"

#include <fmalloc.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

fm_heap *heap_ours;
static char path[PATH_MAX];

static void open_or_die(unsigned flags)
{
	/* the run ends with the file's removal: no sync of it before */
	struct fm_options options = {.size = sizeof(options), .disable = FM_NO_EXIT_SYNC};

	heap_ours = fm_open(path, flags, &options);
	if (!heap_ours)
		bench_die(fm_last_error());
}

void heap_open(const char *folder, uint64_t bytes)
{
	(void)bytes; /* the file grows by itself */
	snprintf(path, sizeof(path), "%s/bench-%ld.fm", folder, (long)getpid());
	remove(path);
	open_or_die(FM_CREATE);
}

void heap_close(void)
{
	if (fm_close(heap_ours))
		bench_die("fm_close");
	heap_ours = NULL;
}

void heap_reopen(void)
{
	open_or_die(0);
}

uint64_t heap_file_bytes(void)
{
	struct stat st;

	return stat(path, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

void heap_remove(void)
{
	remove(path);
}
