/* SPDX-License-Identifier: Apache-2.0
 *
 * How Linux tells which pages of a private file mapping were written.
 *
 * userfaultfd in its asynchronous write-protect mode (Linux 6.7): a store into a protected page clears the
 * protection in the kernel, without a message and for kernel-mode stores (read(2) into the heap) as well;
 * PAGEMAP_SCAN gives the pages without protection and protects them again in one step; pages that were only read are
 * among them once. Both came after the headers of Debian 12: what is
 * missing there is declared here, and whether the kernel has it is found out at run time.
 */
#define _GNU_SOURCE
#include "linux_track.h"
#include "../base/atomics.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* linux/userfaultfd.h of 6.7 */
#define FEATURE_WP_UNPOPULATED (UINT64_C(1) << 13)
#define FEATURE_WP_ASYNC       (UINT64_C(1) << 15)

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* linux/fs.h of 6.7 */
struct scan_region {
	uint64_t start, end, categories;
};

struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define IOCTL_SCAN _IOWR('f', 16, struct scan_arg)

enum {
	SCAN_WP_MATCHING = 1,
	SCAN_CHECK_WPASYNC = 2,
	CATEGORY_WRITTEN = 2,
	CATEGORY_PRESENT = 8,
	CATEGORY_SWAPPED = 16,
};

/* On the stack, which in threads may have as little as 32 KiB. */
#define REGIONS 256

int track_pagemap(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	return out_of_the_way(fd);
}

int track_scan(int fd, bool is_dense, uint64_t *from, uint64_t to, struct os_range *found, unsigned n)
{
	struct scan_region regions[REGIONS];
	struct scan_arg arg = {
		.size = sizeof(arg),
		.flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
		.start = *from,
		.end = to,
		.vec = (uintptr_t)regions,
		.vec_len = n < REGIONS ? n : REGIONS,
		/* not CATEGORY_FILE: the kernel would look at each page's descriptor, 36 ns instead of 2 [measured].
		 * For exactly WRITTEN and nothing else it has a loop of its own: 0.8 to 1 ns. There an entry of the page
		 * table that was never used counts as written, until the scan marks it */
		.category_mask = CATEGORY_WRITTEN,
		.category_anyof_mask = is_dense ? 0 : CATEGORY_PRESENT | CATEGORY_SWAPPED,
		.return_mask = is_dense ? CATEGORY_WRITTEN : CATEGORY_PRESENT,
	};
	int r;

	do
		r = ioctl(fd, IOCTL_SCAN, &arg);
	while (r < 0 && errno == EINTR && arg.walk_end <= arg.start);
	if (r < 0)
		return -errno;
	for (int i = 0; i < r; i++) {
		found[i].start = regions[i].start;
		found[i].end = regions[i].end;
	}
	*from = arg.walk_end;
	return r;
}

/* Does a scan of the range work, which needs the kernel and the registration? */
static int probe_scan(void *at, uint64_t len)
{
	struct os_range range;
	uint64_t from = (uintptr_t)at;
	int fd = track_pagemap();
	int r;

	if (fd < 0)
		return fd;
	r = track_scan(fd, false, &from, (uintptr_t)at + len, &range, 1);
	close(fd);
	return r < 0 ? r : 0;
}

int track_watch(void *at, uint64_t len)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED};
	struct uffdio_register registration = {
		.range = {(uintptr_t)at, len},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	int r;

	fd = out_of_the_way(fd);
	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &registration) < 0)
		r = -errno;
	else
		r = probe_scan(at, len);
	if (!r)
		return fd;
	close(fd);
	return r;
}

int track_private_pages(int fd, uint64_t from, unsigned n, uint8_t *is_private)
{
	enum { AT_ONCE = 512 };
	static const uint64_t present = UINT64_C(1) << 63, swapped = UINT64_C(1) << 62, file = UINT64_C(1) << 61;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), words[AT_ONCE];

	for (unsigned done = 0; done < n;) {
		unsigned here = n - done < AT_ONCE ? n - done : AT_ONCE;
		ssize_t got = pread(fd, words, here * 8, (off_t)((from / page + done) * 8));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		for (unsigned i = 0; i < (unsigned)got / 8; i++)
			is_private[done + i] = words[i] & (present | swapped) && !(words[i] & file);
		done += (unsigned)got / 8;
	}
	return 0;
}

