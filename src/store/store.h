/* SPDX-License-Identifier: Apache-2.0
 *
 * One heap file: descriptors, lock, superblock, mapping and size. Knows where the fixed parts of the file
 * lie and nothing of what the segments hold.
 *
 * Functions return 0, or -1 after fail() unless said otherwise. The caller serialises calls on one store.
 */
#ifndef FM_STORE_STORE_H
#define FM_STORE_STORE_H

#include "../base/bits.h"
#include "super.h"

struct store_request {
	const char *path;       /* NULL: `fd` is meant */
	int fd;
	bool create, exclusive, read_only, fixed, wait, recover, no_sync;
	bool atomic, convert, declared;
	uint64_t max_size;      /* bytes, 0: no limit of its own */
	uint64_t address_space; /* bytes, 0: the default */
	mode_t mode;
	int wait_ms;            /* 0: no limit */
	/* of an atomic heap */
	unsigned sector;        /* 64, 512 or 4096 */
	bool commit_at_close, no_thread;
	const char *track;      /* how written pages are found; NULL: the best way */
	uint64_t journal_max, keep_max; /* 0: the defaults */
};

/* Pages of the format in one of memory. */
static inline uint64_t store_page_ratio(void)
{
	return os->page_size() / LENGTH_PAGE;
}

/* Places that extents of the journal have taken since opening. */
#define RESERVED_EXTENTS 32

/* What store_prefault() has found out since opening. */
struct prefault {
	uint64_t taken;  /* bytes that it was called for */
	unsigned tried;  /* the effort made to find out */
	bool pays;       /* a trial had a gain */
};

struct store {
	int fd;             /* for reading, writing and mapping */
	int lock_fd;        /* a description of its own, never mapped: a child's mapping can't keep the lock */
	bool read_only;
	bool created;       /* the heap is new */
	bool is_unclean;    /* after a power cut, or a copy of a heap in use: repair before use */
	bool is_moved;      /* another file than the one last used: holes are possible */
	bool is_marked;     /* this process has put its dirty mark on the device */
	bool no_sync;       /* the heap is for one boot: nothing is synced, and the mark stays */
	bool sync_failed;   /* data may be lost: never mark clean again */
	bool is_ragged;     /* the file had a part of a unit at its end: bytes that we did not make */
	bool is_restoring;  /* used parts are being backed: blocks are not recorded until all are */
	bool unshares;      /* blocks may be shared with another file: backing takes blocks of our own */
	bool zeroes_only;   /* the file system has no fallocate: zeros are written instead */
	bool declares;      /* FM_DECLARED */
	bool is_memory;     /* in a child: private anonymous memory, and no file */
	bool is_atomic;     /* of kind SUPER_ATOMIC: mapped copy on write */
	struct atomic *atomic; /* of an atomic heap open for writing; else NULL */
	struct os_file_id id;
	uint8_t boot_id[16]; /* of this boot */
	int boot_error;     /* why it is not known; only of heaps open for reading */
	struct super super;
	uint8_t *base;      /* SEGMENT_SIZE-aligned */
	uint64_t reserved;  /* bytes of address space from base */
	uint64_t max_size;  /* bytes the file may have: <= reserved */
	uint64_t size;      /* bytes the file has and the mapping can access; read by other threads, atomic */
	uint64_t end;       /* atomic heap: of the file, journal extents behind `size` included */
	struct prefault prefault;
	struct extent_rec reserved_extent[RESERVED_EXTENTS]; /* whole segments that the journal has taken */
	unsigned reserved_extents;
};

static inline struct truth_page_rec *store_truth(const struct store *store)
{
	return (struct truth_page_rec *)(void *)(store->base + TRUTH_PAGE_OFF);
}

/* ---- file.c: find or make the file, lock it */

/* Open (or create) and lock the file; read its superblock. On failure *store has no descriptors. A child that is forked
 * meanwhile finds the lock's descriptor in *store. */
int store_open_file(struct store *store, const struct store_request *request);

/* Two descriptions of a new file in the folder of request->path, without a name if the file system can do that:
 * *temporary is "" then. On failure too, store_close_file() is the caller's. */
#define STORE_NAME_MAX (4096 + 24)
int store_create_unnamed(struct store *store, const struct store_request *request, char temporary[STORE_NAME_MAX]);

/* Give the finished file its name. 0, -EEXIST, or what else went wrong; the temporary name is gone in any case. */
int store_publish(struct store *store, const struct store_request *request, const char *temporary);
void store_close_file(struct store *store);

/* ---- descriptor.c: programs that close descriptors which are not theirs */

bool store_is_same_file(const struct os_file_id *a, const struct os_file_id *b);

/* Is `fd` open, and the file `id`, or may be because that is all zero? */
bool store_is_file(const struct os_file_id *id, int fd);

/* Is `fd` open, and the heap's file? */
bool store_is_ours(const struct store *store, int fd);

/* A descriptor of the heap's file for one use, or -EBADF: the program has closed it. To be given back. */
int store_borrow(const struct store *store);
void store_give_back(const struct store *store, int fd);

/* The same of `own`, another descriptor of the heap's file: the copy has its description, and so the errors that the
 * kernel has still to report to it. */
int store_borrow_of(const struct store *store, int own);
void store_give_back_of(int own, int fd);

/* Close `own`, if it is still ours. */
void store_close_own(const struct store *store, int own);

/* Held from the opening of a lock's descriptor until its store knows it, and by a fork: no child inherits one that it can't
 * find. Nothing else is locked under it. */
void store_lock_descriptors(void);
void store_unlock_descriptors(void);

/* Close one of the two, if it is still ours. */
void store_close_fd(struct store *store);
void store_close_lock(struct store *store);

/* ---- child.c: a forked child and the mapping that it inherited */

