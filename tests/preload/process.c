/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes under preload: what a forked child gets by each policy, exec, programs that close descriptors which are
 * not theirs, and where the heap lies.
 */
#define _GNU_SOURCE 1
#include "../support/preload_util.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OBJECTS 3000

static uint8_t *object[OBJECTS];

static size_t size_of(unsigned i)
{
	return i % 500 == 499 ? 300000 + i * 100 : 1 + i * 7 % 3000;
}

static void fill_all(uint64_t id)
{
	for (unsigned i = 0; i < OBJECTS; i++)
		proc_fill(object[i], id + i, size_of(i));
}

static void make_all(uint64_t id)
{
	for (unsigned i = 0; i < OBJECTS; i++)
		must((object[i] = malloc(size_of(i))) != NULL);
	fill_all(id);
}

static bool are_intact(uint64_t id)
{
	for (unsigned i = 0; i < OBJECTS; i++)
		if (!proc_intact(object[i], id + i, size_of(i), SIZE_MAX))
			return false;
	return true;
}

/* Free, allocate and resize all of them; they hold `id` before and afterwards. */
static void churn(uint64_t id)
{
	for (unsigned i = 0; i < OBJECTS; i += 2) {
		must(malloc_usable_size(object[i]) >= size_of(i));
		free(object[i]);
	}
	for (unsigned i = 0; i < OBJECTS; i += 2)
		must((object[i] = malloc(size_of(i))) != NULL);
	for (unsigned i = 1; i < OBJECTS; i += 2) {
		must((object[i] = realloc(object[i], size_of(i) * 2)) != NULL);
		must(proc_intact(object[i], id + i, size_of(i), SIZE_MAX));
		must((object[i] = realloc(object[i], size_of(i))) != NULL);
		must(proc_intact(object[i], id + i, size_of(i), SIZE_MAX));
	}
	for (unsigned i = 0; i < OBJECTS; i += 2)
		proc_fill(object[i], id + i, size_of(i));
	must(are_intact(id));
}

/* ---------------------------------------------------------------- fork */

/* The parent stores, allocates and frees while the child looks. */
static int fork_copy(void)
{
	int ready[2];
	char c = 0;
	pid_t pid;

	make_all(1);
	must(pipe(ready) == 0);
	pid = fork();
	must(pid >= 0);
	if (pid == 0) {
		must(read(ready[0], &c, 1) == 1); /* the parent has changed all by now */
		must(are_intact(1));
		must(preload_is_in_file(object[0]));
		churn(1);
		fill_all(100000);
		/* and a child of its own */
		pid = fork();
		if (pid == 0) {
			must(are_intact(100000));
			churn(100000);
			_exit(0);
		}
		fill_all(200000);
		preload_join(pid);
		must(are_intact(200000));
		exit(0);
	}
	churn(1);
	fill_all(300000);
	must(write(ready[1], "x", 1) == 1);
	preload_join(pid);
	must(are_intact(300000));
	churn(300000);
	return 0;
}

static int many_forks(void)
{
	make_all(5);
	for (unsigned i = 0; i < 100; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			must(proc_intact(object[i * 7], 5 + i * 7, size_of(i * 7), SIZE_MAX));
			free(object[i * 7]);
			free(malloc(i * 1000));
			_exit(0);
		}
		preload_join(pid);
	}
	must(are_intact(5));
	return 0;
}

static volatile bool stop;

static void *allocate_on(void *arg)
{
	uint64_t random = (uintptr_t)arg;
	static __thread void *mine[100];

	while (!stop) {
		uint64_t number = proc_rand(&random);

		free(mine[number % 100]);
		mine[number % 100] = malloc(number >> 20 & 0x7fff);
		must(mine[number % 100] != NULL);
	}
	for (unsigned i = 0; i < 100; i++)
		free(mine[i]);
	return NULL;
}

static void *fork_on(void *arg)
{
	for (unsigned i = 0; i < 20; i++) {
		uint8_t *p = malloc(5000);
		pid_t pid;

		memset(p, 7, 5000);
		pid = fork();
		if (pid == 0) {
			must(p[0] == 7 && p[4999] == 7); /* what this thread has made is there */
			must(are_intact(9));
			churn(9);
			_exit(0);
		}
		preload_join(pid);
		free(p);
	}
	return arg;
}

