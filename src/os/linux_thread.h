/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of the table that concerns threads; os.h says what each does.
 */
#ifndef FM_OS_LINUX_THREAD_H
#define FM_OS_LINUX_THREAD_H

#include "os.h"

int thread_count(void);
uint64_t thread_fault_count(void);
uint64_t thread_process_fault_count(void);
uint64_t thread_dirtied(void);
void thread_hold_signals(sigset_t *before);
void thread_release_signals(const sigset_t *before);
int thread_sleep_ms(unsigned ms, const sigset_t *before);
void thread_yield(void);
void thread_wait_word(const uint32_t *word, uint32_t value);
void thread_wake_word(const uint32_t *word, int n);

#endif