/* Copy the file as it is now to the file `fd`, by reflink where possible, else what is data; all of the copy is
 * backed. Truth that other threads are changing is copied before or after each change. 0 or -errno. */
int store_copy(struct store *store, int fd);

/* The same, to anonymous memory of store->size bytes. */
int store_copy_to_memory(struct store *store, void **memory);

/* Go on in `memory`, a copy of `len` bytes, which is moved to where the store is. There is no file any more. */
int store_adopt(struct store *store, void *memory, uint64_t len);

/* Go on with the file `fd`, a copy of the store's, mapped where the store is. */
int store_reopen(struct store *store, int fd);

/* Stores into the mapping reach the file no longer. */
int store_detach(struct store *store);

/* ---- mapping.c: address space */

/* Reserve address space and map the file there: at the preferred address if request->fixed, else anywhere, soonest below
 * `ceiling`, an address that the kernel chose. */
int store_map(struct store *store, const struct store_request *request, const void *ceiling);
void store_unmap(struct store *store);

/* Choose a preferred address for a new heap from its UUID, and map it there. */
int store_map_new(struct store *store, struct super_rec *rec, uint64_t address_space, uint64_t max_size);

/* Is a part of segment `segment_no` in a journal extent? The journal's word goes before the directory's. */
bool store_is_journal(const struct store *store, uint64_t segment_no);

/* ---- atomic.c: of heaps with FM_DECLARED */

/* The allocator is going to store into [off, off + len); the library has stored into an object, or is about to. Both do
 * nothing unless writes are declared. */
void store_declare_metadata(struct store *store, uint64_t off, uint64_t len);
void store_declare_write(struct store *store, const void *addr, uint64_t len);

static inline void store_metadata(struct store *store, uint64_t off, uint64_t len)
{
	if (store->declares)
		store_declare_metadata(store, off, len);
}

static inline void store_wrote(struct store *store, const void *addr, uint64_t len)
{
	if (store->declares)
		store_declare_write(store, addr, len);
}

/* Read the superblock's copies of the open heap from its descriptor `fd`, not while a checkpoint writes one.
 * 0 or -errno. */
int store_read_super(struct store *store, int fd, struct super *super, enum super_verdict *verdict);

/* ---- convert.c: FM_CONVERT. -1 after fail() */

/* The heap becomes one of the other kind: locked, judged, not mapped yet. */
int store_convert(struct store *store, bool to_atomic);

/* The entry of `path` in its folder is on the device. 0 or -errno. */
int store_sync_folder(const char *path);

/* Take the journal's extents out of the superblock into reserved_extent. */
void store_reserve_journal(struct store *store);

/* ---- mark.c: clean and dirty */

/* The heap is about to be changed: the dirty mark is on the device when this returns. */
int store_mark_dirty(struct store *store);

/* Make `rec` say that this boot has this file in use. */
void store_stamp(const struct store *store, struct super_rec *rec);

/* All data is on the device; then the heap is marked clean. -1: the mark stays. */
int store_mark_clean(struct store *store);

/* All data is on the device. */
int store_sync(struct store *store);

/* Was this very file in use on an earlier boot last? Then the page cache has what the device has. */
bool store_is_of_another_boot(const struct store *store);

/* boot_id and boot_error, before the heap has descriptors: it takes one for a moment. */
void store_learn_boot(struct store *store);

/* fail() with what boot_error says. */
int store_boot_unknown(const struct store *store);

/* Is the heap in need of repair, by what its superblock says and the machine's boot and file are? is_unclean and is_moved
 * are set. -1: that can't be known. */
int store_judge(struct store *store);

/* ---- space.c: the file's size and blocks. These return 0 or -errno and set no text. */

/* The kernel's largest folio in the page cache, where pages are 4 KiB. A store to one page makes the kernel find blocks
 * for all of its folio, which fails on a full disk if a part of that is a hole. */
#define FOLIO_MAX (2 * MIB)

/* Where the hole begins that a file which ends at `end` gets before `from`; `from` if it gets none. */
static inline uint64_t store_hole(uint64_t end, uint64_t from)
{
	return min_u64(from, round_up(end, FOLIO_MAX));
}

/* Make the file at least `size` bytes long (a multiple of UNIT_SIZE), its new part zero and accessible, and backed from
 * `from` on, which is the file's end, or a multiple of FOLIO_MAX beyond it: what is between is a hole, as store_hole
 * says. EFBIG: beyond max_size. */
int store_extend(struct store *store, uint64_t from, uint64_t size);

/* Back [off, off + len), below the file's end: a store there can't fail for lack of space. Bytes stay. Does
 * not record the blocks: it is called before the file is a heap. */
int store_back(struct store *store, uint64_t off, uint64_t len);

/* Is [off, off + len) part of a core dump? What is reserved is not, until it is part of the heap. */
void store_may_dump(const struct store *store, uint64_t off, uint64_t len, bool may);

/* Give the blocks of [off, off + len) back; the bytes read as zero. */
int store_punch(struct store *store, uint64_t off, uint64_t len);

/* Cut the file to `size` bytes. */
int store_truncate(struct store *store, uint64_t size);

/* What the file system says of the heap's file; -EBADF: the program has closed it. */
int store_stat(const struct store *store, struct os_stat *st);

/* Has the file lost blocks since backed_blocks was recorded? */
bool store_has_lost_blocks(struct store *store);
void store_record_blocks(struct store *store);

/* ---- prefault.c */

/* [off, off + len) is backed, reads as zero, holds nothing yet and will soon be written, most of it: make the first
 * stores there cheap. May do nothing; never fails. Changes no byte and touches nothing outside the range. */
void store_prefault(struct store *store, uint64_t off, uint64_t len);

#endif
