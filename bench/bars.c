/* SPDX-License-Identifier: Apache-2.0
 *
 * Measures what the heap promises in figures: cost of opening, density, bounded growth, large heaps.
 * Usage: bars FOLDER [QUESTION...]; without a question all of them. Prints one line for each figure.
 */
#include <errno.h>
#include <fcntl.h>
#include <fmalloc.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RUNS 21

static char path[PATH_MAX];

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void die(const char *what)
{
	fprintf(stderr, "%s: %s (%s)\n", what, fm_last_error(), path);
	exit(1);
}

static fm_heap *open_or_die(unsigned flags)
{
	fm_heap *heap = fm_open(path, flags, NULL);

	if (!heap)
		die("fm_open");
	return heap;
}

static void close_or_die(fm_heap *heap)
{
	if (fm_close(heap))
		die("fm_close");
}

static uint64_t disk_bytes(void)
{
	struct stat st;

	if (stat(path, &st))
		return 0;
	return (uint64_t)st.st_blocks * 512;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct node {
	fm_ptr(struct node) next;
	uint64_t value[2];
};

/* A list of `n` nodes of 24 bytes, its head a root. */
static void make_list(uint64_t n)
{
	fm_heap *heap;
	struct node *head = NULL;

	remove(path);
	heap = open_or_die(FM_CREATE);
	for (uint64_t i = 0; i < n; i++) {
		struct node *node = fm_malloc(heap, sizeof(*node));

		if (!node)
			die("fm_malloc");
		fm_set(heap, &node->next, head);
		node->value[0] = node->value[1] = i;
		head = node;
	}
	if (n && fm_root_set(heap, "list", head, 1))
		die("fm_root_set");
	close_or_die(heap);
}

/* What the device takes: synchronous writes of a sector of a file of its own, one before each opening, so that
 * both meet the device in the same state. */
static struct {
	char name[PATH_MAX + 8];
	int fd;
	unsigned count;
	double times[4 * RUNS];
} probe;

static void probe_write(void)
{
	static const char sector[512] = {1};
	double start = now_us();

	if (pwrite(probe.fd, sector, sizeof(sector), 0) < 0 || fdatasync(probe.fd))
		die("probe");
	if (probe.count < sizeof(probe.times) / sizeof(probe.times[0]))
		probe.times[probe.count++] = now_us() - start;
}

static void probe_begin(void)
{
	snprintf(probe.name, sizeof(probe.name), "%s.probe", path);
	probe.fd = open(probe.name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (probe.fd < 0)
		die("probe");
	probe_write(); /* the first one allocates the block */
	probe.count = 0;
}

/* The median, in us. */
static double probe_end(void)
{
	close(probe.fd);
	remove(probe.name);
	qsort(probe.times, probe.count, sizeof(probe.times[0]), by_value);
	return probe.times[probe.count / 2];
}

/* Median time to open in a fresh process, in us, and pages that it faulted in. */
static double open_us(unsigned flags, long *faults)
{
	double *times = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double median;

	if (times == MAP_FAILED)
		die("mmap");
	for (unsigned i = 0; i < RUNS; i++) {
		pid_t child;

		probe_write();
		child = fork();
		if (child == 0) {
			struct rusage before, after;
			double start;
			fm_heap *heap;

			getrusage(RUSAGE_SELF, &before);
			start = now_us();
			heap = open_or_die(flags);
			times[i] = now_us() - start;
			getrusage(RUSAGE_SELF, &after);
			times[RUNS] = (double)(after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt);
			close_or_die(heap);
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
	*faults = (long)times[RUNS];
	qsort(times, RUNS, sizeof(times[0]), by_value);
	median = times[RUNS / 2];
	munmap(times, 4096);
	return median;
}

static void opening(void)
{
	static const uint64_t sizes[] = {0, 5000000};

	probe_begin();
	for (unsigned i = 0; i < 2; i++) {
		long faults, read_faults;
		double writable, readable;

		make_list(sizes[i]);
		writable = open_us(0, &faults);
		readable = open_us(FM_RDONLY, &read_faults);
		printf("opening %8llu objects: writable %.0f us (%ld page faults), read-only %.0f us (%ld)\n",
		       (unsigned long long)sizes[i], writable, faults, readable, read_faults);
	}
	printf("one synchronous write of 512 bytes: %.0f us\n", probe_end());
}

static void closing(void)
{
	fm_heap *heap;
	double start, synced;

	make_list(5000000);
	heap = open_or_die(0);
	((char *)heap->mem)[PAGE_SIZE] = 1;
	start = now_us();
	if (fm_sync(heap))
		die("fm_sync");
	synced = now_us();
	close_or_die(heap);
	printf("closing 5000000 objects after a sync (%.0f us): %.0f us\n", synced - start, now_us() - synced);
}

static void density(void)
{
	fm_heap *heap;

	make_list(5000000);
	printf("list of 5000000 x 24 bytes: %.4f file bytes per live byte\n", (double)disk_bytes() / (5e6 * 24));
	remove(path);
	heap = open_or_die(FM_CREATE);
	for (unsigned i = 0; i < 10; i++)
		if (!fm_malloc(heap, i % 3 == 0 ? 24 : i % 3 == 1 ? 100 : 1000))
			die("fm_malloc");
	printf("ten small objects: open %llu KiB", (unsigned long long)disk_bytes() / 1024);
	close_or_die(heap);
	printf(", closed %llu KiB on disk\n", (unsigned long long)disk_bytes() / 1024);
}

static void short_runs(void)
{
	unsigned runs = getenv("FM_RUNS") ? (unsigned)atoi(getenv("FM_RUNS")) : 10000;
	uint64_t largest = 0;
	double start = now_us();

	remove(path);
	for (unsigned i = 0; i < runs; i++) {
		fm_heap *heap = open_or_die(FM_CREATE);
		void *p[60];

		for (unsigned k = 0; k < 60; k++)
			if (!(p[k] = fm_malloc(heap, 16u << k % 20 / 2 | (k % 2) << 3)))
				die("fm_malloc");
		for (unsigned k = 0; k < 60; k++)
			if (k != i % 60 || i % 100)
				fm_free(p[k]);
		close_or_die(heap);
		if (disk_bytes() > largest)
			largest = disk_bytes();
	}
	printf("%u short runs of 20 sizes: largest file %llu KiB, last %llu KiB; %.0f us a run\n", runs,
	       (unsigned long long)largest / 1024, (unsigned long long)disk_bytes() / 1024,
	       (now_us() - start) / runs);
}

static uint64_t state = UINT64_C(88172645463325252);

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void large_heap(void)
{
	uint64_t live = UINT64_C(8) << 30;
	fm_heap *heap;
	char *huge;
	double start = now_us();

	remove(path);
	heap = open_or_die(FM_CREATE);
	huge = fm_malloc(heap, live);
	if (!huge)
		die("8 GiB");
	huge[0] = huge[live - 1] = 1;
	for (unsigned i = 0; i < 10000000; i++) {
		size_t size = 16 + next_random() % 497;
		char *p = fm_malloc(heap, size);

		if (!p)
			die("fm_malloc");
		p[0] = p[size - 1] = 1;
		live += size;
	}
	printf("8 GiB and 10000000 objects of 16..512 bytes: %.1f s, fm_check finds %ld", (now_us() - start) / 1e6,
	       fm_check(heap, NULL, NULL));
	close_or_die(heap);
	printf(", %.4f file bytes per live byte", (double)disk_bytes() / (double)live);
	start = now_us();
	heap = open_or_die(0);
	printf(", reopened in %.0f us, finds %ld\n", now_us() - start, fm_check(heap, NULL, NULL));
	close_or_die(heap);
}

static void fixed_address(void)
{
	unsigned granted = 0, runs = getenv("FM_RUNS") ? (unsigned)atoi(getenv("FM_RUNS")) : 1000;

	make_list(10);
	for (unsigned i = 0; i < runs; i++) {
		pid_t child = fork();
		int status;

		if (child == 0) {
			execl("/proc/self/exe", "bars", path, "--fixed", (char *)NULL);
			_exit(127);
		}
		waitpid(child, &status, 0);
		granted += WIFEXITED(status) && WEXITSTATUS(status) == 0;
	}
	printf("FM_FIXED granted in %u of %u fresh processes\n", granted, runs);
}

static const struct {
	const char *name;
	void (*measure)(void);
} questions[] = {
	{"opening", opening},       {"closing", closing},       {"density", density},
	{"short-runs", short_runs}, {"large-heap", large_heap}, {"fixed", fixed_address},
};

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[2], "--fixed") == 0) {
		snprintf(path, sizeof(path), "%s", argv[1]);
		close_or_die(open_or_die(FM_FIXED));
		return 0;
	}
	if (argc < 2) {
		fprintf(stderr, "usage: bars FOLDER [QUESTION...]\n");
		return 2;
	}
	snprintf(path, sizeof(path), "%s/bars.fm", argv[1]);
	for (unsigned q = 0; q < sizeof(questions) / sizeof(questions[0]); q++) {
		bool asked = argc == 2;

		for (int i = 2; i < argc; i++)
			asked |= strcmp(argv[i], questions[q].name) == 0;
		if (asked)
			questions[q].measure();
		fflush(stdout);
	}
	remove(path);
	return 0;
}
