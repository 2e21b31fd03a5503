/* SPDX-License-Identifier: Apache-2.0
 *
 * The only way to store allocator truth into the file: words that say which objects exist, and what is
 * initialised before such a word counts.
 *
 * Every store is one aligned 64-bit atomic store. A store of these functions is never moved before an
 * earlier one, neither by the compiler (the fences) nor, as far as this process's death can tell, by the
 * processor: SIGKILL lets all stores that were executed reach memory.
 *
 * The test build (FM_TRUTH_HOOK) calls fm_truth_hook after each store: at that instruction boundary a
 * crash test copies the file.
 */
#ifndef FM_STORE_TRUTH_H
#define FM_STORE_TRUTH_H

#include "../base/atomics.h"

#include <stddef.h>
#include <stdint.h>

#ifdef FM_TRUTH_HOOK
extern void (*fm_truth_hook)(const uint64_t *word);
#define TRUTH_STORED(word) \
	do { \
		if (fm_truth_hook) \
			fm_truth_hook(word); \
	} while (0)
#else
#define TRUTH_STORED(word) ((void)0)
#endif

static inline uint64_t truth_load(const uint64_t *word)
{
	return load_relaxed(word);
}

/* Pairs with the fetch_or in truth_set_bits: what the freeing thread did to the slot happens before. */
static inline uint64_t truth_load_acquire(const uint64_t *word)
{
	return load_acquire(word);
}

/* Store `value`. Release: what was prepared before is visible to whoever sees the word. */
static inline void truth_store(uint64_t *word, uint64_t value)
{
	store_release(word, value);
	compiler_fence();
	TRUTH_STORED(word);
}

/* The live word's store of the fast paths: the word's only writer, nothing to publish to other threads. */
static inline void truth_store_own(uint64_t *word, uint64_t value)
{
	store_relaxed(word, value);
	TRUTH_STORED(word);
}

/* Set bits in a word that several threads change; returns the old value. Sequentially consistent: the
 * freeing half of the Dekker pair with a leaving owner (alloc/owner.h). */
static inline uint64_t truth_set_bits(uint64_t *word, uint64_t bits)
{
	uint64_t old = fetch_or_seq(word, bits);

	TRUTH_STORED(word);
	return old;
}

/* Clear bits in a word that several threads change. Release: the harvested live word before it. */
static inline uint64_t truth_clear_bits(uint64_t *word, uint64_t bits)
{
	uint64_t old = __atomic_fetch_and(word, ~bits, __ATOMIC_ACQ_REL);

	compiler_fence();
	TRUTH_STORED(word);
	return old;
}

/* Replace `expected` by `desired`, or return false. */
static inline bool truth_replace(uint64_t *word, uint64_t expected, uint64_t desired)
{
	bool done = compare_exchange_seq(word, &expected, desired);

	if (done)
		TRUTH_STORED(word);
	return done;
}

/* Zero `n` words that do not count yet. Words that are zero already are not written. */
static inline void truth_clear_words(uint64_t *word, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (truth_load(&word[i])) {
			store_relaxed(&word[i], 0);
			TRUTH_STORED(&word[i]);
		}
	}
	compiler_fence();
}

#endif
