/* SPDX-License-Identifier: Apache-2.0
 *
 * A program with a malloc of its own, under preload: ours has nothing to do, and fork is still libc's.
 */
#define _GNU_SOURCE 1
#include "../support/preload_util.h"

#include <stdalign.h>
#include <sys/wait.h>

#define EXPORT __attribute__((visibility("default")))
#define HEADER 16u

static alignas(16) char arena[64 << 20];
static size_t used; /* atomic */

EXPORT void *malloc(size_t size)
{
	size_t len = (size + HEADER + 15) & ~(size_t)15;
	size_t at = __atomic_fetch_add(&used, len, __ATOMIC_RELAXED);

	if (len < size || at + len > sizeof(arena)) {
		errno = ENOMEM;
		return NULL;
	}
	memcpy(arena + at, &size, sizeof(size));
	return arena + at + HEADER;
}

EXPORT void free(void *p)
{
	(void)p;
}

EXPORT void *calloc(size_t n, size_t size)
{
	size_t total;

	return __builtin_mul_overflow(n, size, &total) ? NULL : malloc(total); /* never used before: zero */
}

EXPORT void *realloc(void *p, size_t size)
{
	void *moved = malloc(size);
	size_t old = 0;

	if (p)
		memcpy(&old, (char *)p - HEADER, sizeof(old));
	if (moved && old)
		memcpy(moved, p, old < size ? old : size);
	return moved;
}

static int forks(void)
{
	char *p = malloc(100);
	char line[10] = "";
	FILE *out;
	pid_t pid;

	must(p >= arena && p < arena + sizeof(arena));
	strcpy(p, "parent");
	pid = fork();
	must(pid >= 0);
	if (pid == 0) {
		must(strcmp(p, "parent") == 0);
		strcpy(p, "child");
		pid = fork();
		if (pid == 0)
			_exit(strcmp(p, "child") != 0);
		preload_join(pid);
		_exit(0);
	}
	preload_join(pid);
	must(strcmp(p, "parent") == 0);
	out = popen("echo all", "r");
	must(out && fgets(line, sizeof(line), out) && strcmp(line, "all\n") == 0);
	must(pclose(out) == 0);
	return 0;
}

static const struct preload_case cases[] = {{"forks", forks}};

static void test_forks(void **state)
{
	(void)state;
	preload_must_pass("forks", NULL);
	preload_must_pass("forks", "private");
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(test_forks)};
	int r = preload_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));

	return r >= 0 ? r : preload_end(cmocka_run_group_tests(tests, NULL, NULL));
}
