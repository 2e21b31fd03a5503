/* SPDX-License-Identifier: Apache-2.0
 *
 * Atomic heaps where memory is short (test 12 of the plan), on every way of finding pages: a cgroup (version 2, or 1)
 * with a limit far below what the heap has. Commits smaller than the limit succeed one after the other, each of other
 * pages, and the process is not killed; the budget of kept pages follows the limit. With swap more than the limit is
 * written between two commits, and what was swapped out is committed, rolled back and compared like everything else.
 *
 *   FM_COMMITS   commits in the first part (6)
 */
#define _GNU_SOURCE 1
#include "api_util.h"
#include "way.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/swap.h>
#include <sys/vfs.h>

#define LIMIT  ((size_t)48 * MIB)
#define HEAP   ((size_t)112 * MIB)
#define COMMIT ((size_t)28 * MIB) /* more than half of the limit: two do not fit */
#ifdef __SANITIZE_ADDRESS__
#define HAS_TABLES true /* the sanitizer's, for what is mapped, count as memory: anything between 5 and 50 MiB */
#else
#define HAS_TABLES false
#endif

static const char *const ways[] = {"uffd", "mprotect", "pagemap", "declared"};
static const char *way;
static char group[256], swap_file[4600];

/* ---------------------------------------------------------------- the cgroup */

