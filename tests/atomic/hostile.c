/* SPDX-License-Identifier: Apache-2.0
 *
 * Damaged and hostile atomic heaps (test 10 of the plan): superblock, journal and the rest of a heap that was killed with
 * commits in its journal are changed at random, checksums mended or not, the file cut. Opening for reading and for
 * writing ends with an error or with a heap that can be used; nothing crashes, and the file does not grow by more than what
 * it was.
 *
 * Every byte of the superblock and of the first records' heads gets 0, ff, one more, one less and each bit inverted, with
 * the checksums mended; the file is cut at every sector; and journal extents lie over each other, over the header and over
 * what the directory uses: that is EBADMSG, and the file stays as it is.
 *
 *   FM_RANDOM       files (2500)
 *   FM_OPERATIONS   on every hundredth heap that opens (10000; on the others 20)
 *   FM_SCALE        of the bytes and cuts every so many'th (8)
 *   FM_SEED         which
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "base/crc32c.h"
#include "os/os.h"
#include "store/atomic.h"
#include "store/super.h"

static struct {
	uint64_t seed, rng;
	int fd;
	uint8_t *bytes, *work;
	uint64_t size, opened;
} t;

static const struct fm_options options = {
	.size = sizeof(options),
	.address_space = 128 << 20,
	.disable = FM_NO_CHECKPOINT | FM_NO_ATFORK,
};

static uint64_t *app_of(const fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

/* ---------------------------------------------------------------- changing */

static uint64_t odd_value(uint64_t old)
{
	static const uint64_t odd[] = {0, 1, 7, 64, 4096, 65536, 4194304, UINT64_MAX, UINT64_MAX - 63, UINT64_C(1) << 47,
	                               UINT64_C(1) << 63};

	switch (proc_below(&t.rng, 4)) {
	case 0:
		return odd[proc_below(&t.rng, sizeof(odd) / sizeof(odd[0]))];
	case 1:
		return old + proc_below(&t.rng, 9) - 4;
	case 2:
		return old ^ UINT64_C(1) << proc_below(&t.rng, 64);
	default:
		return proc_rand(&t.rng);
	}
}

static void change_word(uint64_t off)
{
	uint64_t word;

	memcpy(&word, t.work + off, 8);
	word = odd_value(word);
	memcpy(t.work + off, &word, 8);
}

static void mend_super(uint64_t off)
{
	super_seal((struct super_rec *)(void *)(t.work + off));
}

static bool is_record(uint64_t off)
{
	return memcmp(t.work + off, RECORD_MAGIC, 8) == 0;
}

static void mend_record(uint64_t off, uint64_t size)
{
	struct record_rec *header = (struct record_rec *)(void *)(t.work + off);
	uint32_t crc;

	if (header->used < sizeof(*header) || header->used > size - off)
		return;
	crc = crc32c(header, offsetof(struct record_rec, checksum));
	header->checksum = crc32c_extend(crc, header + 1, header->used - sizeof(*header));
}

/* One change somewhere in the heap's own structures. */
static void change(void)
{
	uint64_t off;

	switch (proc_below(&t.rng, 6)) {
	case 0:
	case 1:
		off = proc_below(&t.rng, 2) ? SUPER_COPY_1_OFF : SUPER_COPY_2_OFF;
		change_word(off + proc_below(&t.rng, 40) * 8);
		if (proc_below(&t.rng, 8))
			mend_super(off);
		break;
	case 2:
	case 3:
	case 4:
		for (unsigned tries = 0; tries < 50; tries++) {
			off = FIRST_JOURNAL_OFF + proc_below(&t.rng, FIRST_JOURNAL_LEN / 4096) * 4096;
			if (!is_record(off))
				continue;
			change_word(off + proc_below(&t.rng, proc_below(&t.rng, 2) ? 16 : 64) * 8);
			if (proc_below(&t.rng, 8))
				mend_record(off, t.size);
			break;
		}
		break;
	default:
		change_word(TRUTH_PAGE_OFF + proc_below(&t.rng, 2048) * 8);
	}
}

