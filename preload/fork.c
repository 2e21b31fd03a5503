/* SPDX-License-Identifier: Apache-2.0
 *
 * fork: the child's memory is its own.
 *
 *   copy     the parent copies its heap to another unnamed file, as the last step before the fork and so after other
 *            libraries' handlers have locked what they lock; the child maps that in its place. fork() fails
 *            with ENOMEM where there is no space for the copy. Where no file can be had the copy is anonymous memory.
 *   private  the child sees the parent's objects through a private mapping, and allocates in a heap of its own.
 *   fail     fork() fails with ENOMEM.
 *
 * The handlers see every fork, also those inside libc (daemon, forkpty), which can't be made to fail: a child
 * that would have to do without memory of its own ends at once. vfork and posix_spawn run no handlers and need
 * none.
 */
#define _GNU_SOURCE
#include "../src/api/embed.h"
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Threads that fork at a time; of more, a child keeps what the others have. */
#define RESERVED_MAX 256

/* How signals and cancellation were. */
struct undisturbed {
	sigset_t mask;
	int cancel;
};

enum policy { COPY, PRIVATE, FAIL };

static enum policy policy;
static pid_t (*libc_fork)(void);

/* One fork at a time: held from the first handler to the last. No code of others runs while a thread has it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int copy_fd = -1;
static int copy_error;
static void *copy_memory; /* instead of the file; NULL: there is none */
static size_t copy_len;
static struct undisturbed at_fork; /* of the thread that forks */

/* Space that fork() has found for this thread's copy; and for all threads', by `lock`: a child closes the others'. */
static __thread int reserved_fd = -1;
static int reserved[RESERVED_MAX];
static unsigned reserved_count;

/* A signal's handler in a child would store into what is still the parent's memory, and one in the parent might fork
 * or not come back; files are opened, which is a cancellation point. */
static void begin_undisturbed(struct undisturbed *was)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was->mask);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &was->cancel);
}

static void end_undisturbed(const struct undisturbed *was)
{
	pthread_setcancelstate(was->cancel, NULL);
	pthread_sigmask(SIG_SETMASK, &was->mask, NULL);
}

/* ---------------------------------------------------------------- files that wait for a fork */

static int make_reserved(void)
{
	int fd;

	/* at a fork of another thread it is in the list, or not there yet */
	pthread_mutex_lock(&lock);
	fd = preload_make_file();
	if (fd >= 0 && reserved_count < RESERVED_MAX)
		reserved[reserved_count++] = fd;
	pthread_mutex_unlock(&lock);
	return fd;
}

/* It is the caller's now. Under the lock. */
static void take_reserved(int fd)
{
	for (unsigned i = 0; i < reserved_count; i++)
		if (reserved[i] == fd)
			reserved[i] = reserved[--reserved_count];
}

static void drop_reserved(int fd)
{
	pthread_mutex_lock(&lock);
	take_reserved(fd);
	close(fd);
	pthread_mutex_unlock(&lock);
}

/* In a child: other threads of the parent made them. */
static void close_reserved(void)
{
	while (reserved_count)
		close(reserved[--reserved_count]);
}

/* ---------------------------------------------------------------- handlers */

/* No lack of space: RLIMIT_FSIZE, no descriptor, a filter of system calls. Memory may serve where no file does. */
static bool can_be_in_memory(int error)
{
	return error != ENOSPC && error != EDQUOT && error != ENOMEM;
}

static void make_copy(void)
{
	copy_fd = reserved_fd >= 0 ? reserved_fd : preload_make_file();
	take_reserved(copy_fd);
	reserved_fd = -1;
	copy_error = copy_fd < 0 || fm_copy_fd(preload_heap, copy_fd) ? errno : 0;
	if (copy_error && can_be_in_memory(copy_error))
		copy_error = embed_copy(preload_heap, &copy_memory, &copy_len) ? errno : 0;
}

static void drop_copy(void)
{
	if (copy_fd >= 0)
		close(copy_fd);
	copy_fd = -1;
	if (copy_memory)
		munmap(copy_memory, copy_len);
	copy_memory = NULL;
}

