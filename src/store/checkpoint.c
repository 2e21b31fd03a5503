/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread that syncs the file and retires journal space beside the program. It holds no lock of the heap.
 */
#include "background.h"
#include "journal.h"

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
	int r = background_start(&journal->thread, run, journal);

	journal->has_thread = r == 0;
	return r;
}

void checkpoint_stop(struct journal *journal)
{
	if (!journal->has_thread)
		return;
	pthread_mutex_lock(&journal->lock);
	journal->thread_ends = true;
	pthread_cond_broadcast(&journal->changed);
	pthread_mutex_unlock(&journal->lock);
	background_join(journal->thread);
	journal->has_thread = false;
}