/* ---------------------------------------------------------------- opening */

static void restore(uint64_t size)
{
	if (ftruncate(t.fd, 0) || ftruncate(t.fd, (off_t)t.size) || os_linux.pwrite_full(t.fd, t.work, t.size, 0) ||
	    ftruncate(t.fd, (off_t)size))
		fail_msg("%s", strerror(errno));
}

static uint64_t offsets[64];

/* Many operations on a heap that may hold anything but memory of ours: no result is wrong, no address is outside. */
static void work_on(fm_heap *heap, uint64_t operations)
{
	memset(offsets, 0, sizeof(offsets));
	for (uint64_t i = 0; i < operations; i++) {
		uint64_t *off = &offsets[proc_below(&t.rng, 64)];
		size_t size = proc_below(&t.rng, 50) ? proc_below(&t.rng, 2000) + 1 : proc_below(&t.rng, 3000000) + 1;
		void *p;

		if (*off) {
			p = proc_below(&t.rng, 3) ? NULL : fm_realloc(heap, fm_at(heap, *off), size);
			if (!p)
				fm_free(fm_at(heap, *off));
		} else {
			p = fm_malloc(heap, size);
		}
		if (p)
			memset(p, (int)i, size < 4096 ? size : 4096);
		*off = fm_offset_of(heap, p);
		if (i % 97 == 0)
			fm_commit(heap);
		if (i % 1009 == 1008) {
			fm_commit(heap);
			fm_malloc(heap, 777);
			fm_rollback(heap);
		}
	}
}

/* Whatever it holds, it can be used. */
static void use(fm_heap *heap, bool writes)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	t.opened++;
	fm_check(heap, NULL, NULL);
	fm_stats(heap, &stats);
	fm_root_get(heap, "r", 1);
	if (!writes)
		return;
	if (t.opened % 100 == 50)
		work_on(heap, proc_env("FM_OPERATIONS", 10000));
	for (unsigned i = 0; i < 20; i++) {
		size_t size = proc_below(&t.rng, 30000) + 1;
		void *p = fm_malloc(heap, size);

		if (!p)
			continue;
		memset(p, 1, size);
		app_of(heap)[3] = fm_offset_of(heap, p);
		if (i % 3 == 0)
			fm_free(p);
		if (i % 5 == 0)
			fm_commit(heap);
		if (i == 12)
			fm_rollback(heap);
	}
	fm_commit(heap);
}

