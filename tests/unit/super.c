/* SPDX-License-Identifier: Apache-2.0
 *
 * The superblock's two copies: which one counts, and what a torn write, a damaged byte or a foreign file
 * is taken for. Uses the library's internal headers.
 *
 *   FM_SEED    of the random contents
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "store/super.h"

#define SECTOR sizeof(struct super_rec)
#define FILE_SIZE HEAP_MIN_SIZE

static const uint64_t copy_off[2] = {SUPER_COPY_1_OFF, SUPER_COPY_2_OFF};
static uint64_t seed;
static int fd;

static int before(void **state)
{
	(void)state;
	fd = memfd_create("super", MFD_CLOEXEC);
	return fd >= 0 && ftruncate(fd, FILE_SIZE) == 0 ? 0 : -1;
}

static int after(void **state)
{
	(void)state;
	os = &os_linux;
	return close(fd);
}

static void put(unsigned copy, const void *bytes)
{
	assert_int_equal(pwrite(fd, bytes, SECTOR, (off_t)copy_off[copy]), SECTOR);
}

static void get(unsigned copy, void *bytes)
{
	assert_int_equal(pread(fd, bytes, SECTOR, (off_t)copy_off[copy]), SECTOR);
}

static struct super_rec make(uint64_t sequence)
{
	uint8_t uuid[16];
	struct super_rec rec;

	memset(uuid, 0x5a, sizeof(uuid));
	super_init(&rec, uuid);
	rec.sequence = sequence;
	super_seal(&rec);
	return rec;
}

static enum super_verdict read_it(struct super *super)
{
	enum super_verdict verdict = SUPER_OK;

	assert_int_equal(super_read(fd, FILE_SIZE, super, &verdict), 0);
	return verdict;
}

static enum super_verdict judge(void)
{
	struct super super;

	return read_it(&super);
}

/* ---------------------------------------------------------------- which copy counts */

static void test_higher_sequence_counts(void **state)
{
	(void)state;
	for (unsigned newer = 0; newer < 2; newer++) {
		struct super_rec old = make(7), new = make(8);
		struct super super;

		put(1 - newer, &old);
		put(newer, &new);
		assert_int_equal(read_it(&super), SUPER_OK);
		assert_int_equal(super.copy, newer);
		assert_true(super.both_valid);
		assert_int_equal(super.rec.sequence, 8);
	}
}

static void test_one_valid_copy(void **state)
{
	(void)state;
	for (unsigned valid = 0; valid < 2; valid++) {
		static const uint8_t zero[SECTOR];
		struct super_rec rec = make(3);
		struct super super;

		put(valid, &rec);
		put(1 - valid, zero);
		assert_int_equal(read_it(&super), SUPER_OK);
		assert_int_equal(super.copy, valid);
		assert_false(super.both_valid);
	}
}

/* Each write goes over the older copy, with the next sequence; what it replaces is there until then. */
static void test_writes_alternate(void **state)
{
	struct super_rec rec = make(1);
	struct super super;

	(void)state;
	put(0, &rec);
	put(1, &rec);
	assert_int_equal(read_it(&super), SUPER_OK);
	for (unsigned i = 0; i < 6; i++) {
		unsigned counted = super.copy;
		struct super_rec next = super.rec, kept, was;
		struct super again;

		get(counted, &was);
		next.generation++;
		assert_int_equal(super_write(fd, &super, &next), 0);
		assert_int_equal(super.copy, 1 - counted);
		assert_int_equal(super.rec.sequence, 2 + i);
		assert_true(super.both_valid);
		get(counted, &kept);
		assert_memory_equal(&kept, &was, SECTOR);
		assert_int_equal(read_it(&again), SUPER_OK);
		assert_memory_equal(&again.rec, &super.rec, SECTOR);
		assert_int_equal(again.copy, super.copy);
	}
}

static int fail_write(int at, const void *buf, size_t len, uint64_t off)
{
	(void)at;
	(void)buf;
	(void)len;
	(void)off;
	return -EIO;
}

static ssize_t fail_read(int at, void *buf, size_t len, uint64_t off)
{
	(void)at;
	(void)buf;
	(void)len;
	(void)off;
	return -EIO;
}

static void test_failed_calls(void **state)
{
	struct os_calls table = os_linux;
	struct super_rec rec = make(1);
	struct super super, was;
	enum super_verdict verdict;

	(void)state;
	put(0, &rec);
	put(1, &rec);
	assert_int_equal(read_it(&super), SUPER_OK);
	was = super;
	table.pwrite_sync = fail_write;
	table.pread_full = fail_read;
	os = &table;
	assert_int_equal(super_write(fd, &super, &rec), -EIO);
	assert_memory_equal(&super, &was, sizeof(super));
	assert_int_equal(super_read(fd, FILE_SIZE, &super, &verdict), -EIO);
}

