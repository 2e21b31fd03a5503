// SPDX-License-Identifier: Apache-2.0
#include "bench.h"
#include "heap.h"

#include <boost/interprocess/managed_mapped_file.hpp>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

using boost::interprocess::managed_mapped_file;

static managed_mapped_file *heap;
static char path[PATH_MAX];

extern "C" {

void heap_open(const char *folder, uint64_t bytes)
{
	snprintf(path, sizeof(path), "%s/bench-%ld.boost", folder, (long)getpid());
	remove(path);
	heap = new managed_mapped_file(boost::interprocess::create_only, path, bytes * 2 + (64u << 20));
}

void heap_close(void)
{
	int fd = open(path, O_RDWR);

	delete heap;
	// flush() is an msync(2) that does not wait
	if (fd < 0 || fdatasync(fd))
		bench_die("fdatasync");
	close(fd);
}

void heap_reopen(void)
{
	heap = new managed_mapped_file(boost::interprocess::open_only, path);
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

void *heap_alloc(size_t size)
{
	return heap->allocate(size, std::nothrow);
}

void heap_free(void *p)
{
	heap->deallocate(p);
}
}