static void one_file(void)
{
	uint64_t size = t.size;
	unsigned n = (unsigned)proc_below(&t.rng, 4) + 1;
	struct stat st;
	fm_heap *heap;

	memcpy(t.work, t.bytes, t.size);
	while (n--)
		change();
	if (proc_below(&t.rng, 10) == 0)
		size = proc_below(&t.rng, t.size + 1);
	restore(size);
	heap = fm_open_fd(t.fd, FM_ATOMIC | FM_RDONLY, &options);
	if (heap) {
		use(heap, false);
		assert_int_equal(fm_close(heap), 0);
	}
	heap = fm_open_fd(t.fd, FM_ATOMIC, &options);
	assert_int_equal(fstat(t.fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= 2 * t.size + (1 << 20));
	if (!heap) {
		assert_true(errno != 0 && fm_last_error()[0]);
		return;
	}
	use(heap, true);
	fm_close(heap);
}

static void test_random(void **state)
{
	uint64_t files = proc_env("FM_RANDOM", 2500);

	(void)state;
	for (uint64_t i = 0; i < files; i++) {
		t.rng = t.seed + i * 1000003;
		one_file();
	}
	printf("# %llu files, %llu openings succeeded\n", (unsigned long long)files, (unsigned long long)t.opened);
	assert_true(t.opened > 0 && t.opened < 2 * files);
}

/* ---------------------------------------------------------------- every byte, every cut */

static uint64_t scale(void)
{
	return proc_env("FM_SCALE", 8);
}

static uint8_t other_value(uint8_t old, unsigned how)
{
	switch (how) {
	case 0:
		return 0;
	case 1:
		return 0xff;
	case 2:
		return (uint8_t)(old + 1);
	case 3:
		return (uint8_t)(old - 1);
	default:
		return (uint8_t)(old ^ 1u << (how - 4));
	}
}

static void open_work(uint64_t size)
{
	static const unsigned flags[] = {FM_ATOMIC | FM_RDONLY, FM_ATOMIC, FM_CONVERT};

	for (unsigned i = 0; i < 3; i++) {
		fm_heap *heap;

		restore(size);
		heap = fm_open_fd(t.fd, flags[i], &options);
		if (!heap) {
			assert_true(errno != 0 && fm_last_error()[0]);
			continue;
		}
		if (i == 1)
			use(heap, true);
		else
			fm_check(heap, NULL, NULL);
		fm_close(heap);
	}
}

static void test_every_byte_of_the_superblock(void **state)
{
	(void)state;
	for (uint64_t at = t.seed % scale(); at < 508; at += scale()) {
		for (unsigned how = 0; how < 12; how++) {
			t.rng = at * 100 + how;
			memcpy(t.work, t.bytes, t.size);
			t.work[SUPER_COPY_1_OFF + at] = other_value(t.work[SUPER_COPY_1_OFF + at], how);
			mend_super(SUPER_COPY_1_OFF);
			memcpy(t.work + SUPER_COPY_2_OFF, t.work + SUPER_COPY_1_OFF, 512);
			open_work(t.size);
		}
	}
	assert_true(t.opened > 0);
}

static void test_every_byte_of_records(void **state)
{
	unsigned records = 0;

	(void)state;
	for (uint64_t off = FIRST_JOURNAL_OFF; off < FIRST_JOURNAL_OFF + FIRST_JOURNAL_LEN && records < 3; off += 4096) {
		memcpy(t.work, t.bytes, t.size);
		if (!is_record(off))
			continue;
		records++;
		/* the header, and the words of the first entries */
		for (uint64_t at = t.seed % scale(); at < 160; at += scale()) {
			for (unsigned how = 0; how < 12; how++) {
				t.rng = at * 100 + how;
				memcpy(t.work, t.bytes, t.size);
				t.work[off + at] = other_value(t.work[off + at], how);
				mend_record(off, t.size);
				open_work(t.size);
			}
		}
	}
	assert_int_equal(records, 3);
}

static void test_every_cut(void **state)
{
	(void)state;
	memcpy(t.work, t.bytes, t.size);
	for (uint64_t size = 0; size <= t.size; size += 512 * scale())
		for (uint64_t odd = 0; odd < 2; odd++)
			open_work(size + odd <= t.size ? size + odd : size);
}

/* ---------------------------------------------------------------- entries where no commit writes */

/* The first record's first entry goes to `off`. The errno of opening. */
static int errno_with_entry(uint64_t off, unsigned flags)
{
	uint64_t word;
	fm_heap *heap;
	int r;

	memcpy(t.work, t.bytes, t.size);
	memcpy(&word, t.work + FIRST_JOURNAL_OFF + sizeof(struct record_rec), 8);
	word = entry_word(off, entry_len(word));
	memcpy(t.work + FIRST_JOURNAL_OFF + sizeof(struct record_rec), &word, 8);
	mend_record(FIRST_JOURNAL_OFF, t.size);
	restore(t.size);
	heap = fm_open_fd(t.fd, flags, &options);
	r = heap ? 0 : errno;
	if (heap)
		fm_close(heap);
	return r;
}

static void test_entries(void **state)
{
	static const uint64_t bad[] = {SUPER_COPY_1_OFF, SUPER_COPY_1_OFF + 4032, SUPER_COPY_2_OFF, FIRST_JOURNAL_OFF,
	                               FIRST_JOURNAL_OFF + 4096, FIRST_JOURNAL_OFF + FIRST_JOURNAL_LEN - 64};

	(void)state;
	for (unsigned flags = FM_ATOMIC; flags; flags = flags == FM_ATOMIC ? FM_ATOMIC | FM_RDONLY : 0) {
		for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
			assert_int_equal(errno_with_entry(bad[i], flags), EBADMSG);
		/* a place that commits do write */
		assert_int_equal(errno_with_entry(4096 + 2048, flags), 0);
	}
}

/* ---------------------------------------------------------------- where the journal may not be */

#define SEGMENTS 16

/* A heap with segments of several kinds, and free ones behind them. */
static void make_segments(void)
{
	fm_heap *heap;
	void *p, *gone[2];

	assert_int_equal(ftruncate(t.fd, 0), 0);
	assert_int_equal(ftruncate(t.fd, SEGMENTS * SEGMENT_SIZE), 0);
	heap = fm_open_fd(t.fd, FM_ATOMIC | FM_CREATE, &options);
	assert_non_null(heap);
	for (unsigned i = 0; i < 20; i++)
		assert_non_null(fm_malloc(heap, 400000));
	p = fm_malloc(heap, 3 * SEGMENT_SIZE);
	gone[0] = fm_malloc(heap, 2 * SEGMENT_SIZE);
	gone[1] = fm_malloc(heap, SEGMENT_SIZE);
	assert_true(p && gone[0] && gone[1]);
	assert_int_equal(fm_commit(heap), 0);
	/* what a freed head leaves: interiors that do not count */
	assert_int_equal(fm_free(gone[0]), 0);
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(os_linux.pread_full(t.fd, t.work, SEGMENTS * SEGMENT_SIZE, 0), SEGMENTS * SEGMENT_SIZE);
	assert_int_equal(fm_close(heap), 0);
}

/* The heap with these journal extents: the errno of opening it, 0 if it opens. */
static int errno_with(const struct extent_rec *extents, unsigned n, unsigned flags)
{
	static uint8_t now[512];
	struct super_rec rec;
	fm_heap *heap;
	int r;

	memcpy(&rec, t.work + SUPER_COPY_1_OFF, sizeof(rec));
	if (((const struct super_rec *)(const void *)(t.work + SUPER_COPY_2_OFF))->sequence > rec.sequence)
		memcpy(&rec, t.work + SUPER_COPY_2_OFF, sizeof(rec));
	memset(rec.journal, 0, sizeof(rec.journal));
	memcpy(rec.journal, extents, n * sizeof(*extents));
	super_seal(&rec);
	assert_int_equal(ftruncate(t.fd, 0), 0);
	assert_int_equal(os_linux.pwrite_full(t.fd, t.work, SEGMENTS * SEGMENT_SIZE, 0), 0);
	assert_int_equal(os_linux.pwrite_full(t.fd, &rec, sizeof(rec), SUPER_COPY_1_OFF), 0);
	assert_int_equal(os_linux.pwrite_full(t.fd, &rec, sizeof(rec), SUPER_COPY_2_OFF), 0);
	heap = fm_open_fd(t.fd, flags, &options);
	r = heap ? 0 : errno;
	if (heap) {
		if (!(flags & FM_RDONLY))
			work_on(heap, 300);
		assert_int_equal(fm_check(heap, NULL, NULL), 0);
		fm_close(heap);
	} else if (flags & FM_RDONLY) {
		assert_int_equal(os_linux.pread_full(t.fd, now, sizeof(now), SUPER_COPY_1_OFF), sizeof(now));
		assert_memory_equal(now, &rec, sizeof(rec));
	}
	return r;
}

static void test_extents(void **state)
{
	static const uint64_t header[] = {0, 4096, 8192, 12288, 16384, 28672, FIRST_JOURNAL_OFF + 4096, 65536, 131072,
	                                  SEGMENT_SIZE - 4096};
	struct extent_rec e[3] = {{FIRST_JOURNAL_OFF, FIRST_JOURNAL_LEN}, {0, SEGMENT_SIZE}, {0, SEGMENT_SIZE}};
	uint8_t *small = t.work;
	unsigned used = 0, unused = 0, interiors = 0;

	(void)state;
	t.work = malloc(SEGMENTS * SEGMENT_SIZE);
	assert_non_null(t.work);
	make_segments();
	for (unsigned flags = FM_ATOMIC; flags; flags = flags == FM_ATOMIC ? FM_ATOMIC | FM_RDONLY : 0) {
		const uint64_t *directory = (const uint64_t *)(const void *)(t.work + DIRECTORY_OFF);
		uint64_t covered = 0;

		assert_int_equal(errno_with(e, 1, flags), 0);
		assert_int_equal(errno_with(e, 0, flags), EBADMSG);
		for (unsigned i = 0; i < sizeof(header) / sizeof(header[0]); i++) {
			e[1].off = header[i];
			assert_int_equal(errno_with(e, 2, flags), EBADMSG);
		}
		for (uint64_t s = 1; s < SEGMENTS; s++) {
			bool is_free = s >= covered && (segment_word_kind(directory[s]) == SEGMENT_FREE ||
			                                segment_word_kind(directory[s]) == SEGMENT_INTERIOR);

			if (segment_word_kind(directory[s]) == SEGMENT_HUGE)
				covered = s + huge_segments(huge_word_pages(directory[s]));
			e[1].off = s * SEGMENT_SIZE;
			if (errno_with(e, 2, flags) != (is_free ? 0 : EBADMSG))
				fail_msg("an extent over segment %u, word %#llx", (unsigned)s, (unsigned long long)directory[s]);
			used += !is_free;
			unused += is_free;
			interiors += !is_free && segment_word_kind(directory[s]) == SEGMENT_INTERIOR;
		}
		/* each other, in part and whole; one begins in free space and reaches over the file's end */
		e[1] = (struct extent_rec){(SEGMENTS - 2) * SEGMENT_SIZE, 2 * SEGMENT_SIZE};
		e[2] = (struct extent_rec){(SEGMENTS - 1) * SEGMENT_SIZE, SEGMENT_SIZE};
		assert_int_equal(errno_with(e, 2, flags), 0);
		assert_int_equal(errno_with(e, 3, flags), EBADMSG);
		e[2] = e[0];
		assert_int_equal(errno_with(e, 3, flags), EBADMSG);
		e[1].len = 3 * SEGMENT_SIZE;
		assert_int_equal(errno_with(e, 2, flags), EBADMSG);
		e[1].len = SEGMENT_SIZE / 2;
		assert_int_equal(errno_with(e, 2, flags), EBADMSG);
		e[1].len = SEGMENT_SIZE;
		e[2].len = SEGMENT_SIZE;
	}
	assert_true(used > 0 && unused > 0 && interiors > 0);
	free(t.work);
	t.work = small;
}

static int setup(void **state)
{
	struct stat st;
	fm_heap *heap;

	(void)state;
	t.fd = memfd_create("heap", MFD_CLOEXEC);
	heap = fm_open_fd(t.fd, FM_ATOMIC | FM_CREATE, &options);
	if (!heap)
		return -1;
	for (unsigned i = 0; i < 5; i++) {
		void *p = fm_malloc(heap, 1000 + i * 700);

		proc_fill(p, i, 1000);
		app_of(heap)[i] = fm_offset_of(heap, p);
		if (fm_root_set(heap, "r", p, 1) || fm_commit(heap))
			return -1;
	}
	if (fstat(t.fd, &st))
		return -1;
	t.size = (uint64_t)st.st_size;
	t.bytes = malloc(t.size);
	t.work = malloc(t.size);
	if (!t.bytes || !t.work || os_linux.pread_full(t.fd, t.bytes, t.size, 0) != (ssize_t)t.size)
		return -1;
	return fm_close(heap);
}

static int teardown(void **state)
{
	(void)state;
	free(t.bytes);
	free(t.work);
	return close(t.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_every_byte_of_the_superblock),
		cmocka_unit_test(test_every_byte_of_records),
		cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_entries),
		cmocka_unit_test(test_extents),
	};

	t.seed = proc_seed();
	return cmocka_run_group_tests(tests, setup, teardown);
}
