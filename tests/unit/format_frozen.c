/* SPDX-License-Identifier: Apache-2.0
 *
 * The file format is frozen: sizes and offsets of every record, the encoding of every word, a heap made by
 * hand that the library has to understand, and a heap made by the library that has to be what is written
 * down here. If a test here fails, files of earlier versions are no longer readable: the format's version
 * has to change, and this file with it.
 *
 * Uses the library's internal headers.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "alloc/classes.h"
#include "os/os.h"
#include "store/format.h"

#include <pthread.h>

/* ---------------------------------------------------------------- constants, records, words */

#define IS(a, b) assert_true((uint64_t)(a) == (uint64_t)(b))
#define AT(record, member, off, len) \
	do { \
		IS(offsetof(struct record, member), off); \
		IS(sizeof(((struct record *)0)->member), len); \
	} while (0)

static void test_places(void **state)
{
	(void)state;
	IS(UNIT_SIZE, 65536);
	IS(SEGMENT_SIZE, 4194304);
	IS(SEGMENT_UNITS, 64);
	IS(LENGTH_PAGE, 4096);
	IS(SUPER_COPY_1_OFF, 0);
	IS(APP_PAGE_OFF, 4096);
	IS(SUPER_COPY_2_OFF, 8192);
	IS(TRUTH_PAGE_OFF, 12288);
	IS(DIRECTORY_OFF, 16384);
	IS(FIRST_JOURNAL_OFF, 32768);
	IS(FIRST_JOURNAL_LEN, 32768);
	IS(HEAP_MIN_SIZE, 131072);
	IS(DIRECTORY_INLINE_WORDS, 2048);
	IS(DIRECTORY_EXTENTS, 8);
	IS(DIRECTORY_EXTENT_WORDS, 524288);
	IS(SLAB_MAX_SLOTS, 4096);
	IS(SLOT_MIN_SIZE, 16);
	IS(ROOT_NAME_MAX, 255);
	IS(metadata_off(0), 0x10000);
	IS(metadata_off(1), 0x400000);
	IS(metadata_off(3000), UINT64_C(0x2ee000000));
	IS(metadata_unit(0), 1);
	IS(metadata_unit(1), 0);
}

static void test_records(void **state)
{
	(void)state;
	IS(sizeof(struct extent_rec), 16);
	AT(extent_rec, off, 0, 8);
	AT(extent_rec, len, 8, 8);
	IS(sizeof(struct super_rec), 512);
	AT(super_rec, magic, 0, 8);
	AT(super_rec, byte_order, 8, 4);
	AT(super_rec, version, 12, 4);
	AT(super_rec, incompat, 16, 8);
	AT(super_rec, ro_compat, 24, 8);
	AT(super_rec, uuid, 32, 16);
	AT(super_rec, sequence, 48, 8);
	AT(super_rec, kind, 56, 4);
	AT(super_rec, state, 60, 4);
	AT(super_rec, generation, 64, 8);
	AT(super_rec, preferred_address, 72, 8);
	AT(super_rec, boot_id, 80, 16);
	AT(super_rec, dev, 96, 8);
	AT(super_rec, ino, 104, 8);
	AT(super_rec, birth_sec, 112, 8);
	AT(super_rec, birth_nsec, 120, 4);
	AT(super_rec, reserved_1, 124, 4);
	AT(super_rec, journal, 128, 128);
	AT(super_rec, journal_oldest, 256, 8);
	AT(super_rec, reserved_2, 264, 244);
	AT(super_rec, checksum, 508, 4);
	IS(sizeof(struct record_rec), 128);
	AT(record_rec, magic, 0, 8);
	AT(record_rec, uuid, 8, 16);
	AT(record_rec, generation, 24, 8);
	AT(record_rec, sequence, 32, 8);
	AT(record_rec, commit, 40, 8);
	AT(record_rec, oldest, 48, 8);
	AT(record_rec, position, 56, 8);
	AT(record_rec, len, 64, 8);
	AT(record_rec, used, 72, 8);
	AT(record_rec, file_size, 80, 8);
	AT(record_rec, first, 88, 8);
	AT(record_rec, kind, 96, 4);
	AT(record_rec, entries, 100, 4);
	AT(record_rec, chain_checksum, 104, 4);
	AT(record_rec, reserved, 108, 16);
	AT(record_rec, checksum, 124, 4);
	assert_memory_equal(RECORD_MAGIC, "\x89" "fmrec\r\n", 8);
	IS(RECORD_PART, 1);
	IS(RECORD_COMMIT, 2);
	IS(entry_word(0x123456789abc, 0xffc0), 0x123456789abcffc0);
	IS(entry_off(0x123456789abcffc0), 0x123456789abc);
	IS(entry_len(0x123456789abcffc0), 0xffc0);
	IS(sizeof(struct truth_page_rec), 4096);
	AT(truth_page_rec, last_segment, 0, 8);
	AT(truth_page_rec, root_table, 8, 8);
	AT(truth_page_rec, mark_sequence, 16, 8);
	AT(truth_page_rec, backed_blocks, 24, 8);
	AT(truth_page_rec, directory_extent, 32, 64);
	AT(truth_page_rec, reserved, 96, 4000);
	IS(offsetof(struct root_table_rec, word), 8);
	AT(root_table_rec, capacity, 0, 8);
	AT(root_rec, type_tag, 0, 8);
	AT(root_rec, target, 8, 8);
	AT(root_rec, name_len, 16, 4);
	IS(offsetof(struct root_rec, name), 20);
}