/* Other threads allocate and fork while one forks. */
static int fork_with_threads(void)
{
	pthread_t thread[4];

	make_all(9);
	for (uintptr_t i = 0; i < 4; i++)
		must(pthread_create(&thread[i], NULL, i < 2 ? allocate_on : fork_on, (void *)(i + 1)) == 0);
	must(pthread_join(thread[2], NULL) == 0 && pthread_join(thread[3], NULL) == 0);
	stop = true;
	must(pthread_join(thread[0], NULL) == 0 && pthread_join(thread[1], NULL) == 0);
	must(are_intact(9));
	return 0;
}

static int fork_private(void)
{
	int ready[2];
	char c = 0;
	pid_t pid;

	make_all(1);
	must(pipe(ready) == 0);
	pid = fork();
	must(pid >= 0);
	if (pid == 0) {
		must(are_intact(1));
		must(!preload_is_in_file(object[0]));
		fill_all(100000); /* the child's own from here on */
		must(preload_is_in_file(malloc(10)));
		must(write(ready[1], "x", 1) == 1);
		must(are_intact(100000));
		churn(100000);
		must(malloc_usable_size(object[0]) >= size_of(0));
		pid = fork();
		if (pid == 0) {
			must(are_intact(100000));
			churn(100000);
			_exit(0);
		}
		preload_join(pid);
		exit(0);
	}
	must(read(ready[0], &c, 1) == 1);
	must(are_intact(1)); /* nothing of what the child stored */
	fill_all(300000);
	preload_join(pid);
	must(are_intact(300000));
	return 0;
}

static int run_true(void)
{
	char *const argv[] = {(char *)"true", NULL};
	pid_t pid;

	must(posix_spawnp(&pid, "true", NULL, NULL, argv, environ) == 0);
	preload_join(pid);
	pid = vfork();
	if (pid == 0) {
		execvp("true", argv);
		_exit(1);
	}
	preload_join(pid);
	must(system("true") == 0);
	return 0;
}

static int fork_fails(void)
{
	make_all(1);
	errno = 0;
	must(fork() == -1 && errno == ENOMEM);
	must(are_intact(1));
	return run_true();
}

/* No handler runs: the child notices at its first allocation. */
static int raw_fork(void)
{
	pid_t pid;

	make_all(1);
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0) {
		must(malloc(10) != NULL);
		fill_all(100000);
		churn(100000);
		_exit(0);
	}
	preload_join(pid);
	must(are_intact(1));
	return 0;
}

/* daemon(3) forks inside libc. */
static int daemons(void)
{
	int ready[2];
	char c = 0;
	pid_t pid;

	make_all(1);
	must(pipe(ready) == 0);
	pid = fork();
	if (pid == 0) {
		must(daemon(1, 1) == 0);
		must(are_intact(1));
		churn(1);
		must(preload_is_in_file(object[0]));
		must(write(ready[1], "x", 1) == 1);
		_exit(0);
	}
	preload_join(pid);
	close(ready[1]);
	must(read(ready[0], &c, 1) == 1);
	return 0;
}

static int execs(void)
{
	char line[PATH_MAX + 200] = "";
	FILE *out;

	must(run_true() == 0);
	/* each process has a file of its own beside the name that all inherit */
	out = popen("grep -c 'rw-s.*deleted' /proc/self/maps; "
	            "sed -n 's/.*rw-s.* \\([0-9]* .*deleted.\\)/\\1/p' /proc/self/maps", "r");
	must(out && fgets(line, sizeof(line), out) && atoi(line) == 1);
	must(fgets(line, sizeof(line), out) && strstr(line, getenv("TEST_DIR")));
	must(!strstr(preload_mapping_of(out), line));
	must(pclose(out) == 0);
	return 0;
}

/* ---------------------------------------------------------------- closed descriptors */

#define FILES 1000

