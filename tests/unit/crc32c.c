/* SPDX-License-Identifier: Apache-2.0
 *
 * src/base/crc32c against the vectors of RFC 3720, appendix B.4, and the checksum's own properties. Uses
 * the library's internal header.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "base/crc32c.h"

static void test_vectors(void **state)
{
	/* an iSCSI SCSI Read (10) command PDU */
	static const uint8_t command[48] = {
		0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18,
		0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	};
	uint8_t block[32];

	(void)state;
	memset(block, 0, sizeof(block));
	assert_int_equal(crc32c(block, 32), 0x8a9136aa);
	memset(block, 0xff, sizeof(block));
	assert_int_equal(crc32c(block, 32), 0x62a8ab43);
	for (unsigned i = 0; i < 32; i++)
		block[i] = (uint8_t)i;
	assert_int_equal(crc32c(block, 32), 0x46dd794e);
	for (unsigned i = 0; i < 32; i++)
		block[i] = (uint8_t)(31 - i);
	assert_int_equal(crc32c(block, 32), 0x113fdb5c);
	assert_int_equal(crc32c(command, sizeof(command)), 0xd9963a56);
	assert_int_equal(crc32c("123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(block, 0), 0);
}

/* The definition, from the highest bit of the reflected message down. */
static uint32_t slow_crc(const uint8_t *data, size_t len)
{
	uint32_t rest = UINT32_MAX, reflected = 0;

	for (size_t i = 0; i < len * 8; i++) {
		uint32_t bit = data[i / 8] >> i % 8 & 1;

		rest = rest << 1 ^ ((rest >> 31 ^ bit) ? UINT32_C(0x1edc6f41) : 0);
	}
	for (unsigned i = 0; i < 32; i++)
		reflected |= (rest >> i & 1) << (31 - i);
	return ~reflected;
}

static void test_definition(void **state)
{
	uint8_t data[300];
	uint64_t rng = 1;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)proc_rand(&rng);
	/* every length at every alignment */
	for (size_t from = 0; from < 16; from++)
		for (size_t len = 0; from + len <= sizeof(data); len++)
			assert_int_equal(crc32c(data + from, len), slow_crc(data + from, len));
}

static void test_every_bit_counts(void **state)
{
	uint8_t sector[512] = {0};
	uint32_t whole = crc32c(sector, sizeof(sector));

	(void)state;
	for (unsigned i = 0; i < sizeof(sector) * 8; i++) {
		sector[i / 8] ^= (uint8_t)(1u << i % 8);
		assert_int_not_equal(crc32c(sector, sizeof(sector)), whole);
		sector[i / 8] ^= (uint8_t)(1u << i % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_definition),
		cmocka_unit_test(test_every_bit_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