static void test_words(void **state)
{
	(void)state;
	IS(SEGMENT_FREE, 0);
	IS(SEGMENT_INTERIOR, 1);
	IS(SEGMENT_METADATA, 2);
	IS(SEGMENT_HUGE, 3);
	IS(SEGMENT_DIRECTORY, 4);
	IS(SEGMENT_FULL_HINT, 0x100);
	IS(huge_word(1), 0x10003);
	IS(huge_word(2048), 0x8000003);
	IS(huge_word(UINT64_C(0xffffffffff)), UINT64_C(0xffffffffff0003));
	IS(huge_word_pages(UINT64_C(0xffff123456789abc)), UINT64_C(0xff12345678));
	IS(huge_segments(1), 1);
	IS(huge_segments(1024), 1);
	IS(huge_segments(1025), 2);
	IS(UNIT_FREE, 0);
	IS(UNIT_INTERIOR, 1);
	IS(UNIT_SLAB, 2);
	IS(UNIT_RUN, 3);
	IS(slab_word(1, 24), 0x180102);
	IS(slab_word(9, 0x12345678), UINT64_C(0x123456780902));
	IS(slab_word_units(UINT64_C(0x123456780902)), 9);
	IS(slab_word_slot_size(UINT64_C(0xabcd123456780902)), 0x12345678);
	IS(run_word(129), 0x810003);
	IS(run_word_pages(UINT64_C(0xabcd123456780003)), 0x12345678);
	IS(unit_word_units(0x180102), 1);
	IS(unit_word_units(0x810003), 9);
	IS(unit_word_units(0), 0);
	IS(unit_word_units(1), 0);
	IS(unit_word_kind(UINT64_C(0xffffffffffffff02)), UNIT_SLAB);
	IS(segment_word_kind(0x102), SEGMENT_METADATA);
	IS(pair_colour(0, 0), 0);
	IS(pair_colour(0, 3), 0);
	IS(pair_colour(0, 4), 4);
	IS(pair_colour(0, 63), 60);
	IS(pair_colour(1, 63), 0);
	IS(pair_colour(5, 2), 20);
}

/* ---------------------------------------------------------------- a machine that is always the same */

static const uint8_t boot_id[16] = {0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7,
                                    0xb8, 0xb9, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf};
static struct os_calls table;

static int same_boot_id(uint8_t id[16])
{
	memcpy(id, boot_id, 16);
	return 0;
}

static int same_random(void *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)buf)[i] = (uint8_t)(i * 17);
	return 0;
}

static int same_file(int fd, struct os_stat *st)
{
	int r = os_linux.stat_fd(fd, st);

	st->id = (struct os_file_id){0x1122334455667788, 0x99aabbccddeeff00, 0x65000000, 0x12345678};
	st->blocks = 0x4321;
	return r;
}

static int fd;

static int before(void **state)
{
	(void)state;
	table = os_linux;
	table.boot_id = same_boot_id;
	table.random = same_random;
	table.stat_fd = same_file;
	os = &table;
	fd = memfd_create("golden", MFD_CLOEXEC);
	return fd < 0;
}

static int after(void **state)
{
	(void)state;
	os = &os_linux;
	return close(fd);
}

static uint32_t checksum(const uint8_t *p, size_t len)
{
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < len; i++) {
		crc ^= p[i];
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ ((crc & 1) ? UINT32_C(0x82f63b78) : 0);
	}
	return ~crc;
}

