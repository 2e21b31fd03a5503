/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "store.h"
#include "bench.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/uio.h>
#include <unistd.h>

#define RING (4 << 20)  /* bytes that are written over and over, as a journal's */
#define UPDATE 192      /* bytes of a record for an update: 8 + 100 bytes lie in 2 or 3 lines of 64 */
#define HEAD 64
#define ALIGN 4096

static int fd;
static char *ring;
static uint64_t at, updates;
static unsigned char (*values)[VALUE_LEN];

void store_open(const char *folder, uint64_t records, unsigned threads)
{
	uint64_t size = records * (VALUE_LEN + 8);
	char path[PATH_MAX];

	if (threads != 1)
		bench_die("the limit is one thread's");
	values = bench_table(records, VALUE_LEN);
	ring = bench_table(1, RING);
	memset(ring, 0x5a, RING);
	snprintf(path, sizeof(path), "%s/limit", folder);
	fd = open(path, O_CREAT | O_RDWR, 0600);
	for (uint64_t written = 0; written <= size; written += RING)
		if (pwrite(fd, ring, RING, (off_t)written) != RING)
			bench_die("pwrite");
	if (fsync(fd))
		bench_die("fsync");
}

void store_close(void)
{
	close(fd);
}

void store_reopen(void)
{
}

void store_begin(unsigned thread)
{
	(void)thread;
	updates = 0;
}

void store_update(unsigned thread, uint64_t key, const unsigned char *value)
{
	(void)thread;
	memcpy(values[key], value, VALUE_LEN);
	updates++;
}

void store_commit(unsigned thread)
{
	uint64_t len = (HEAD + updates * UPDATE + ALIGN - 1) / ALIGN * ALIGN;
	struct iovec iov = {ring, len};

	(void)thread;
	if (at + len > RING)
		at = 0;
	if (pwritev2(fd, &iov, 1, (off_t)at, RWF_DSYNC) != (ssize_t)len)
		bench_die("pwritev2");
	at += len;
}

void store_read_begin(void)
{
}

uint64_t store_read(uint64_t key)
{
	uint64_t value;

	memcpy(&value, values[key], sizeof(value));
	return value;
}

void store_read_end(void)
{
}

void store_report(uint64_t commits, uint64_t n)
{
	(void)commits;
	(void)n;
}
