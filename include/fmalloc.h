/* SPDX-License-Identifier: Apache-2.0
 *
 * fmalloc: malloc for memory-mapped files.
 *
 * A heap is one file and its mapping. Objects are allocated in the file, keep their offsets for ever,
 * and are found again, in place, when the file is opened the next time.
 *
 * Words used below
 *   heap       one open file (`fm_heap *`); a file is open in at most one writing process
 *   object     what an allocating function returned and nobody freed yet
 *   offset     distance in bytes from the heap's first byte: the same at every opening
 *   target     the heap that fmalloc(), ffree() and fm_ptr<T> of a thread work on
 *
 * Errors are return values: NULL or -1 with errno set, and a sentence in fm_last_error(). A heap that is NULL
 * is EINVAL; one that is not open any more EBADF; in a forked child all calls on it are EPERM. No function
 * of this library exits, aborts or prints (FMALLOC_DEBUG=abort in the environment asks for an abort at
 * a detected misuse).
 *
 * No function is a cancellation point (pthreads(7)), and none may be cancelled asynchronously. What fm_walk() and
 * fm_check() call runs with cancellation disabled; what fm_root_each() calls and the misuse handler may be cancelled.
 *
 * Durability in short. In a live heap (the default) a store into the heap is in the file at once as far as
 * processes can tell, so killing the process loses nothing; the device has it after fm_sync() or fm_close(),
 * or when the kernel writes it back. In an atomic heap (FM_ATOMIC) stores are the process's own until
 * fm_commit(): after any kill or power cut the heap is exactly the last commit.
 */
#ifndef FMALLOC_H
#define FMALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FM_API __attribute__((visibility("default")))
#else
#define FM_API
#endif

#define FM_VERSION "0.1.0"

/* The heap's first page after the superblock belongs to the application: 4096 bytes at
 * `(char *)heap->mem + PAGE_SIZE`, zero in a new heap, never touched by the library. The number is the file format's,
 * and the same on machines whose pages are larger: ask sysconf(3) for those. */
#ifndef PAGE_SIZE
#define PAGE_SIZE (4096)
#endif

struct fm_super;

/* One open heap. The first three members are the original fmalloc's; all are read-only for programs. */
struct fm_info {
	int fd;             /* the heap file's descriptor */
	void *mem;          /* address of the heap's first byte while it is open */
	struct fm_super *s; /* the same address; the superblock's layout is private (docs/format.md) */
};

typedef struct fm_info fm_heap;

/* ---------------------------------------------------------------- opening and closing */

#define FM_CREATE  0x01u /* create the file if it is missing */
#define FM_EXCL    0x02u /* with FM_CREATE: fail with EEXIST if the path exists */
#define FM_RDONLY  0x04u /* map for reading only; any number of such readers, no writer beside them */
#define FM_FIXED   0x08u /* map at the address where the heap was made: raw C pointers stay valid */
#define FM_WAIT    0x10u /* wait for another process's lock instead of failing with EBUSY */
#define FM_RECOVER 0x20u /* open a heap that a power cut left unclean: check and repair it first */
#define FM_ATOMIC   0x40u /* an atomic heap: stores take effect by fm_commit() only */
#define FM_CONVERT  0x80u /* an existing heap of the other kind becomes one of the kind asked for */
#define FM_DECLARED 0x100u /* with FM_ATOMIC: all writes are declared by fm_will_write() */

#define FM_NO_EXIT_SYNC  0x1u /* fm_options.disable: no sync and clean mark at a normal exit */
#define FM_NO_ATFORK     0x2u /* fm_options.disable: no fork handler (children keep the lock) */
#define FM_NO_SYNC       0x4u /* fm_options.disable: never wait for the device, for heaps that need not outlive this boot
                               * (temporary files): fm_sync does nothing, the heap is never marked clean, and is
                               * EUCLEAN after a restart of the machine. EINVAL with FM_ATOMIC */
#define FM_NO_CHECKPOINT 0x8u /* fm_options.disable: no threads of our own; commits do their work */

