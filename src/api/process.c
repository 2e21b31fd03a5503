/* SPDX-License-Identifier: Apache-2.0 */
#include "process.h"

#include "../alloc/pool.h"
#include "../base/status.h"
#include "../store/background.h"
#include "misuse.h"
#include "registry.h"

#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int atfork_result;

/* ---------------------------------------------------------------- fork */

static void before_fork(void)
{
	registry_lock();
	owner_lock_membership();
	pool_before_fork();
	misuse_before_fork();
	store_lock_descriptors();
}

static void in_parent(void)
{
	store_unlock_descriptors();
	misuse_after_fork();
	pool_after_fork();
	owner_unlock_membership();
	registry_unlock();
}

/* A child that kept the lock's descriptor would keep the heap locked after its parent's death. */
static void close_lock(struct heap *heap)
{
	if (!(heap->disable & FM_NO_ATFORK))
		store_close_lock(&heap->store);
}

static void in_child(void)
{
	in_parent();
	background_after_fork(); /* at_exit() compares */
	registry_each_inherited(close_lock);
}

static void set_handlers(void)
{
	atfork_result = pthread_atfork(before_fork, in_parent, in_child);
}

int process_prepare(unsigned disable)
{
	if (disable & FM_NO_ATFORK)
		return 0;
	pthread_once(&once, set_handlers);
	return atfork_result ? fail(atfork_result, "setting the fork handlers:") : 0;
}

/* ---------------------------------------------------------------- exit */

static void rest(struct heap *heap)
{
	if (!(heap->disable & FM_NO_EXIT_SYNC) && *heap->alive)
		heap_rest(heap);
}

/* As late as linking allows, so that other destructors still find the heap in use. Programs that never
 * close a heap leave it clean: all on the device, and no repair after a power cut. With other threads
 * still running it stays marked: they may be storing. */
__attribute__((destructor(101))) static void at_exit(void)
{
	if (registry_first() && os->thread_count() == 1 + (int)background_threads())
		registry_each(rest);
}
