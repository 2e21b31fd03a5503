/* SPDX-License-Identifier: Apache-2.0
 *
 * The only place with system calls. All go through one table of functions, so that tests can record
 * them, make the n-th one fail, or simulate a crash.
 *
 * Every function returns 0 (or what it says) on success and -errno on failure; none sets fm_last_error()
 * and none retries. EINTR is handled here for all calls but `sleep_ms`.
 */
#ifndef FM_OS_OS_H
#define FM_OS_OS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Which file an open descriptor is. `birth_*` are 0 where the file system does not tell. */
struct os_file_id {
	uint64_t dev, ino;
	uint64_t birth_sec;
	uint32_t birth_nsec;
};

struct os_stat {
	struct os_file_id id;
	uint64_t size;   /* bytes */
	uint64_t blocks; /* of 512 bytes */
	bool is_regular;
};

enum os_advice { OS_POPULATE_WRITE, OS_WIPE_ON_FORK, OS_DONT_DUMP, OS_DUMP, OS_DROP };

/* Pages [start, end) by address. */
struct os_range {
	uint64_t start, end;
};

/* Where page faults were: `n` rings, one for each thread on each processor. */
struct os_samples {
	void *rings;
	unsigned n;
};

/* Bytes and where in a file they go. */
struct os_piece {
	uint64_t off, len;
	const void *data;
};

/* A store into a page that os->protect() made read-only. True: the page can be written now, try again. Called in
 * a signal handler. */
typedef bool os_fault_handler(void *addr);

struct os_calls {
	/* Files. Descriptors are close-on-exec, and have numbers that programs do not use by themselves. */
	int (*open)(const char *path, bool writable);                  /* fd */
	int (*reopen)(int fd, bool writable);                          /* fd with a description of its own; EBADF,
	                                                                  EACCES if fd is not open like that */
	int (*reopen_direct)(int fd);                                  /* for writing past the page cache, of whole pages
	                                                                  from whole pages; EINVAL where that can't be */
	int (*create_unnamed)(const char *dir, mode_t mode);           /* fd of a file without a name */
	int (*create_named)(const char *path, mode_t mode);            /* fd; EEXIST if the path is taken */
	int (*link_unnamed)(int fd, const char *path);                 /* EEXIST if the path is taken */
	int (*link_named)(const char *from, const char *path);         /* the same; `from` goes away */
	int (*unlink)(const char *path);
	int (*close)(int fd);
	int (*copy_fd)(int fd);                                        /* another fd of the same description */
	int (*stat_fd)(int fd, struct os_stat *st);
	int (*stat_path)(const char *path, struct os_stat *st);
	int (*set_mode)(int fd, mode_t mode);
	int (*lock)(int fd, bool exclusive);                           /* EWOULDBLOCK if taken; never waits */
	int (*unlock)(int fd);                                         /* also for copies of fd in children */
	bool (*stores_cheaply)(int fd);                                /* does the file system take the first store into a page
	                                                                  of a shared mapping for about what a write costs? */
	int (*no_copy_on_write)(int fd);                               /* of an empty file, where it matters */

	/* Bytes. `pread_full` gives how many were read, fewer only at the end of the file. */
	ssize_t (*pread_full)(int fd, void *buf, size_t len, uint64_t off);
	int (*pwrite_full)(int fd, const void *buf, size_t len, uint64_t off);
	int (*write_view)(int fd, void *view, const struct os_piece *pieces, unsigned n); /* like so many pwrite_full, by
	                                                                  copying into `view`, a shared and writable mapping
	                                                                  of the file from its beginning. No SIGBUS: EFAULT
	                                                                  where a page can't be had, and a part may be done;
	                                                                  ENOSYS, EPERM: can't */
	int (*pwrite_sync)(int fd, const void *buf, size_t len, uint64_t off); /* durable when 0 */
	int (*sync)(int fd);                                           /* data and size */
	int (*sync_view)(int fd, void *at, uint64_t len);              /* that range of a shared mapping of the file, and all
	                                                                  that is known of the file: durable when 0 */
	int (*sync_dir)(const char *dir);
	int (*allocate)(int fd, uint64_t off, uint64_t len);           /* fallocate, extending the file */
	int (*unshare)(int fd, uint64_t off, uint64_t len);            /* the same, with blocks of its own */
	int (*is_shared)(int fd, uint64_t off, uint64_t len);          /* 1: some block also belongs to another file */
	int (*punch)(int fd, uint64_t off, uint64_t len);
	int (*truncate)(int fd, uint64_t size);
	int (*next_data)(int fd, uint64_t *off);                       /* SEEK_DATA; ENXIO: none */
	int (*clone)(int from, int to, uint64_t off, uint64_t len);    /* that range, by sharing its blocks */
	int (*next_hole)(int fd, uint64_t *off);                       /* SEEK_HOLE */
	int (*clone_file)(int to, int from);                           /* reflink; EOPNOTSUPP, EXDEV, EINVAL: can't */

