/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"
#include "heap.h"

#include <fcntl.h>
#include <libpmemobj.h>
#include <limits.h>
#include <unistd.h>

static PMEMobjpool *pool;
static char path[PATH_MAX];

void heap_open(const char *folder, uint64_t bytes)
{
	/* Durable against a killed process, as our heap: the library flushes the cache and leaves out the msync(2)
	 * at each call that it makes on files without DAX, some hundred times slower. */
	setenv("PMEM_IS_PMEM_FORCE", "1", 1);
	snprintf(path, sizeof(path), "%s/bench-%ld.pool", folder, (long)getpid());
	remove(path);
	/* a small object takes 128 bytes with its header */
	pool = pmemobj_create(path, "bench", bytes * 6 + (UINT64_C(64) << 20), 0600);
	if (!pool)
		bench_die(pmemobj_errormsg());
}

void heap_close(void)
{
	int fd = open(path, O_RDWR);

	pmemobj_close(pool);
	pool = NULL;
	/* forced, it leaves this out, too */
	if (fd < 0 || fdatasync(fd))
		bench_die("fdatasync");
	close(fd);
}

void heap_reopen(void)
{
	pool = pmemobj_open(path, "bench");
	if (!pool)
		bench_die(pmemobj_errormsg());
}

/* The pool file has its full size from the start: what is in use shows in resident memory alone. */
uint64_t heap_file_bytes(void)
{
	return 0;
}

void heap_remove(void)
{
	remove(path);
}

void *heap_alloc(size_t size)
{
	PMEMoid oid;

	return pmemobj_alloc(pool, &oid, size, 0, NULL, NULL) ? NULL : pmemobj_direct(oid);
}

void heap_free(void *p)
{
	PMEMoid oid = pmemobj_oid(p);

	pmemobj_free(&oid);
}

void *heap_realloc(void *p, size_t size)
{
	PMEMoid oid = p ? pmemobj_oid(p) : OID_NULL;

	return pmemobj_realloc(pool, &oid, size, 0) ? NULL : pmemobj_direct(oid);
}
