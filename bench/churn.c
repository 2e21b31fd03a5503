/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads by the thousand: each of `threads=` lines starts a thread that allocates `count=` objects (100) of 8 to
 * 1024 bytes, writes, reads and frees them, and ends; then the next one. An operation is one thread, its start and
 * end included.
 */
#include "bench.h"
#include "heap.h"

#include <errno.h>
#include <pthread.h>

static unsigned count;

static void *live_and_end(void *arg)
{
	struct worker *worker = arg;
	uint64_t **objects = worker->own;

	for (unsigned i = 0; i < count; i++) {
		uint64_t random = random_next(&worker->random);

		objects[i] = bench_need(heap_alloc(8 + random_high(random, 1017)));
		*objects[i] = random;
	}
	for (unsigned i = 0; i < count; i++) {
		worker->checksum += *objects[i];
		heap_free(objects[i]);
	}
	return NULL;
}

static void prepare(struct worker *worker)
{
	worker->own = bench_table(count, sizeof(void *));
}

static uint64_t step(struct worker *worker)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, live_and_end, worker);
	if (errno)
		bench_die("pthread_create");
	pthread_join(thread, NULL);
	return 1;
}

int main(int argc, char **argv)
{
	static const struct work work = {.prepare = prepare, .step = step};

	bench_begin(argc, argv);
	count = (unsigned)bench_option("count", 100);
	heap_open(bench_folder, 0);
	bench_work(&work);
	heap_remove();
	return 0;
}
