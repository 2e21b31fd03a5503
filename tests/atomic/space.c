/* SPDX-License-Identifier: Apache-2.0
 *
 * Atomic heaps where there is no space (test 12 of the plan): a tmpfs of 12 MiB in a mount namespace of the test's own,
 * and a limit on the file's size. Allocating gives NULL and ENOMEM, a commit succeeds or fails with an error and changes
 * nothing, no store is a SIGBUS; after something was freed the heap works on. The same on the file system of FM_SPACE_DIR,
 * which filesystems.sh mounts: there the disk becomes full when a snapshot shares its blocks with the heap or not.
 */
#include "api_util.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>

#include "os_util.h"
#include "os/os.h"

#define ROUNDS 400
#define SLOTS  300

static uint64_t *app_of(fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

/* Allocate and commit until nothing fits, free the half, again. */
static void fill_again_and_again(void)
{
	fm_heap *heap = fm_open(heap_path, FM_ATOMIC | FM_CREATE, NULL);
	unsigned refused = 0, refused_in_all = 0, failed = 0;
	uint64_t done = 0;

	NEED(heap);
	for (uint64_t round = 1; round <= ROUNDS; round++) {
		uint64_t *app = app_of(heap);
		char *p = fm_malloc(heap, 100000);

		NEED(p || errno == ENOMEM);
		app[0] = round;
		refused += !p;
		refused_in_all += !p;
		if (p) {
			memset(p, (int)round, 100000);
			app[2 + round % SLOTS] = fm_offset_of(heap, p);
		}
		if (fm_commit(heap) == 0) {
			done = round;
		} else {
			NEED(errno == ENOSPC || errno == EFBIG);
			NEED(fm_rollback(heap) == 0);
			NEED(app[0] == done);
			failed++;
		}
		for (unsigned i = 2; refused > 20 && i < 2 + SLOTS; i += 2) {
			if (app[i])
				NEED(fm_free(fm_at(heap, app[i])) == 0);
			app[i] = 0;
		}
		refused = refused > 20 ? 0 : refused;
	}
	NEED(refused_in_all > 0);
	NEED(failed < ROUNDS / 2);
	NEED(fm_check(heap, print_finding, NULL) == 0);
	NEED(fm_close(heap) == 0);
	heap = fm_open(heap_path, FM_ATOMIC, NULL);
	NEED(heap);
	NEED(app_of(heap)[0] == done);
	NEED(fm_check(heap, print_finding, NULL) == 0);
	NEED(fm_close(heap) == 0);
}

static void on_a_small_disk(void)
{
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("fmalloc-test", folder, "tmpfs", 0, "size=12M"))
		_exit(77);
	fill_again_and_again();
	NEED(umount(folder) == 0);
}