/* ---------------------------------------------------------------- SIGSEGV */

static os_fault_handler *fault_handler;
static struct sigaction others;
static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;

/* Set while a fault is passed on: who had the signal before us may have it pass on to us in turn. */
static __thread bool is_passing __attribute__((tls_model("initial-exec")));

/* Not ours: to whoever had the signal before us. With the default action the store is tried again, and kills. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	if (is_passing) {
		struct sigaction action = {.sa_handler = SIG_DFL};

		sigaction(number, &action, NULL);
		return;
	}
	is_passing = true;
	if (others.sa_flags & SA_SIGINFO && others.sa_sigaction) {
		others.sa_sigaction(number, info, context);
	} else if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN) {
		others.sa_handler(number);
	} else {
		struct sigaction action = {.sa_handler = SIG_DFL};

		sigaction(number, &action, NULL);
	}
	is_passing = false;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	if (info->si_code != SEGV_ACCERR || !load_acquire(&fault_handler)(info->si_addr))
		pass_on(number, info, context);
	errno = saved;
}

int track_on_fault(os_fault_handler *handler)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
	struct sigaction now;
	int r = 0;

	sigemptyset(&action.sa_mask);
	pthread_mutex_lock(&fault_lock);
	store_release(&fault_handler, handler);
	/* the program, or a library, may have taken the signal since */
	if (sigaction(SIGSEGV, NULL, &now) < 0 || now.sa_sigaction != on_signal) {
		others = now;
		if (sigaction(SIGSEGV, &action, NULL) < 0)
			r = -errno;
	}
	pthread_mutex_unlock(&fault_lock);
	return r;
}

/* ---------------------------------------------------------------- memory */

/* A number in the file, or UINT64_MAX. */
static uint64_t limit_in(const char *path)
{
	char text[32];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return UINT64_MAX;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0 || text[0] < '0' || text[0] > '9')
		return UINT64_MAX;
	text[n] = 0;
	return strtoull(text, NULL, 10);
}

/* The least of the limits that `file` has in `root` and the folders below it, down to `group`. */
static uint64_t limit_of(const char *root, const char *group, const char *file)
{
	char name[512], path[700];
	uint64_t least = UINT64_MAX, limit;

	snprintf(name, sizeof(name), "%s", group);
	for (;;) {
		char *end;

		snprintf(path, sizeof(path), "%s%s/%s", root, name, file);
		limit = limit_in(path);
		least = limit < least ? limit : least;
		end = strrchr(name, '/');
		if (!end)
			return least;
		*end = 0;
	}
}

static uint64_t lesser(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* The least limit of the process's cgroup and those above it: of version 2, where reaching memory.high slows the process
 * down, and of version 1. */
static uint64_t cgroup_limit(void)
{
	char text[2048], *line = text, *rest;
	uint64_t least = UINT64_MAX;
	int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return UINT64_MAX;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	while ((line = strtok_r(line, "\n", &rest)) != NULL) {
		const char *group = strchr(line, '/');

		if (group && strncmp(line, "0::", 3) == 0) {
			least = lesser(least, limit_of("/sys/fs/cgroup", group, "memory.max"));
			least = lesser(least, limit_of("/sys/fs/cgroup", group, "memory.high"));
		} else if (group && strstr(line, ":memory:")) {
			least = lesser(least, limit_of("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"));
		}
		line = NULL;
	}
	return least;
}

uint64_t track_memory_limit(void)
{
	struct sysinfo info;
	uint64_t machine = UINT64_MAX / 2, group = cgroup_limit();

	if (sysinfo(&info) == 0)
		machine = (uint64_t)info.totalram * info.mem_unit;
	return group < machine ? group : machine;
}