/* ---------------------------------------------------------------- damage */

/* A write cut after any byte, front to back or back to front: the other copy counts, or the new one when
 * what is missing happens to be the same. */
static void test_torn_write(void **state)
{
	struct super_rec old = make(4), older = make(3), new = make(5);

	(void)state;
	new.generation = 77;
	new.boot_id[0] = 9;
	super_seal(&new);
	for (unsigned written = 0; written < 2; written++) {
		for (size_t cut = 0; cut <= SECTOR; cut++) {
			for (unsigned from_end = 0; from_end < 2; from_end++) {
				uint8_t torn[SECTOR];
				struct super super;

				memcpy(torn, from_end ? &new : &older, SECTOR);
				memcpy(torn, from_end ? (const void *)&older : (const void *)&new, cut);
				put(written, torn);
				put(1 - written, &old);
				assert_int_equal(read_it(&super), SUPER_OK);
				if (memcmp(torn, &new, SECTOR) == 0) {
					assert_int_equal(super.rec.sequence, 5);
				} else {
					assert_int_equal(super.rec.sequence, 4);
					assert_int_equal(super.copy, 1 - written);
					assert_int_equal(super.both_valid, memcmp(torn, &older, SECTOR) == 0);
				}
			}
		}
	}
}

/* Any byte changed in any way is noticed: the other copy counts; in both copies, none does. */
static void test_every_byte(void **state)
{
	struct super_rec rec[2] = {make(4), make(5)};

	(void)state;
	for (unsigned hit = 0; hit < 2; hit++) {
		for (size_t at = 0; at < SECTOR; at++) {
			for (unsigned change = 1; change < 256; change = change < 16 ? change * 2 : change + 53) {
				uint8_t damaged[SECTOR], other[SECTOR];
				enum super_verdict both;
				struct super super;

				memcpy(damaged, &rec[hit], SECTOR);
				damaged[at] ^= (uint8_t)change;
				put(hit, damaged);
				put(1 - hit, &rec[1 - hit]);
				assert_int_equal(read_it(&super), SUPER_OK);
				assert_int_equal(super.copy, 1 - hit);
				assert_false(super.both_valid);
				memcpy(other, &rec[1 - hit], SECTOR);
				other[at] ^= (uint8_t)change;
				put(1 - hit, other);
				both = judge();
				assert_int_equal(both, at < 8 ? SUPER_FOREIGN : SUPER_DAMAGED);
			}
		}
	}
}

/* A file cut anywhere: a copy that is not whole does not count. */
static void test_short_files(void **state)
{
	struct super_rec rec = make(4);

	(void)state;
	put(0, &rec);
	put(1, &rec);
	for (uint64_t size = SUPER_COPY_2_OFF + SECTOR + 1; size-- > 0;) {
		struct super super;
		enum super_verdict verdict;

		if (size == SUPER_COPY_2_OFF)
			size = SUPER_COPY_1_OFF + SECTOR + 1;
		assert_int_equal(ftruncate(fd, (off_t)size), 0);
		assert_int_equal(super_read(fd, size, &super, &verdict), 0);
		if (size >= SECTOR) {
			assert_int_equal(verdict, SUPER_OK);
			assert_int_equal(super.both_valid, size >= SUPER_COPY_2_OFF + SECTOR);
		} else {
			assert_int_equal(verdict, size == 0 ? SUPER_EMPTY : size < 8 ? SUPER_FOREIGN : SUPER_DAMAGED);
		}
	}
}

/* ---------------------------------------------------------------- what else a file may be */

static enum super_verdict judge_with(const struct super_rec *rec)
{
	struct super_rec sealed = *rec;

	super_seal(&sealed);
	put(0, &sealed);
	put(1, &sealed);
	return judge();
}

static void test_other_versions(void **state)
{
	struct super_rec rec = make(4);

	(void)state;
	assert_int_equal(judge_with(&rec), SUPER_OK);
	rec.version = 2;
	assert_int_equal(judge_with(&rec), SUPER_UNKNOWN);
	rec = make(4);
	rec.byte_order = UINT32_C(0x04030201);
	assert_int_equal(judge_with(&rec), SUPER_UNKNOWN);
	for (unsigned bit = 0; bit < 64; bit++) {
		rec = make(4);
		rec.incompat = UINT64_C(1) << bit;
		assert_int_equal(judge_with(&rec), SUPER_UNKNOWN);
		rec.incompat = 0;
		rec.ro_compat = UINT64_C(1) << bit;
		assert_int_equal(judge_with(&rec), SUPER_OK); /* for reading */
	}
}

