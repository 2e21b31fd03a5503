/* SPDX-License-Identifier: Apache-2.0
 *
 * The allocator that a benchmark program measures, chosen when it is compiled. A program is written once
 * against these names; the Makefile builds it once for each variant that it is asked for:
 *
 *   ours      fm_malloc, fm_free, fm_realloc of the shared library, on a heap file
 *   target    the same by the original's names, fmalloc and ffree on the thread's target
 *   malloc    malloc, free, realloc: of glibc, or of the library that LD_PRELOAD names
 *   pmemobj   pmemobj_alloc, pmemobj_free of libpmemobj on a pool file
 *   boost     allocate, deallocate of Boost.Interprocess's managed_mapped_file
 *   memkind   memkind_malloc, memkind_free of a memkind PMEM kind, in a file that it makes itself
 *
 * The first three are called straight from the measured loop, through the dynamic linker's table as in any
 * program; the last three through one function more (about a nanosecond of their hundreds).
 */
#ifndef HEAP_H
#define HEAP_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(HEAP_OURS) || defined(HEAP_TARGET)
#include <fmalloc.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Make a new heap in a file of `folder`, with room for `bytes` where a peer wants to be told. malloc: nothing. */
void heap_open(const char *folder, uint64_t bytes);

/* Close the heap, everything on the device; open it again. Both end the program where a peer can't do it. */
void heap_close(void);
void heap_reopen(void);

/* Disk space that the file takes, in bytes; 0 for malloc, and where the file has its full size from the start. */
uint64_t heap_file_bytes(void);

/* Take the file away; the heap is not used any more. */
void heap_remove(void);

#if defined(HEAP_OURS)
extern fm_heap *heap_ours;
#define heap_alloc(size)      fm_malloc(heap_ours, (size))
#define heap_free(p)          ((void)fm_free(p))
#define heap_realloc(p, size) fm_realloc(heap_ours, (p), (size))
#define heap_link(p)          fm_offset_of(heap_ours, (p))
#elif defined(HEAP_TARGET)
#define heap_alloc(size)      fmalloc(size)
#define heap_free(p)          ffree(p)
#define heap_realloc(p, size) frealloc((p), (size))
#define heap_link(p)          fm_offset_of(fmalloc_get_target(), (p))
#else
#define heap_link(p) ((uint64_t)(uintptr_t)(p))
#if defined(HEAP_MALLOC)
#define heap_alloc(size)      malloc(size)
#define heap_free(p)          free(p)
#define heap_realloc(p, size) realloc((p), (size))
#else
void *heap_alloc(size_t size);
void heap_free(void *p);
void *heap_realloc(void *p, size_t size); /* boost: has none */
#endif
#endif

#ifdef __cplusplus
}
#endif

#endif
