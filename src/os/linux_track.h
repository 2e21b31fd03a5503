/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of the table that finds written pages; os.h says what each does.
 */
#ifndef FM_OS_LINUX_TRACK_H
#define FM_OS_LINUX_TRACK_H

#include "os.h"

/* linux.c: takes the place of `fd`, the result of a call that opens. fd or -errno. */
int out_of_the_way(int fd);

int track_watch(void *at, uint64_t len);
int track_pagemap(void);
int track_scan(int fd, bool is_dense, uint64_t *from, uint64_t to, struct os_range *found, unsigned n);
int track_private_pages(int fd, uint64_t from, unsigned n, uint8_t *is_private);
int track_on_fault(os_fault_handler *handler);
uint64_t track_memory_limit(void);

#endif
