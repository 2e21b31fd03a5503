/* SPDX-License-Identifier: Apache-2.0
 *
 * What the crash tests share: a copy of the heap's file as it is at this instruction, made to look like
 * the file itself to whoever opens it (the same file, the same boot: a killed process), and the places
 * where the library changes its file without a store of truth.
 *
 * The program is linked with the hook build of the library: fm_truth_hook is called after each store of
 * truth; crash_stop() is what this header calls after each system call that changes the file.
 */
#ifndef CRASH_UTIL_H
#define CRASH_UTIL_H

#include "proc_util.h"

#include "../../src/os/os.h"
#include "../../src/store/format.h"

/* A memory file and a mapping of its first `room` bytes, of which those beyond its end must not be
 * touched. */
struct crash_file {
	int fd;
	uint64_t room;
	uint8_t *map;
	struct os_stat real; /* which file it is */
};

/* What the table of system calls pretends; set up by crash_begin(). */
static struct {
	struct os_calls table;
	struct crash_file *copies[2];     /* these look like... */
	const struct crash_file *original; /* ...this one */
	uint64_t blocks;      /* of 512 bytes, of the original when it was copied; 0: what the copy has */
	uint8_t boot_id[16];
	bool is_sparse;       /* no memory behind files: allocating only makes them longer */
	void (*stop)(void);   /* called after calls that change a file, or NULL */
} crash;

/* ---------------------------------------------------------------- files */

static inline void crash_file_make(struct crash_file *file, const char *name, uint64_t room)
{
	file->fd = memfd_create(name, MFD_CLOEXEC);
	file->room = room;
	file->map = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file->fd, 0);
	if (file->fd < 0 || file->map == MAP_FAILED || os_linux.stat_fd(file->fd, &file->real)) {
		fprintf(stderr, "# memory file: %s\n", strerror(errno));
		abort();
	}
}

static inline void crash_file_drop(struct crash_file *file)
{
	munmap(file->map, file->room);
	close(file->fd);
}

static inline uint64_t crash_file_size(const struct crash_file *file)
{
	struct stat st;

	if (fstat(file->fd, &st))
		abort();
	return (uint64_t)st.st_size;
}

/* The pages [*from, *to) of the file that hold data and begin at or after *from; false: none. */
static inline bool crash_next_data(const struct crash_file *file, uint64_t *from, uint64_t *to)
{
	off_t data = lseek(file->fd, (off_t)*from, SEEK_DATA);
	off_t hole = data < 0 ? -1 : lseek(file->fd, data, SEEK_HOLE);

	if (hole < 0)
		return false;
	*from = (uint64_t)data & ~UINT64_C(4095);
	*to = (uint64_t)hole;
	return true;
}

/* Make `to` what `from` is. Pages that are alike are not touched. */
static inline void crash_copy(const struct crash_file *from, struct crash_file *to)
{
	uint64_t size = crash_file_size(from), at = 0, end = 0;
	uint64_t data = 0, hole = 0; /* pages of `from` that hold data */
	static unsigned cleared;
	struct os_stat st;

	/* pages that were cleared hold data for ever: from time to time all are dropped */
	if (cleared > 4096 && ftruncate(to->fd, 0))
		abort();
	if (cleared > 4096)
		cleared = 0;
	if (crash_file_size(to) != size && ftruncate(to->fd, (off_t)size))
		abort();
	for (; crash_next_data(to, &at, &end); at = end) {
		for (; at < end; at += 4096) {
			if (at >= hole) {
				data = at;
				if (!crash_next_data(from, &data, &hole))
					data = hole = UINT64_MAX;
			}
			if (at < data) {
				memset(to->map + at, 0, 4096);
				cleared++;
			}
		}
	}
	for (at = 0; crash_next_data(from, &at, &end); at = end)
		for (; at < end; at += 4096)
			if (memcmp(to->map + at, from->map + at, 4096) != 0)
				memcpy(to->map + at, from->map + at, 4096);
	crash.blocks = os_linux.stat_fd(from->fd, &st) ? 0 : st.blocks;
}

/* ---------------------------------------------------------------- the system calls */

