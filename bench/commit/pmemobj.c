/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"
#include "bench.h"

#include <libpmemobj.h>
#include <limits.h>

struct record {
	uint64_t key;
	unsigned char value[VALUE_LEN];
};

static char path[PATH_MAX];
static PMEMobjpool *pool;
static struct record *array;

void store_open(const char *folder, uint64_t records, unsigned threads)
{
	size_t bytes = records * sizeof(struct record);
	PMEMoid oid;

	(void)threads;
	snprintf(path, sizeof(path), "%s/pmemobj", folder);
	pool = pmemobj_create(path, "commit", bytes + bytes / 4 + (64 << 20), 0600);
	if (!pool || pmemobj_zalloc(pool, &oid, bytes, 1))
		bench_die(pmemobj_errormsg());
	array = pmemobj_direct(oid);
	for (uint64_t key = 0; key < records; key++)
		array[key].key = key;
	pmemobj_persist(pool, array, bytes);
}

void store_close(void)
{
	pmemobj_close(pool);
}

void store_reopen(void)
{
	store_close();
	pool = pmemobj_open(path, "commit");
	if (!pool)
		bench_die(pmemobj_errormsg());
	array = pmemobj_direct(pmemobj_first(pool));
}

void store_begin(unsigned thread)
{
	(void)thread;
	if (pmemobj_tx_begin(pool, NULL, TX_PARAM_NONE))
		bench_die(pmemobj_errormsg());
}

void store_update(unsigned thread, uint64_t key, const unsigned char *value)
{
	struct record *record = &array[key];

	(void)thread;
	if (record->key != key || pmemobj_tx_add_range_direct(record->value, VALUE_LEN))
		bench_die(pmemobj_errormsg());
	memcpy(record->value, value, VALUE_LEN);
}

void store_commit(unsigned thread)
{
	(void)thread;
	pmemobj_tx_commit();
	if (pmemobj_tx_end())
		bench_die(pmemobj_errormsg());
}

void store_read_begin(void)
{
}

uint64_t store_read(uint64_t key)
{
	uint64_t value;

	memcpy(&value, array[key].value, sizeof(value));
	return value;
}

void store_read_end(void)
{
}

void store_report(uint64_t commits, uint64_t updates)
{
	(void)commits;
	(void)updates;
}