static void under_a_limit(void)
{
	struct rlimit limit = {10 << 20, 10 << 20};

	NEED(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	fill_again_and_again();
}

static void a_full_disk(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(60);
		on_a_small_disk();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("# no tmpfs can be mounted here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_limit_on_the_file(void **state)
{
	(void)state;
	in_child(under_a_limit);
}

/* ---------------------------------------------------------------- a journal that can't grow */

/* So many failures, each of a commit that needs a longer journal than the one before. */
#define REFUSED   36
#define STEP      (4 * MIB)
#define OVERTAKEN 4

static bool is_full;

static int allocate_or_not(int fd, uint64_t off, uint64_t len)
{
	return is_full ? -ENOSPC : os_linux.allocate(fd, off, len);
}

static int no_sync(int fd)
{
	(void)fd;
	return 0;
}

/* However often the journal could not grow, it does when there is space, and where it was to be. */
static void a_disk_that_was_full_for_long(void **state)
{
	static struct os_calls table;
	struct fm_statistics stats = {.size = sizeof(stats)};
	struct stat st;
	fm_heap *heap;
	char *p;

	(void)state;
	if (getenv("FM_SPACE_DIR")) {
		print_message("# a small disk has not the space for this\n");
		skip();
	}
	table = os_linux;
	table.allocate = allocate_or_not;
	table.sync = no_sync;
	table.sync_view = sync_view_by_sync;
	table.pwrite_sync = os_linux.pwrite_full;
	os = &table;
	heap = open_or_fail(heap_path, FM_ATOMIC | FM_CREATE, NULL);
	p = fm_malloc(heap, REFUSED * STEP);
	assert_non_null(p);
	assert_int_equal(fm_commit(heap), 0);
	is_full = true;
	for (unsigned i = 0; i < REFUSED; i++) {
		memset(p + i * STEP, 1, STEP);
		assert_int_equal(fm_commit(heap), -1);
		assert_int_equal(errno, ENOSPC);
		if (i != OVERTAKEN)
			continue;
		/* the heap grows over the place of the journal that could not be made */
		is_full = false;
		assert_non_null(fm_malloc(heap, 8 * MIB));
		is_full = true;
	}
	is_full = false;
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_int_equal(stat(heap_path, &st), 0);
	/* the heap, the journal, and the place that was overtaken */
	assert_true((uint64_t)st.st_size <= REFUSED * STEP + stats.journal_size + 64 * MIB);
	assert_int_equal(fm_check(heap, print_finding, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
	os = &os_linux;
	unlink(heap_path);
}

/* The limit is what keeps the journal from growing, and what the program is told. */
static void limited(void)
{
	fm_heap *heap = fm_open(heap_path, FM_ATOMIC | FM_CREATE, NULL);
	struct rlimit limit;
	struct stat st;
	char *p;

	NEED(heap);
	p = fm_malloc(heap, 16 * MIB);
	NEED(p && fm_commit(heap) == 0 && stat(heap_path, &st) == 0);
	limit.rlim_cur = limit.rlim_max = (rlim_t)st.st_size + 100000;
	NEED(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	memset(p, 1, MIB);
	NEED(fm_commit(heap) == -1 && errno == EFBIG);
	memset(p, 1, 16 * MIB); /* a chain */
	NEED(fm_commit(heap) == -1 && errno == EFBIG);
	NEED(fm_rollback(heap) == 0 && p[0] == 0);
	p[0] = 2;
	NEED(fm_commit(heap) == 0 && fm_close(heap) == 0);
}

static void a_limit_on_the_journal(void **state)
{
	(void)state;
	in_child(limited);
}

/* ---------------------------------------------------------------- a file system of a test's own */

#define WORDS   (6 * MIB / 8)
#define CHANGES 60

/* Take all space that there is. */
static void fill_the_disk(const char *filler)
{
	static char block[65536];
	int fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	size_t len = sizeof block;

	NEED(fd >= 0);
	memset(block, 5, sizeof block);
	while (len >= 4096) {
		ssize_t n = write(fd, block, len);

		NEED(n > 0 || errno == ENOSPC);
		if (n <= 0) {
			fsync(fd); /* what is promised and not used yet comes back */
			len /= 2;
		}
	}
	close(fd);
}

static bool is_model(const uint64_t *words, const uint64_t *model)
{
	return memcmp(words, model, WORDS * 8) == 0;
}

/* `model` is the last commit, `changed` what the heap holds. */
static void commit_or_not(fm_heap *heap, uint64_t *words, uint64_t *model, unsigned *committed, unsigned *refused)
{
	if (fm_commit(heap) == 0) {
		memcpy(model, words, WORDS * 8);
		++*committed;
		return;
	}
	NEED(errno == ENOSPC);
	++*refused;
	/* an earlier commit may wait for space to be brought to its place; then nothing is taken back */
	if (fm_rollback(heap) == 0)
		NEED(is_model(words, model));
	else
		NEED(errno == ENOSPC);
}

static void on_this_disk(void)
{
	uint64_t *model = calloc(WORDS, 8), *words, rng = 7;
	const char *filler = path_of("filler"), *first = path_of("first"), *second = path_of("second");
	unsigned committed = 0, refused = 0;
	fm_heap *heap = fm_open(heap_path, FM_ATOMIC | FM_CREATE, NULL);
	void *p;
	int r;

	NEED(heap && model);
	words = fm_malloc(heap, WORDS * 8);
	NEED(words);
	for (uint64_t i = 0; i < WORDS; i++)
		words[i] = i;
	app_of(heap)[0] = fm_offset_of(heap, words);
	NEED(fm_commit(heap) == 0);
	memcpy(model, words, WORDS * 8);
	NEED(fm_snapshot(heap, first) == 0);
	fill_the_disk(filler);
	for (unsigned i = 0; i < CHANGES; i++) {
		for (unsigned k = 0; k < 40; k++) {
			rng = rng * 6364136223846793005u + 1442695040888963407u;
			words[(rng >> 33) % WORDS] = rng;
		}
		commit_or_not(heap, words, model, &committed, &refused);
	}
	while ((p = fm_malloc(heap, 300000)) != NULL)
		memset(p, 1, 300000);
	NEED(errno == ENOMEM);
	r = fm_snapshot(heap, second);
	NEED(r == 0 || errno == ENOSPC);
	NEED(access(second, F_OK) == (r ? -1 : 0));
	NEED(unlink(filler) == 0);
	sync();
	/* space is back: what waited for it goes on */
	words[1] = 77;
	for (unsigned i = 0; fm_commit(heap) != 0; i++) {
		NEED(errno == ENOSPC && i < 50);
		usleep(100000);
	}
	memcpy(model, words, WORDS * 8);
	NEED(fm_malloc(heap, 300000));
	NEED(fm_check(heap, print_finding, NULL) == 0);
	NEED(fm_close(heap) == 0);
	heap = fm_open(heap_path, FM_ATOMIC, NULL);
	NEED(heap);
	NEED(is_model(fm_at(heap, app_of(heap)[0]), model));
	NEED(fm_check(heap, print_finding, NULL) == 0);
	NEED(fm_close(heap) == 0);
	heap = fm_open(first, FM_ATOMIC, NULL);
	NEED(heap);
	words = fm_at(heap, app_of(heap)[0]);
	for (uint64_t i = 0; i < WORDS; i++)
		NEED(words[i] == i);
	NEED(fm_close(heap) == 0);
	fprintf(stderr, "# %u commits on the full disk, %u refused; a snapshot there: %s\n", committed, refused,
	        r ? "ENOSPC" : "made");
	NEED(committed + refused == CHANGES);
	free(model);
}

static unsigned reads_fail;

static ssize_t read_or_not(int fd, void *buf, size_t len, uint64_t off)
{
	if (!reads_fail)
		return os_linux.pread_full(fd, buf, len, off);
	reads_fail--;
	return -ENOSPC;
}

/* A page to compare with that can't be read, for want of space as it were: that is no record which is full. */
static void no_space_to_compare(void **state)
{
	static struct os_calls table;
	fm_heap *heap;
	uint64_t *words;

	(void)state;
	table = os_linux;
	table.reserve_file = no_view;
	table.pread_full = read_or_not;
	os = &table;
	heap = open_or_fail(heap_path, FM_ATOMIC | FM_CREATE, NULL);
	words = fm_calloc(heap, 100, 4096);
	assert_non_null(words);
	app_of(heap)[0] = fm_offset_of(heap, words);
	assert_int_equal(fm_commit(heap), 0);
	for (unsigned i = 0; i < 100; i += 10)
		words[i * 512] = i + 1;
	for (unsigned fails = 1; fails < 4; fails++) {
		reads_fail = fails;
		assert_int_equal(fm_commit(heap), -1);
		assert_int_equal(errno, ENOSPC);
		reads_fail = 0;
	}
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_rollback(heap), 0);
	for (unsigned i = 0; i < 100; i += 10)
		assert_int_equal(words[i * 512], i + 1);
	assert_int_equal(fm_close(heap), 0);
	os = &os_linux;
}

static void this_disk(void **state)
{
	(void)state;
	if (!getenv("FM_SPACE_DIR")) {
		print_message("# filesystems.sh mounts disks for this\n");
		skip();
	}
	in_child(on_this_disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {API_TEST(a_full_disk), API_TEST(a_limit_on_the_file),
		API_TEST(a_disk_that_was_full_for_long), API_TEST(a_limit_on_the_journal),
		API_TEST(no_space_to_compare), API_TEST(this_disk)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