	/* Memory. `at` is NULL, or a place that is used if it is free; else EEXIST, or the result lies elsewhere. With `replace`
	 * it is where the caller has a reservation that this one takes the place of. */
	int (*reserve_file)(int fd, void *at, bool replace, uint64_t len, void **result); /* shared, PROT_NONE */
	int (*reserve_private)(int fd, void *at, bool replace, uint64_t len, void **result); /* copy on write, PROT_NONE */
	int (*reserve_memory)(uint64_t len, void **result);                   /* anonymous, PROT_NONE */
	int (*view)(void *at, uint64_t len, void **result);                   /* a second mapping of a shared one, for
	                                                                         reading all of it */
	int (*map_private)(int fd, void *at, uint64_t len);                   /* in the place of what is at `at` */
	int (*move_memory)(void *from, void *at, uint64_t len);               /* the same, of an anonymous range */
	int (*protect)(void *at, uint64_t len, bool readable, bool writable);
	int (*unmap)(void *at, uint64_t len);
	int (*advise)(void *at, uint64_t len, enum os_advice advice);
	int (*is_cached)(void *at, uint64_t len);                      /* 1: a page of the range, at most 64 KiB of a
	                                                                  mapping, is in memory */

	/* Finding written pages of a private file mapping (linux_track.c). */
	int (*watch)(void *at, uint64_t len);                          /* fd: stores into the range are noted from now
	                                                                  on; as long as it is open */
	int (*pagemap)(void);                                          /* fd for the next two */
	int (*scan)(int fd, bool is_dense, uint64_t *from, uint64_t to, struct os_range *found, unsigned n); /* ranges of
	                                                                  pages that may have been written since they
	                                                                  were found last: how many; *from is moved to
	                                                                  where the scan ended. is_dense: twice as fast,
	                                                                  and pages that nobody touched may be among
	                                                                  them, each once */
	int (*private_pages)(int fd, uint64_t from, unsigned n, uint8_t *is_private); /* a byte for each page */
	int (*sample_faults)(struct os_samples *samples);              /* keep the addresses of the process's page faults from
	                                                                  now on, in user mode, as far as there is room.
	                                                                  EACCES: not allowed; E2BIG: too many processors or
	                                                                  threads; or another error */
	unsigned (*read_samples)(struct os_samples *samples, uint64_t *addresses, unsigned n); /* take up to n of them: how many */
	void (*end_samples)(struct os_samples *samples);
	int (*on_fault)(os_fault_handler *handler);                    /* for the process; others' faults go on to
	                                                                  whoever had the signal before */

	/* The machine. */
	uint64_t (*memory_limit)(void);                                /* bytes this process may use */
	int (*boot_id)(uint8_t id[16]);                                /* ENOSYS if the machine does not tell. Read once:
	                                                                  later calls need no descriptor and no /proc */
	int (*random)(void *buf, size_t len);
	uint64_t (*file_size_limit)(void);                             /* RLIMIT_FSIZE in bytes: a write or an
	                                                                  extension beyond it is a SIGXFSZ */
	uint64_t (*page_size)(void);
	int (*thread_count)(void);                                     /* of this process */
	uint64_t (*fault_count)(void);                                 /* page faults of the calling thread so far */
	uint64_t (*process_fault_count)(void);                         /* of all threads that there are or were: each
	                                                                  fault that has ended, once. 0: not known */
	uint64_t (*dirtied)(void);                                     /* bytes of files that the calling thread made dirty
	                                                                  in the page cache so far, by whole folios that were
	                                                                  clean; 0 on kernels that don't count them */
	uint64_t (*now_ms)(void);                                      /* monotonic */
	void (*hold_signals)(sigset_t *before);                        /* none reaches this thread from now on, but those
	                                                                  that it causes itself */
	void (*release_signals)(const sigset_t *before);
	int (*sleep_ms)(unsigned ms, const sigset_t *before);          /* with these blocked alone. EINTR if a handler ran,
	                                                                  also for a signal that was held until now */
	void (*yield)(void);                                           /* let another thread run */
	void (*wait_word)(const uint32_t *word, uint32_t value);       /* until woken, if it has that value; or without any
	                                                                  reason. No cancellation point */
	void (*wake_word)(const uint32_t *word, int n);                /* so many that wait; the word may be gone */
};

/* The table in use. Tests may point it elsewhere while no heap is open. */
extern const struct os_calls *os;
extern const struct os_calls os_linux;

#endif
