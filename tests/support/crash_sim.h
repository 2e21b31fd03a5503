/* SPDX-License-Identifier: Apache-2.0
 *
 * A device that loses power. The recorder stands in the table of system calls and writes down what a heap does to its
 * file; the player makes from that, for any point in time, the files that a device may hold after a power cut:
 *
 *   - what a returned synchronous write wrote, and what was written before a returned sync began, is there;
 *   - of everything else each sector of 512 bytes has any of the versions it had since, independently: writes are
 *     reordered, lost, and torn within pages and records;
 *   - of changes of the file's length that were not synced a prefix is there, at least as much as synchronous
 *     writes need.
 *
 * A test may also watch the order of writes as they are made: sim.watch.
 */
#ifndef CRASH_SIM_H
#define CRASH_SIM_H

#include "os_util.h"
#include "proc_util.h"

#include <pthread.h>

#include "../../src/base/atomics.h"
#include "../../src/os/os.h"
#include "../../src/store/format.h"

#define SECTOR 512u

enum sim_kind {
	SIM_WRITE,     /* into the page cache */
	SIM_ZERO,      /* a hole punched */
	SIM_SIZE,      /* the file has `off` bytes now */
	SIM_WSYNC,     /* a synchronous write begins, and ends */
	SIM_WSYNC_END,
	SIM_SYNC,      /* a sync begins, and ends */
	SIM_SYNC_END,
	SIM_NOTE,      /* the test's own: `off` says what, `len` a number */
};

struct sim_op {
	enum sim_kind kind;
	uint64_t off, len;
	uint32_t begin;      /* of an end: where it began */
	const uint8_t *data; /* in the arena */
};

struct sim {
	struct sim_op *ops;
	uint32_t count, room;
	uint8_t *arena;
	uint64_t arena_used;
	uint64_t size;       /* of the file */
	pthread_mutex_t lock;
	void (*watch)(struct sim *sim, const struct sim_op *op); /* looks at each operation when it begins, or NULL */
	bool is_recording;
};

#define SIM_ARENA (UINT64_C(4) << 30)
#define SIM_OPS   (1u << 22)

static struct {
	struct os_calls table;
	struct sim *sim;        /* that records, or NULL */
	struct os_file_id id;   /* what every file looks like, if has_id */
	bool has_id;
	uint64_t boot;          /* the number of this boot: a power cut makes it another */
	uint64_t sync_us;       /* how long a sync takes at most, so that others come between its begin and its end */
	uint64_t touched[4096][2]; /* bytes by which images and what is stable differ: changed by calls that were not
	                              recorded, or settled */
	unsigned touches;
} sim_os;

