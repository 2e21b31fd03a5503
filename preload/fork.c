/* SPDX-License-Identifier: Apache-2.0
 *
 * fork: the child's memory is its own.
 *
 *   copy     the parent copies its heap to another unnamed file, as the last step before the fork and so after other
 *            libraries' handlers have locked what they lock; the child maps that in its place. fork() fails
 *            with ENOMEM where there is no space for the copy.
 *   private  the child sees the parent's objects through a private mapping, and allocates in a heap of its own.
 *   fail     fork() fails with ENOMEM.
 *
 * The handlers see every fork, also those inside libc (daemon, forkpty), which can't be made to fail: a child
 * that would have to do without memory of its own ends at once. vfork and posix_spawn run no handlers and need
 * none.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum policy { COPY, PRIVATE, FAIL };

static enum policy policy;
static pid_t (*libc_fork)(void);

/* One fork at a time: held from the first handler to the last. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int copy_fd = -1;
static int copy_error;

/* Space that fork() has found for this thread's copy. */
static __thread int reserved_fd = -1;

/* ---------------------------------------------------------------- handlers */

static void make_copy(void)
{
	copy_fd = reserved_fd >= 0 ? reserved_fd : preload_make_file();
	reserved_fd = -1;
	copy_error = copy_fd < 0 || fm_copy_fd(preload_heap, copy_fd) ? errno : 0;
}

static void drop_copy(void)
{
	if (copy_fd >= 0)
		close(copy_fd);
	copy_fd = -1;
}

static void before_fork(void)
{
	int saved = errno;

	pthread_mutex_lock(&lock);
	if (policy == COPY && preload_heap)
		make_copy();
	errno = saved;
}

static void in_parent(void)
{
	int saved = errno;

	drop_copy();
	pthread_mutex_unlock(&lock);
	errno = saved;
}

static bool go_on(void)
{
	switch (policy) {
	case COPY:
		if (copy_error || fm_child_reopen(preload_heap, copy_fd))
			return false;
		preload_took(copy_fd);
		return true;
	case PRIVATE:
		if (fm_child_detach(preload_heap))
			return false;
		preload_forget();
		return true;
	default:
		return false;
	}
}

static void in_child(void)
{
	int saved = errno;

	pthread_mutex_init(&lock, NULL);
	if (preload_heap && !go_on()) {
		preload_complain("a forked child can't have memory of its own and ends", "",
		                 policy == FAIL ? 0 : copy_error ? copy_error : errno);
		_exit(127);
	}
	drop_copy();
	errno = saved;
}

/* ---------------------------------------------------------------- fork */

/* Can the copy share the heap's blocks? */
static bool can_share(int fd)
{
	struct file_clone_range first = {.src_fd = preload_heap->fd, .src_length = 65536};

	return ioctl(fd, FICLONERANGE, &first) == 0;
}

/* Blocks that the heap has now, for the copy: so that lack of them is an error of fork(). 0 or -1. */
static int reserve_space(void)
{
	off_t blocks = preload_blocks();
	int fd = preload_make_file();
	int r;

	if (fd < 0)
		return -1;
	if (blocks > 0 && can_share(fd))
		r = 0;
	else if (blocks > 0)
		r = fallocate(fd, 0, 0, blocks) && errno != EOPNOTSUPP ? -1 : 0;
	else /* by trying */
		r = fm_copy_fd(preload_heap, fd);
	if (r)
		close(fd);
	else
		reserved_fd = fd;
	return r;
}

__attribute__((visibility("default"))) pid_t fork(void)
{
	pid_t pid;

	if (preload_heap && (policy == FAIL || (policy == COPY && reserve_space()))) {
		errno = ENOMEM;
		return -1;
	}
	/* here: a program with a malloc of its own has no heap, and nothing that would have asked before */
	if (!libc_fork)
		*(void **)&libc_fork = dlsym(RTLD_NEXT, "fork");
	pid = libc_fork();
	if (reserved_fd >= 0) /* no handler ran */
		close(reserved_fd);
	reserved_fd = -1;
	return pid;
}

void preload_set_fork_handlers(void)
{
	const char *name = secure_getenv("FMALLOC_PRELOAD_FORK");

	if (name && strcmp(name, "private") == 0)
		policy = PRIVATE;
	else if (name && strcmp(name, "fail") == 0)
		policy = FAIL;
	else if (name && *name && strcmp(name, "copy") != 0)
		preload_complain("FMALLOC_PRELOAD_FORK is copy, private or fail, and not ", name, 0);
	pthread_atfork(before_fork, in_parent, in_child);
}
