/* SPDX-License-Identifier: Apache-2.0 */
#include "crc32c.h"

uint32_t crc32c(const void *data, size_t len_bytes)
{
	const uint8_t *p = data;
	uint32_t crc = ~UINT32_C(0);

	for (size_t i = 0; i < len_bytes; i++) {
		crc ^= p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82F63B78) : 0);
	}
	return ~crc;
}
