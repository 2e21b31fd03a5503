/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

enum state {
	COLD,  /* nothing was allocated yet */
	READY,
	NONE,  /* there is no heap, and there will be none */
};

fm_heap *preload_heap;
static int state; /* atomic: enum state */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread bool is_making; /* this thread allocates while it makes the heap */

/* Where heaps lie: a folder, absolute, or "" for memory. And the beginning of names, if names are needed. */
static char folder[PATH_MAX];
static char prefix[NAME_MAX];
static struct stat file; /* which one it is */

/* ---------------------------------------------------------------- complaints */

void preload_complain(const char *what, const char *name, int error)
{
	const char *reason = strerrordesc_np(error);
	char line[PATH_MAX + 200];
	int len = snprintf(line, sizeof(line), "libfmalloc-preload: %s%s%s%s\n", what, name, error ? ": " : "",
	                   !error ? "" : reason ? reason : "unknown error");

	if (len > 0 && write(STDERR_FILENO, line, (size_t)len) < 0)
		return; /* nobody to tell */
}

/* ---------------------------------------------------------------- the file */

/* FMALLOC_PRELOAD is a folder, or a file that need not exist and is never touched: its folder counts. */
static bool choose_folder(const char *path)
{
	size_t len = 0;
	struct stat st;
	char *slash;

	if (path[0] != '/') {
		if (!getcwd(folder, sizeof(folder)))
			return false;
		len = strlen(folder);
		folder[len++] = '/';
	}
	if (len + strlen(path) >= sizeof(folder)) {
		errno = ENAMETOOLONG;
		return false;
	}
	strcpy(folder + len, path);
	strcpy(prefix, "fmalloc");
	if (stat(folder, &st) == 0 && S_ISDIR(st.st_mode))
		return true;
	slash = strrchr(folder, '/');
	snprintf(prefix, sizeof(prefix), "%.200s", slash + 1);
	slash[slash == folder] = 0;
	return true;
}

/* For file systems without unnamed files. */
static int make_named(void)
{
	char path[PATH_MAX + NAME_MAX + 32];
	uint64_t number;
	int fd;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return -1;
	snprintf(path, sizeof(path), "%s/%s.%016llx", folder, prefix, (unsigned long long)number);
	fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		unlink(path);
	return fd;
}

static int make_on_disk(void)
{
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int flags;

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
		fd = make_named();
	/* btrfs: as the heap itself, or the two can't share blocks */
	if (fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
		flags |= FS_NOCOW_FL;
		ioctl(fd, FS_IOC_SETFLAGS, &flags);
	}
	return fd;
}

static int make_in_memory(void)
{
	return memfd_create("fmalloc", MFD_CLOEXEC);
}

int preload_make_file(void)
{
	int fd = folder[0] ? make_on_disk() : make_in_memory();

	/* a process that has changed its user or root can't make files where it began */
	if (fd < 0 && (errno == EACCES || errno == EPERM || errno == ENOENT || errno == EROFS))
		fd = make_in_memory();
	return fd;
}

void preload_took(int fd)
{
	struct rlimit limit;

	if (fstat(fd, &file) || getrlimit(RLIMIT_FSIZE, &limit))
		return;
	for (uint64_t size = TIB; size >= GIB && size > (uint64_t)file.st_size; size /= 2)
		if (size <= limit.rlim_cur && ftruncate(fd, (off_t)size) == 0)
			return;
}

off_t preload_blocks(void)
{
	struct stat st;

	/* the number may be another file's by now */
	if (fstat(preload_heap->fd, &st) || st.st_dev != file.st_dev || st.st_ino != file.st_ino)
		return -1;
	return (off_t)st.st_blocks * 512;
}

/* ---------------------------------------------------------------- the heap */

static bool open_in(int fd)
{
	struct fm_options options = {
		.size = sizeof(options),
		.disable = FM_NO_EXIT_SYNC | FM_NO_SYNC,
	};
	struct rlimit limit;
	int saved;

	if (fd < 0)
		return false;
	/* leave address space for stacks and libraries */
	if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
		options.address_space = limit.rlim_cur / 2;
	preload_heap = fm_open_fd(fd, FM_CREATE, &options);
	saved = errno;
	if (preload_heap)
		preload_took(fd);
	close(fd);
	errno = saved;
	return preload_heap != NULL;
}

static enum state make_heap(void)
{
	static bool has_handlers;
	const char *path = secure_getenv("FMALLOC_PRELOAD");
	bool done = false;

	if (!folder[0] && path && *path && !choose_folder(path)) {
		preload_complain("the heap is in memory and not beside ", path, errno);
		folder[0] = 0;
	}
	if (folder[0]) {
		done = open_in(make_on_disk());
		if (!done)
			preload_complain("the heap is in memory and not in ", folder, errno);
	}
	if (!done) {
		folder[0] = 0;
		done = open_in(make_in_memory());
	}
	if (!done) {
		preload_complain("no heap can be made, so there is no memory", "", errno);
		return NONE;
	}
	/* after the heap's own: in a child these run when the library is usable again */
	if (!has_handlers)
		preload_set_fork_handlers();
	has_handlers = true;
	return READY;
}

bool preload_is_ready(void)
{
	int saved = errno, now = __atomic_load_n(&state, __ATOMIC_ACQUIRE);

	/* before libc has begun there is no environment to ask */
	if (is_making || !environ)
		return false;
	is_making = true;
	if (now == READY && saved == EPERM && preload_heap) {
		/* a child whose fork ran no handlers */
		if (fm_child_detach(preload_heap) == 0)
			preload_forget();
		now = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
	}
	if (now == COLD) {
		pthread_mutex_lock(&lock);
		now = state;
		if (now == COLD) {
			now = (int)make_heap();
			__atomic_store_n(&state, now, __ATOMIC_RELEASE);
		}
		pthread_mutex_unlock(&lock);
	}
	is_making = false;
	errno = saved;
	return now == READY;
}

void preload_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	preload_heap = NULL;
	__atomic_store_n(&state, COLD, __ATOMIC_RELEASE);
}

/* While there is one thread and no lock is held: the heap is made, and this thread known to it. */
__attribute__((constructor(101))) static void begin(void)
{
	free(malloc(1));
}

/* ---------------------------------------------------------------- what was used */

/* FMALLOC_PRELOAD_STATS=FILE: a line at each normal exit. */
__attribute__((destructor(101))) static void report(void)
{
	const char *path = secure_getenv("FMALLOC_PRELOAD_STATS");
	struct fm_statistics s = {.size = sizeof(s)};
	char line[400];
	int fd, len;

	if (!path || !*path || !preload_heap || fm_stats(preload_heap, &s))
		return;
	len = snprintf(line, sizeof(line),
	               "%d %s place=%s disk=%llu objects=%llu bytes=%llu\n", (int)getpid(),
	               program_invocation_short_name, folder[0] ? "file" : "memory", (unsigned long long)s.disk_size,
	               (unsigned long long)s.live_objects, (unsigned long long)s.live_bytes);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		return;
	if (len > 0 && (size_t)len < sizeof(line) && write(fd, line, (size_t)len) != len)
		preload_complain("writing to ", path, errno);
	close(fd);
}
