/* SPDX-License-Identifier: Apache-2.0
 *
 * The write-order monitor (test 13 of the plan): looks at each operation of an atomic heap on its file as it is made, by
 * sim.watch, and knows the format and docs/atomic.md, not the library. What it holds the library to:
 *
 *   - a record is written where the superblock on the device says that the journal is, and over no record that is needed;
 *     it names no commit as the oldest needed that a superblock on the device does not, and no length of the file that
 *     was not synced (J4, J6)
 *   - bytes are written to their place only from the records of commits that are on the device in full, in order (C1, C2);
 *     nothing else is written but superblocks, and zeros where neither the last commit nor the journal has anything
 *   - a superblock retires a commit only if a sync has ended well that began after all of it was applied (J3)
 *   - a superblock says clean only if a sync has ended that began after the last change
 *   - holes are punched and the file is cut only where the last commit uses nothing
 */
#ifndef ORDER_MONITOR_H
#define ORDER_MONITOR_H

#include "crash_sim.h"

#include "store/record.h"
#include "store/super.h"

/* A record that was begun; needed until a superblock on the device says that it is not. */
struct watched {
	const struct record_rec *header; /* in the arena */
	uint64_t off, len, generation, commit;
	uint64_t cursor;   /* entries before it are applied; the first is at 0 */
	uint32_t applied;  /* number of the operation that applied the last of them */
	bool is_durable, is_complete;
};

static struct {
	struct watched records[8192];
	unsigned n;
	struct super_rec super;   /* on the device */
	bool has_super;
	uint32_t synced;          /* operations before it are on the device */
	uint32_t changed;         /* number of the last write, cut or punch */
	uint64_t synced_size, sync_size; /* of the file; and when the sync that is under way began */
	const uint8_t *is_used;   /* units of the last commit, or NULL; */
	uint64_t units;           /* so many */
	uint64_t bad, retired, applied;
	char text[240];
} monitor;

static inline void monitor_begin(void)
{
	memset(&monitor, 0, sizeof(monitor));
}

/* The units that the last commit uses, from now on. */
static inline void monitor_commit(struct sim *sim, const uint8_t *is_used, uint64_t units)
{
	pthread_mutex_lock(&sim->lock);
	monitor.is_used = is_used;
	monitor.units = units;
	pthread_mutex_unlock(&sim->lock);
}

static inline void monitor_bad(const struct sim_op *op, const char *what)
{
	if (!monitor.bad++)
		snprintf(monitor.text, sizeof(monitor.text), "%s: %llu bytes at %#llx", what, (unsigned long long)op->len,
		         (unsigned long long)op->off);
}

static inline bool monitor_is_super(const struct sim_op *op)
{
	return op->off == SUPER_COPY_1_OFF || op->off == SUPER_COPY_2_OFF;
}

/* Is [off, end) used by the last commit? */
static inline bool monitor_uses(uint64_t off, uint64_t end)
{
	for (uint64_t unit = off / UNIT_SIZE; unit < monitor.units && unit * UNIT_SIZE < end; unit++)
		if (monitor.is_used[unit])
			return true;
	return false;
}

/* Is all of [off, end) in one of the journal's extents, or some of it? */
static inline bool monitor_in_journal(uint64_t off, uint64_t end, bool all)
{
	for (unsigned i = 0; i < JOURNAL_EXTENTS; i++) {
		const struct extent_rec *e = &monitor.super.journal[i];

		if (all ? off >= e->off && end <= e->off + e->len : off < e->off + e->len && end > e->off)
			return true;
	}
	return false;
}

static inline bool monitor_is_record(const struct sim_op *op)
{
	return op->data && op->len >= sizeof(struct record_rec) && memcmp(op->data, RECORD_MAGIC, 8) == 0;
}

/* ---------------------------------------------------------------- superblocks */

static inline bool monitor_is_needed(const struct watched *w, const struct super_rec *super)
{
	return w->generation == super->generation && w->commit >= super->journal_oldest;
}

static inline void monitor_super_begins(const struct sim_op *op)
{
	const struct super_rec *super = (const void *)op->data;

	if (op->len != sizeof(*super) || op->kind != SIM_WSYNC)
		monitor_bad(op, "a superblock of another length, or not synchronously");
	for (unsigned i = 0; i < monitor.n; i++) {
		const struct watched *w = &monitor.records[i];

		if (monitor_is_needed(w, super))
			continue;
		if (!w->is_durable || !w->is_complete)
			monitor_bad(op, "a commit is retired that is not applied");
		else if (w->applied >= monitor.synced)
			monitor_bad(op, "a commit is retired before a sync that began after it was applied");
		monitor.retired++;
	}
	if (monitor.has_super && super->state == SUPER_CLEAN && monitor.changed >= monitor.synced)
		monitor_bad(op, "the heap is marked clean before a sync that began after the last change");
}