/* Values that this library never writes, under a checksum that is right. */
static void test_impossible_fields(void **state)
{
	struct super_rec rec;

	(void)state;
#define IMPOSSIBLE(statement) \
	do { \
		rec = make(4); \
		statement; \
		assert_int_equal(judge_with(&rec), SUPER_DAMAGED); \
	} while (0)
	IMPOSSIBLE(rec.kind = 0);
	IMPOSSIBLE(rec.kind = 3);
	IMPOSSIBLE(rec.kind = UINT32_MAX);
	IMPOSSIBLE(rec.state = 2);
	IMPOSSIBLE(rec.sequence = 0);
	IMPOSSIBLE(rec.sequence = UINT64_MAX);
	IMPOSSIBLE(rec.preferred_address = 4096);
	IMPOSSIBLE(rec.preferred_address = UINT64_C(1) << 63);
	for (unsigned i = 0; i < JOURNAL_EXTENTS; i++) {
		IMPOSSIBLE(rec.journal[i].off = 1; rec.journal[i].len = 4096);
		IMPOSSIBLE(rec.journal[i].off = 4096; rec.journal[i].len = 4096);
		IMPOSSIBLE(rec.journal[i].off = 65536; rec.journal[i].len = 0);
		IMPOSSIBLE(rec.journal[i].off = 65536; rec.journal[i].len = 100);
		IMPOSSIBLE(rec.journal[i].off = UINT64_C(1) << 62; rec.journal[i].len = 4096);
		IMPOSSIBLE(rec.journal[i].off = 65536; rec.journal[i].len = UINT64_MAX - 4095);
	}
#undef IMPOSSIBLE
	rec = make(4);
	rec.kind = SUPER_ATOMIC;
	assert_int_equal(judge_with(&rec), SUPER_OK);
}

static void test_foreign_files(void **state)
{
	static const uint64_t magics[] = {123456, 123457};
	uint64_t rng = seed;
	uint8_t sector[SECTOR];

	(void)state;
	assert_int_equal(judge(), SUPER_EMPTY);
	for (unsigned i = 0; i < 2; i++) {
		memset(sector, 0, sizeof(sector));
		memcpy(sector, &magics[i], sizeof(magics[i]));
		put(0, sector);
		assert_int_equal(judge(), SUPER_ORIGINAL);
	}
	for (unsigned i = 0; i < 200; i++) {
		for (size_t k = 0; k < sizeof(sector); k++)
			sector[k] = (uint8_t)proc_rand(&rng);
		put(0, sector);
		assert_int_equal(judge(), SUPER_FOREIGN);
	}
	memset(sector, 0, sizeof(sector));
	put(0, sector);
	/* one byte that is not zero, where a copy would be */
	for (unsigned copy = 0; copy < 2; copy++) {
		for (size_t k = 0; k < SECTOR; k++) {
			sector[k] = 1;
			put(copy, sector);
			assert_int_equal(judge(), SUPER_FOREIGN);
			sector[k] = 0;
		}
		put(copy, sector);
	}
	assert_int_equal(judge(), SUPER_EMPTY);
}

/* Random damage of both copies never gives a record with a wrong checksum. */
static void test_random_damage(void **state)
{
	uint64_t rng = seed;

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		struct super_rec rec[2] = {make(4), make(5)};
		enum super_verdict verdict;
		struct super super, sealed;

		for (uint64_t n = proc_below(&rng, 4) + 1; n > 0; n--)
			((uint8_t *)&rec[proc_below(&rng, 2)])[proc_below(&rng, SECTOR)] = (uint8_t)proc_rand(&rng);
		put(0, &rec[0]);
		put(1, &rec[1]);
		verdict = read_it(&super);
		if (verdict != SUPER_OK) {
			assert_true(verdict == SUPER_DAMAGED || verdict == SUPER_FOREIGN);
			continue;
		}
		sealed = super;
		super_seal(&sealed.rec);
		assert_memory_equal(&sealed.rec, &super.rec, SECTOR);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, before, after)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_higher_sequence_counts),
		TEST(test_one_valid_copy),
		TEST(test_writes_alternate),
		TEST(test_failed_calls),
		TEST(test_torn_write),
		TEST(test_every_byte),
		TEST(test_short_files),
		TEST(test_other_versions),
		TEST(test_impossible_fields),
		TEST(test_foreign_files),
		TEST(test_random_damage),
	};

	seed = proc_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