static void put(uint64_t off, uint64_t value, unsigned len)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < len; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
	assert_int_equal(pwrite(fd, bytes, len, (off_t)off), len);
}

static void put_bytes(uint64_t off, const void *bytes, size_t len)
{
	assert_int_equal(pwrite(fd, bytes, len, (off_t)off), len);
}

static uint64_t get(uint64_t off, unsigned len)
{
	uint8_t bytes[8];
	uint64_t value = 0;

	assert_int_equal(pread(fd, bytes, len, (off_t)off), len);
	for (unsigned i = 0; i < len; i++)
		value |= (uint64_t)bytes[i] << 8 * i;
	return value;
}

/* ---------------------------------------------------------------- a heap made by hand */

static void put_super(uint64_t at, uint64_t sequence)
{
	uint8_t sector[508];

	put_bytes(at, "\x89" "fmheap\n", 8);
	put(at + 8, 0x01020304, 4);
	put(at + 12, 1, 4);
	put_bytes(at + 32, "\x11\x22\x33\x44\x55\x66\x47\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x00", 16);
	put(at + 48, sequence, 8);
	put(at + 56, 1, 4); /* live */
	put(at + 60, 1, 4); /* dirty */
	put(at + 64, 41, 8);
	put(at + 72, UINT64_C(0x200000000000), 8);
	put_bytes(at + 80, boot_id, 16);
	put(at + 96, 0x1122334455667788, 8);
	put(at + 104, 0x99aabbccddeeff00, 8);
	put(at + 112, 0x65000000, 8);
	put(at + 120, 0x12345678, 4);
	put(at + 128, 0x8000, 8);
	put(at + 136, 0x8000, 8);
	assert_int_equal(pread(fd, sector, 508, (off_t)at), 508);
	put(at + 508, checksum(sector, 508), 4);
}

/* Segment 0: in unit 2 a slab of 24-byte slots with slots 0, 1 and 64 allocated and 1 freed remotely; in
 *            unit 3 a slab of 64-byte slots with the root table and two roots; units 4..12 a run
 *            of 129 pages, with a free unit's stale interior word behind it
 * Segment 1: huge object of 2 segments, 1025 pages;  segment 3: free, its word is a stale interior one
 * Segment 4: metadata; units 5..7: a slab with slots of 39,320 bytes, a size that no class has */
static void make_by_hand(void)
{
	assert_int_equal(ftruncate(fd, 4 * 4194304 + 8 * 65536), 0);
	put_super(0, 6);
	put_super(8192, 7);
	put_bytes(4096, "application", 11);
	put(12288, 4, 8);       /* last segment */
	put(12296, 0x30000, 8); /* root table */
	put(12304, 7, 8);       /* the mark of sequence 7 is on the device */
	put(16384 + 8, 0x4010003, 8);
	put(16384 + 16, 1, 8);
	put(16384 + 24, 1, 8);
	put(16384 + 32, 0x102, 8);

	put(0x10000 + 8 * 2, 0x180102, 8);
	put(0x10000 + 2 * 1024, 3, 8);                    /* word 0 at place 4 * (2 / 4) */
	put(0x10000 + 2 * 1024 + 8, 2, 8);                /* its remote word */
	put(0x10000 + 2 * 1024 + 16 * 1, 1, 8);           /* word 1 */
	put_bytes(0x20000, "first", 5);
	put_bytes(0x20000 + 64 * 24, "sixty-fourth", 12);

	put(0x10000 + 8 * 3, 0x400102, 8);
	put(0x10000 + 3 * 1024, 0xb, 8);                  /* slots 0, 1 and 3 */
	put(0x30000, 7, 8);
	put(0x30000 + 8, 0x30040, 8);
	put(0x30000 + 24, 0x300c0, 8);
	put(0x30040, 0xfeed, 8);
	put(0x30048, 0x40000, 8);
	put(0x30050, 4, 4);
	put_bytes(0x30054, "runs", 4);
	put(0x300c0, 1, 8);
	put(0x300c8, 0x1003018, 8);
	put(0x300d0, 1, 4);
	put_bytes(0x300d4, "x", 1);

	put(0x10000 + 8 * 4, 0x810003, 8);
	for (unsigned u = 5; u <= 13; u++)
		put(0x10000 + 8 * u, 1, 8);
	put_bytes(0x40000, "run", 3);

	put_bytes(0x400000, "huge", 4);
	/* what would be words of segment 2's metadata is the huge object's content */
	put(0x800000 + 8 * 5, UINT64_MAX, 8);

	put(0x1000000 + 8 * 5, UINT64_C(0x99980302), 8);
	put(0x1000000 + 8 * 6, 1, 8);
	put(0x1000000 + 8 * 7, 1, 8);
	put(0x1000000 + 5 * 1024 + 16 * 20, 5, 8);        /* place 0 xor 4 * ((5 / 4 + 4) mod 16) */
	put_bytes(0x1050000 + 2 * 39320, "third", 5);
}

