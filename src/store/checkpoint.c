/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: the file is synced and journal space retired, by a thread beside the program that holds no lock of the
 * heap, or by the committer.
 */
#include "../base/atomics.h"
#include "../os/os.h"
#include "background.h"
#include "journal.h"

#include <errno.h>

/* Commits went on to `head` while a checkpoint was made that began at `start`: the next one begins while there is
 * room for twice as much. The later it begins, the fewer times pages are written that change again and again. */
static void set_reserve(struct journal *journal, uint64_t start)
{
	uint64_t capacity = journal->capacity;

	journal->reserve = min_u64(max_u64(2 * (journal->head - start), capacity / 8), capacity / 2);
}

static void set_oldest(struct super_rec *rec, uint64_t oldest)
{
	rec->journal_oldest = oldest;
}

/* What is applied becomes durable. */
static int sync_places(struct journal *journal)
{
	uint64_t size = load_relaxed(&journal->store->size);
	int r;

	if (journal->place && place_sync(journal->place, journal->sync_fd, size, &journal->checkpoint_flushes))
		return 0;
	r = journal_sync(journal, journal->sync_fd);
	if (!journal_is_harmless(r))
		count(&journal->checkpoint_flushes, 1);
	return r;
}

/* Retire what is applied. J3: the file first, then the superblock, then the space. */
static int retire(struct journal *journal)
{
	uint64_t oldest, tail, start;
	int r;

	pthread_mutex_lock(&journal->lock);
	oldest = journal->applied + 1;
	tail = journal->applied_head;
	start = journal->head;
	r = journal->error ? -EIO : 0;
	pthread_mutex_unlock(&journal->lock);
	if (r || oldest == journal->oldest)
		return r;
	r = sync_places(journal);
	if (journal_is_harmless(r))
		return r;
	if (r)
		return journal_poison(journal, EIO);
	/* J5: the error of a lost page may have been reported to the committer's description alone */
	if (journal_is_poisoned(journal))
		return -EIO;
	r = journal_update_super(journal, set_oldest, oldest);
	if (journal_is_harmless(r))
		return r;
	count(&journal->checkpoint_flushes, 1);
	if (r)
		return journal_poison(journal, EIO);
	pthread_mutex_lock(&journal->lock);
	journal->oldest = oldest;
	journal->tail = tail;
	set_reserve(journal, start);
	/* the commits beside the sync may have found the journal short as it was; who waits for room asks again */
	journal->is_wanted = journal_is_short(journal);
	pthread_cond_broadcast(&journal->changed);
	pthread_mutex_unlock(&journal->lock);
	count(&journal->checkpoints, 1);
	return 0;
}

int journal_checkpoint(struct journal *journal)
{
	int r;

	pthread_mutex_lock(&journal->checkpoint_lock);
	r = retire(journal);
	pthread_mutex_lock(&journal->lock);
	journal->checkpoint_result = r;
	pthread_mutex_unlock(&journal->lock);
	pthread_mutex_unlock(&journal->checkpoint_lock);
	return r;
}

/* ---------------------------------------------------------------- the thread */

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