static inline void monitor_super_ends(const struct sim_op *op)
{
	unsigned n = 0;

	memcpy(&monitor.super, op->data, sizeof(monitor.super));
	monitor.has_super = true;
	for (unsigned i = 0; i < monitor.n; i++)
		if (monitor_is_needed(&monitor.records[i], &monitor.super))
			monitor.records[n++] = monitor.records[i];
	monitor.n = n;
}

/* ---------------------------------------------------------------- records */

static inline void monitor_record_begins(const struct sim_op *op)
{
	const struct record_rec *header = (const void *)op->data;

	if (!monitor_in_journal(op->off, op->off + op->len, true))
		monitor_bad(op, "a record outside of the journal");
	if (header->generation != monitor.super.generation || header->oldest > monitor.super.journal_oldest)
		monitor_bad(op, "a record says more than the superblock on the device");
	if (header->file_size > monitor.synced_size)
		monitor_bad(op, "a record relies on a length of the file that was not synced");
	if (monitor.n == sizeof(monitor.records) / sizeof(monitor.records[0]))
		monitor_bad(op, "too many records for this test");
	else
		monitor.records[monitor.n++] =
			(struct watched){header, op->off, op->len, header->generation, header->commit, 0, 0, false, false};
}

static inline bool monitor_is_whole(const struct watched *w)
{
	for (const struct watched *end = w; end < monitor.records + monitor.n && end->commit == w->commit; end++)
		if (end->header->kind == RECORD_COMMIT)
			return end->is_durable;
	return false;
}

/* Are the bytes the next of the first commit that is not applied in full? */
static inline bool monitor_apply(const struct sim *sim, const struct sim_op *op)
{
	for (unsigned i = 0; i < monitor.n; i++) {
		struct watched *w = &monitor.records[i];
		struct record_entry entry;
		uint64_t at = w->cursor, end;

		if (w->is_complete)
			continue;
		if (!w->is_durable || !monitor_is_whole(w) || !record_next(w->header, &at, &entry) ||
		    entry.off != op->off || entry.len != op->len || memcmp(entry.data, op->data, op->len) != 0)
			break;
		w->cursor = end = at;
		w->applied = (uint32_t)(op - sim->ops);
		w->is_complete = !record_next(w->header, &end, &entry);
		monitor.applied++;
		return true;
	}
	return false;
}

/* ---------------------------------------------------------------- all operations */

static inline bool monitor_is_zero(const struct sim_op *op)
{
	return !op->data || (op->data[0] == 0 && memcmp(op->data, op->data + 1, op->len - 1) == 0);
}

static inline void monitor_write_begins(const struct sim *sim, const struct sim_op *op)
{
	uint64_t end = op->off + op->len;

	/* before there is a superblock there is no heap */
	if (!monitor.has_super && op->kind != SIM_WSYNC)
		return;
	if (monitor_is_super(op)) {
		monitor_super_begins(op);
		return;
	}
	for (unsigned i = 0; i < monitor.n; i++)
		if (op->off < monitor.records[i].off + monitor.records[i].len && monitor.records[i].off < end)
			monitor_bad(op, "a needed record is overwritten");
	if (op->kind == SIM_WSYNC) {
		if (monitor_is_record(op))
			monitor_record_begins(op);
		else
			monitor_bad(op, "a synchronous write of neither a record nor a superblock");
		return;
	}
	if (op->kind == SIM_WRITE && monitor_apply(sim, op))
		return;
	/* zeros of a new extent, and holes */
	if (monitor_is_zero(op) && !monitor_uses(op->off, end) && !monitor_in_journal(op->off, end, false))
		return;
	monitor_bad(op, op->kind == SIM_ZERO
	                        ? "a hole in what the last commit or the journal uses"
	                        : "bytes that are not the next of a commit on the device are written to their place");
}

static inline void monitor_watch(struct sim *sim, const struct sim_op *op)
{
	uint32_t number = (uint32_t)(op - sim->ops);

	switch (op->kind) {
	case SIM_SIZE:
		monitor.changed = number;
		if (monitor_uses(op->off, UINT64_MAX))
			monitor_bad(op, "the file is cut where the last commit uses it");
		break;
	case SIM_WRITE:
	case SIM_ZERO:
		monitor.changed = number;
		monitor_write_begins(sim, op);
		break;
	case SIM_WSYNC:
		monitor_write_begins(sim, op);
		break;
	case SIM_WSYNC_END:
		op = &sim->ops[op->begin];
		if (monitor_is_super(op))
			monitor_super_ends(op);
		for (unsigned i = 0; i < monitor.n; i++)
			if ((const uint8_t *)monitor.records[i].header == op->data)
				monitor.records[i].is_durable = true;
		break;
	case SIM_SYNC:
		monitor.sync_size = load_relaxed(&sim->size);
		break;
	case SIM_SYNC_END:
		/* several threads sync: the one that began first counts */
		monitor.synced = op->begin > monitor.synced ? op->begin : monitor.synced;
		monitor.synced_size = monitor.sync_size;
		break;
	default:
		break;
	}
}

#endif
