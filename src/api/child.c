/* SPDX-License-Identifier: Apache-2.0 */
#include "../alloc/owner.h"
#include "../base/status.h"
#include "embed.h"
#include "registry.h"
#include "target.h"

#include <errno.h>

/* Its memory is more than its file: what is not committed has no place in a copy of it, nor has the journal. */
static int refuse_atomic(void)
{
	return fail(ENOTSUP, "the heap is an atomic one, whose memory no forked child can go on with; fm_snapshot copies it");
}

/* To the file `fd`, or to *memory if that is not NULL. */
static int copy(fm_heap *handle, int fd, void **memory, size_t *len)
{
	struct heap *heap = registry_usable(handle);
	int r;

	if (!heap)
		return -1;
	if (heap->store.is_atomic)
		return refuse_atomic();
	if (heap->read_only)
		return fail(EROFS, "the heap is open for reading only");
	/* units and segments stay what they are; single slots may come and go */
	heap_lock(heap);
	owner_hold_units(heap);
	r = memory ? store_copy_to_memory(&heap->store, memory) : store_copy(&heap->store, fd);
	if (len)
		*len = heap->store.size;
	owner_release_units(heap);
	heap_unlock(heap);
	return r ? fail(-r, "copying the heap:") : 0;
}

int fm_copy_fd(fm_heap *handle, int fd)
{
	return copy(handle, fd, NULL, NULL);
}

int embed_copy(fm_heap *handle, void **memory, size_t *len)
{
	return copy(handle, -1, memory, len);
}

size_t embed_file_size(const fm_heap *handle)
{
	return load_acquire(&heap_of_handle((fm_heap *)(uintptr_t)handle)->store.size);
}

/* The heap that this process has inherited and does not own; NULL after fail(). */
static struct heap *inherited(fm_heap *handle)
{
	enum fm_misuse_kind kind;

	if (registry_check(handle, &kind) == 0)
		return fail(EINVAL, "this process has opened the heap itself"), NULL;
	if (kind != FM_FORKED_CHILD)
		return NULL;
	if (heap_of_handle(handle)->store.is_atomic)
		return refuse_atomic(), NULL;
	if (heap_of_handle(handle)->read_only)
		return fail(EROFS, "the heap is open for reading only"), NULL;
	if (heap_of_handle(handle)->is_detached)
		return fail(EINVAL, "the heap is detached"), NULL;
	return heap_of_handle(handle);
}

/* Go on with the copy `fd`, or with that in `memory` if it is not NULL. */
static int take_over(fm_heap *handle, int fd, void *memory, size_t len)
{
	struct heap *heap = inherited(handle);
	int r, cancel;

	if (!heap)
		return -1;
	/* it has cancellation points, and half of it is worse than none */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = memory ? heap_adopt(heap, memory, len) : heap_reopen(heap, fd);
	registry_shorten(heap);
	if (!r) {
		registry_revive(heap);
		target_refresh();
	}
	pthread_setcancelstate(cancel, NULL);
	return r;
}

int fm_child_reopen(fm_heap *handle, int fd)
{
	return take_over(handle, fd, NULL, 0);
}

int embed_adopt(fm_heap *handle, void *memory, size_t len)
{
	return take_over(handle, -1, memory, len);
}

int fm_child_detach(fm_heap *handle)
{
	struct heap *heap = inherited(handle);
	int r, cancel;

	if (!heap)
		return -1;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = heap_detach(heap);
	registry_shorten(heap);
	pthread_setcancelstate(cancel, NULL);
	return r;
}
