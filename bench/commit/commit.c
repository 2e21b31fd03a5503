/* SPDX-License-Identifier: Apache-2.0
 *
 * Random updates of a store's records, so many a commit, each commit durable when it returns; or random reads.
 *
 *   PROGRAM FOLDER [records=1000000] [batch=1] [threads=1] [ms=400] [reads=0]
 *
 * An operation is a commit, or with reads=1 a read of one record. Each value that is written is a number that was never
 * written before, and all records are read back at the end from the store opened again: one that lost an update gives no
 * figure. Counted are the times of commits (median, 99th percentile, longest) without those of the warm-up, and for all
 * updates, the warm-up's too, what the device wrote and flushed until all was there (/sys/dev/block, of everybody who
 * uses it).
 */
#define _GNU_SOURCE
#include "bench.h"
#include "store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MOST_COMMITS (4u << 20) /* whose times a thread notes; later ones are not */
#define READS 1000              /* a step */

struct commit {
	uint64_t start, ns;
};

struct client {
	struct commit *commits;
	uint64_t n, updates;
};

struct traffic {
	uint64_t bytes, flushes;
};

static uint64_t records, batch;
static unsigned threads;
static uint64_t *last; /* of each key: what was written last */
static struct client *clients;
static struct traffic before;

/* ---------------------------------------------------------------- what is written */

static struct traffic look(void)
{
	struct traffic traffic = {0, 0};
	unsigned long long field[17] = {0};
	char path[64];
	struct stat st;
	FILE *file;

	if (stat(bench_folder, &st))
		bench_die(bench_folder);
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", major(st.st_dev), minor(st.st_dev));
	file = fopen(path, "r");
	for (int i = 0; file && i < 17; i++)
		if (fscanf(file, "%llu", &field[i]) != 1)
			break;
	if (file)
		fclose(file);
	traffic.bytes = field[6] * 512;
	traffic.flushes = field[15];
	return traffic;
}

static void sync_all(void)
{
	int fd = open(bench_folder, O_RDONLY | O_DIRECTORY);

	if (fd == -1 || syncfs(fd))
		bench_die("syncfs");
	close(fd);
}

/* ---------------------------------------------------------------- updates */

static void update(struct worker *worker, struct client *client)
{
	uint64_t random = random_next(&worker->random);
	uint64_t key = worker->no + threads * ((random >> 11) % (records / threads));
	uint64_t value[VALUE_LEN / 8 + 1];

	for (unsigned i = 0; i < VALUE_LEN / 8 + 1; i++)
		value[i] = random + i;
	value[0] = ++client->updates * threads + worker->no;
	last[key] = value[0];
	store_update(worker->no, key, (const unsigned char *)value);
}

static uint64_t commit_batch(struct worker *worker)
{
	struct client *client = worker->own;
	struct commit commit = {wall_ns(), 0};

	store_begin(worker->no);
	for (uint64_t i = 0; i < batch; i++)
		update(worker, client);
	store_commit(worker->no);
	commit.ns = wall_ns() - commit.start;
	if (client->n < MOST_COMMITS)
		client->commits[client->n++] = commit;
	return 1;
}

static void prepare(struct worker *worker)
{
	worker->own = &clients[worker->no];
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Median, 99th percentile and maximum of the commits that began in the measured time, and that time by their number:
 * what all threads together need for one. (A thread that starves in a peer's lock would be miscounted in a sum of the
 * threads' rates.) */
static void report_times(void)
{
	uint64_t end = 0, least, n = 0, *ns;

	for (unsigned t = 0; t < threads; t++)
		for (uint64_t i = 0; i < clients[t].n; i++, n++)
			if (clients[t].commits[i].start > end)
				end = clients[t].commits[i].start;
	least = end - bench_option("ms", 400) * 1000000;
	ns = bench_table(n, sizeof(*ns));
	n = 0;
	for (unsigned t = 0; t < threads; t++)
		for (uint64_t i = 0; i < clients[t].n; i++)
			if (clients[t].commits[i].start >= least)
				ns[n++] = clients[t].commits[i].ns;
	qsort(ns, n, sizeof(*ns), by_number);
	bench_add("together_ns", (double)(end - least) / (double)n);
	bench_add("median_ns", (double)ns[n / 2]);
	bench_add("p99_ns", (double)ns[n * 99 / 100]);
	bench_add("longest_ns", (double)ns[n - 1]);
}

static void read_back(void)
{
	store_reopen();
	store_read_begin();
	for (uint64_t key = 0; key < records; key++)
		if (store_read(key) != last[key]) {
			fprintf(stderr, "record %llu is not what was committed last\n", (unsigned long long)key);
			exit(1);
		}
	store_read_end();
}

static void report(uint64_t updates, uint64_t commits)
{
	struct traffic now;

	store_report(commits, updates);
	sync_all();
	now = look();
	bench_add("device_bytes_per_update", (double)(now.bytes - before.bytes) / (double)updates);
	bench_add("device_flushes_per_commit", (double)(now.flushes - before.flushes) / (double)commits);
	report_times();
}

/* All threads have made their last commit. */
static void finish(struct worker *worker)
{
	uint64_t updates = 0;

	if (worker->no)
		return;
	for (unsigned t = 0; t < threads; t++)
		updates += clients[t].updates;
	report(updates, updates / batch);
	read_back();
	worker->checksum = records;
}

/* ---------------------------------------------------------------- reads */

static void begin_reading(struct worker *worker)
{
	store_begin(0);
	for (uint64_t i = 0; i < 1000; i++)
		update(worker, &clients[0]);
	store_commit(0);
	store_read_begin();
}

static uint64_t read_some(struct worker *worker)
{
	for (int i = 0; i < READS; i++) {
		uint64_t key = (random_next(&worker->random) >> 11) % records;

		if (store_read(key) != last[key])
			bench_die("a record is not what was committed");
		worker->checksum += last[key];
	}
	return READS;
}

static void end_reading(struct worker *worker)
{
	(void)worker;
	store_read_end();
}

int main(int argc, char **argv)
{
	static const struct work updating = {prepare, commit_batch, finish};
	static const struct work reading = {begin_reading, read_some, end_reading};

	bench_begin(argc, argv);
	records = bench_option("records", 1000000);
	batch = bench_option("batch", 1);
	threads = (unsigned)bench_option("threads", 1);
	last = bench_table(records, sizeof(*last));
	clients = bench_table(threads, sizeof(*clients));
	for (unsigned t = 0; t < threads; t++)
		clients[t].commits = malloc(MOST_COMMITS * sizeof(struct commit));
	if (threads == 0 || records < threads || batch == 0 || !clients[threads - 1].commits) {
		fprintf(stderr, "%s: records, batch and threads must be at least 1\n", argv[0]);
		return 2;
	}
	store_open(bench_folder, records, threads);
	sync_all();
	before = look();
	bench_work(bench_option("reads", 0) ? &reading : &updating);
	store_close();
	return 0;
}
