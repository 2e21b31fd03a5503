/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"
#include "heap.h"

#include <dirent.h>
#include <memkind.h>
#include <sys/stat.h>

static memkind_t kind;

void heap_open(const char *folder, uint64_t bytes)
{
	(void)bytes; /* 0: no limit */
	if (memkind_create_pmem(folder, 0, &kind))
		bench_die("memkind_create_pmem");
}

void heap_close(void)
{
	bench_die("memkind's file is gone when it is closed");
}

void heap_reopen(void)
{
	bench_die("memkind has nothing to open");
}

/* The file has no name: it is the descriptor of an unlinked regular file. */
uint64_t heap_file_bytes(void)
{
	DIR *fds = opendir("/proc/self/fd");
	uint64_t bytes = 0;
	struct dirent *entry;
	struct stat st;

	while (fds && (entry = readdir(fds)))
		if (fstat(atoi(entry->d_name), &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 0)
			bytes += (uint64_t)st.st_blocks * 512;
	if (fds)
		closedir(fds);
	return bytes;
}

void heap_remove(void)
{
	memkind_destroy_kind(kind);
}

void *heap_alloc(size_t size)
{
	return memkind_malloc(kind, size);
}

void heap_free(void *p)
{
	memkind_free(kind, p);
}

void *heap_realloc(void *p, size_t size)
{
	return memkind_realloc(kind, p, size);
}