struct fm_options {
	size_t size;            /* sizeof(struct fm_options); what lies beyond it reads as 0. Longer than this version's,
	                           from a newer header: EINVAL if a byte behind the members known here is not 0 */
	uint64_t max_size;      /* bytes the file may grow to; 0: as far as address space allows. Less than the size
	                           that the file has counts as that size; a new one has 128 KiB: less is EINVAL */
	uint64_t address_space; /* bytes of address space to reserve; 0: 1 TiB, less if refused. An atomic heap takes
	                           three times as much */
	mode_t mode;            /* permissions of a created file, before the umask; 0: 0600 */
	int wait_ms;            /* with FM_WAIT: milliseconds to wait at most; 0: no limit */
	unsigned disable;       /* FM_NO_EXIT_SYNC, FM_NO_ATFORK, FM_NO_SYNC, FM_NO_CHECKPOINT */
	int decay_ms;           /* free space loses its blocks after one to two times this; 0: 10 s; -1: not before
	                           fm_trim or fm_close. Of an atomic heap: fm_close alone */
	/* of atomic heaps */
	unsigned sector;        /* bytes that a commit writes whole: 64, 512 or 4096; 0: 64. A device that may
	                           garble a sector which it is writing at a power cut needs its sector size */
	bool commit_at_close;   /* fm_close() commits first; else it drops what is not committed */
	uint64_t journal_max;   /* bytes the journal grows to, beyond single larger commits; 0: as much as the
	                           heap, 256 MiB at most. It lies behind max_size, with a hole before it as long
	                           as the heap is open and smaller */
	uint64_t keep_max;      /* bytes of pages kept private after their commit, so that the next write to
	                           them is cheap; 0: an eighth of the memory that the process may use */
};

/* Open the heap in the file `path`. `options` may be NULL. With FM_CREATE a missing file is created,
 * and an existing file that holds nothing but zeros (whatever its length) becomes an empty heap.
 *
 * A heap is live or, made with FM_ATOMIC, atomic, and is always opened as what it is. FM_CONVERT changes that
 * by one write of the superblock: with FM_ATOMIC a live heap becomes atomic, without it an atomic one live; a
 * heap that is of the kind asked for is simply opened. FM_RDONLY opens an atomic heap at its last commit and
 * writes nothing.
 *
 * Returns   the heap, or NULL with errno
 *             ENOENT     no such file, and no FM_CREATE
 *             EEXIST     FM_EXCL, and the path exists
 *             EBUSY      another process, or this one, has the heap open: also for FM_RDONLY beside a
 *                        writer (fm_snapshot() makes a copy that can be read meanwhile)
 *             EINTR      a signal's handler ran while FM_WAIT waited, with SA_RESTART too;  ETIMEDOUT  wait_ms passed
 *             EILSEQ     not a heap: the file holds something else, or a heap of the original fmalloc;
 *                        the file is untouched
 *             ENOTSUP    a heap of a newer format
 *             EPROTOTYPE a heap of the other kind, and no FM_CONVERT; it is untouched
 *             EBADMSG    a heap whose header is damaged, or a file cut short
 *             EUCLEAN    a power cut or a copy made while in use left the heap unclean: FM_RECOVER,
 *                        or FMALLOC_RECOVER=1 in the environment, checks and repairs it
 *             EADDRINUSE FM_FIXED, and the place is taken
 *             ENOSPC     the file has holes where the heap uses it, and the disk is full
 *             EFBIG      RLIMIT_FSIZE is below what opening writes; never a SIGXFSZ
 *             EINVAL     also FM_RDONLY together with FM_CREATE or FM_CONVERT, FM_DECLARED without FM_ATOMIC;
 *                        FMALLOC_TRACK in the environment names no way of finding written pages, or that of
 *                        FM_DECLARED, which is the program's to ask for
 *             ENOSYS     /proc/sys/kernel/random/boot_id can't be read, without which a kill can't be told from a
 *                        power cut; with FM_RDONLY only if one of the two came
 *             EIO        an atomic heap's journal could not be read, or replaying it could not be written
 *             EMFILE     no descriptor is free, or 1024 heaps are open in this process (in a forked child those of
 *                        the parent count)
 *             ENOMEM, EROFS, and what open(2) and mmap(2) give
 * Threads   any thread. No cancellation point: a cancelled thread waits on (FM_WAIT) till wait_ms or a signal.
 * Durable   the heap's clean mark is taken off by one small synchronous write before this returns.
 * Cost      independent of the heap's size. After a crash of an atomic heap, the journal's length on top.
 */
