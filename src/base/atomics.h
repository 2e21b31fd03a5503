/* SPDX-License-Identifier: Apache-2.0
 *
 * Atomic operations with the memory order in the name. Every use that is not relaxed names its pair.
 */
#ifndef FM_BASE_ATOMICS_H
#define FM_BASE_ATOMICS_H

#include <stdbool.h>
#include <stdint.h>

#define load_relaxed(p)     __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p)     __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_seq(p)         __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_seq(p, v)     __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define exchange_seq(p, v)  __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#define fetch_or_seq(p, v)  __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
#define fetch_and_seq(p, v) __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)

/* A figure that statistics read at any time. */
static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* On failure *expected is what was found. */
static inline bool compare_exchange_seq(uint64_t *p, uint64_t *expected, uint64_t desired)
{
	return __atomic_compare_exchange_n(p, expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Keep the compiler from moving memory accesses across: a SIGKILL sees stores in program order. */
static inline void compiler_fence(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

#endif