/* What a daemon does at its start; then files of the program's own under all those numbers. */
static int close_all(void)
{
	void *volatile large = malloc(50000000); /* compilers drop what is only freed */
	struct stat st;
	char path[PATH_MAX];
	unsigned opened = 0;

	make_all(1);
	free(large);
	must(malloc_trim(0) == 1); /* the file is shorter then, but still long enough to grow into */
	must(syscall(SYS_close_range, 3, ~0U, 0) == 0);
	for (int fd = 3; fd < 1024; fd++) {
		snprintf(path, sizeof(path), "%s/file.%d", getenv("TEST_DIR"), fd);
		if (open(path, O_RDWR | O_CREAT | O_EXCL, 0600) < 0)
			break;
		must(pwrite(fd, path, strlen(path), 0) == (ssize_t)strlen(path));
		opened++;
	}
	must(opened > FILES);
	churn(1);
	/* grow by much, with and without free numbers */
	for (unsigned i = 0; i < 60; i++) {
		uint8_t *p = malloc(1 << 20);

		must(p != NULL);
		memset(p, 1, 1 << 20);
	}
	must(preload_is_in_file(object[0]));
	for (int fd = 3; fd < 3 + (int)opened; fd++) {
		char read_back[PATH_MAX] = "";

		snprintf(path, sizeof(path), "%s/file.%d", getenv("TEST_DIR"), fd);
		must(fstat(fd, &st) == 0 && st.st_size == (off_t)strlen(path));
		must(pread(fd, read_back, sizeof(read_back), 0) == st.st_size && strcmp(read_back, path) == 0);
		must(unlink(path) == 0);
		close(fd);
	}
	must(are_intact(1));
	return 0;
}

static int close_and_fork(void)
{
	pid_t pid;

	make_all(1);
	must(syscall(SYS_close_range, 3, ~0U, 0) == 0);
	pid = fork();
	if (pid == 0) {
		must(are_intact(1));
		churn(1);
		fill_all(100000);
		_exit(0);
	}
	preload_join(pid);
	must(are_intact(1));
	churn(1);
	return 0;
}

/* A program's descriptors have the numbers that they have without us, and children get none of ours. */
static int numbers(void)
{
	int fd;

	close(3);
	fd = open("/dev/null", O_RDONLY);

	must(fd == 3);
	must(system("test $(ls /proc/self/fd | awk '$1 >= 900' | wc -l) -eq 2") == 0);
	return 0;
}

/* ---------------------------------------------------------------- at the moment of a fork */

static volatile pid_t *handled_by;
static volatile sig_atomic_t handled;

static void note_process(int number)
{
	(void)number;
	*handled_by = getpid();
	handled++;
}

/* Signals come all the time, to parents and children. No child's handler stores into the parent's memory. */
static int signals(void)
{
	struct sigaction action = {.sa_handler = note_process, .sa_flags = SA_RESTART};
	char group[20];
	char *const argv[] = {(char *)"sh", (char *)"-c", (char *)"trap '' USR1; while kill -USR1 -$0; do :; done 2>/dev/null", group, NULL};
	pid_t me = getpid(), sender, pid;
	posix_spawnattr_t attr;
	sigset_t none, now;

	must(setpgid(0, 0) == 0);
	make_all(1);
	handled_by = malloc(sizeof(*handled_by));
	*handled_by = me;
	must(sigaction(SIGUSR1, &action, NULL) == 0);
	snprintf(group, sizeof(group), "%d", (int)me);
	must(posix_spawnattr_init(&attr) == 0);
	must(posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP) == 0);
	must(posix_spawnp(&sender, "sh", NULL, &attr, argv, environ) == 0);
	alarm(100);
	while (handled < 10)
		usleep(1000);
	for (unsigned i = 0; i < 400; i++) {
		pid = fork();
		if (pid == 0)
			_exit(0);
		preload_join(pid);
		must(*handled_by == me);
	}
	must(kill(sender, SIGKILL) == 0 && waitpid(sender, NULL, 0) == sender);
	/* they come again as before, in both */
	sigemptyset(&none);
	pid = fork();
	must(sigprocmask(SIG_SETMASK, NULL, &now) == 0 && memcmp(&now, &none, 8) == 0);
	handled = 0;
	must(raise(SIGUSR1) == 0 && handled == 1);
	if (pid == 0)
		_exit(0);
	preload_join(pid);
	return 0;
}

static unsigned files;

/* Descriptors of regular files: the heap's, those that the program was started with, and what else is left. */
static unsigned count_files(void)
{
	struct stat st;
	unsigned n = 0;

	for (int fd = 3; fd < 1024; fd++)
		n += fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
	return n;
}

static void *fork_and_count(void *arg)
{
	for (unsigned i = 0; i < 40; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(count_files() != files);
		preload_join(pid);
	}
	return arg;
}