FM_API fm_heap *fm_open(const char *path, unsigned flags, const struct fm_options *options);

/* The same for an open descriptor (a memfd, a file without a name). It must be open for reading
 * and, without FM_RDONLY, writing. The descriptor stays the caller's and may be closed afterwards.
 * FM_CREATE turns an all-zero or empty file into a heap; FM_EXCL is EINVAL.
 *
 * The file is opened anew by /proc/self/fd, since a lock on the caller's description would be shared with all who
 * have that description, from a fork or a message. So a process that has no /proc gets ENOENT (or ENOSYS, as above), and
 * one that may not open the file by its permissions EACCES: what is going to enter a sandbox opens the heap before.
 */
FM_API fm_heap *fm_open_fd(int fd, unsigned flags, const struct fm_options *options);

/* Close the heap: all data on the device, the file trimmed, marked clean, unmapped. The heap is closed
 * whatever is returned. No other thread may be using the heap.
 *
 * In an atomic heap what was not committed is dropped, unless fm_options.commit_at_close asked for a commit;
 * that commit's failure is -1, and everything up to the last successful one is kept in any case.
 *
 * Returns   0, or -1 with errno: EIO or what fdatasync(2) gives: the data may not be on the device and
 *           the heap stays marked unclean (atomic: the journal still has it); EBADF: not an open heap; EPERM:
 *           a forked child.
 */
FM_API int fm_close(fm_heap *heap);

/* All stores made so far are on the device when this returns 0. -1 with errno EIO, ENOSPC, EDQUOT: they
 * may not be, and no later success makes up for it: the heap then stays marked unclean at close. In an atomic
 * heap this is fm_commit().
 *
 * Threads   any thread; stores that race with it may or may not be included.
 */
FM_API int fm_sync(fm_heap *heap);

/* ---------------------------------------------------------------- committing (atomic heaps)
 *
 * A program changes its data in place. fm_commit() makes everything since the last commit durable, all of it or
 * nothing; fm_rollback() takes everything since the last commit back, also allocations, frees and roots. Then
 * pointers to what was allocated since are void. docs/atomic.md says how, and under which assumptions about
 * the device.
 *
 * All functions of this group fail with EINVAL on a live heap, EROFS on one that is open for reading only, EBADF,
 * EPERM as everywhere.
 *
 * Threads: a program with one thread needs no more than these two. With several, each thread puts every
 * stretch in which it changes the heap, by allocating, freeing or storing, between fm_begin() and fm_end(); or
 * the program sees to it by means of its own that nobody changes the heap while somebody commits.
 */

/* Make all changes since the last commit durable. Waits until no other thread is between fm_begin and fm_end;
 * threads that ask together are served by one write. Nothing changed: 0 at once.
 *
 * Returns   0: the heap will be found with these changes after any crash from now on. Else -1 with errno
 *             ENOSPC     the disk is full, the changes are neither committed nor lost: try again, or roll back
 *             ENOMEM     the same for memory;  EFBIG  for RLIMIT_FSIZE
 *             EIO        the device failed: whether the commit took place is known at the next opening.
 *                        This handle is poisoned: commit, begin and rollback fail with EIO; reading goes on
 *             EDEADLK    called between this thread's own fm_begin and fm_end
 *             ECANCELED  fm_abort() was called: fm_rollback() first
 *             EBADF      the heap is not open; or the program has closed the library's descriptors: nothing more can be
 *                        committed
 *             EPROTO     FM_DECLARED with FMALLOC_DEBUG=declared in the environment, which makes every commit compare
 *                        all pages: one was changed and not declared; fm_last_error() says which
 * Threads   any. A thread that holds a lock which another thread takes inside its section deadlocks.
 * Cost      one small synchronous write, beside what grows with the number of pages changed.
 */
FM_API int fm_commit(fm_heap *heap);