struct seen {
	const uint8_t *base;
	unsigned count;
	uint64_t off[16];
	size_t len[16];
};

static int see(void *p, size_t usable, void *arg)
{
	struct seen *seen = arg;

	if (seen->count < 16) {
		seen->off[seen->count] = (uint64_t)((uint8_t *)p - seen->base);
		seen->len[seen->count] = usable;
	}
	seen->count++;
	return 0;
}

static void expect_content(fm_heap *heap)
{
	static const struct {
		uint64_t off;
		size_t len;
		const char *text;
	} objects[] = {
		{0x20000, 24, "first"},
		{0x20000 + 64 * 24, 24, "sixty-fourth"},
		{0x40000, 129 * 4096, "run"},
		{0x400000, 1025 * 4096, "huge"},
		{0x1050000, 39320, ""},
		{0x1050000 + 2 * 39320, 39320, "third"},
	};
	struct seen seen = {.base = heap->mem};

	assert_int_equal(proc_check(heap), 0);
	assert_int_equal(fm_walk(heap, see, &seen), 0);
	assert_int_equal(seen.count, 6);
	for (unsigned i = 0; i < 6; i++) {
		assert_int_equal(seen.off[i], objects[i].off);
		assert_int_equal(seen.len[i], objects[i].len);
		assert_string_equal((const char *)fm_at(heap, objects[i].off), objects[i].text);
	}
	assert_string_equal((const char *)heap->mem + PAGE_SIZE, "application");
	assert_ptr_equal(fm_root_get(heap, "runs", 0xfeed), (char *)heap->mem + 0x40000);
	assert_ptr_equal(fm_root_get(heap, "x", 1), (char *)heap->mem + 0x1003018);
	assert_null(fm_root_get(heap, "y", 1));
}

