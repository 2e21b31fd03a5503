/* SPDX-License-Identifier: Apache-2.0 */
#include "../alloc/commit.h"

#include "../base/status.h"
#include "registry.h"

#include <errno.h>
#include <pthread.h>

/* The atomic heap of the handle, open for writing; NULL after fail(). */
static struct heap *committable(fm_heap *handle)
{
	struct heap *heap = registry_usable(handle);

	if (!heap)
		return NULL;
	if (!heap->store.is_atomic)
		return fail(EINVAL, "the heap is a live one: there is nothing to commit"), NULL;
	if (heap->read_only)
		return fail(EROFS, "the heap is open for reading only"), NULL;
	return heap;
}

/* None of these is a cancellation point. */
static int call(fm_heap *handle, int (*function)(struct heap *heap))
{
	struct heap *heap = committable(handle);
	int r, cancel;

	if (!heap)
		return -1;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = function(heap);
	pthread_setcancelstate(cancel, NULL);
	return r;
}

int fm_commit(fm_heap *handle)
{
	return call(handle, heap_commit);
}

int fm_rollback(fm_heap *handle)
{
	return call(handle, heap_rollback);
}

int fm_begin(fm_heap *handle)
{
	return call(handle, heap_begin);
}

int fm_end(fm_heap *handle)
{
	return call(handle, heap_end);
}

int fm_abort(fm_heap *handle)
{
	return call(handle, heap_abort);
}

int fm_will_write(fm_heap *handle, const void *addr, size_t len)
{
	struct heap *heap = committable(handle);

	return heap ? heap_will_write(heap, addr, len) : -1;
}

int fm_snapshot(fm_heap *handle, const char *path)
{
	struct heap *heap = committable(handle);
	int r, cancel;

	if (!heap)
		return -1;
	if (!path)
		return fail(EINVAL, "the path is NULL");
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = heap_snapshot(heap, path);
	pthread_setcancelstate(cancel, NULL);
	return r;
}