/* Drop all changes since the last commit. Waits until no other thread is inside a section, and resets what all
 * threads have cached of the heap.
 *
 * Returns   0, or -1 with errno EDEADLK, EIO as fm_commit, and ENOSPC: an earlier commit could not be brought
 *           to its place yet. On -1 nothing has changed; after EIO it may be that some changes were dropped and others
 *           not, but the handle is poisoned, none is committed any more, and reopening finds the last commit.
 */
FM_API int fm_rollback(fm_heap *heap);

/* This thread is about to change the heap, and has done so. A commit or rollback of another thread happens before
 * fm_begin returns or after fm_end. Sections nest: only the outermost counts. They do not exclude each other.
 * A thread that ends inside a section aborts it.
 *
 * Returns   0, or -1 with errno EIO (fm_begin of an outermost section of a poisoned heap), ENOMEM (also in a
 *           destructor of thread data that runs behind the library's own: nobody would end the section), EINVAL
 *           (fm_end without fm_begin).
 */
FM_API int fm_begin(fm_heap *heap);
FM_API int fm_end(fm_heap *heap);

/* End the thread's section, all its levels, leaving changes that must not be committed: fm_commit fails with
 * ECANCELED until somebody calls fm_rollback. 0, or -1 with EINVAL outside of a section. */
FM_API int fm_abort(fm_heap *heap);

/* The `len` bytes at `addr` are about to be written. Writes are found without it; it opens pages for writing at
 * once, which saves a page fault each. In a heap opened with FM_DECLARED it is an obligation: every byte
 * written since the last commit (or rollback) must have been declared since then, by this or another thread, and
 * a commit looks nowhere else. What the library itself stores needs no declaration.
 *
 * Writes that bypass this process's page tables (io_uring with registered buffers, O_DIRECT reads that are
 * under way during a commit, RDMA) are found by no other means: declare them, and let them end before the commit. A
 * commit or rollback may put other pages in the place of registered buffers: register them again after it.
 * Writes for which another process takes the page fault (process_vm_writev, a debugger, a child of vfork) may
 * be found late, and hide others until then: declare them, too.
 *
 * With several threads a declaration belongs into the section whose stores it announces: one that is made before
 * fm_begin can be taken by another thread's commit or rollback that comes in between, and counts for nothing then.
 *
 * Returns   0, or -1 with errno EINVAL (not inside this heap), ENOMEM.
 * Threads   any; outside of a section it may wait while a commit looks for the written pages. Not
 *           async-signal-safe.
 */
FM_API int fm_will_write(fm_heap *heap, const void *addr, size_t len);

/* Write the heap's last commit into the new file `path`, as a heap with a UUID of its own, while this one goes
 * on. It is on the device when this returns.
 *
 * Returns   0, or -1 with errno EEXIST (the path is taken), ENOSPC, EIO, EDEADLK (called between this thread's own
 *           fm_begin and fm_end) and what open(2) gives; then no file is left.
 * Threads   any; commits go on meanwhile, except for a bounded time. It waits for a commit that is being made, which
 *           waits for the sections: as fm_commit, not with a lock that sections take.
 */
FM_API int fm_snapshot(fm_heap *heap, const char *path);
/* ---------------------------------------------------------------- fork */

/* A forked child inherits the mapping: its stores reach the parent's file, and its calls fail with EPERM. With these
 * three it gets memory of its own, as fork(2) gives of everything else:
 *
 *     int fd = open(dir, O_TMPFILE | O_RDWR, 0600);   // in the parent, before the fork
 *     fm_copy_fd(heap, fd);
 *     if (fork() == 0)
 *             fm_child_reopen(heap, fd);              // same handle, same addresses, another file
 *
 * Copy the heap's bytes as they are now to the empty file `fd`, open for reading and writing: by reflink where
 * source and copy are on one file system that can (XFS, btrfs), else what is not a hole. The copy has all its
 * blocks, but those of a reflink are shared with the heap: there a store by either takes a new block, and on a
 * full disk is a SIGBUS. Opened by fm_open() the copy is EUCLEAN, as every copy of a heap in use.
 * Other threads may go on. What they allocate, free and store meanwhile is in the copy or not, page by page; the
 * copy is a valid heap all the same.
 *
 * Atomic heaps have none of the three: ENOTSUP. Their memory is more than their file; fm_snapshot() copies one.
 *
 * Returns   0, or -1 with errno ENOSPC, EFBIG, EIO, EROFS (FM_RDONLY), EBADF (not an open heap), EPERM, ENOTSUP.
 * Threads   any thread; allocations that need more than a free slot at hand wait.
 * Cost      reading and writing what the heap has; a reflink writes back its dirty pages.
 */