/* What a thread has made for its fork is not inherited by another's child, which would hold the space. */
static int forks_of_others(void)
{
	pthread_t thread[3];

	make_all(1);
	files = count_files();
	for (unsigned i = 0; i < 3; i++)
		must(pthread_create(&thread[i], NULL, fork_and_count, NULL) == 0);
	for (unsigned i = 0; i < 3; i++)
		must(pthread_join(thread[i], NULL) == 0);
	must(count_files() == files);
	return 0;
}

static void *fork_on_heap(void *arg)
{
	errno = 0;
	must(fork() == -1 && errno == ENOMEM);
	return arg;
}

/* On a stack that malloc made no fork can be; on others as before. */
static int stack_in_heap(void)
{
	size_t size = 256 * 1024;
	void *stack = aligned_alloc(4096, size);
	pthread_attr_t attr;
	pthread_t thread;
	pid_t pid;

	must(pthread_attr_init(&attr) == 0 && pthread_attr_setstack(&attr, stack, size) == 0);
	must(pthread_create(&thread, &attr, fork_on_heap, NULL) == 0);
	must(pthread_join(thread, NULL) == 0);
	pid = fork();
	if (pid == 0)
		_exit(0);
	preload_join(pid);
	return 0;
}

/* ---------------------------------------------------------------- core dumps */

/* Of how many KiB of the heap's mapping does the kernel write a core? -1: it does not say. And is `p` in it? */
static long dumped_kib(const void *p, bool *has)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	char line[PATH_MAX + 200];
	unsigned long from = 0, to = 0, start, end;
	bool is_heap = false, says = false;
	long kib = 0;

	must(smaps != NULL);
	*has = false;
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s", &start, &end) == 2) {
			from = start;
			to = end;
			is_heap = strstr(line, getenv("TEST_DIR")) != NULL;
		}
		if (!is_heap || strncmp(line, "VmFlags:", 8) != 0)
			continue;
		says = true;
		if (strstr(line, " dd"))
			continue;
		kib += (long)((to - from) / 1024);
		*has = *has || ((uintptr_t)p >= from && (uintptr_t)p < to);
	}
	fclose(smaps);
	return says ? kib : -1;
}

/* The heap, in parent and child, and not the terabyte that is reserved. */
static int core_dumps(void)
{
	uint8_t *first = malloc(1000), *large = malloc(50000000), *last;
	bool has_first, has_last;
	long kib = dumped_kib(first, &has_first);
	pid_t pid;

	if (kib < 0)
		return 0;
	must(has_first && kib > 50000 && kib < 200000);
	kib = dumped_kib(large + 49999999, &has_last);
	must(has_last);
	free(large);
	must(malloc_trim(0) == 1);
	kib = dumped_kib(first, &has_first);
	must(has_first && kib > 0 && kib < 20000);
	last = malloc(30000000);
	pid = fork();
	must(dumped_kib(last + 29999999, &has_last) < 200000 && has_last);
	must(dumped_kib(first, &has_first) > 30000 && has_first);
	if (pid == 0)
		_exit(0);
	preload_join(pid);
	return 0;
}

/* ---------------------------------------------------------------- limits */

