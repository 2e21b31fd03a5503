/* SPDX-License-Identifier: Apache-2.0
 *
 * Damaged and hostile atomic heaps (test 10 of the plan): superblock, journal and the rest of a heap that was killed with
 * commits in its journal are changed at random, checksums mended or not, the file cut. Opening for reading and for
 * writing ends with an error or with a heap that can be used; nothing crashes, and the file does not grow by more than what
 * it was.
 *
 *   FM_RANDOM   files (2500)
 *   FM_SEED     which
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
	.address_space = 64 << 20,
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

/* Every word of the superblock and of a record's header, some values each, the checksum right. */
static void test_every_word(void **state)
{
	(void)state;
	for (unsigned place = 0; place < 2; place++) {
		for (uint64_t word = 0; word < (place ? 16 : 63); word++) {
			for (unsigned i = 0; i < 12; i++) {
				fm_heap *heap;

				memcpy(t.work, t.bytes, t.size);
				t.rng = word * 100 + i;
				change_word((place ? FIRST_JOURNAL_OFF : SUPER_COPY_1_OFF) + word * 8);
				if (place) {
					mend_record(FIRST_JOURNAL_OFF, t.size);
				} else {
					mend_super(SUPER_COPY_1_OFF);
					memcpy(t.work + SUPER_COPY_2_OFF, t.work + SUPER_COPY_1_OFF, 512);
				}
				restore(t.size);
				heap = fm_open_fd(t.fd, FM_ATOMIC, &options);
				if (!heap) {
					assert_true(fm_last_error()[0]);
					continue;
				}
				use(heap, true);
				fm_close(heap);
			}
		}
	}
	assert_true(t.opened > 0);
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
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_every_word)};

	t.seed = proc_seed();
	return cmocka_run_group_tests(tests, setup, teardown);
}
