/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of libfmalloc-preload.so: the program starts itself once for each case, with the library preloaded, and
 * judges how that process ended. A case is a function that returns 0 or ends at a failing must().
 */
#ifndef PRELOAD_UTIL_H
#define PRELOAD_UTIL_H

#include "proc_util.h"

#include <malloc.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

#define must(condition) \
	do { \
		if (!(condition)) { \
			dprintf(2, "# %s:%d: %s, errno %d\n", __FILE__, __LINE__, #condition, errno); \
			_exit(1); \
		} \
	} while (0)

struct preload_case {
	const char *name;
	int (*run)(void);
};

static char *preload_dir;            /* where heaps go; made by the test program */
static char preload_library[PATH_MAX];

/* Run case `name` with FMALLOC_PRELOAD=heap and FMALLOC_PRELOAD_FORK=policy (NULL: unset). Returns its wait
 * status; what it wrote to standard error is in preload_stderr. */
static char preload_stderr[4096];

static inline int preload_run(const char *name, const char *heap, const char *policy)
{
	int pipe_fd[2], status;
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(pipe_fd), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char self[PATH_MAX];
		ssize_t end = readlink("/proc/self/exe", self, sizeof(self) - 1);

		if (end < 0)
			_exit(98);
		self[end] = 0;
		dup2(pipe_fd[1], 2);
		close(pipe_fd[0]);
		close(pipe_fd[1]);
		setenv("LD_PRELOAD", preload_library, 1);
		setenv("TEST_DIR", preload_dir, 1);
		unsetenv("FMALLOC_PRELOAD");
		unsetenv("FMALLOC_PRELOAD_FORK");
		if (heap)
			setenv("FMALLOC_PRELOAD", heap, 1);
		if (policy)
			setenv("FMALLOC_PRELOAD_FORK", policy, 1);
		execl(self, self, name, (char *)NULL);
		_exit(99);
	}
	close(pipe_fd[1]);
	while ((n = read(pipe_fd[0], preload_stderr + len, sizeof(preload_stderr) - 1 - len)) > 0)
		len += (size_t)n;
	preload_stderr[len] = 0;
	close(pipe_fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* The case succeeds, says nothing and leaves nothing behind. */
static inline void preload_must_pass(const char *name, const char *policy)
{
	char heap[PATH_MAX], command[PATH_MAX + 32];
	int status;

	proc_path(heap, preload_dir, "heap.fm");
	status = preload_run(name, heap, policy);
	if (status != 0 || preload_stderr[0])
		fail_msg("case %s: status %#x, and it said: %s", name, (unsigned)status, preload_stderr);
	snprintf(command, sizeof(command), "test -z \"$(ls -A '%s')\"", preload_dir);
	assert_int_equal(system(command), 0);
}

/* ---------------------------------------------------------------- in a case */

/* The line of /proc/self/maps in which `p` lies, or "". */
static inline const char *preload_mapping_of(const void *p)
{
	static char line[PATH_MAX + 200];
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long from, to;

	must(maps != NULL);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && (unsigned long)p >= from && (unsigned long)p < to) {
			fclose(maps);
			return line;
		}
	fclose(maps);
	return "";
}

/* Is `p` in the file heap of this process? */
static inline bool preload_is_in_file(const void *p)
{
	const char *line = preload_mapping_of(p);

	return strstr(line, getenv("TEST_DIR")) && strstr(line, "rw-s") && strstr(line, "(deleted)");
}

/* Wait for a child that must end with 0. */
static inline void preload_join(pid_t pid)
{
	int status;

	must(pid > 0);
	must(waitpid(pid, &status, 0) == pid);
	if (status)
		dprintf(2, "# the child's status is %#x\n", (unsigned)status);
	must(status == 0);
}

/* ---------------------------------------------------------------- the program */

static inline int preload_main(int argc, char **argv, const struct preload_case *cases, size_t n)
{
	char self[PATH_MAX], *build;
	ssize_t len;

	if (argc > 1) {
		for (size_t i = 0; i < n; i++)
			if (strcmp(cases[i].name, argv[1]) == 0)
				return cases[i].run();
		return 97;
	}
	len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (len < 0)
		return 1;
	self[len] = 0;
	build = strstr(self, "/tests/preload/");
	if (!build)
		return 1;
	*build = 0;
	proc_path(preload_library, self, "libfmalloc-preload.so");
	if (access(preload_library, R_OK)) {
		printf("1..1\nok 1 - preload # SKIP %s is not built\n", preload_library);
		exit(0);
	}
	preload_dir = proc_dir_make();
	return preload_dir ? -1 : 1;
}

/* main() ends so: `failed` tests. */
static inline int preload_end(int failed)
{
	proc_dir_remove(preload_dir);
	return failed;
}

#endif