static int file_limit(void)
{
	struct rlimit limit = {32 << 20, 32 << 20};
	unsigned n = 0;

	must(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	while (malloc(100000))
		n++;
	must(errno == ENOMEM && n > 150 && n < 340);
	return 0;
}

/* Two generations of children that have all, and can use it and more. */
static void must_fork_well(void)
{
	pid_t pid = fork();

	must(pid >= 0);
	if (pid == 0) {
		uint8_t *large;

		must(are_intact(1));
		churn(1);
		must((large = malloc(20 << 20)) != NULL);
		memset(large, 1, 20 << 20);
		fill_all(100000);
		pid = fork();
		must(pid >= 0);
		if (pid == 0) {
			must(are_intact(100000) && large[(20 << 20) - 1] == 1);
			churn(100000);
			free(large);
			malloc_trim(0);
			must((large = calloc(1, 10 << 20)) != NULL);
			for (size_t i = 0; i < 10 << 20; i += 1000)
				must(large[i] == 0);
			_exit(0);
		}
		fill_all(200000);
		preload_join(pid);
		must(are_intact(200000));
		_exit(0);
	}
	fill_all(300000);
	preload_join(pid);
	must(are_intact(300000));
}

static void limit_to(int which, rlim_t value)
{
	struct rlimit limit;

	must(getrlimit((__rlimit_resource_t)which, &limit) == 0);
	limit.rlim_cur = value;
	must(setrlimit((__rlimit_resource_t)which, &limit) == 0);
}

/* Limits that were not there when the heap was made; the first is that of a shell's `ulimit -f 10`. */
static int late_file_limit(void)
{
	make_all(1);
	limit_to(RLIMIT_FSIZE, 10240);
	must_fork_well();
	return 0;
}

static int late_address_limit(void)
{
	make_all(1);
	limit_to(RLIMIT_AS, 400 << 20);
	must_fork_well();
	return 0;
}

static int late_address_limit_private(void)
{
	pid_t pid;
	int status;

	make_all(1);
	limit_to(RLIMIT_AS, 400 << 20);
	pid = fork();
	if (pid == 0) {
		must(are_intact(1)); /* as with private the child sees these */
		must(malloc(1000) != NULL);
		_exit(0);
	}
	must(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
	return 0;
}

/* No number is free, then one, then two. */
static int no_descriptor(void)
{
	make_all(1);
	for (unsigned spare = 0; spare < 4; spare++) {
		int fd, last = -1;
		pid_t pid;

		limit_to(RLIMIT_NOFILE, 1024);
		while ((fd = open("/dev/null", O_RDONLY)) >= 0)
			last = fd;
		for (unsigned i = 0; i < spare; i++)
			close(last--);
		pid = fork();
		must(pid >= 0);
		if (pid == 0) {
			must(are_intact(1));
			churn(1);
			_exit(0);
		}
		preload_join(pid);
	}
	for (int fd = 3; fd < 900; fd++)
		close(fd);
	must_fork_well();
	return 0;
}

/* A page that can't be read, with and without descriptors. */
static int guard_page(void)
{
	uint8_t *p = aligned_alloc(4096, 65536);

	make_all(1);
	memset(p, 1, 65536);
	must(mprotect(p + 4096, 4096, PROT_NONE) == 0);
	for (unsigned i = 0; i < 2; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			must(are_intact(1) && p[0] == 1 && p[65535] == 1);
			churn(1);
			_exit(0);
		}
		preload_join(pid);
		must(syscall(SYS_close_range, 3, ~0U, 0) == 0);
	}
	must(are_intact(1));
	return 0;
}

/* A heap of 24 MiB in a file system that has 32: no copy fits. */
static int full_disk(void)
{
	static uint8_t *block[2000];
	unsigned n = 0;
	size_t size = 100000;
	pid_t pid;

	for (; n < 240; n++) {
		must((block[n] = malloc(size)) != NULL);
		memset(block[n], (int)n, size);
	}
	errno = 0;
	must(fork() == -1 && errno == ENOMEM);
	must(run_true() == 0);
	while (n < 2000 && (block[n] = malloc(size)) != NULL) {
		memset(block[n], (int)n, size);
		n++;
	}
	must(n > 260 && n < 340 && errno == ENOMEM);
	errno = 0;
	must(calloc(1, size) == NULL && errno == ENOMEM);
	must(realloc(block[0], size * 4) == NULL && errno == ENOMEM);
	for (unsigned i = 0; i < n; i++)
		for (size_t k = 0; k < size; k += 1000)
			must(block[i][k] == (uint8_t)i);
	/* it works on with what is freed */
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < n; i += 2)
			free(block[i]);
		for (unsigned i = 0; i < n; i += 2) {
			must((block[i] = malloc(size)) != NULL);
			memset(block[i], (int)i, size);
		}
	}
	/* and with the descriptors gone: an error still, and no SIGBUS */
	must(syscall(SYS_close_range, 3, ~0U, 0) == 0);
	while ((block[0] = malloc(5000)) != NULL)
		memset(block[0], 1, 5000);
	must(errno == ENOMEM);
	for (unsigned i = 1; i < n; i++)
		free(block[i]);
	must((pid = fork()) >= 0 || errno == ENOMEM);
	if (pid == 0)
		_exit(malloc(1000) == NULL);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return 0;
}