static void test_heap_made_by_hand(void **state)
{
	struct fm_statistics stats = {.size = sizeof(stats)};
	fm_heap *heap;

	(void)state;
	make_by_hand();
	heap = fm_open_fd(fd, FM_RDONLY, NULL);
	assert_non_null(heap);
	expect_content(heap);
	assert_int_equal(fm_close(heap), 0);
	heap = fm_open_fd(fd, 0, NULL);
	assert_non_null(heap);
	expect_content(heap);
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_int_equal(stats.generation, 41);
	assert_int_equal(stats.small_objects, 4);
	assert_int_equal(stats.large_objects, 1);
	assert_int_equal(stats.huge_objects, 1);
	/* a slot that is freed remotely is free, and one of no class can be freed */
	errno = 0;
	assert_int_equal(fm_free((char *)heap->mem + 0x20018), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(fm_free((char *)heap->mem + 0x1050000), 0);
	assert_int_equal(fm_free((char *)heap->mem + 0x20000 + 64 * 24), 0);
	assert_int_equal(proc_check(heap), 0);
	assert_int_equal(proc_count_objects(heap), 4);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(get(0x1000000 + 5 * 1024 + 16 * 20, 8), 4);
	assert_int_equal(get(0x10000 + 2 * 1024, 8), 1);
	assert_int_equal(get(0x10000 + 2 * 1024 + 8, 8), 0);
	heap = fm_open_fd(fd, 0, NULL);
	assert_non_null(heap);
	assert_int_equal(proc_count_objects(heap), 4);
	assert_int_equal(fm_close(heap), 0);
}

/* Another boot, another file, a mark that is not known to be on the device, one copy only. */
static void test_marks_by_hand(void **state)
{
	uint8_t zero[512] = {0};
	fm_heap *heap;

	(void)state;
	make_by_hand();
	put(12304, 6, 8); /* the mark of an earlier time */
	heap = fm_open_fd(fd, 0, NULL);
	assert_non_null(heap);
	assert_int_equal(get(0 + 48, 8), 8); /* written again, over the older copy */
	assert_int_equal(get(0 + 64, 8), 42);
	assert_int_equal(get(12304, 8), 8);
	assert_int_equal(fm_close(heap), 0);

	make_by_hand();
	put_bytes(8192, zero, 512); /* one copy is enough while the boot is the same */
	heap = fm_open_fd(fd, 0, NULL);
	assert_non_null(heap);
	assert_int_equal(fm_close(heap), 0);
	put_bytes(8192, zero, 512); /* but not to be sure that it was closed */
	assert_int_equal(get(60, 4), 0);
	heap = fm_open_fd(fd, 0, NULL);
	assert_null(heap);
	assert_int_equal(errno, EUCLEAN);
}

/* ---------------------------------------------------------------- a heap made by the library */

static void *free_it(void *p)
{
	return fm_free(p) == 0 ? p : NULL;
}

static void free_elsewhere(void *p)
{
	pthread_t thread;
	void *result;

	assert_int_equal(pthread_create(&thread, NULL, free_it, p), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_ptr_equal(result, p);
}

struct word {
	uint64_t off, value;
};

static void expect_words(const struct word *words, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (get(words[i].off, 8) != words[i].value)
			fail_msg("word at %#llx is %#llx, not %#llx", (unsigned long long)words[i].off,
			         (unsigned long long)get(words[i].off, 8), (unsigned long long)words[i].value);
}

/* Everything in [from, to) that is not among the words is zero. */
static void expect_zeros(uint64_t from, uint64_t to, const struct word *words, unsigned n)
{
	for (uint64_t off = from; off < to; off += 8) {
		bool is_listed = false;

		for (unsigned i = 0; i < n; i++)
			is_listed = is_listed || words[i].off == off;
		if (!is_listed && get(off, 8) != 0)
			fail_msg("word at %#llx is %#llx, not 0", (unsigned long long)off,
			         (unsigned long long)get(off, 8));
	}
}

static void expect_super(uint64_t at, uint64_t sequence, unsigned dirty)
{
	uint8_t sector[512], zero[252] = {0};
	uint64_t address = get(at + 72, 8);

	assert_int_equal(pread(fd, sector, 512, (off_t)at), 512);
	assert_memory_equal(sector, "\x89" "fmheap\n\4\3\2\1\1\0\0\0", 16);
	assert_memory_equal(sector + 16, zero, 16);
	assert_memory_equal(sector + 32, "\x00\x11\x22\x33\x44\x55\x46\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff", 16);
	assert_int_equal(get(at + 48, 8), sequence);
	assert_int_equal(get(at + 56, 4), 1);
	assert_int_equal(get(at + 60, 4), dirty);
	assert_int_equal(get(at + 64, 8), 1);
	assert_true(address >= UINT64_C(0x1000000000) && address < UINT64_C(0x7fffffffffff));
	assert_int_equal(address % 4194304, 0);
	assert_memory_equal(sector + 80, boot_id, 16);
	assert_memory_equal(sector + 96,
	                    "\x88\x77\x66\x55\x44\x33\x22\x11\x00\xff\xee\xdd\xcc\xbb\xaa\x99"
	                    "\x00\x00\x00\x65\x00\x00\x00\x00\x78\x56\x34\x12\x00\x00\x00\x00", 32);
	assert_memory_equal(sector + 128, "\x00\x80\x00\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00", 16);
	assert_memory_equal(sector + 144, zero, 112);
	assert_memory_equal(sector + 256, zero, 252);
	assert_int_equal(get(at + 508, 4), checksum(sector, 508));
}

/* The objects' places follow from what the allocator does today (lowest free slot, unit and segment
 * first); the words that say so are the format. */
static void test_heap_made_by_library(void **state)
{
	static const struct word header[] = {
		{12288, 2},          /* last segment */
		{12296, 0x40040},    /* root table: the second object of 64 bytes */
		{12312, 0x4321},     /* blocks */
		{16384 + 8, 0x4e20003}, /* huge: 1250 pages in segments 1 and 2 */
		{16384 + 16, 1},
	};
	static const struct word metadata[] = {
		{0x10000 + 8 * 2, 0x180102},      /* 24-byte slots */
		{0x10000 + 8 * 3, 0x280102},      /* 40-byte slots */
		{0x10000 + 8 * 4, 0x400102},      /* 64-byte slots: the root table */
		{0x10000 + 8 * 5, 0x200102},      /* 32-byte slots: the root */
		{0x10000 + 8 * 6, 0x930003},      /* a run of 147 pages */
		{0x10000 + 8 * 7, 1},
		{0x10000 + 8 * 8, 1},
		{0x10000 + 8 * 9, 1},
		{0x10000 + 8 * 10, 1},
		{0x10000 + 8 * 11, 1},
		{0x10000 + 8 * 12, 1},
		{0x10000 + 8 * 13, 1},
		{0x10000 + 8 * 14, 1},
		{0x10000 + 8 * 15, 1},
		{0x10000 + 2 * 1024, UINT64_MAX - 2}, /* slots 0..63 but 1 */
		{0x10000 + 2 * 1024 + 16 * 1, 0x3f},           /* slots 64..69 */
		{0x10000 + 2 * 1024 + 16 * 1 + 8, 0x4},        /* 66 is freed remotely */
		{0x10000 + 3 * 1024, 0x1},
		{0x10000 + 4 * 1024 + 16 * 4, 0x3},
		{0x10000 + 5 * 1024 + 16 * 4, 0x3},
	};
	static const struct word roots[] = {
		{0x40040, 7}, {0x50020, 0xabcd}, {0x50028, 0x20000},
	};
	unsigned n_header = sizeof(header) / sizeof(header[0]);
	unsigned n_metadata = sizeof(metadata) / sizeof(metadata[0]);
	unsigned used = 0;
	void *slot[70];
	fm_heap *heap;

	(void)state;
	heap = fm_open_fd(fd, FM_CREATE, NULL);
	assert_non_null(heap);
	expect_super(0, 1, 1);
	expect_super(8192, 1, 1);
	for (unsigned i = 0; i < 70; i++) {
		slot[i] = fm_malloc(heap, 24);
		assert_int_equal(fm_offset_of(heap, slot[i]), 0x20000 + i * 24);
	}
	assert_int_equal(fm_offset_of(heap, fm_malloc(heap, 40)), 0x30000);
	assert_int_equal(fm_offset_of(heap, fm_malloc(heap, 64)), 0x40000);
	assert_int_equal(fm_offset_of(heap, fm_malloc(heap, 32)), 0x50000);
	assert_int_equal(fm_root_set(heap, "golden", slot[0], 0xabcd), 0);
	assert_int_equal(fm_offset_of(heap, fm_malloc(heap, 600000)), 0x60000);
	assert_int_equal(fm_offset_of(heap, fm_malloc(heap, 5120000)), 0x400000);
	assert_int_equal(fm_free(slot[1]), 0);
	free_elsewhere(slot[66]);
	/* as a kill would leave it */
	expect_words(header, n_header);
	expect_zeros(12288, 32768, header, n_header);
	expect_words(metadata, n_metadata);
	expect_zeros(0x10000, 0x20000, metadata, n_metadata);
	expect_words(roots, 3);
	for (unsigned i = 0; i < 7; i++)
		used += get(0x40048 + 8 * i, 8) == 0x50020;
	assert_int_equal(used, 1);
	assert_int_equal(get(0x50030, 4), 6);
	assert_memory_equal((const char *)fm_at(heap, 0x50034), "golden", 6);
	expect_zeros(4096, 8192, NULL, 0);
	expect_zeros(8192 + 512, 12288, NULL, 0);
	expect_zeros(512, 4096, NULL, 0);
	expect_zeros(32768, 65536, NULL, 0);
	assert_int_equal(fm_close(heap), 0);
	expect_super(0, 2, 0);
	expect_super(8192, 1, 1);
	/* the remote free is collected, the file ends with the last page in use, rounded to units */
	assert_int_equal(get(0x10000 + 2 * 1024 + 16 * 1, 8), 0x3b);
	assert_int_equal(get(0x10000 + 2 * 1024 + 16 * 1 + 8, 8), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), 0x400000 + 79 * 65536);
}

/* The size classes are no part of the format, but a heap's density: written down so that a change is one
 * that was meant. */
static void test_classes(void **state)
{
	static const uint32_t slots[CLASSES] = {
		16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128,
		144, 160, 176, 192, 208, 224, 240, 256,
	};

	(void)state;
	classes_init();
	for (unsigned c = 0; c < CLASSES; c++)
		assert_int_equal(size_classes[c].slot_size, c < 23 ? slots[c] : 2 * size_classes[c - 8].slot_size);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, before, after)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_records),
		cmocka_unit_test(test_words),
		TEST(test_heap_made_by_hand),
		TEST(test_marks_by_hand),
		TEST(test_heap_made_by_library),
		cmocka_unit_test(test_classes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
