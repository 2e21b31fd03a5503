/* SPDX-License-Identifier: Apache-2.0
 *
 * The malloc family. Every object is aligned to 16 bytes, as malloc of x86-64 and aarch64 promises: the
 * library's objects are compiled so for us (LEAST_ALIGNMENT).
 */
#define _GNU_SOURCE
#include "../src/api/embed.h"
#include "preload.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define EXPORT     __attribute__((visibility("default")))
#define likely(x)  __builtin_expect(!!(x), 1)
#define ALIGNMENT  ((size_t)16)

/* From here on fm_calloc may know that fresh pages are zero. */
#define CALLOC_BY_HEAP ((size_t)32 * 1024)

static void *no_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

/* ---------------------------------------------------------------- malloc, free */

EXPORT void *malloc(size_t size)
{
	return fmalloc(size);
}

EXPORT void free(void *p)
{
	ffree(p);
}

/* fmalloc() found no heap. */
static void *serve(size_t size)
{
	void *p;

	if (size > PTRDIFF_MAX)
		return no_memory();
	if (!preload_is_ready())
		return bootstrap_alloc(size, ALIGNMENT);
	p = fm_malloc(preload_heap, size);
	return p ? p : no_memory();
}

/* ffree() does not know `p`: from the arena, inherited from the parent, or from some malloc that is not ours. There
 * is nothing to be done in any of these cases. */
static bool is_foreign(void *p)
{
	fm_heap *heap = fm_heap_of(p);

	return !heap || heap != preload_heap;
}

struct embedder embedder = {serve, is_foreign};

EXPORT void free_sized(void *p, size_t size)
{
	(void)size;
	free(p);
}

EXPORT void free_aligned_sized(void *p, size_t alignment, size_t size)
{
	(void)alignment;
	(void)size;
	free(p);
}

EXPORT void *calloc(size_t n, size_t size)
{
	size_t total;
	void *p;

	if (__builtin_mul_overflow(n, size, &total) || total > PTRDIFF_MAX)
		return no_memory();
	if (total < CALLOC_BY_HEAP) {
		p = malloc(total);
		return p ? memset(p, 0, total) : NULL;
	}
	p = fm_calloc(preload_heap, 1, total);
	if (p)
		return p;
	if (!preload_is_ready())
		return bootstrap_alloc(total, ALIGNMENT);
	p = fm_calloc(preload_heap, 1, total);
	return p ? p : no_memory();
}

/* ---------------------------------------------------------------- changing the size */

EXPORT size_t malloc_usable_size(void *p)
{
	if (!p)
		return 0;
	return is_bootstrap(p) ? bootstrap_usable_size(p) : fm_usable_size(p);
}

/* Not of the process's heap: from the arena, or inherited by a child that has another heap now. */
static void *move(void *p, size_t size)
{
	size_t old = malloc_usable_size(p);
	void *moved = old ? malloc(size) : NULL;

	if (!moved)
		return no_memory();
	memcpy(moved, p, old < size ? old : size);
	free(p);
	return moved;
}

EXPORT void *realloc(void *p, size_t size)
{
	void *moved;

	if (!p)
		return malloc(size);
	if (size == 0) { /* as glibc does */
		free(p);
		return NULL;
	}
	if (size > PTRDIFF_MAX)
		return no_memory();
	if (is_bootstrap(p))
		return move(p, size);
	moved = fm_realloc(preload_heap, p, size);
	if (likely(moved != NULL) || errno == ENOMEM)
		return moved;
	return preload_is_ready() ? move(p, size) : no_memory();
}

EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
	size_t total;

	return __builtin_mul_overflow(n, size, &total) ? no_memory() : realloc(p, total);
}

/* ---------------------------------------------------------------- alignment */

static void *aligned(size_t alignment, size_t size)
{
	void *p;

	if (alignment <= ALIGNMENT)
		return malloc(size);
	if (size > PTRDIFF_MAX)
		return no_memory();
	p = fm_aligned_alloc(preload_heap, alignment, size);
	if (p)
		return p;
	if (!preload_is_ready())
		return bootstrap_alloc(size, alignment);
	p = fm_aligned_alloc(preload_heap, alignment, size);
	return p ? p : no_memory();
}

static bool is_power_of_two(size_t n)
{
	return n && !(n & (n - 1));
}

/* As glibc: what is no power of two is rounded up to the next. */
EXPORT void *memalign(size_t alignment, size_t size)
{
	size_t power = ALIGNMENT;

	if (alignment > PTRDIFF_MAX) {
		errno = EINVAL;
		return NULL;
	}
	while (power < alignment)
		power *= 2;
	return aligned(power, size);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
	if (is_power_of_two(alignment))
		return aligned(alignment, size);
	errno = EINVAL;
	return NULL;
}

EXPORT int posix_memalign(void **result, size_t alignment, size_t size)
{
	int saved = errno;
	void *p;

	if (!is_power_of_two(alignment) || alignment % sizeof(void *))
		return EINVAL;
	p = aligned(alignment, size);
	errno = saved;
	if (!p)
		return ENOMEM;
	*result = p;
	return 0;
}

EXPORT void *valloc(size_t size)
{
	return aligned((size_t)sysconf(_SC_PAGESIZE), size);
}

EXPORT void *pvalloc(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (size > PTRDIFF_MAX)
		return no_memory();
	return aligned(page, size ? (size + page - 1) & ~(page - 1) : page);
}

/* ---------------------------------------------------------------- the rest */

EXPORT int malloc_trim(size_t keep)
{
	int saved = errno;
	int r = preload_heap ? fm_trim(preload_heap, keep) : 0;

	errno = saved;
	return r > 0;
}