/* A heap of holes: there is space for what it has, and none for the whole length, which a child's copy takes. */
static int sparse_heap(void)
{
	uint8_t *block[20];
	char path[PATH_MAX];
	pid_t pid;
	int fd;

	for (unsigned i = 0; i < 20; i++) {
		must((block[i] = malloc(1 << 20)) != NULL);
		memset(block[i], 1, 1 << 20);
	}
	for (unsigned i = 0; i < 19; i++)
		free(block[i]);
	malloc_trim(0);
	snprintf(path, sizeof(path), "%s/other", getenv("TEST_DIR"));
	must((fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0 && fallocate(fd, 0, 0, 11 << 20) == 0);
	errno = 0;
	must(fork() == -1 && errno == ENOMEM);
	must(ftruncate(fd, 0) == 0 && unlink(path) == 0);
	pid = fork();
	if (pid == 0)
		_exit(0);
	preload_join(pid);
	return 0;
}

static void test_full_disk(void **state)
{
	char place[PATH_MAX], heap[PATH_MAX];
	int status;

	(void)state;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", preload_dir, "tmpfs", 0, "size=32m")) {
		print_message("# no mount: %s\n", strerror(errno));
		skip();
	}
	proc_path(place, preload_dir, "place");
	assert_int_equal(mkdir(place, 0700), 0);
	proc_path(heap, place, "heap.fm");
	status = preload_run("full_disk", heap, NULL);
	if (!status)
		status = preload_run("sparse_heap", heap, NULL);
	assert_int_equal(umount(preload_dir), 0);
	if (status)
		fail_msg("status %#x, and it said: %s", (unsigned)status, preload_stderr);
	assert_string_equal(preload_stderr, "");
}

/* After dropping privileges the heap's folder is closed to the process: a child's copy is in memory. */
static int dropped(void)
{
	pid_t pid;

	make_all(1);
	if (setgid(65534) || setuid(65534))
		return 0;
	pid = fork();
	if (pid == 0) {
		must(are_intact(1));
		churn(1);
		must(strstr(preload_mapping_of(object[0]), "memfd:"));
		_exit(0);
	}
	preload_join(pid);
	must(are_intact(1));
	return 0;
}

/* ---------------------------------------------------------------- where the heap lies */

static int in_file(void)
{
	void *p = malloc(10);

	must(strstr(preload_mapping_of(p), getenv("TEST_DIR")));
	must(strstr(preload_mapping_of(p), "deleted"));
	return 0;
}

static int in_memory(void)
{
	must(strstr(preload_mapping_of(malloc(10)), "memfd:fmalloc"));
	return 0;
}

static void test_forks_in_memory(void **state)
{
	(void)state;
	assert_int_equal(preload_run("many_forks", NULL, NULL), 0);
	assert_int_equal(preload_run("raw_fork", NULL, NULL), 0);
	assert_int_equal(preload_run("close_and_fork", NULL, NULL), 0);
	assert_string_equal(preload_stderr, "");
}

static void test_places(void **state)
{
	static const char text[] = "the user's own file";
	char path[PATH_MAX], below[PATH_MAX + 10], back[100] = "", cwd[PATH_MAX];
	int fd;

	(void)state;
	/* a folder, a name in it, a name relative to where the program starts */
	assert_int_equal(preload_run("in_file", preload_dir, NULL), 0);
	assert_string_equal(preload_stderr, "");
	proc_path(path, preload_dir, "heap.fm");
	assert_int_equal(preload_run("in_file", path, NULL), 0);
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(preload_dir), 0);
	assert_int_equal(preload_run("in_file", "heap.fm", NULL), 0);
	assert_int_equal(chdir(cwd), 0);
	assert_string_equal(preload_stderr, "");
	/* a file that exists is left as it is */
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_int_equal(write(fd, text, sizeof(text)), sizeof(text));
	assert_int_equal(preload_run("in_file", path, NULL), 0);
	assert_int_equal(pread(fd, back, sizeof(back), 0), sizeof(text));
	assert_string_equal(back, text);
	close(fd);
	/* what can't be used is said, and the program has memory */
	snprintf(below, sizeof(below), "%s/x/y", path);
	assert_int_equal(preload_run("in_memory", below, NULL), 0);
	assert_non_null(strstr(preload_stderr, "in memory"));
	assert_non_null(strstr(preload_stderr, "Not a directory"));
	assert_int_equal(unlink(path), 0);
	/* nothing was asked for */
	assert_int_equal(preload_run("in_memory", NULL, NULL), 0);
	assert_int_equal(preload_run("in_memory", "", NULL), 0);
	assert_string_equal(preload_stderr, "");
	/* policies that there are not */
	assert_int_equal(preload_run("in_memory", NULL, "sometimes"), 0);
	assert_non_null(strstr(preload_stderr, "sometimes"));
	assert_int_equal(rmdir(preload_dir), 0); /* nothing is left behind */
	assert_int_equal(mkdir(preload_dir, 0700), 0);
}

