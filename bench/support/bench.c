/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---------------------------------------------------------------- the command line */

const char *bench_folder;
static char **options;

void bench_begin(int argc, char **argv)
{
	for (int i = 2; i < argc; i++)
		if (!strchr(argv[i], '='))
			argc = 0;
	if (argc < 2) {
		fprintf(stderr, "usage: %s FOLDER [NAME=NUMBER...]\n", argv[0]);
		exit(2);
	}
	bench_folder = argv[1];
	options = argv + 2;
}

uint64_t bench_option(const char *name, uint64_t fallback)
{
	size_t length = strlen(name);

	for (char **option = options; *option; option++)
		if (strncmp(*option, name, length) == 0 && (*option)[length] == '=')
			return strtoull(*option + length + 1, NULL, 10);
	return fallback;
}

void bench_die(const char *what)
{
	perror(what);
	exit(1);
}

void *bench_table(size_t n, size_t size)
{
	void *table = mmap(NULL, n * size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (table == MAP_FAILED)
		bench_die("mmap");
	return table;
}

/* ---------------------------------------------------------------- clocks */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t wall_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static void sleep_ns(uint64_t ns)
{
	struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

/* ---------------------------------------------------------------- threads that work for a time */

enum { WARMING, MEASURED, OVER };

static atomic_int phase;
static pthread_barrier_t together;
static const struct work *work;

bool bench_is_over(void)
{
	return atomic_load_explicit(&phase, memory_order_relaxed) == OVER;
}

static void *work_in_phases(void *arg)
{
	struct worker *worker = arg;
	uint64_t start;

	if (work->prepare)
		work->prepare(worker);
	pthread_barrier_wait(&together);
	while (atomic_load_explicit(&phase, memory_order_relaxed) == WARMING)
		work->step(worker);
	start = wall_ns();
	do
		worker->operations += work->step(worker);
	while (!bench_is_over());
	worker->wall = wall_ns() - start;
	pthread_barrier_wait(&together);
	if (work->finish)
		work->finish(worker);
	return NULL;
}

/* Each worker's rate counts for the time that it worked itself: no waiting for the last one. */
static void report_workers(const struct worker *workers, unsigned n, uint64_t cpu)
{
	uint64_t operations = 0, checksum = 0;
	double rate = 0;

	for (unsigned i = 0; i < n; i++) {
		operations += workers[i].operations;
		checksum += workers[i].checksum;
		rate += (double)workers[i].operations / (double)workers[i].wall;
	}
	if (operations == 0) {
		errno = ETIME;
		bench_die("no operation was done");
	}
	bench_report((double)operations / rate, (double)cpu, operations, checksum);
}

void bench_work(const struct work *what)
{
	unsigned n = (unsigned)bench_option("threads", 1);
	uint64_t time_ns = bench_option("ms", 400) * 1000000, cpu;
	struct worker *workers = bench_table(n, sizeof(*workers));
	pthread_t *threads = bench_table(n, sizeof(*threads));

	work = what;
	pthread_barrier_init(&together, NULL, n + 1);
	for (unsigned i = 0; i < n; i++) {
		workers[i].no = i;
		workers[i].random = UINT64_C(0x9e3779b97f4a7c15) * (i + 1);
		if ((errno = pthread_create(&threads[i], NULL, work_in_phases, &workers[i])))
			bench_die("pthread_create");
	}
	pthread_barrier_wait(&together);
	sleep_ns(time_ns / 5);
	cpu = cpu_ns();
	atomic_store(&phase, MEASURED);
	sleep_ns(time_ns);
	atomic_store(&phase, OVER);
	pthread_barrier_wait(&together);
	cpu = cpu_ns() - cpu;
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	report_workers(workers, n, cpu);
}

/* ---------------------------------------------------------------- the result */

static uint64_t from_status(const char *name)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	uint64_t value = 0;

	while (status && fgets(line, sizeof(line), status))
		if (strncmp(line, name, strlen(name)) == 0)
			value = strtoull(line + strlen(name), NULL, 10);
	if (status)
		fclose(status);
	return value;
}

uint64_t resident_peak_kib(void)
{
	return from_status("VmHWM:");
}

uint64_t resident_kib(void)
{
	return from_status("VmRSS:");
}

static struct {
	const char *name;
	double value;
} added[16];
static unsigned added_count;

void bench_add(const char *name, double value)
{
	if (added_count == sizeof(added) / sizeof(added[0]))
		bench_die("too many figures");
	added[added_count].name = name;
	added[added_count++].value = value;
}

void bench_report(double wall, double cpu, uint64_t operations, uint64_t checksum)
{
	double n = operations ? (double)operations : 1;

	printf("{\"ns\": %.4f, \"cpu_ns\": %.4f, \"operations\": %llu, \"peak_kib\": %llu, \"checksum\": %llu", wall / n,
	       cpu / n, (unsigned long long)operations, (unsigned long long)resident_peak_kib(),
	       (unsigned long long)checksum);
	for (unsigned i = 0; i < added_count; i++)
		printf(", \"%s\": %.4f", added[i].name, added[i].value);
	printf("}\n");
	fflush(stdout);
}
