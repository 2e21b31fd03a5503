/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads: what each caches of each heap, who owns which slab, and how a thread frees what it doesn't own.
 *
 * A thread cache (tcache) belongs to one thread and one heap. Its id is its address and, in the 16 highest
 * bits, the generation of its inbox. An id is the owner of slabs from adoption until the cache leaves the
 * heap. Caches lie in memory that a fork wipes: the child finds id 0, which owns nothing, and so reaches the
 * slow path, which refuses.
 *
 * Freeing by another thread, in this order, all sequentially consistent:
 *   F1  set the slot's bit in the remote word
 *   F2  set the word's bit in slab->pending, then quick_owner to OWNER_NONE; if pending was not 0 and quick_owner that already,
 *       whoever did it does the rest
 *   F3  set slab->queued; if it was set, the slab is in its owner's inbox or about to be
 *   F4  load slab->owner
 *   F5  an id: push the slab to the owner's inbox, which succeeds only while the inbox has the id's generation;
 *       else back to F4.  OWNER_NONE: take the lock; still unowned: settle the slab.
 * The owner's inbox:
 *   I1  take the whole list;  for each slab: I2  clear queued;  I3  quick_owner is the id, then take pending;
 *   I4  harvest those words
 * Leaving, with the lock held:
 *   L1  store OWNER_NONE in each owned slab;  L2  close the inbox (next generation);  L3  harvest each slab
 *       wholly and settle it;  L4  for what the inbox held: clear queued, collect it, or tell its next owner
 * Adopting, with the lock held:
 *   A1  store the owner;  A2  take pending;  A3  harvest wholly
 *
 * The fast path of freeing looks at no remote word: while quick_owner is the thread's id, all of the slab's are 0, but
 * for frees that are under way. F2 and I3 are a Dekker pair: either the owner takes the word's bit and harvests it, or the freeing
 * thread sees the id and takes it away. Then it also sees to it that the owner sets it again (F3).
 *
 * Why no free is lost: F1 before F4 and L1/A1 before L3/A3 are Dekker pairs: either the leaving or adopting
 * thread sees the remote bit, or the freeing thread sees the new owner. F2 seen set means that its setter has
 * not passed I3, since I3 clears it before I4 reads the remote word. F3 seen set means that I2 is to come, and
 * I3 after it. A kill at any step leaves remote bits in the file, which the next process harvests.
 */
#ifndef FM_ALLOC_OWNER_H
#define FM_ALLOC_OWNER_H

#include "slab.h"

#define HEAPS_MAX 1024u

/* Sizes up to this have their window in a table. */
#define TABLE_MAX 1024u

struct window {
	_Alignas(32) intptr_t live; /* distance of the live word from the tcache; no address: zeros are a window without slots */
	uint64_t mask;  /* slots of the word that exist */
	uint8_t *base;  /* address of the word's first slot */
	uint32_t slot_size;
	uint32_t word;  /* its number in the slab */
};

struct thread;

struct tcache {
	uint64_t id;           /* 0: of no heap, or in a forked child */
	struct heap *heap;
	uint8_t *base;         /* of the heap */
	uint64_t units_len;    /* of the heap when last looked at; units that a trim has cut off since have no owner */
	struct unit *units;
	uint16_t window_at[TABLE_MAX / 8 + 1]; /* by eighths of a size: distance of its window from the tcache */
	struct window window[CLASSES];
	struct unit *current[CLASSES]; /* the window's slab */
	struct unit *partial[CLASSES]; /* others with free slots and live ones, full ones longest ago first */
	struct unit *partial_last[CLASSES];
	struct unit *source[CLASSES];  /* slabs of other classes from which objects of the class are made (join.h) */
	struct unit *kept;             /* empty ones */
	uint64_t kept_units;           /* their units */
	uint32_t used_up;              /* slabs that windows have left full */
	uint64_t join_budget;          /* bytes that may be made of joined slots without another look (join.c) */
	struct unit *sample;           /* the next owned slab to look at for that */
	struct unit *owned;            /* all slabs */
	uint64_t owned_units;
	struct near near;              /* where it takes units first */
	bool is_busy;                  /* atomic: is taking or releasing units without the lock */
	uint64_t inbox;                /* atomic: slabs with remote frees; 16 bits generation, 48 bits address */
	struct tcache *heap_next, *heap_prev; /* heap->caches */
	struct thread *thread;
	struct tcache *pool_next;
	/* the thread's section of an atomic heap; outlives a rollback (commit.h) */
	struct heap *section_heap;     /* NULL: in none */
	uint64_t section_serial;       /* of that opening of the heap */
	uint64_t section_depth;
};

struct thread {
	struct thread *pool_next;
	struct tcache *cache[HEAPS_MAX]; /* by heap slot */
};

/* The calling thread's state; never NULL. */
extern __thread struct thread *thread_current __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Its cache of the heap that fmalloc works on, and that of the heap last named by a handle or an address; or one
 * that is empty. Never NULL. */
