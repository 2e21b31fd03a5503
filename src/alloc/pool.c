/* SPDX-License-Identifier: Apache-2.0 */
#include "pool.h"

#include <string.h>

#define CHUNK (UINT64_C(256) * 1024)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct thread *free_threads;
static struct tcache *free_tcaches;
static uint8_t *chunk, *chunk_end;

void *pool_pages(uint64_t len)
{
	void *pages;

	if (os->reserve_memory(len, &pages))
		return NULL;
	if (os->protect(pages, len, true, true) || os->advise(pages, len, OS_WIPE_ON_FORK)) {
		os->unmap(pages, len);
		return NULL;
	}
	return pages;
}

/* Needs the lock. Cache-line aligned, zero. */
static void *carve(uint64_t len)
{
	void *p;

	len = round_up(len, 64);
	if ((uint64_t)(chunk_end - chunk) < len) {
		uint8_t *pages = pool_pages(CHUNK);

		if (!pages)
			return NULL;
		chunk = pages;
		chunk_end = pages + CHUNK;
	}
	p = chunk;
	chunk += len;
	return p;
}

struct thread *pool_get_thread(void)
{
	struct thread *thread;

	pthread_mutex_lock(&lock);
	thread = free_threads;
	if (thread)
		free_threads = thread->pool_next;
	else
		thread = carve(sizeof(*thread));
	pthread_mutex_unlock(&lock);
	if (thread)
		thread->pool_next = NULL;
	return thread;
}

struct tcache *pool_get_tcache(void)
{
	struct tcache *tcache;

	pthread_mutex_lock(&lock);
	tcache = free_tcaches;
	if (tcache)
		free_tcaches = tcache->pool_next;
	else
		tcache = carve(sizeof(*tcache));
	pthread_mutex_unlock(&lock);
	if (tcache)
		tcache->pool_next = NULL;
	return tcache;
}

void pool_put_thread(struct thread *thread)
{
	pthread_mutex_lock(&lock);
	thread->pool_next = free_threads;
	free_threads = thread;
	pthread_mutex_unlock(&lock);
}

void pool_put_tcache(struct tcache *tcache)
{
	pthread_mutex_lock(&lock);
	tcache->pool_next = free_tcaches;
	free_tcaches = tcache;
	pthread_mutex_unlock(&lock);
}

void pool_before_fork(void)
{
	pthread_mutex_lock(&lock);
}

void pool_after_fork(void)
{
	pthread_mutex_unlock(&lock);
}