static inline int crash_stat_fd(int fd, struct os_stat *st)
{
	int r = os_linux.stat_fd(fd, st);

	for (unsigned i = 0; !r && i < 2; i++) {
		if (!crash.copies[i] || st->id.ino != crash.copies[i]->real.id.ino ||
		    st->id.dev != crash.copies[i]->real.id.dev)
			continue;
		st->id = crash.original->real.id;
		if (crash.blocks)
			st->blocks = crash.blocks;
	}
	return r;
}

static inline int crash_stopped(int r)
{
	if (crash.stop)
		crash.stop();
	return r;
}

static inline int crash_allocate(int fd, uint64_t off, uint64_t len)
{
	struct os_stat st;

	if (!crash.is_sparse)
		return crash_stopped(os_linux.allocate(fd, off, len));
	if (os_linux.stat_fd(fd, &st))
		return -EIO;
	return crash_stopped(off + len > st.size ? os_linux.truncate(fd, off + len) : 0);
}

static inline int crash_punch(int fd, uint64_t off, uint64_t len)
{
	return crash_stopped(os_linux.punch(fd, off, len));
}

static inline int crash_truncate(int fd, uint64_t size)
{
	return crash_stopped(os_linux.truncate(fd, size));
}

static inline int crash_pwrite_sync(int fd, const void *buf, size_t len, uint64_t off)
{
	/* memory files need no sync */
	return crash_stopped(os_linux.pwrite_full(fd, buf, len, off));
}

static inline int crash_boot_id(uint8_t id[16])
{
	memcpy(id, crash.boot_id, 16);
	return 0;
}

/* No heap may be open. */
static inline void crash_begin(const struct crash_file *original, struct crash_file *copy,
                               struct crash_file *second)
{
	memset(&crash, 0, sizeof(crash));
	crash.original = original;
	crash.copies[0] = copy;
	crash.copies[1] = second;
	memset(crash.boot_id, 0xb0, sizeof(crash.boot_id));
	crash.table = os_linux;
	crash.table.stat_fd = crash_stat_fd;
	crash.table.allocate = crash_allocate;
	crash.table.punch = crash_punch;
	crash.table.truncate = crash_truncate;
	crash.table.pwrite_sync = crash_pwrite_sync;
	crash.table.boot_id = crash_boot_id;
	os = &crash.table;
}

static inline void crash_end(void)
{
	os = &os_linux;
}

/* ---------------------------------------------------------------- contents */

/* An object's content: words made of its number and their place. Large objects hold them at both ends
 * and where their units begin, huge ones also all over the places of metadata units; giant ones in 64
 * units. */
static inline size_t crash_next(size_t at, size_t size)
{
	size_t last = size > 256 ? (size - 256) & ~(size_t)7 : 0;
	bool is_giant = size > 64 * SEGMENT_SIZE;
	size_t step = is_giant ? size / 64 & ~(size_t)(UNIT_SIZE - 1) : UNIT_SIZE;

	if (size <= 8192 || at < 256 || at >= last)
		return at + 8;
	if (size >= SEGMENT_SIZE && !is_giant && at % SEGMENT_SIZE < UNIT_SIZE - 256 && at + 120 < last)
		return at + 120;
	return at + step < last ? (at + step) & ~(size_t)(UNIT_SIZE - 1) : last;
}

static inline uint64_t crash_word(uint64_t id, size_t at)
{
	return (id + 1) * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)at * UINT64_C(0xff51afd7ed558ccd);
}

static inline void crash_fill(void *p, uint64_t id, size_t size)
{
	for (size_t at = 0; at < size; at = crash_next(at, size)) {
		uint64_t word = crash_word(id, at);

		memcpy((uint8_t *)p + at, &word, size - at < 8 ? size - at : 8);
	}
}

/* Are the first `upto` bytes as crash_fill(p, id, size) wrote them? */
static inline bool crash_is_intact(const void *p, uint64_t id, size_t size, size_t upto)
{
	size_t end = upto < size ? upto : size;

	for (size_t at = 0; at < end; at = crash_next(at, size)) {
		uint64_t word = crash_word(id, at);

		if (memcmp((const uint8_t *)p + at, &word, end - at < 8 ? end - at : 8) != 0)
			return false;
	}
	return true;
}

#endif