extern __thread struct tcache *thread_target __attribute__((tls_model("initial-exec"), visibility("hidden")));
extern __thread struct tcache *thread_recent __attribute__((tls_model("initial-exec"), visibility("hidden")));
extern struct tcache tcache_none;

/* The calling thread's state for changing, made if need be; NULL if there is no memory, or the thread is
 * leaving. */
struct thread *thread_attach(void);

/* Its cache of `heap`, made if need be; NULL as above. The heap must be usable. */
struct tcache *tcache_attach(struct heap *heap);

/* The cache gives up its slabs. Needs heap->lock. */
void tcache_leave(struct tcache *tcache);

/* The lock under which caches join and leave heaps: held by whoever closes one, before heap->lock, and over a
 * fork. */
void owner_lock_membership(void);
bool owner_try_membership(void);
void owner_unlock_membership(void);

/* All caches of the heap do; at closing, when no other thread may use it. Needs membership and heap->lock. */
void tcache_leave_all(struct heap *heap);

/* All caches forget the heap, and what they own in it: it is not what it was. Needs membership and heap->lock. */
void tcache_discard_all(struct heap *heap);

/* Around taking or releasing units without the lock, what the file says of them included; or with it. Whoever copies the
 * file waits until no thread is at it, with the lock held, so nothing between the two may wait for the lock. */
void tcache_begin_units(struct tcache *tcache);
void tcache_end_units(struct tcache *tcache);

/* Is a thread taking or releasing units without the lock? Needs heap->lock. */
bool owner_is_busy(const struct heap *heap);

/* Units and segments stay what they are in the file, until they may change again. Both need heap->lock, held all the
 * time between. */
void owner_hold_units(struct heap *heap);
void owner_release_units(struct heap *heap);

/* Take a slot of `window`, which is of `tcache`, for *p; false if it has none. Keeps S1 and S2: the thread owns the
 * word, and so live and remote are both 0 where live is. */
static forced_inline bool window_take(struct tcache *tcache, const struct window *window, void **p)
{
	uint64_t *word = (uint64_t *)((uintptr_t)tcache + (uintptr_t)window->live);
	uint64_t live = truth_load(word);
	uint64_t free = ~live & window->mask;
	uint64_t slot;

	if (unlikely(free == 0))
		return false;
	/* the mask is of low bits: the lowest bit that is 0 is that of a slot. The next call waits for this store */
	truth_store_own(word, live | (live + 1));
	slot = lowest_bit_u64(free);
	*p = window->base + slot * (uint64_t)window->slot_size;
	return true;
}

/* Take a slot of the window, or of the next word or slab of the thread's own that has one, for *p. False if it has none;
 * then the window has no slab either. */
bool tcache_take_own(struct tcache *tcache, unsigned class_no, void **p);

/* Take back what other threads freed in own slabs, and keep no more empty slabs than a cache may. False if nothing was
 * reported. */
bool inbox_drain(struct tcache *tcache);

/* What tcache_refill() does before the heap grows, for a caller that needs `units` units and no slab. Release the empty slabs
 * that the cache has kept: false if there were none. And an object of joined slots, if neither a slab of the class nor units
 * that were used before are there; NULL if there is none or it is not needed. */
bool tcache_release_kept(struct tcache *tcache);
void *tcache_take_joined(struct tcache *tcache, unsigned class_no, unsigned units);

/* Take a slot of an own slab, of an adopted or a new one; or, if the caller may have any multiple of 16, joined slots.
 * NULL with errno ENOMEM. */
void *tcache_refill(struct tcache *tcache, unsigned class_no, bool may_join);

/* Take the first partial slab of the class out of its list; NULL if there is none. */
struct unit *tcache_next_partial(struct tcache *tcache, unsigned class_no);

/* Bring an own slab that is in no list where it belongs. */
void tcache_put_back(struct tcache *tcache, struct unit *slab);

/* Behind the fast path of freeing an own slot, if it left a live word below the alarm. */
void tcache_slot_freed(struct tcache *tcache, struct unit *slab, unsigned w, uint64_t live);

/* Free the slot at `off` of an own slab, wherever in it that lies. False if there is no live one; nothing has
 * changed then. */
bool tcache_free_own(struct tcache *tcache, struct unit *slab, uint64_t off);

/* Give back the empty slabs that the cache keeps. True if there were any: worth another try where space was
 * lacking. */
bool tcache_release_empty(struct tcache *tcache);

/* Free slot `slot` of a slab that the caller does not own: F1..F5. 0, or -1 if it is not allocated. */
int slab_free_remote(struct heap *heap, struct unit *slab, uint32_t slot);

/* The same for the slot that begins at offset `off` of the heap. True if there was a live one. */
bool slab_free_at(struct heap *heap, struct unit *slab, uint64_t off);

#endif