FM_API int fm_copy_fd(fm_heap *heap, int fd);

/* In a child of the process that has `heap` open: go on with the copy `fd` in its place. The handle, all
 * addresses and the thread's target stay; the parent's file is not touched from here on. What the heap's calls
 * know is made anew from the copy, as at opening; the lock is taken on it. `fd` stays the caller's.
 *
 * Returns   0, or -1 with errno EINVAL: this process opened the heap; EBADF: not an open heap; EILSEQ: no copy
 *           of it; EBUSY: the copy is in use; ENOSPC; what open(2) and mmap(2) give. The heap's calls fail with
 *           EPERM then as before; whether its memory is the parent's still or the copy's is not defined. ENOTSUP.
 * Threads   in the thread that called fork, with no other thread in the child yet.
 * Cost      independent of the heap's size, but one fallocate(2) of it.
 */
FM_API int fm_child_reopen(fm_heap *heap, int fd);

/* In a child: the child's stores into the heap reach its own memory alone from here on. Pages which it has not
 * stored into go on showing what the parent stores, and reading what the parent has cut off the file is a SIGBUS:
 * good for a child that is about to exec, or whose parent ends. The heap's calls go on failing with EPERM, except
 * fm_usable_size(), which tells of any object of the time of the fork.
 *
 * Returns   0, or -1 with errno as fm_child_reopen().   Threads  as fm_child_reopen().
 */
FM_API int fm_child_detach(fm_heap *heap);

/* ---------------------------------------------------------------- allocating */

/* Allocate `size` bytes, contents undefined; 0 bytes give a distinct object. Aligned to 16 bytes if
 * `size` is a multiple of 16, else to 8.
 *
 * Returns   the address, or NULL with errno ENOMEM (max_size, the disk or address space is full; the heap
 *           works on), EROFS (FM_RDONLY), EBADF (not an open heap), EPERM (a forked child), EINVAL.
 * Durable   live heap: at once against a killed process. Atomic heap: with the next fm_commit().
 * Threads   any thread; not async-signal-safe.
 * Cost      no lock and no system call while the thread has a free slot of the size class at hand.
 */
FM_API void *fm_malloc(fm_heap *heap, size_t size);

/* As fm_malloc for `n` objects of `size` bytes, all zero. ENOMEM also when n * size overflows. */
FM_API void *fm_calloc(fm_heap *heap, size_t n, size_t size);

/* Change the size of object `p` of `heap`, in place if possible, else by moving it. p == NULL allocates. In a live heap
 * an object that moves and is longer than 4 MiB then goes where it can grow in place, if there is such a place and the
 * heap is small beside max_size; until then others may use the room.
 * Size 0 keeps a minimal object. On failure the object is unchanged. A kill in the middle may leave both
 * copies allocated, never neither. When it has moved, the old object is free before the program can link
 * the new one: linked objects are better replaced by allocating, copying, linking and freeing.
 *
 * Returns   the new address, or NULL with errno as fm_malloc, and EINVAL if p is no live object of heap.
 */
FM_API void *fm_realloc(fm_heap *heap, void *p, size_t size);

/* As fm_realloc(heap, p, n * size); ENOMEM when the product overflows. */
FM_API void *fm_reallocarray(fm_heap *heap, void *p, size_t n, size_t size);

/* As fm_malloc, aligned to `alignment` bytes at this and every later opening. A power of two up to
 * 4 MiB, else EINVAL. `size` needs not be a multiple.
 */
FM_API void *fm_aligned_alloc(fm_heap *heap, size_t alignment, size_t size);

/* A copy of the string `s` (of at most `n` bytes of it) in the heap. NULL with errno as fm_malloc. */
FM_API char *fm_strdup(fm_heap *heap, const char *s);
FM_API char *fm_strndup(fm_heap *heap, const char *s, size_t n);

