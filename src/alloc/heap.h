/* SPDX-License-Identifier: Apache-2.0
 *
 * The heap in process memory. All of it is derived from the file (docs/format.md) and dies with the process.
 *
 * Words
 *   truth       what the file says about which objects exist (store/format.h)
 *   slab        one or more units cut into slots of one size
 *   run, huge   a large object of units; of whole segments
 *   window      the live word whose free slots a thread is handing out
 *   summary     of a slab: words of it that are known to have free slots (S4)
 *   owner       the thread cache that may change a slab's live words; OWNER_NONE: whoever holds the lock
 *   examined    a segment whose metadata was validated and copied to descriptors; done when first needed
 *   backed      a unit for which this process knows that a store can't fail for lack of space
 *
 * Who may touch what
 *   live words, summary, empty, lists of an owned slab   its owner
 *   units that are taken, and what the file and the descriptors say of them   who took them (units.h)
 *   the same of an unowned slab, everything else         the holder of heap->lock
 *   remote words, pending, queued, inbox                 anybody, atomically (owner.h)
 */
#ifndef FM_ALLOC_HEAP_H
#define FM_ALLOC_HEAP_H

#include "../../include/fmalloc.h"
#include "../base/atomics.h"
#include "../store/store.h"
#include "../store/truth.h"
#include "applier.h"
#include "classes.h"
#include "gate.h"

#include <pthread.h>

#define OWNER_NONE UINT64_C(1) /* 0 is what a child finds where its parent's caches were wiped */

enum unit_state {
	UNIT_UNKNOWN = 0, /* its segment is not examined */
	UNIT_IS_FREE,
	UNIT_IS_META,     /* header or metadata */
	UNIT_IS_SLAB,
	UNIT_IS_RUN,
	UNIT_IS_HUGE,     /* unit 0 of a huge object's first segment */
};

/* Descriptor of a unit. For the units of a slab or run behind the first only `back` counts. */
struct unit {
	/* what freeing reads */
	_Alignas(64) uint64_t quick_owner; /* atomic: `owner`, if its thread may free by the fast path (owner.h) */
	uint64_t reciprocal; /* ceil(2^32 / slot_size): slot number by multiplication, in the slab's first unit */
	uint32_t remainders; /* its low half: products below it have no remainder */
	uint32_t slot_size;  /* bytes */
	uint64_t *pair_0;    /* live word of slots 0..63 in the file; the 64 pairs are found from it (slab_pair) */
	uint16_t slots;
	uint8_t class_no;    /* or NO_CLASS: frees only */
	uint8_t back;        /* atomic: units back to the first one of the slab or run */
	uint8_t words;       /* live words in use */
	uint8_t state;       /* atomic: enum unit_state */
	uint8_t units;       /* of a slab or run */
	uint8_t reach;       /* of a slab: windows use the words below (slab_look) */
	uint64_t summary;
	uint64_t alarm;      /* a free that leaves its live word below this is an event (slab.h) */
	uint64_t owner;      /* atomic: a tcache's id, OWNER_NONE, or 0 if not a slab */
	/* the rest */
	uint64_t empty;      /* words without a live slot; all set: the slab is free */
	union {
		uint64_t pages;      /* atomic: length of a run or huge object in LENGTH_PAGE */
		struct {                     /* of a slab */
			uint32_t has_joined; /* atomic: slots may be joined; then frees are not quick */
			uint8_t no_run;      /* atomic: it had no free run of so many slots when last looked at; or more than 64 */
		};
	};
	uint64_t pending;    /* atomic: words in which another thread freed something */
	uint32_t inbox_next; /* unit number + 1, 0: none */
	uint32_t queued;     /* atomic: is in its owner's inbox, or about to be */
	struct unit *next, *prev;             /* partial list of the owner, or unowned list of the heap */
	struct unit *owned_next, *owned_prev; /* all slabs of the owner */
};

static_assert(sizeof(struct unit) == 128, "descriptors are found by a shift");

enum segment_state {
	SEG_UNKNOWN = 0,
	SEG_FREE,
	SEG_METADATA, /* not examined yet */
	SEG_EXAMINED,
	SEG_HUGE,
	SEG_INTERIOR,
	SEG_DIRECTORY,
	SEG_JOURNAL,  /* the journal has it, whatever the directory says */
	SEG_DAMAGED,  /* says something impossible: nothing is allocated or freed in it */
};

struct segment {
	_Alignas(64) uint64_t free_units; /* atomic: one bit a unit; whoever clears bits has the units (units.h) */
	uint64_t backed;     /* atomic */
	uint64_t zero;       /* atomic: units that this process added to the file and never handed out */
	uint64_t idle;       /* atomic: free and backed units that were so at the last look (giveback.h) */
	uint32_t next, prev; /* in a bucket (units.c); segment number + 1, 0: none */
	uint32_t stale_next; /* atomic: in the heap's stale segments, as above */
	uint32_t taker;      /* atomic: the cache that takes units here first, by near.id; 0: none */
	uint8_t state;       /* enum segment_state */
	uint8_t bucket;      /* 0: in none */
	uint8_t is_stale;    /* atomic: is among those, or about to be */
	uint8_t used;        /* of a huge object: units from the first on that it reaches into; nobody can use the others */
};

struct tcache;

