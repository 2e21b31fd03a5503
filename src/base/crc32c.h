/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720 appendix B.4).
 */
#ifndef FM_BASE_CRC32C_H
#define FM_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *data, size_t len_bytes);

/* The checksum of what `crc` is the checksum of, followed by `data`. */
uint32_t crc32c_extend(uint32_t crc, const void *data, size_t len_bytes);

#endif
