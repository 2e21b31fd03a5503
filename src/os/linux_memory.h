/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of the table that maps memory; os.h says what each does.
 */
#ifndef FM_OS_LINUX_MEMORY_H
#define FM_OS_LINUX_MEMORY_H

#include "os.h"

int memory_reserve_file(int fd, void *at, bool replace, uint64_t len, void **result);
int memory_reserve_private(int fd, void *at, bool replace, uint64_t len, void **result);
int memory_view(void *at, uint64_t len, void **result);
bool memory_stores_cheaply(int fd);
int memory_write_view(int fd, void *view, const struct os_piece *pieces, unsigned n);
int memory_sync_view(int fd, void *at, uint64_t len);
int memory_map_private(int fd, void *at, uint64_t len);
int memory_move(void *from, void *at, uint64_t len);
int memory_reserve(uint64_t len, void **result);
int memory_protect(void *at, uint64_t len, bool readable, bool writable);
int memory_unmap(void *at, uint64_t len);
int memory_advise(void *at, uint64_t len, enum os_advice advice);
int memory_is_cached(void *at, uint64_t len);

#endif