/* ---------------------------------------------------------------- */

#define CASE(name) {#name, name}

static const struct preload_case cases[] = {
	CASE(fork_copy), CASE(many_forks), CASE(fork_with_threads), CASE(fork_private), CASE(fork_fails), CASE(raw_fork),
	CASE(daemons), CASE(execs), CASE(close_all), CASE(close_and_fork), CASE(numbers), CASE(file_limit),
	CASE(full_disk), CASE(dropped), CASE(in_file), CASE(in_memory), CASE(core_dumps),
	CASE(signals), CASE(forks_of_others), CASE(stack_in_heap),
	CASE(late_file_limit), CASE(late_address_limit), CASE(late_address_limit_private), CASE(no_descriptor), CASE(guard_page), CASE(sparse_heap),
};

#define PASSES(name, run, policy) \
	static void test_##name(void **state) { (void)state; preload_must_pass(#run, policy); }
PASSES(fork_copy, fork_copy, NULL)
PASSES(many_forks, many_forks, "copy")
PASSES(many_forks_private, many_forks, "private")
PASSES(fork_with_threads, fork_with_threads, NULL)
PASSES(fork_private, fork_private, "private")
PASSES(fork_fails, fork_fails, "fail")
PASSES(raw_fork, raw_fork, NULL)
PASSES(daemons, daemons, NULL)
PASSES(execs, execs, NULL)
PASSES(close_all, close_all, NULL)
PASSES(close_and_fork, close_and_fork, NULL)
PASSES(close_and_fork_private, close_and_fork, "private")
PASSES(numbers, numbers, NULL)
PASSES(file_limit, file_limit, NULL)
PASSES(dropped, dropped, NULL)
PASSES(core_dumps, core_dumps, NULL)
PASSES(signals, signals, NULL)
PASSES(signals_private, signals, "private")
PASSES(forks_of_others, forks_of_others, NULL)
PASSES(stack_in_heap, stack_in_heap, NULL)
PASSES(late_file_limit, late_file_limit, NULL)
PASSES(late_address_limit, late_address_limit, NULL)
PASSES(late_address_limit_private, late_address_limit_private, "private")
PASSES(no_descriptor, no_descriptor, NULL)
PASSES(guard_page, guard_page, NULL)
PASSES(stack_in_heap_private, stack_in_heap, "private")

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fork_copy), cmocka_unit_test(test_many_forks),
		cmocka_unit_test(test_many_forks_private), cmocka_unit_test(test_fork_with_threads),
		cmocka_unit_test(test_fork_private), cmocka_unit_test(test_fork_fails), cmocka_unit_test(test_raw_fork),
		cmocka_unit_test(test_daemons), cmocka_unit_test(test_execs), cmocka_unit_test(test_close_all),
		cmocka_unit_test(test_close_and_fork), cmocka_unit_test(test_close_and_fork_private),
		cmocka_unit_test(test_numbers), cmocka_unit_test(test_file_limit), cmocka_unit_test(test_dropped),
		cmocka_unit_test(test_places), cmocka_unit_test(test_forks_in_memory), cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_core_dumps), cmocka_unit_test(test_signals),
		cmocka_unit_test(test_signals_private), cmocka_unit_test(test_forks_of_others),
		cmocka_unit_test(test_stack_in_heap), cmocka_unit_test(test_stack_in_heap_private),
		cmocka_unit_test(test_late_file_limit), cmocka_unit_test(test_late_address_limit),
		cmocka_unit_test(test_late_address_limit_private), cmocka_unit_test(test_no_descriptor),
		cmocka_unit_test(test_guard_page),
	};
	int r = preload_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));

	return r >= 0 ? r : preload_end(cmocka_run_group_tests(tests, NULL, NULL));
}