/* Free the object `p` of whichever heap it lies in. NULL is 0. What is no live object (freed already,
 * inside an object, foreign) changes nothing, is reported to the misuse handler, and is -1 with EINVAL.
 * EROFS, EPERM as fm_malloc. errno stays as it is on success. Contents stay as they are; nothing is written into
 * freed memory.
 *
 * Durable   live heap: at once against a killed process. Atomic heap: with the next fm_commit(). Unlink an
 *           object before freeing it.
 * Threads   any thread, also one that did not allocate it.
 * Cost      no lock and no system call for objects up to 448 KiB that the thread's own slabs hold, and mostly up to 4 MiB.
 */
FM_API int fm_free(void *p);

/* Bytes usable in live object `p`: at least what was asked for. 0 with errno EINVAL for anything else. */
FM_API size_t fm_usable_size(const void *p);

/* The open heap in whose mapping `p` lies, or NULL. */
FM_API fm_heap *fm_heap_of(const void *p);

/* Give free space back to the file system: what the calling thread keeps in reserve, the file behind its last
 * object, and blocks of free units of 64 KiB, until at most `keep_bytes` of free space have blocks. Without this call
 * the heap does so by itself, late: see fm_options.decay_ms. What other threads keep in reserve stays: at most
 * 1 MiB and a quarter of what each has.
 *
 * An atomic heap gives space back at fm_close() alone, since its last commit may use what is free now: 0.
 *
 * Returns   1 if something was given back, 0 if nothing was, -1 with errno EROFS, EBADF, EPERM.
 * Threads   any thread; others wait while it lasts where they need more than a slot of their own.
 * Cost      up to 400 us for each hole, and a look at every segment (4 MiB).
 */
FM_API int fm_trim(fm_heap *heap, size_t keep_bytes);

/* ---------------------------------------------------------------- the thread's target */

/* The original interface. fmalloc_init opens `filepath` (created when missing), makes `*init` true if
 * the heap is new and false if it was there, and returns NULL with errno on failure. The first heap
 * that a process opens is the target of every thread that sets none.
 *
 * A thread whose target is closed has set none from then on, also if another heap gets the handle later. If another
 * thread closed it, this holds from the thread's next call that uses the target (fmalloc, fmalloc_get_target, fcalloc, ...)
 * or opens or closes a heap; before that its fm_ptr<T> members count from where the closed heap was: call
 * fmalloc_set_target first.
 */
FM_API struct fm_info *fmalloc_init(const char *filepath, bool *init);
FM_API void fmalloc_set_target(struct fm_info *fi);

/* The calling thread's target, or NULL (errno EINVAL) if no heap is open. */
FM_API struct fm_info *fmalloc_get_target(void);

/* fm_malloc on the target; NULL with errno EINVAL without one. ffree is fm_free, errors in errno only. */
FM_API void *fmalloc(size_t size);
FM_API void ffree(void *addr);

/* The rest of the family likewise: errno and fm_last_error() are fmalloc_get_target()'s where there is no target. */
static inline void *fcalloc(size_t n, size_t size)
{
	fm_heap *target = fmalloc_get_target();

	return target ? fm_calloc(target, n, size) : NULL;
}

static inline void *frealloc(void *p, size_t size)
{
	fm_heap *target = fmalloc_get_target();

	return target ? fm_realloc(target, p, size) : NULL;
}

static inline void *freallocarray(void *p, size_t n, size_t size)
{
	fm_heap *target = fmalloc_get_target();

	return target ? fm_reallocarray(target, p, n, size) : NULL;
}

static inline void *faligned_alloc(size_t alignment, size_t size)
{
	fm_heap *target = fmalloc_get_target();

	return target ? fm_aligned_alloc(target, alignment, size) : NULL;
}

static inline char *fstrdup(const char *s)
{
	fm_heap *target = fmalloc_get_target();

	return target ? fm_strdup(target, s) : NULL;
}

static inline char *fstrndup(const char *s, size_t n)
{
	fm_heap *target = fmalloc_get_target();

	return target ? fm_strndup(target, s, n) : NULL;
}

static inline size_t fmalloc_usable_size(const void *p)
{
	return fm_usable_size(p);
}

/* ---------------------------------------------------------------- offsets and pointers in the heap */

