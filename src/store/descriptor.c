/* SPDX-License-Identifier: Apache-2.0
 *
 * A program may close any descriptor, ours as well (daemons close all above 2), and may then open a file of its
 * own under the same number. So a number is never trusted: each use is of a copy of the descriptor, made for it
 * and checked to be the heap's file. The mapping lives on without.
 */
#include "store.h"

#include <errno.h>
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void store_lock_descriptors(void)
{
	pthread_mutex_lock(&lock);
}

void store_unlock_descriptors(void)
{
	pthread_mutex_unlock(&lock);
}

bool store_is_same_file(const struct os_file_id *a, const struct os_file_id *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->birth_sec == b->birth_sec &&
	       a->birth_nsec == b->birth_nsec;
}

bool store_is_file(const struct os_file_id *id, int fd)
{
	struct os_stat st;
	int r = fd < 0 ? -EBADF : os->stat_fd(fd, &st);

	/* a file that can't be asked is one that is open */
	if (r)
		return r != -EBADF;
	/* not known yet: it was opened a moment ago */
	return (id->dev == 0 && id->ino == 0) || store_is_same_file(&st.id, id);
}

bool store_is_ours(const struct store *store, int fd)
{
	return store_is_file(&store->id, fd);
}

int store_borrow_of(const struct store *store, int own)
{
	int fd = own < 0 ? -EBADF : os->copy_fd(own);

	if (fd == -EBADF)
		return fd;
	if (fd < 0)
		fd = own; /* no number is free */
	if (store_is_ours(store, fd))
		return fd;
	store_give_back_of(own, fd);
	return -EBADF;
}

void store_give_back_of(int own, int fd)
{
	int saved = errno;

	if (fd >= 0 && fd != own)
		os->close(fd);
	errno = saved;
}

int store_borrow(const struct store *store)
{
	return store_borrow_of(store, store->fd);
}

void store_give_back(const struct store *store, int fd)
{
	store_give_back_of(store->fd, fd);
}

void store_close_own(const struct store *store, int own)
{
	if (store_is_ours(store, own))
		os->close(own);
}

void store_close_fd(struct store *store)
{
	store_close_own(store, store->fd);
	store->fd = -1;
}

void store_close_lock(struct store *store)
{
	store_lock_descriptors();
	store_close_own(store, store->lock_fd);
	store->lock_fd = -1;
	store_unlock_descriptors();
}
