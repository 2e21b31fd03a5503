/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"
#include "heap.h"

void heap_open(const char *folder, uint64_t bytes)
{
	(void)folder;
	(void)bytes;
}

void heap_close(void)
{
	bench_die("malloc has nothing to close");
}

void heap_reopen(void)
{
	bench_die("malloc has nothing to open");
}

uint64_t heap_file_bytes(void)
{
	return 0;
}

void heap_remove(void)
{
}