struct heap {
	struct fm_info pub;         /* first: a `fm_heap *` is a `struct heap *` */
	uint32_t slot;              /* in the registry */
	uint32_t is_open;           /* atomic */
	/* zeroed at each use of the slot, from here on */
	uint64_t serial;            /* order of opening in this process */
	uint32_t disable;           /* FM_NO_EXIT_SYNC, FM_NO_ATFORK */
	bool read_only;
	bool is_scanned;            /* directory_scan() was done */
	bool is_detached;           /* in a child: the mapping is private, the heap is for reading */
	bool rests;                 /* atomic: marked clean at exit; the next call marks it dirty again */
	const uint64_t *alive;      /* 1 in the process that opened it, 0 in its children */
	struct store store;
	struct unit *units;         /* one for each unit of the reservation; accessible up to `covered` */
	struct segment *segments;
	uint64_t covered;           /* segments whose descriptors are accessible */
	uint64_t segments_max;      /* segments in the reservation */
	uint64_t directory_segment[DIRECTORY_EXTENTS]; /* validated copies of truth; 0: none */
	/* looked at by whoever takes or releases units, and seldom written: apart from what is */
	_Alignas(64) bool is_copied; /* atomic: nobody takes or releases units without the lock (owner.h) */
	int decay_ms;               /* after this time free space is given back; < 0: at closing only */
	uint64_t looked_ms;         /* atomic: when `idle` was set */
	uint32_t releases;          /* atomic: of units, since the clock was looked at; a hint, as counted by units.c */
	uint32_t cache_count;       /* atomic: thread caches; a hint */

	_Alignas(64) uint64_t free_hint; /* no free segment below */
	uint64_t examine_cursor;    /* next segment to look at before the file grows */
	pthread_mutex_t lock;
	int cancel_state;           /* of the lock's holder, to be restored */
	pthread_mutex_t roots_lock; /* taken before `lock` */
	uint32_t bucket[SEGMENT_UNITS]; /* segments by longest free run; segment number + 1 */
	uint64_t buckets_used;      /* which of them (1..63) are not empty */
	_Alignas(64) uint64_t stale; /* atomic: segments in which units were released since they got their bucket */
	struct unit *unowned[CLASSES]; /* atomic heads: slabs without owner that have free slots */
	struct tcache *caches;      /* of all threads */
	uint32_t cache_serial;      /* near.id of the last one that joined */
	struct gate gate;           /* of an atomic heap */
	struct applier applier;
	uint64_t commit_calls;      /* atomic */
	pthread_mutex_t snapshot_lock; /* taken before the gate */
};

static inline struct heap *heap_of_handle(const fm_heap *handle)
{
	return (struct heap *)(uintptr_t)handle;
}

static inline uint64_t unit_no_of(const struct heap *heap, const struct unit *unit)
{
	return (uint64_t)(unit - heap->units);
}

static inline uint64_t segment_of_unit(uint64_t unit_no)
{
	return unit_no >> (SEGMENT_SHIFT - UNIT_SHIFT);
}

static inline unsigned index_in_segment(uint64_t unit_no)
{
	return (unsigned)(unit_no & (SEGMENT_UNITS - 1));
}

static inline enum unit_state unit_state(const struct unit *unit)
{
	return (enum unit_state)load_acquire(&unit->state); /* pairs with the release in unit_set_state */
}

/* After all that the state says about the descriptor's other fields. */
static inline void unit_set_state(struct unit *unit, enum unit_state state)
{
	store_release(&unit->state, (uint8_t)state);
}

/* Units of a segment that objects may have. */
static inline uint64_t data_units(uint64_t segment_no)
{
	return ~low_mask(metadata_unit(segment_no) + 1);
}

static inline uint8_t *unit_address(const struct heap *heap, const struct unit *unit)
{
	return heap->store.base + (unit_no_of(heap, unit) << UNIT_SHIFT);
}

static inline uint64_t *unit_words(const struct heap *heap, uint64_t segment_no)
{
	return (uint64_t *)(void *)(heap->store.base + metadata_off(segment_no));
}

static inline uint64_t heap_size(const struct heap *heap)
{
	return load_acquire(&heap->store.size);
}

/* May truth be changed? Not in a read-only heap, and not after the clean mark of heap_rest(). */
static inline bool heap_may_write(const struct heap *heap)
{
	return !heap->read_only && !load_relaxed(&heap->rests);
}

/* While the lock is held the thread can't be cancelled. */
void heap_lock(struct heap *heap);
void heap_unlock(struct heap *heap);

/* ---- heap.c: opening and closing. 0, or -1 after fail(). */
int heap_open(struct heap *heap, const struct store_request *request, const uint64_t *alive);
int heap_close(struct heap *heap);

/* In a child of the process that opened the heap: go on with the copy `fd`; all that is derived is made anew. The
 * heap is usable when the caller sets *heap->alive. */
int heap_reopen(struct heap *heap, int fd);

/* In a child: the mapping becomes private, and the heap is for looking only. */
int heap_detach(struct heap *heap);

/* In a forked child: go on in anonymous memory, `len` bytes that store_copy_to_memory() filled in the parent. */
int heap_adopt(struct heap *heap, void *memory, uint64_t len);

/* All data to the device and the mark off, at exit; the heap stays usable (heap_wake). Does nothing if a lock
 * is held. */
int heap_rest(struct heap *heap);

/* Called by every path that is about to change truth of a heap that rests. */
int heap_wake(struct heap *heap);

/* May the caller use the heap? 0, or -1: it is not open, or this process is a child of its opener.
 * `kind` gets the misuse then. */
int heap_is_usable(const struct heap *heap, enum fm_misuse_kind *kind);

#endif
