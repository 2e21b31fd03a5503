/* SPDX-License-Identifier: Apache-2.0
 *
 * Atomic heaps where there is no space (test 12 of the plan): a tmpfs of 12 MiB in a mount namespace of the test's own,
 * and a limit on the file's size. Allocating gives NULL and ENOMEM, a commit succeeds or fails with an error and changes
 * nothing, no store is a SIGBUS; after something was freed the heap works on.
 */
#include "api_util.h"

#include <sched.h>
#include <string.h>
#include <sys/mount.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {API_TEST(a_full_disk), API_TEST(a_limit_on_the_file)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
