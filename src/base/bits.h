/* SPDX-License-Identifier: Apache-2.0
 *
 * Arithmetic on bits, sizes and 64-bit masks. Nothing here touches memory.
 */
#ifndef FM_BASE_BITS_H
#define FM_BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define forced_inline inline __attribute__((always_inline))

static inline bool is_power_of_two(uint64_t x)
{
	return x && !(x & (x - 1));
}

/* Round to a multiple of `to`, a power of two. round_up must not overflow: callers bound `x` first. */
static inline uint64_t round_down(uint64_t x, uint64_t to)
{
	return x & ~(to - 1);
}

static inline uint64_t round_up(uint64_t x, uint64_t to)
{
	return round_down(x + to - 1, to);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Position of the lowest set bit; x != 0. */
static inline unsigned lowest_bit(uint64_t x)
{
	return (unsigned)__builtin_ctzll(x);
}

/* The same as a factor: compilers extend the sign of what can't be negative. */
static inline uint64_t lowest_bit_u64(uint64_t x)
{
#if defined(__x86_64__)
	__asm__("rep bsfq %0, %0" : "+r"(x) : : "cc");
	return x;
#else
	return (uint64_t)__builtin_ctzll(x);
#endif
}

/* Position of the highest set bit; x != 0. */
static inline unsigned highest_bit(uint64_t x)
{
	return 63u - (unsigned)__builtin_clzll(x);
}

/* Clear bit `i` mod 64 of *x; was it set? One instruction and a flag, which compilers don't find. */
static inline bool take_bit(uint64_t *x, uint64_t i)
{
	bool was_set;

#if defined(__x86_64__)
	__asm__("btrq %2, %0" : "+r"(*x), "=@ccc"(was_set) : "r"(i));
#else
	was_set = *x >> i % 64 & 1;
	*x &= ~(UINT64_C(1) << i % 64);
#endif
	return was_set;
}

static inline bool bit_is_set(uint64_t x, uint64_t i)
{
	return x >> i % 64 & 1;
}

static inline unsigned count_bits(uint64_t x)
{
	return (unsigned)__builtin_popcountll(x);
}

/* The lowest n bits set; 0 <= n <= 64. */
static inline uint64_t low_mask(unsigned n)
{
	return n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

/* Bits [from, from + n) set; from + n <= 64. */
static inline uint64_t range_mask(unsigned from, unsigned n)
{
	return n ? low_mask(n) << from : 0;
}

/* A mask of the positions at which a run of at least n set bits of `mask` begins; 1 <= n <= 64. */
static inline uint64_t run_starts(uint64_t mask, unsigned n)
{
	for (unsigned have = 1; have < n;) {
		unsigned step = n - have < have ? n - have : have;

		mask &= mask >> step;
		have += step;
	}
	return mask;
}

/* Length of the longest run of set bits. */
static inline unsigned longest_run(uint64_t mask)
{
	unsigned low = 0, high = 65;

	while (high - low > 1) {
		unsigned mid = (low + high) / 2;

		if (run_starts(mask, mid))
			low = mid;
		else
			high = mid;
	}
	return low;
}

#endif