static bool put(const char *file, const char *text)
{
	char path[400];
	int fd, n;

	snprintf(path, sizeof path, "%s/%s", group, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = (int)write(fd, text, strlen(text));
	close(fd);
	return n == (int)strlen(text);
}

/* A group below the root of the memory controller, with the limit. */
static bool make_group(void)
{
	static const struct {
		const char *root, *file;
	} kinds[] = {{"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}};
	char limit[32];

	snprintf(limit, sizeof limit, "%zu", LIMIT);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(group, sizeof group, "%s", kinds[i].root);
		if (i == 0 && access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
			put("cgroup.subtree_control", "+memory");
		snprintf(group, sizeof group, "%s/fmalloc-test-%d", kinds[i].root, (int)getpid());
		if (mkdir(group, 0700))
			continue;
		if (put(kinds[i].file, limit))
			return true;
		rmdir(group);
	}
	group[0] = 0;
	return false;
}

static void remove_group(void)
{
	for (int i = 0; group[0] && rmdir(group) && i < 100; i++)
		usleep(20000);
	group[0] = 0;
}

/* ---------------------------------------------------------------- what the children do */

static void *writing(fm_heap *heap, void *p, size_t len)
{
	if (strcmp(way, "declared") == 0)
		NEED(fm_will_write(heap, p, len) == 0);
	return p;
}

static uint64_t *app_of(fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

static fm_heap *begin(void)
{
	char number[16];
	fm_heap *heap;

	snprintf(number, sizeof number, "%d", (int)getpid());
	NEED(put("cgroup.procs", number));
	heap = fm_open(heap_path, atomic_heap() | FM_CREATE, NULL);
	NEED(heap);
	return heap;
}

/* Word 0 of each page of [at, at + len) becomes `value`. */
static void mark(fm_heap *heap, char *at, size_t len, uint64_t value)
{
	writing(heap, at, len);
	for (size_t i = 0; i < len; i += 4096)
		*(uint64_t *)(void *)(at + i) = value;
}

static size_t count_marked(const char *at, size_t len, uint64_t value)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i += 4096)
		n += *(const uint64_t *)(const void *)(at + i) == value;
	return n * 4096;
}

static void large_commits(void)
{
	fm_heap *heap = begin();
	struct fm_statistics stats = {.size = sizeof stats};
	uint64_t commits = getenv("FM_COMMITS") ? strtoull(getenv("FM_COMMITS"), NULL, 10) : 6, last[4] = {0};
	char *p = fm_malloc(heap, HEAP);

	NEED(p);
	app_of(writing(heap, app_of(heap), 8) ? heap : NULL)[0] = fm_offset_of(heap, p);
	for (uint64_t i = 1; i <= commits; i++) {
		last[i % 4] = i;
		mark(heap, p + i % 4 * COMMIT, COMMIT, i);
		NEED(fm_commit(heap) == 0);
		NEED(fm_stats(heap, &stats) == 0);
		/* an eighth of the limit, and as much again until the next pause */
		NEED(stats.kept_bytes <= LIMIT / 4);
	}
	NEED(fm_close(heap) == 0);
	heap = fm_open(heap_path, atomic_heap(), NULL);
	NEED(heap);
	p = fm_at(heap, app_of(heap)[0]);
	for (unsigned i = 0; i < 4; i++)
		NEED(count_marked(p + i * COMMIT, COMMIT, last[i]) == COMMIT);
	NEED(fm_close(heap) == 0);
}

static uint64_t swapped(void)
{
	char line[200];
	unsigned long long kib = 0;
	FILE *status = fopen("/proc/self/status", "r");

	NEED(status);
	while (fgets(line, sizeof line, status))
		if (sscanf(line, "VmSwap: %llu", &kib) == 1)
			break;
	fclose(status);
	return kib * KIB;
}

/* More between two commits than the limit: some of it is swapped out when it is looked for. */
static void with_swap(void)
{
	fm_heap *heap = begin();
	size_t size = 2 * COMMIT;
	char *p = fm_malloc(heap, size);

	NEED(p);
	writing(heap, app_of(heap), 8);
	app_of(heap)[0] = fm_offset_of(heap, p);
	for (uint64_t i = 1; i <= 3; i += 2) {
		mark(heap, p, size, i);
		NEED(swapped() > size / 16);
		NEED(fm_commit(heap) == 0);
	}
	/* swapped out after their commit, written again or not */
	mark(heap, p, size / 2, 4);
	NEED(fm_commit(heap) == 0);
	mark(heap, p + size / 4, size / 2, 5);
	NEED(swapped() > 0);
	NEED(fm_rollback(heap) == 0);
	NEED(count_marked(p, size / 2, 4) == size / 2 && count_marked(p + size / 2, size / 2, 3) == size / 2);
	mark(heap, p + size / 2, size / 2, 6);
	NEED(fm_commit(heap) == 0);
	mark(heap, p, size, 7);
	NEED(fm_close(heap) == 0);
	heap = fm_open(heap_path, atomic_heap(), NULL);
	NEED(heap);
	p = fm_at(heap, app_of(heap)[0]);
	NEED(count_marked(p, size / 2, 4) == size / 2 && count_marked(p + size / 2, size / 2, 6) == size / 2);
	NEED(fm_close(heap) == 0);
}

/* ---------------------------------------------------------------- */

#define TMPFS 0x01021994

static void run_child(void (*act)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(240);
		act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	remove_group();
	if (WIFSIGNALED(status))
		fail_msg("%s: killed by signal %d%s", way, WTERMSIG(status),
		         WTERMSIG(status) == SIGKILL ? ": out of memory" : WTERMSIG(status) == SIGALRM ? ": it hangs" : "");
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_limit(void **state)
{
	struct statfs fs;

	(void)state;
	if (HAS_TABLES) {
		print_message("# the sanitizer takes as much as the limit leaves\n");
		skip();
	}
	if (statfs(folder, &fs) == 0 && (unsigned long)fs.f_type == TMPFS) {
		print_message("# the folder is on a tmpfs, whose files count as memory\n");
		skip();
	}
	if (!make_group()) {
		print_message("# no cgroup with a limit can be made here\n");
		skip();
	}
	run_child(large_commits);
}

static bool make_swap(void)
{
	char command[9500];
	int fd;

	snprintf(swap_file, sizeof swap_file, "%s/swap", folder);
	fd = open(swap_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || posix_fallocate(fd, 0, (off_t)(2 * HEAP)))
		return false;
	close(fd);
	snprintf(command, sizeof command, "PATH=$PATH:/sbin:/usr/sbin mkswap '%s' >/dev/null 2>&1", swap_file);
	return system(command) == 0 && swapon(swap_file, 0) == 0;
}

static void swap_too(void **state)
{
	(void)state;
	if (!make_swap()) {
		print_message("# swap can't be had here\n");
		skip();
	}
	if (!make_group()) {
		swapoff(swap_file);
		print_message("# no cgroup with a limit can be made here\n");
		skip();
	}
	run_child(with_swap);
	assert_int_equal(swapoff(swap_file), 0);
}

static int leave(void **state)
{
	remove_group();
	if (swap_file[0])
		swapoff(swap_file); /* if the test failed */
	return remove_folder(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_limit, make_folder, leave),
		cmocka_unit_test_setup_teardown(swap_too, make_folder, leave),
	};
	int r = 0;

	for (unsigned i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		way = ways[i];
		if (getenv("FM_WAY") && strcmp(getenv("FM_WAY"), way) != 0)
			continue;
		setenv("FMALLOC_TRACK", way, 1);
		print_message("# finding pages by %s\n", way);
		r += cmocka_run_group_tests_name(way, tests, NULL, NULL);
	}
	return r;
}