/* Is this thread's stack in the heap? Parent and child would both run on it until the child has memory of its own. */
static bool is_on_heap(void)
{
	return preload_heap && fm_heap_of(__builtin_frame_address(0)) == preload_heap;
}

static void before_fork(void)
{
	struct undisturbed was;
	int saved = errno;

	begin_undisturbed(&was);
	pthread_mutex_lock(&lock);
	at_fork = was;
	copy_error = 0;
	if (is_on_heap())
		copy_error = ENOMEM;
	else if (policy == COPY && preload_heap)
		make_copy();
	errno = saved;
}

static void in_parent(void)
{
	struct undisturbed was = at_fork;
	int saved = errno;

	drop_copy();
	pthread_mutex_unlock(&lock);
	end_undisturbed(&was);
	errno = saved;
}

static bool go_on(void)
{
	if (copy_error)
		return false;
	switch (policy) {
	case COPY:
		if (copy_memory) {
			void *memory = copy_memory;

			copy_memory = NULL;
			return embed_adopt(preload_heap, memory, copy_len) == 0;
		}
		if (fm_child_reopen(preload_heap, copy_fd))
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
	close_reserved();
	end_undisturbed(&at_fork);
	errno = saved;
}

/* ---------------------------------------------------------------- fork */

/* Can the copy share the heap's blocks? */
static bool can_share(int fd)
{
	struct file_clone_range first = {.src_fd = preload_heap->fd, .src_length = 65536};

	return ioctl(fd, FICLONERANGE, &first) == 0;
}

static int try_memory(void)
{
	size_t len;
	void *memory;

	if (!can_be_in_memory(errno) || embed_copy(preload_heap, &memory, &len))
		return -1;
	return munmap(memory, len);
}

/* Under the lock: descriptors that are in use meanwhile would be inherited by another thread's child, and hold the space. */
static int try_copy(int fd)
{
	int r;

	pthread_mutex_lock(&lock);
	r = fm_copy_fd(preload_heap, fd);
	pthread_mutex_unlock(&lock);
	return r;
}

/* Blocks for the whole copy, so that lack of them is an error of fork(). 0 or -1. */
static int allocate(int fd)
{
	size_t size = embed_file_size(preload_heap);
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && size > limit.rlim_cur) {
		errno = EFBIG; /* and not SIGXFSZ */
		return -1;
	}
	/* what is shared takes no blocks, but holes do */
	if (preload_blocks() > 0 && can_share(fd))
		return try_copy(fd);
	return fallocate(fd, 0, 0, (off_t)size) && errno != EOPNOTSUPP ? -1 : 0;
}

/* 0, or -1: fork() can't be. */
static int reserve_space(void)
{
	int fd = make_reserved();
	int r;

	if (fd < 0)
		return try_memory();
	r = allocate(fd);
	if (r && can_be_in_memory(errno)) {
		drop_reserved(fd);
		return try_memory();
	}
	if (r) {
		drop_reserved(fd);
		return r;
	}
	/* of a fork that this one, in a signal's handler, came into */
	if (reserved_fd >= 0)
		drop_reserved(reserved_fd);
	reserved_fd = fd;
	return 0;
}

/* Can fork() go on? */
static bool prepare(void)
{
	struct undisturbed was;
	bool can;

	if (!preload_heap)
		return true;
	if (policy == FAIL || is_on_heap())
		return false;
	begin_undisturbed(&was);
	can = policy != COPY || reserve_space() == 0;
	end_undisturbed(&was);
	return can;
}

__attribute__((visibility("default"))) pid_t fork(void)
{
	struct undisturbed was;
	pid_t pid;

	if (!prepare()) {
		errno = ENOMEM;
		return -1;
	}
	/* here: a program with a malloc of its own has no heap, and nothing that would have asked before */
	if (!libc_fork)
		*(void **)&libc_fork = dlsym(RTLD_NEXT, "fork");
	pid = libc_fork();
	if (reserved_fd >= 0) { /* no handler ran */
		begin_undisturbed(&was);
		drop_reserved(reserved_fd);
		reserved_fd = -1;
		end_undisturbed(&was);
	}
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