/* Address of `offset`, and offset of an address inside the heap; 0 and NULL stand for each other.
 * Unchecked, a few instructions. */
static inline void *fm_at(const fm_heap *heap, uint64_t offset)
{
	return offset ? (char *)heap->mem + offset : NULL;
}

static inline uint64_t fm_offset_of(const fm_heap *heap, const void *p)
{
	return p ? (uint64_t)((const char *)p - (const char *)heap->mem) : 0;
}

/* As fm_at, for offsets from a file that is not trusted: NULL with errno EINVAL unless the bytes
 * [offset, offset + len) lie inside one live object or inside the application page. */
FM_API void *fm_at_checked(fm_heap *heap, uint64_t offset, size_t len);

#ifndef __cplusplus
/* A typed pointer member of 8 bytes that holds an offset: `fm_ptr(struct node) next;`. It may be copied
 * by assignment, memcpy and realloc; zero bytes are null; T may be incomplete. Two such members of the
 * same T are assignable to each other; between different T it is an incompatible-pointer diagnostic, as
 * with plain pointers. fm_get gives a `T *`; fm_set wants one. Alignment is 8 here, 1 in fmptr.hpp: structs
 * shared with C++ place it at multiples of 8, or are packed.
 *
 *     struct node *n = fm_get(heap, head->next);
 *     fm_set(heap, &head->next, n);
 *
 * The type is that of a function pointer, because it alone is distinct for each T, usable with T
 * incomplete and impossible to dereference by mistake.
 */
struct fm_offset;
#define fm_ptr(T) __typeof__(__typeof__(T) *(*)(struct fm_offset *))

#define fm_get(heap, p) \
	((__typeof__((p)((struct fm_offset *)0)))fm_at((heap), (uint64_t)(uintptr_t)(p)))

#define fm_set(heap, pp, addr) \
	__extension__({ \
		__typeof__((*(pp))((struct fm_offset *)0)) fm_set_addr_ = (addr); \
		*(pp) = (__typeof__(*(pp)))(uintptr_t)fm_offset_of((heap), fm_set_addr_); \
	})
#endif

/* ---------------------------------------------------------------- named roots */

/* Publish `p`, an address inside the heap or NULL, under `name` (1 to 255 bytes) with a type tag of the
 * program's choice; an existing root of the name is replaced by one atomic store. `p` stays an ordinary
 * object. Returns 0, or -1 with errno EINVAL, ENOMEM, EROFS, EBADF, EPERM.
 *
 * Threads   any thread; root calls of one heap exclude each other.
 */
FM_API int fm_root_set(fm_heap *heap, const char *name, void *p, uint64_t type_tag);

/* The address published under `name`. NULL with errno ENOENT: no such root; EPROTOTYPE: its tag is
 * another; EFAULT: its object was freed and the file has become shorter since; 0: NULL was published;
 * EINVAL (no name of 1 to 255 bytes), EBADF, EPERM. */
FM_API void *fm_root_get(fm_heap *heap, const char *name, uint64_t type_tag);

/* Take the name away; the object stays. 0, or -1 with errno ENOENT, EINVAL (no name of 1 to 255 bytes), EROFS, EBADF,
 * EPERM. */
FM_API int fm_root_remove(fm_heap *heap, const char *name);

/* Call `visit` for each root, in no order, until it returns something else than 0; returns that, or 0 at
 * the end, or -1 with errno (EINVAL if `visit` is NULL). `p` is NULL also where fm_root_get says EFAULT. `visit` may
 * call anything but what changes roots. */
FM_API int fm_root_each(fm_heap *heap,
                        int (*visit)(const char *name, void *p, uint64_t type_tag, void *arg), void *arg);

/* ---------------------------------------------------------------- looking into a heap */

