/* SPDX-License-Identifier: Apache-2.0 */
#include "background.h"

#include "../base/atomics.h"

#include <signal.h>

static unsigned threads; /* atomic */

int background_start(pthread_t *thread, void *(*run)(void *arg), void *arg)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!r)
		__atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED);
	return -r;
}

void background_join(pthread_t thread)
{
	pthread_join(thread, NULL);
	__atomic_fetch_sub(&threads, 1, __ATOMIC_RELAXED);
}

unsigned background_threads(void)
{
	return load_relaxed(&threads);
}

void background_after_fork(void)
{
	store_relaxed(&threads, 0);
}
