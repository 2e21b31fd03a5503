/* SPDX-License-Identifier: Apache-2.0
 *
 * Address space: reserved once at opening, so that addresses never move while the heap is open.
 */
#include "../base/atomics.h"
#include "../base/bits.h"
#include "../base/status.h"
#include "store.h"

#include <errno.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif

/* Places for FM_FIXED heaps. The first range lies between everything that Linux puts somewhere by itself
 * on x86-64 and aarch64 with 48 bits: executables begin at 0x5555..., libraries and stacks end at
 * 0x7fff...; 1664 places, so that two heaps rarely meet. The second is for smaller address spaces and for
 * ThreadSanitizer, which forbids the first. */
struct places {
	uint64_t first, stride;
	unsigned count;
};

static const struct places narrow = {UINT64_C(0x1000000000), 8 * GIB, 48};

#ifdef UNDER_TSAN
#define DEFAULT_ADDRESS_SPACE (32 * GIB)
#define FIRST_PLACES          (&narrow)
#else
static const struct places wide = {UINT64_C(0x200000000000), 32 * GIB, 1664};
#define DEFAULT_ADDRESS_SPACE TIB
#define FIRST_PLACES          (&wide)
#endif

/* The least that a heap can sensibly work with beyond what the file has. */
#define MIN_HEADROOM (16 * MIB)

static uint64_t wanted_space(const struct store *store, uint64_t address_space, uint64_t max_size)
{
	uint64_t want = address_space ? min_u64(address_space, UINT64_C(1) << 46) : DEFAULT_ADDRESS_SPACE;

	/* the journal of an atomic heap comes on top, and lies between */
	if (max_size && max_size < want && !store->is_atomic)
		want = max_size;
	return round_up(max_u64(want, store->size), SEGMENT_SIZE);
}

static void use_reservation(struct store *store, void *base, uint64_t reserved, uint64_t max_size)
{
	store->base = base;
	store->reserved = reserved;
	store->max_size = reserved;
	if (max_size && max_size < reserved)
		store->max_size = max_u64(round_down(max_size, UNIT_SIZE), store->size);
}

/* A live heap's stores are the file's; an atomic heap's are the process's own until they are committed. */
static int reserve(const struct store *store, void *at, bool replace, uint64_t len, void **result)
{
	return store->is_atomic ? os->reserve_private(store->fd, at, replace, len, result)
	                        : os->reserve_file(store->fd, at, replace, len, result);
}

/* Reserve `len` bytes exactly at `at`. -EEXIST if something else is there. */
static int reserve_at(struct store *store, uint64_t at, uint64_t len)
{
	void *result;
	int r = reserve(store, (void *)(uintptr_t)at, false, len, &result);

	if (r)
		return r;
	if ((uintptr_t)result == at)
		return 0;
	os->unmap(result, len);
	return -EEXIST;
}

/* Reserve `len` bytes anywhere, SEGMENT_SIZE-aligned. */
static int reserve_anywhere(struct store *store, uint64_t len, void **base)
{
	uint64_t skip;
	uint8_t *space;
	void *result;
	int r = os->reserve_memory(len + SEGMENT_SIZE, &result);

	if (r)
		return r;
	space = result;
	skip = round_up((uintptr_t)space, SEGMENT_SIZE) - (uintptr_t)space;
	if (skip)
		os->unmap(space, skip);
	os->unmap(space + skip + len, SEGMENT_SIZE - skip);
	r = reserve(store, space + skip, true, len, base);
	if (r)
		os->unmap(space + skip, len);
	return r;
}

/* Left free below an address that the kernel chose early, which may lie between libraries: they go there. */
#define LIBRARIES GIB

/* Reserve `len` bytes below `ceiling`, where one call is enough; else anywhere. The kernel places downwards: below what it
 * has placed there is mostly room. */
static int reserve_below(struct store *store, const void *ceiling, uint64_t len, void **base)
{
	uint64_t top = round_down((uintptr_t)ceiling, SEGMENT_SIZE);

	if (top <= len + LIBRARIES || reserve_at(store, top - LIBRARIES - len, len))
		return reserve_anywhere(store, len, base);
	*base = (void *)(uintptr_t)(top - LIBRARIES - len);
	return 0;
}

static int make_accessible(struct store *store)
{
	int r = os->protect(store->base, store->size, true, !store->read_only);

	if (!r) {
		store_may_dump(store, 0, store->size, true);
		return 0;
	}
	store_unmap(store);
	return fail(-r, "mapping %llu bytes:", (unsigned long long)store->size);
}

int store_map(struct store *store, const struct store_request *request, const void *ceiling)
{
	uint64_t want = wanted_space(store, request->address_space, request->max_size);
	uint64_t least = round_up(store->size, SEGMENT_SIZE);
	uint64_t preferred = store->super.rec.preferred_address;
	void *base = NULL;
	int r = 0;

	if (request->fixed && preferred == 0)
		return fail(EADDRINUSE, "the heap was made without an address of its own");
	for (uint64_t len = want;; len = max_u64(round_up(len / 2, SEGMENT_SIZE), least)) {
		if (request->fixed) {
			r = reserve_at(store, preferred, len);
			base = (void *)(uintptr_t)preferred;
		} else {
			r = reserve_below(store, ceiling, len, &base);
		}
		if (!r) {
			use_reservation(store, base, len, request->max_size);
			return make_accessible(store);
		}
		if (len == least)
			break;
	}
	if (request->fixed)
		return fail(EADDRINUSE, "the heap's address 0x%llx is taken in this process",
		            (unsigned long long)preferred);
	return fail(-r, "reserving %llu bytes of address space:", (unsigned long long)least);
}

/* Try the places of one range, beginning where the UUID says. */
static bool reserve_place(struct store *store, const struct places *places, uint64_t seed, uint64_t len,
                          uint64_t *address)
{
	for (unsigned i = 0; i < places->count; i++) {
		uint64_t place = places->first + (seed + i * UINT64_C(577)) % places->count * places->stride;

		if (reserve_at(store, place, len) == 0) {
			*address = place;
			return true;
		}
	}
	return false;
}

int store_map_new(struct store *store, struct super_rec *rec, uint64_t address_space, uint64_t max_size)
{
	uint64_t want = wanted_space(store, address_space, max_size);
	uint64_t least = round_up(store->size + MIN_HEADROOM, SEGMENT_SIZE);
	uint64_t seed;
	void *base;
	int r;

	memcpy(&seed, rec->uuid, sizeof(seed));
	for (uint64_t len = want;; len = max_u64(round_up(len / 2, SEGMENT_SIZE), min_u64(least, want))) {
		uint64_t address;

		/* the whole length, so that heaps made side by side can be reopened side by side */
		if (reserve_place(store, FIRST_PLACES, seed, len, &address) ||
		    reserve_place(store, &narrow, seed, len, &address)) {
			base = (void *)(uintptr_t)address;
		} else if ((r = reserve_anywhere(store, len, &base)) != 0) {
			if (len > least)
				continue;
			return fail(-r, "reserving %llu bytes of address space:", (unsigned long long)len);
		}
		rec->preferred_address = (uintptr_t)base;
		use_reservation(store, base, len, max_size);
		return make_accessible(store);
	}
}

void store_unmap(struct store *store)
{
	if (store->base)
		os->unmap(store->base, store->reserved);
	store_relaxed(&store->base, NULL); /* a fault of another heap may be asking: on_fault of track_mprotect.c */
	store->reserved = 0;
}