struct fm_statistics {
	size_t size;            /* set by the caller to sizeof(struct fm_statistics); if that is more than this version
	                           knows the rest becomes 0, and nothing is written beyond it */
	uint64_t file_size;     /* bytes, as in st_size */
	uint64_t disk_size;     /* bytes, st_blocks * 512; 0: the program has closed the descriptor */
	uint64_t max_size;      /* bytes that the file may grow to */
	uint64_t address_space; /* bytes reserved */
	uint64_t live_objects;
	uint64_t live_bytes;    /* sum of the usable sizes */
	uint64_t free_bytes;    /* in units that nothing uses, below the file's end */
	uint64_t small_objects, large_objects, huge_objects; /* live_objects by kind */
	uint64_t slab_bytes;    /* in slabs, free slots included */
	uint64_t remote_frees;  /* slots freed by other threads and not yet collected */
	uint64_t generation;    /* counts openings for writing */
	/* of atomic heaps; the counts begin at opening */
	uint64_t is_atomic;     /* 1: yes, 0: a live heap */
	uint64_t commits;       /* that were written; calls of fm_commit that shared one count once */
	uint64_t commit_calls;  /* that returned 0 */
	uint64_t rollbacks;
	uint64_t pages_found;   /* that were written since the commit before, summed over all commits */
	uint64_t pages_changed; /* those among them that differ from the commit before */
	uint64_t journal_bytes; /* written into the journal */
	uint64_t applied_bytes; /* written to their places */
	uint64_t journal_size;  /* bytes that the journal takes in the file now */
	uint64_t flushes;       /* synchronous writes and syncs: of commits, one each if all goes well, */
	uint64_t growth_flushes;     /* because the file or the journal grew, */
	uint64_t checkpoint_flushes; /* and of checkpoints */
	uint64_t checkpoints;
	uint64_t waits;         /* commits that had to wait for room in the journal */
	uint64_t kept_bytes;    /* in private pages that are kept */
	uint64_t tracking;      /* how written pages are found: 1 userfaultfd, 2 mprotect, 3 pagemap, 4 declared */
};

/* Fill `*stats`. 0, or -1 with errno. Reads all of the heap's metadata. Other threads may go on; counts
 * are then inexact. */
FM_API int fm_stats(fm_heap *heap, struct fm_statistics *stats);

/* Call `visit` for each live object, by rising address, until it returns something else than 0; returns
 * that, or 0 at the end, or -1 with errno (EINVAL if `visit` is NULL). What the library keeps for named roots is left out. `visit`
 * may free the object that it was called for; it must return (no longjmp). Call it when no other thread is
 * changing the heap. */
FM_API int fm_walk(fm_heap *heap, int (*visit)(void *p, size_t usable_size, void *arg), void *arg);

/* Verify the heap: that every unit is used exactly once or free, and every word of metadata says
 * something valid. `finding` (may be NULL) is called for each violation. Returns the number of
 * findings, or -1 with errno. Call it when no thread is changing the heap. */
struct fm_finding {
	uint64_t offset;  /* of the word or record in the file */
	uint64_t value;   /* what it holds */
	const char *text; /* a sentence, valid during the call */
};

FM_API long fm_check(fm_heap *heap, void (*finding)(const struct fm_finding *, void *), void *arg);

/* ---------------------------------------------------------------- errors and misuse */

/* A sentence on the calling thread's last failure in this library, "" if there was none. Valid until the
 * thread's next call into the library. */
FM_API const char *fm_last_error(void);

enum fm_misuse_kind {
	FM_DOUBLE_FREE = 1,  /* the object was freed already */
	FM_INVALID_POINTER,  /* inside the heap, but not the start of an object */
	FM_FOREIGN_POINTER,  /* in no open heap, or in another heap than the one named */
	FM_FORKED_CHILD,     /* a call in a child of the process that opened the heap */
	FM_CLOSED_HEAP       /* a call with a heap that is not open */
};

struct fm_misuse {
	enum fm_misuse_kind kind;
	const void *address; /* the pointer passed, or the heap */
	fm_heap *heap;       /* where it lies; NULL: in none, or the heap is not open */
	const char *text;    /* a sentence, valid during the call */
};

/* Set the process's handler for detected misuse, NULL to remove it. It runs in the thread that made the
 * wrong call, before that call fails with EINVAL (EPERM, EBADF for the last two kinds) having changed
 * nothing. The library holds no lock then: the handler may call it, may longjmp, may not return.
 *
 * Threads   any thread.
 */
typedef void fm_misuse_handler(const struct fm_misuse *misuse, void *arg);
FM_API void fm_set_misuse_handler(fm_misuse_handler *handler, void *arg);

#ifdef __cplusplus
}
#endif

#endif