static inline void sim_init(struct sim *sim, uint64_t size)
{
	memset(sim, 0, sizeof(*sim));
	sim->ops = mmap(NULL, SIM_OPS * sizeof(*sim->ops), PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	sim->arena = mmap(NULL, SIM_ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (sim->ops == MAP_FAILED || sim->arena == MAP_FAILED)
		abort();
	sim->size = size;
	pthread_mutex_init(&sim->lock, NULL);
}

static inline void sim_drop(struct sim *sim)
{
	munmap(sim->ops, SIM_OPS * sizeof(*sim->ops));
	munmap(sim->arena, SIM_ARENA);
	pthread_mutex_destroy(&sim->lock);
}

/* Forget all operations; the memory is used again. */
static inline void sim_rewind(struct sim *sim, uint64_t size)
{
	sim->count = 0;
	sim->arena_used = 0;
	sim->size = size;
}

/* ---------------------------------------------------------------- recording */

static inline uint32_t sim_add(struct sim *sim, enum sim_kind kind, uint64_t off, uint64_t len, const void *data,
                               uint32_t begin)
{
	struct sim_op *op;
	uint32_t i;

	pthread_mutex_lock(&sim->lock);
	i = sim->count++;
	if (sim->count > SIM_OPS || sim->arena_used + len > SIM_ARENA)
		abort();
	op = &sim->ops[i];
	op->kind = kind;
	op->off = off;
	op->len = len;
	op->begin = begin;
	op->data = NULL;
	if (data) {
		op->data = memcpy(sim->arena + sim->arena_used, data, len);
		sim->arena_used += len;
	}
	if (sim->watch && kind != SIM_NOTE)
		sim->watch(sim, op);
	pthread_mutex_unlock(&sim->lock);
	return i;
}

static inline void sim_note(struct sim *sim, uint64_t what, uint64_t number)
{
	uint32_t i = sim_add(sim, SIM_NOTE, what, 0, NULL, 0);

	sim->ops[i].len = number;
}

static inline struct sim *sim_on(void)
{
	return sim_os.sim && sim_os.sim->is_recording ? sim_os.sim : NULL;
}

static inline void sim_touch(uint64_t off, uint64_t len)
{
	if (sim_os.touches < 4096) {
		sim_os.touched[sim_os.touches][0] = off;
		sim_os.touched[sim_os.touches][1] = off + len;
	}
	sim_os.touches++;
}

static inline void sim_size(int fd)
{
	struct stat st;
	struct sim *sim = sim_on();

	if (!sim || fstat(fd, &st))
		return;
	if ((uint64_t)st.st_size != load_relaxed(&sim->size)) {
		store_relaxed(&sim->size, (uint64_t)st.st_size);
		sim_add(sim, SIM_SIZE, (uint64_t)st.st_size, 0, NULL, 0);
	}
}

static inline int sim_pwrite_full(int fd, const void *buf, size_t len, uint64_t off)
{
	int r;

	if (sim_on())
		sim_add(sim_on(), SIM_WRITE, off, len, buf, 0);
	else
		sim_touch(off, len);
	r = os_linux.pwrite_full(fd, buf, len, off);
	sim_size(fd);
	return r;
}

static inline int sim_pwrite_sync(int fd, const void *buf, size_t len, uint64_t off)
{
	uint32_t begin = 0;
	int r;

	if (sim_on())
		begin = sim_add(sim_on(), SIM_WSYNC, off, len, buf, 0);
	else
		sim_touch(off, len);
	r = os_linux.pwrite_full(fd, buf, len, off);
	sim_size(fd);
	if (sim_on())
		sim_add(sim_on(), SIM_WSYNC_END, off, 0, NULL, begin);
	return r;
}

static inline int sim_sync(int fd)
{
	uint32_t begin;

	(void)fd;
	if (!sim_on())
		return 0;
	begin = sim_add(sim_on(), SIM_SYNC, 0, 0, NULL, 0);
	if (sim_os.sync_us)
		proc_sleep_us(begin * UINT64_C(7919) % sim_os.sync_us);
	sim_add(sim_on(), SIM_SYNC_END, 0, 0, NULL, begin);
	return 0;
}

static inline int sim_allocate(int fd, uint64_t off, uint64_t len)
{
	int r = os_linux.allocate(fd, off, len);

	if (!sim_on())
		sim_touch(off, 0);
	sim_size(fd);
	return r;
}

static inline int sim_truncate(int fd, uint64_t size)
{
	int r = os_linux.truncate(fd, size);

	if (!sim_on())
		sim_touch(size, 0);
	sim_size(fd);
	return r;
}

static inline int sim_punch(int fd, uint64_t off, uint64_t len)
{
	if (sim_on()) {
		uint32_t i = sim_add(sim_on(), SIM_ZERO, off, 0, NULL, 0);

		sim_on()->ops[i].len = len;
	} else {
		sim_touch(off, len);
	}
	return os_linux.punch(fd, off, len);
}

static inline int sim_stat_fd(int fd, struct os_stat *st)
{
	int r = os_linux.stat_fd(fd, st);

	if (!r && sim_os.has_id)
		st->id = sim_os.id;
	return r;
}

static inline int sim_boot_id(uint8_t id[16])
{
	memset(id, 0, 16);
	memcpy(id, &sim_os.boot, sizeof(sim_os.boot));
	id[15] = 1;
	return 0;
}

/* Put the recorder into the table. */
static inline void sim_begin(struct sim *sim)
{
	sim_os.sim = sim;
	sim_os.table = os_linux;
	sim_os.table.pwrite_full = sim_pwrite_full;
	sim_os.table.write_view = view_by_writing;
	sim_os.table.pwrite_sync = sim_pwrite_sync;
	sim_os.table.sync = sim_sync;
	sim_os.table.sync_view = sync_view_by_sync;
	sim_os.table.allocate = sim_allocate;
	sim_os.table.truncate = sim_truncate;
	sim_os.table.punch = sim_punch;
	sim_os.table.stat_fd = sim_stat_fd;
	sim_os.table.boot_id = sim_boot_id;
	os = &sim_os.table;
}

/* ---------------------------------------------------------------- playing */

/* What the device surely has, and what it may have beyond. */
struct sim_player {
	const struct sim *sim;
	uint32_t at;           /* operations before it were begun */
	uint8_t *stable;
	uint64_t room;
	uint64_t stable_size;
	uint32_t *pending;     /* operations that are not surely on the device, in order */
	uint32_t pendings, pendings_room;
	uint32_t lost_before;  /* writes before this operation are clean in the page cache, and not on the device: a page
	                          of them goes there with the next write into it */
	uint64_t sector;       /* of a device that garbles */
	uint32_t *page_settled; /* with lost writes: the last operation that brought each page to the device */
};

static inline void sim_player_init(struct sim_player *player, const struct sim *sim, uint64_t room)
{
	memset(player, 0, sizeof(*player));
	player->sim = sim;
	player->room = room;
	player->stable = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (player->stable == MAP_FAILED)
		abort();
}

static inline void sim_player_drop(struct sim_player *player)
{
	munmap(player->stable, player->room);
	free(player->pending);
	free(player->page_settled);
}

static inline bool sim_is_write(const struct sim_op *op)
{
	return op->kind == SIM_WRITE || op->kind == SIM_WSYNC || op->kind == SIM_ZERO;
}

/* Bytes [low, high) of what `op` writes go to `to`. */
static inline void sim_copy(uint8_t *to, const struct sim_op *op, uint64_t low, uint64_t high)
{
	low = low > op->off ? low : op->off;
	high = high < op->off + op->len ? high : op->off + op->len;
	if (low >= high)
		return;
	if (op->data)
		memcpy(to + low, op->data + (low - op->off), high - low);
	else
		memset(to + low, 0, high - low);
}

/* The file's length becomes `size` on the device for sure; what a cut takes away is zero if it grows again. */
static inline void sim_set_size(struct sim_player *player, uint64_t size)
{
	if (size < player->stable_size)
		memset(player->stable + size, 0, player->stable_size - size);
	player->stable_size = size;
}

/* The pages of operation `i` go to the device as the cache has them, with what was lost in them. */
static inline void sim_settle_lost(struct sim_player *player, uint32_t i)
{
	const struct sim_op *op = &player->sim->ops[i];
	uint64_t low = op->off / 4096 * 4096, high = (op->off + op->len + 4095) / 4096 * 4096;

	if (!player->lost_before || !sim_is_write(op))
		return;
	for (uint32_t k = 0; k < player->pendings && player->pending[k] < player->lost_before; k++) {
		const struct sim_op *lost = &player->sim->ops[player->pending[k]];

		for (uint64_t page = low; sim_is_write(lost) && page < high; page += 4096)
			if (player->page_settled[page / 4096] <= player->pending[k])
				sim_copy(player->stable, lost, page, page + 4096);
	}
	sim_touch(low, high - low);
	for (uint64_t page = low; page < high; page += 4096)
		player->page_settled[page / 4096] = i;
}

static inline void sim_settle(struct sim_player *player, uint32_t i)
{
	const struct sim_op *op = &player->sim->ops[i];

	sim_settle_lost(player, i);
	sim_touch(op->off, op->len);

	if (op->kind == SIM_SIZE) {
		sim_set_size(player, op->off);
	} else {
		sim_copy(player->stable, op, 0, UINT64_MAX);
		if (op->kind != SIM_ZERO && op->off + op->len > player->stable_size)
			player->stable_size = op->off + op->len;
	}
}

/* A sync that began at `begin` has ended. */
static inline void sim_settle_before(struct sim_player *player, uint32_t begin)
{
	uint32_t n = 0;

	for (uint32_t k = 0; k < player->pendings; k++) {
		uint32_t i = player->pending[k];

		if (i < begin && (i >= player->lost_before || player->sim->ops[i].kind == SIM_SIZE))
			sim_settle(player, i);
		else
			player->pending[n++] = player->pending[k];
	}
	player->pendings = n;
}

/* A synchronous write has ended: its sectors have at least its version, and with it those before. */
static inline void sim_settle_write(struct sim_player *player, uint32_t begin)
{
	const struct sim_op *op = &player->sim->ops[begin];
	uint64_t low = op->off / SECTOR * SECTOR, high = (op->off + op->len + SECTOR - 1) / SECTOR * SECTOR;
	uint32_t n = 0;

	sim_settle_lost(player, begin);
	sim_touch(low, high - low);
	for (uint32_t k = 0; k < player->pendings; k++) {
		const struct sim_op *other = &player->sim->ops[player->pending[k]];

		if (player->pending[k] <= begin && player->pending[k] >= player->lost_before && sim_is_write(other))
			sim_copy(player->stable, other, low, high);
		if (player->pending[k] != begin)
			player->pending[n++] = player->pending[k];
	}
	player->pendings = n;
	if (op->off + op->len > player->stable_size)
		player->stable_size = op->off + op->len;
}

/* One operation further. */
static inline void sim_step(struct sim_player *player)
{
	const struct sim_op *op = &player->sim->ops[player->at];

	switch (op->kind) {
	case SIM_WRITE:
	case SIM_ZERO:
	case SIM_SIZE:
	case SIM_WSYNC:
		if (player->pendings == player->pendings_room) {
			player->pendings_room = player->pendings_room * 2 + 64;
			player->pending = realloc(player->pending, player->pendings_room * sizeof(*player->pending));
			if (!player->pending)
				abort();
		}
		player->pending[player->pendings++] = player->at;
		break;
	case SIM_WSYNC_END:
		sim_settle_write(player, op->begin);
		break;
	case SIM_SYNC_END:
		sim_settle_before(player, op->begin);
		break;
	default:
		break;
	}
	player->at++;
}

/* How the un-synced part of a state is chosen. */
enum sim_choice {
	SIM_NONE,    /* nothing of it */
	SIM_ALL,     /* all of it: what a killed process leaves */
	SIM_SUBSET,  /* each write whole or not; bit k of `bits` for the k-th, the others at random */
	SIM_TORN,    /* each sector for itself */
	SIM_PAGES,   /* each page of 4 KiB for itself */
	SIM_CHOICES,
	SIM_GARBLED = SIM_CHOICES /* each sector of player->sector bytes for itself, or garbage where it was being written */
};

/* A file that states are made in. */
struct sim_image {
	int fd;
	uint8_t *map;
	uint64_t room, size;
};

static inline void sim_image_make(struct sim_image *image, uint64_t room)
{
	image->fd = memfd_create("image", MFD_CLOEXEC);
	image->room = room;
	image->map = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, image->fd, 0);
	if (image->fd < 0 || image->map == MAP_FAILED)
		abort();
}

static inline void sim_image_drop(struct sim_image *image)
{
	munmap(image->map, image->room);
	close(image->fd);
}

/* Make the image what the device surely has. Whole pages of zeros are not touched. */
static inline void sim_image_reset(const struct sim_player *player, struct sim_image *image)
{
	static const uint8_t zeros[4096];

	if (ftruncate(image->fd, 0) || ftruncate(image->fd, (off_t)player->stable_size))
		abort();
	for (uint64_t off = 0; off < player->stable_size; off += 4096) {
		uint64_t n = player->stable_size - off < 4096 ? player->stable_size - off : 4096;

		if (memcmp(player->stable + off, zeros, n) != 0)
			memcpy(image->map + off, player->stable + off, n);
	}
	image->size = player->stable_size;
}

/* Opening a state may have made it longer, closing it shorter: give it back the length that is sure. */
static inline void sim_image_fit(const struct sim_player *player, struct sim_image *image)
{
	static const uint8_t zeros[4096];
	struct stat st;
	uint64_t from;

	if (fstat(image->fd, &st))
		abort();
	from = (uint64_t)st.st_size;
	image->size = player->stable_size;
	if (from == player->stable_size)
		return;
	if (ftruncate(image->fd, (off_t)player->stable_size))
		abort();
	for (uint64_t off = from; off < player->stable_size; off += 4096 - off % 4096) {
		uint64_t n = 4096 - off % 4096;

		n = player->stable_size - off < n ? player->stable_size - off : n;
		if (memcmp(player->stable + off, zeros, n) != 0)
			memcpy(image->map + off, player->stable + off, n);
	}
}

static inline void sim_garble(uint8_t *map, uint64_t low, uint64_t high, uint64_t *rng)
{
	for (; low < high; low += 8) {
		uint64_t word = proc_rand(rng);

		memcpy(map + low, &word, 8);
	}
}

/* Make the image a state at the player's place. It was made by this function, or reset, before, and everything that
 * changed it since is in sim_os.touched. Returns the number of operations that were not sure. */
static inline uint32_t sim_state(const struct sim_player *player, struct sim_image *image, enum sim_choice choice,
                                 uint64_t bits, uint64_t *rng)
{
	uint64_t size = player->stable_size, sizes = 0, keep, grain = choice == SIM_TORN ? SECTOR : choice == SIM_GARBLED ? player->sector : 4096;
	static uint64_t (*ranges)[2];
	static uint32_t ranges_used, ranges_room;

	if (image->size != UINT64_MAX)
		sim_image_fit(player, image);
	/* back to what is sure */
	if (sim_os.touches > 4096 || image->size == UINT64_MAX) {
		sim_image_reset(player, image);
	} else {
		for (unsigned i = 0; i < sim_os.touches; i++) {
			uint64_t low = sim_os.touched[i][0], high = sim_os.touched[i][1];

			high = high < player->stable_size ? high : player->stable_size;
			if (low < high)
				memcpy(image->map + low, player->stable + low, high - low);
		}
		for (uint32_t i = 0; i < ranges_used; i++) {
			uint64_t low = ranges[i][0], high = ranges[i][1];

			high = high < player->stable_size ? high : player->stable_size;
			if (low < high)
				memcpy(image->map + low, player->stable + low, high - low);
		}
	}
	sim_os.touches = 0;
	ranges_used = 0;
	for (uint32_t k = 0; k < player->pendings; k++)
		sizes += player->sim->ops[player->pending[k]].kind == SIM_SIZE;
	keep = choice == SIM_NONE ? 0 : choice == SIM_ALL ? sizes : proc_below(rng, sizes + 1);
	for (uint32_t k = 0; k < player->pendings && keep; k++) {
		const struct sim_op *op = &player->sim->ops[player->pending[k]];

		if (op->kind == SIM_SIZE) {
			size = op->off;
			keep--;
		}
	}
	if (size != player->stable_size && ftruncate(image->fd, (off_t)size))
		abort();
	for (uint32_t k = 0; k < player->pendings; k++) {
		const struct sim_op *op = &player->sim->ops[player->pending[k]];
		uint64_t end = op->off + op->len < size ? op->off + op->len : size;
		bool whole = choice == SIM_ALL ||
		             (choice == SIM_SUBSET && (k < 64 ? bits >> k & 1 : proc_rand(rng) & 1));

		if (!sim_is_write(op) || choice == SIM_NONE || op->off >= end)
			continue;
		if (player->pending[k] < player->lost_before) {
			/* the device may have it, or not; but where the page was written since, that is newer */
			for (uint64_t low = op->off / 4096 * 4096; low < end; low += 4096)
				if (player->page_settled[low / 4096] <= player->pending[k] && proc_rand(rng) & 1) {
					sim_copy(image->map, op, low, low + 4096 < end ? low + 4096 : end);
					sim_touch(low, 4096);
				}
			continue;
		}
		if (ranges_used == ranges_room) {
			ranges_room = ranges_room * 2 + 64;
			ranges = realloc(ranges, ranges_room * sizeof(*ranges));
			if (!ranges)
				abort();
		}
		ranges[ranges_used][0] = op->off / 4096 * 4096;
		ranges[ranges_used++][1] = (op->off + op->len + 4095) / 4096 * 4096;
		if (choice == SIM_ALL || choice == SIM_SUBSET) {
			if (whole)
				sim_copy(image->map, op, 0, end);
			continue;
		}
		for (uint64_t low = op->off / grain * grain; low < end; low += grain) {
			uint64_t dice = proc_below(rng, choice == SIM_GARBLED ? 3 : 2);

			if (dice == 1)
				sim_copy(image->map, op, low, low + grain < end ? low + grain : end);
			else if (dice == 2 && op->kind != SIM_ZERO)
				sim_garble(image->map, low, low + grain < size ? low + grain : size, rng);
		}
	}
	return player->pendings;
}

#endif
