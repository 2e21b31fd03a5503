/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and closing: a heap with `count=` objects (5000000) of 24 bytes is made, closed, and opened again `times=`
 * times (21), each in a new process that allocates and frees one object before it closes. The figures are medians.
 * An operation is one opening. (bench/bars.c measures the same of our heap alone, beside what the device takes.)
 */
#include "bench.h"
#include "heap.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct times {
	double open, close;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), by_value);
	return values[n / 2];
}

static void open_and_close(struct times *times)
{
	uint64_t start = wall_ns();

	heap_reopen();
	times->open = (double)(wall_ns() - start);
	heap_free(bench_need(heap_alloc(24)));
	start = wall_ns();
	heap_close();
	times->close = (double)(wall_ns() - start);
}

/* In a new process, as after a restart of the program. */
static void open_in_child(struct times *times)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		open_and_close(times);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0 || status)
		bench_die("a process that opens the heap");
}

int main(int argc, char **argv)
{
	uint64_t count, n, start;
	struct times *times;
	double *opened, *closed;

	bench_begin(argc, argv);
	count = bench_option("count", 5000000);
	n = bench_option("times", 21);
	times = mmap(NULL, n * sizeof(*times), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (times == MAP_FAILED)
		bench_die("mmap");
	opened = bench_table(n, sizeof(*opened));
	closed = bench_table(n, sizeof(*closed));
	heap_open(bench_folder, count * 24);
	for (uint64_t i = 0; i < count; i++)
		*(uint64_t *)bench_need(heap_alloc(24)) = i;
	start = wall_ns();
	heap_close();
	bench_add("first_close_ns", (double)(wall_ns() - start));
	for (uint64_t i = 0; i < n; i++) {
		open_in_child(&times[i]);
		opened[i] = times[i].open;
		closed[i] = times[i].close;
	}
	bench_add("close_ns", median(closed, n));
	bench_report(median(opened, n), 0, 1, 0);
	heap_remove();
	return 0;
}
