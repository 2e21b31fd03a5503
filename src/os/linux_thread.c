/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "linux_thread.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int result_of(int r)
{
	return r < 0 ? -errno : r;
}

int thread_count(void)
{
	struct stat st;

	/* a folder has a link from each folder in it, beside its own two */
	if (stat("/proc/self/task", &st) < 0)
		return -errno;
	return (int)st.st_nlink - 2;
}

static uint64_t fault_count_of(int who)
{
	struct rusage usage;

	if (getrusage(who, &usage) < 0)
		return 0;
	return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

uint64_t thread_fault_count(void)
{
	return fault_count_of(RUSAGE_THREAD);
}

uint64_t thread_process_fault_count(void)
{
	return fault_count_of(RUSAGE_SELF);
}

uint64_t thread_dirtied(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : (uint64_t)usage.ru_oublock * 512;
}

/* What an instruction or a system call of the thread itself causes kills the process if it is held: a mapped file
 * that can't be read, a seccomp filter that asks a handler. */
void thread_hold_signals(sigset_t *before)
{
	static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
	sigset_t held;

	sigfillset(&held);
	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		sigdelset(&held, own[i]);
	pthread_sigmask(SIG_BLOCK, &held, before);
}

void thread_release_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

int thread_sleep_ms(unsigned ms, const sigset_t *before)
{
	struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};

	return result_of(ppoll(NULL, 0, &t, before));
}

void thread_yield(void)
{
	sched_yield();
}

/* Not by the return value, which says little: the caller looks at what it waits for. */
void thread_wait_word(const uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void thread_wake_word(const uint32_t *word, int n)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}
