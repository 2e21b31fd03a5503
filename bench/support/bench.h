/* SPDX-License-Identifier: Apache-2.0
 *
 * What the benchmark programs share: options, clocks, random numbers, threads that work for a time, and the
 * one line of JSON that a program prints.
 *
 *   PROGRAM FOLDER [NAME=NUMBER...]     the heap file is made in FOLDER and removed at the end
 *
 * Words used below
 *   step       the piece of work that a worker repeats, some 10 to 100 us
 *   operation  what the figures count: a step says how many it did
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- the command line */

/* Take the command line; must come first. Ends the program with its usage if it makes no sense. */
void bench_begin(int argc, char **argv);
extern const char *bench_folder;

/* The number given for `name`, else `fallback`. */
uint64_t bench_option(const char *name, uint64_t fallback);

/* Print `what` and errno's text, and end the program. */
__attribute__((noreturn, cold)) void bench_die(const char *what);

/* `p`, or the end of the program. */
static inline void *bench_need(void *p)
{
	if (__builtin_expect(!p, 0))
		bench_die("allocating");
	return p;
}

/* `n` zeroed elements outside of every heap under measurement, touched once. Never freed. */
void *bench_table(size_t n, size_t size);

/* ---------------------------------------------------------------- clocks and numbers */

uint64_t wall_ns(void);
uint64_t cpu_ns(void); /* of all threads of the process */

/* xorshift64: two variables of one seed give one sequence, whatever the allocator. */
static inline uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A number below `n` (< 2^32) from the low, and from the high half of `random`. */
static inline uint32_t random_low(uint64_t random, uint32_t n)
{
	return (uint32_t)((random & UINT32_MAX) * n >> 32);
}

static inline uint32_t random_high(uint64_t random, uint32_t n)
{
	return (uint32_t)((random >> 32) * n >> 32);
}

/* ---------------------------------------------------------------- threads that work for a time */

/* In cache lines of its own: what a worker writes at each operation must not slow down its neighbour. */
struct worker {
	__attribute__((aligned(128))) unsigned no;
	uint64_t random;   /* this worker's state for random_next */
	uint64_t checksum; /* of what was read back from objects: keeps the compiler honest */
	void *own;         /* the program's */
	uint64_t operations, wall;
};

struct work {
	void (*prepare)(struct worker *);  /* before the clock runs; may be NULL */
	uint64_t (*step)(struct worker *); /* returns the operations done */
	void (*finish)(struct worker *);   /* after the clock stopped; may be NULL */
};

/* Run `work` in `threads=` threads (default 1) for `ms=` milliseconds (default 400), after a fifth of that as
 * a warm-up that is not counted, and print the figures. */
void bench_work(const struct work *work);

/* The time is over: a step that waits for another worker must return. */
bool bench_is_over(void);

/* ---------------------------------------------------------------- the result */

/* Peak and present resident memory of this process in KiB, files' pages included. */
uint64_t resident_peak_kib(void);
uint64_t resident_kib(void);

/* Print the line: nanoseconds (wall, CPU) for each of `operations`, peak memory, the checksum, and what
 * bench_add added. */
void bench_add(const char *name, double value);
void bench_report(double wall, double cpu, uint64_t operations, uint64_t checksum);

#ifdef __cplusplus
}
#endif

#endif
