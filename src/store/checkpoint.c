/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread that syncs the file and retires journal space beside the program. It blocks all signals, holds no lock
 * of the heap, and does not exist in a forked child, whose calls fail before they would need it.
 */
#include "../base/atomics.h"
#include "journal.h"

#include <signal.h>

static unsigned threads; /* atomic */

unsigned checkpoint_threads(void)
{
	return load_relaxed(&threads);
}

static void *run(void *arg)
{
	struct journal *journal = arg;

	pthread_mutex_lock(&journal->lock);
	while (!journal->thread_ends) {
		if (!journal->is_wanted || journal->error) {
			pthread_cond_wait(&journal->changed, &journal->lock);
			continue;
		}
		journal->is_wanted = false;
		pthread_mutex_unlock(&journal->lock);
		journal_checkpoint(journal);
		pthread_mutex_lock(&journal->lock);
		/* whoever waits for room looks again, also when there was nothing to retire */
		pthread_cond_broadcast(&journal->changed);
	}
	pthread_mutex_unlock(&journal->lock);
	return NULL;
}

int checkpoint_start(struct journal *journal)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&journal->thread, NULL, run, journal);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return -r;
	journal->has_thread = true;
	__atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED);
	return 0;
}

void checkpoint_stop(struct journal *journal)
{
	if (!journal->has_thread)
		return;
	pthread_mutex_lock(&journal->lock);
	journal->thread_ends = true;
	pthread_cond_broadcast(&journal->changed);
	pthread_mutex_unlock(&journal->lock);
	pthread_join(journal->thread, NULL);
	journal->has_thread = false;
	__atomic_fetch_sub(&threads, 1, __ATOMIC_RELAXED);
}
