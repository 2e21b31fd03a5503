/* SPDX-License-Identifier: Apache-2.0
 *
 * A server whose threads come and go (after Larson and Krishnan, 1998): each of `threads=` lines of threads keeps
 * `live=` objects (5000) of 8 to 1000 bytes. A thread replaces `replace=` random ones (100000), then ends, and a new
 * thread takes the objects over: most are freed by another thread than the one that made them. An operation is one
 * replacement: a free and a malloc.
 */
#include "bench.h"
#include "heap.h"

#include <errno.h>
#include <pthread.h>

static unsigned live, replace;

static uint64_t *new_object(uint64_t random)
{
	uint64_t *object = bench_need(heap_alloc(8 + random_high(random, 993)));

	*object = random;
	return object;
}

static void *serve(void *arg)
{
	struct worker *worker = arg;
	uint64_t **objects = worker->own;

	for (unsigned i = 0; i < replace; i++) {
		uint64_t random = random_next(&worker->random);
		unsigned k = random_low(random, live);

		worker->checksum += *objects[k];
		heap_free(objects[k]);
		objects[k] = new_object(random);
	}
	return NULL;
}

static void prepare(struct worker *worker)
{
	uint64_t **objects = worker->own = bench_table(live, sizeof(void *));

	for (unsigned i = 0; i < live; i++)
		objects[i] = new_object(random_next(&worker->random));
}

static uint64_t step(struct worker *worker)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, serve, worker);
	if (errno)
		bench_die("pthread_create");
	pthread_join(thread, NULL);
	return replace;
}

int main(int argc, char **argv)
{
	static const struct work work = {.prepare = prepare, .step = step};

	bench_begin(argc, argv);
	live = (unsigned)bench_option("live", 5000);
	replace = (unsigned)bench_option("replace", 100000);
	heap_open(bench_folder, (uint64_t)live * 1024);
	bench_work(&work);
	heap_remove();
	return 0;
}
