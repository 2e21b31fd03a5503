/* SPDX-License-Identifier: Apache-2.0
 *
 * perf_event_open(2) with a sample of each page fault: 0.1 to 0.3 us more for a fault that costs 1.2 to
 * 2.8 [measured on Linux 6.18]. An event that threads inherit has a ring for each processor. The mapping of
 * a ring keeps its event, so that no descriptor stays open; a forked child has none of them. The kernel
 * counts rings as locked memory of the user, of which io_uring needs some, too: there are few and short ones.
 */
#define _GNU_SOURCE
#include "linux_samples.h"
#include "../base/atomics.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Rings at most, and so many threads: 256 KiB of locked memory, where a page is 4 KiB. */
#define RINGS_MAX 32

/* And no more than this part of what the user may lock. */
#define LOCKED_SHARE 8

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* A page for its header, and one for 256 samples of 16 bytes. What does not fit is lost. */
static size_t ring_len(void)
{
	return 2 * page_size();
}

static struct perf_event_mmap_page *ring(const struct os_samples *samples, unsigned i)
{
	return (struct perf_event_mmap_page *)(void *)((uint8_t *)samples->rings + i * ring_len());
}

/* The ring of thread `tid` on processor `cpu` comes to `at`. */
static int map_ring(void *at, pid_t tid, int cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_PAGE_FAULTS,
		.sample_period = 1,
		.sample_type = PERF_SAMPLE_ADDR,
		.inherit = 1,
		.inherit_thread = 1, /* not by children */
		.exclude_kernel = 1, /* for which no privilege is needed where perf_event_paranoid is 2 */
		.exclude_hv = 1,
		.watermark = 1,      /* nobody waits for them */
		.wakeup_watermark = UINT32_MAX,
	};
	int fd = (int)syscall(SYS_perf_event_open, &attr, tid, cpu, -1, PERF_FLAG_FD_CLOEXEC), r = 0;

	if (fd < 0)
		return errno == EACCES || errno == EPERM || errno == ENOSYS ? -EACCES : -errno;
	if (mmap(at, ring_len(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		r = -errno;
	close(fd);
	return r;
}

/* What getdents64 gives; no header has it. */
struct entry {
	uint64_t ino;
	int64_t off;
	uint16_t len;
	uint8_t type;
	char name[];
};

/* The threads of this process, up to n of them: how many; more than n: n + 1. Or -errno. */
static int list_threads(pid_t *tids, int n)
{
	uint64_t buffer[256];
	int fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), found = 0;
	long len = 0;

	if (fd < 0)
		return -errno;
	while (found <= n && (len = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0) {
		const struct entry *entry;

		for (long at = 0; at < len && found <= n; at += entry->len) {
			entry = (const struct entry *)(const void *)((const uint8_t *)buffer + at);
			if (entry->name[0] < '0' || entry->name[0] > '9')
				continue;
			if (found < n)
				tids[found] = atoi(entry->name);
			found++;
		}
	}
	if (len < 0)
		found = -errno;
	close(fd);
	return found;
}

/* A ring for each thread on each processor. */
static int map_rings(struct os_samples *samples, const cpu_set_t *cpus, const pid_t *tids, unsigned threads)
{
	unsigned i = 0;

	for (int cpu = 0; i < samples->n; cpu++) {
		if (!CPU_ISSET((size_t)cpu, cpus))
			continue;
		for (unsigned t = 0; t < threads; t++) {
			int r = map_ring(ring(samples, i++), tids[t], cpu);

			if (r && r != -ESRCH) /* the thread has ended: an empty ring, see read_ring() */
				return r;
			if (r && mmap(ring(samples, i - 1), ring_len(), PROT_READ | PROT_WRITE,
			              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
				return -errno;
		}
	}
	return 0;
}

/* May the user lock so many bytes more, without missing them elsewhere? */
static bool may_lock(size_t len)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		return false;
	return limit.rlim_cur == RLIM_INFINITY || len <= limit.rlim_cur / LOCKED_SHARE;
}

int samples_open(struct os_samples *samples)
{
	struct os_samples result;
	pid_t tids[RINGS_MAX];
	cpu_set_t cpus;
	int r, threads = list_threads(tids, RINGS_MAX);

	if (threads < 0)
		return threads;
	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		return -errno;
	result.n = (unsigned)(CPU_COUNT(&cpus) * threads);
	if (result.n > RINGS_MAX || !may_lock(result.n * ring_len()))
		return -E2BIG;
	result.rings = mmap(NULL, result.n * ring_len(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (result.rings == MAP_FAILED)
		return -errno;
	r = map_rings(&result, &cpus, tids, (unsigned)threads);
	if (r)
		samples_close(&result);
	else
		*samples = result;
	return r;
}

/* The word at position `at` of the ring's data. */
static uint64_t word_at(const struct perf_event_mmap_page *ring, uint64_t at)
{
	const uint8_t *data = (const uint8_t *)ring + page_size();

	return *(const uint64_t *)(const void *)(data + at % page_size());
}

/* Take one ring's until `addresses` is full. */
static unsigned read_ring(struct perf_event_mmap_page *ring, uint64_t *addresses, unsigned n)
{
	uint64_t head = load_acquire(&ring->data_head), tail = ring->data_tail;
	unsigned found = 0;

	while (tail < head && found < n) {
		uint64_t word = word_at(ring, tail);
		struct perf_event_header header;

		memcpy(&header, &word, sizeof(header));
		if (header.size < sizeof(header) || header.size % 8 || header.size > head - tail) {
			tail = head; /* somebody has stored into the ring */
			break;
		}
		if (header.type == PERF_RECORD_SAMPLE)
			addresses[found++] = word_at(ring, tail + sizeof(header));
		tail += header.size;
	}
	store_release(&ring->data_tail, tail);
	return found;
}

unsigned samples_read(struct os_samples *samples, uint64_t *addresses, unsigned n)
{
	unsigned found = 0;

	for (unsigned i = 0; i < samples->n && found < n; i++)
		found += read_ring(ring(samples, i), addresses + found, n - found);
	return found;
}

void samples_close(struct os_samples *samples)
{
	munmap(samples->rings, samples->n * ring_len());
}
