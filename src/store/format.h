/* SPDX-License-Identifier: Apache-2.0
 *
 * The file format: every offset, record and word encoding. Knows nothing of mapping or allocating.
 * docs/format.md describes the same for readers of the file; tests/format freezes it.
 *
 *        0 ..  4 KiB  superblock, copy 1
 *    4 KiB ..  8 KiB  the application's page
 *    8 KiB .. 12 KiB  superblock, copy 2
 *   12 KiB .. 16 KiB  truth page
 *   16 KiB .. 32 KiB  directory words of segments 0..2047
 *   32 KiB .. 64 KiB  first journal extent (atomic heaps)
 *   unit 1            metadata of segment 0
 *   unit 2 ..         data units of segment 0, then segment 1, 2, ...
 *
 * All integers are little-endian. A file of zeros with a superblock is an empty heap.
 */
#ifndef FM_STORE_FORMAT_H
#define FM_STORE_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define UNIT_SHIFT    16
#define UNIT_SIZE     (UINT64_C(1) << UNIT_SHIFT)
#define SEGMENT_SHIFT 22
#define SEGMENT_SIZE  (UINT64_C(1) << SEGMENT_SHIFT)
#define SEGMENT_UNITS 64u

/* The grain of the length of large objects, whatever the machine's page size is. */
#define LENGTH_PAGE   UINT64_C(4096)
#define UNIT_PAGES    (UNIT_SIZE / LENGTH_PAGE)
#define SEGMENT_PAGES (SEGMENT_SIZE / LENGTH_PAGE)

#define SUPER_COPY_1_OFF  UINT64_C(0)
#define APP_PAGE_OFF      UINT64_C(4096)
#define SUPER_COPY_2_OFF  UINT64_C(8192)
#define TRUTH_PAGE_OFF    UINT64_C(12288)
#define DIRECTORY_OFF     UINT64_C(16384)
#define FIRST_JOURNAL_OFF UINT64_C(32768)
#define FIRST_JOURNAL_LEN UINT64_C(32768)

/* Header unit and the metadata unit of segment 0. */
#define HEAP_MIN_SIZE (2 * UNIT_SIZE)

/* ------------------------------------------------------------------ superblock */

#define SUPER_MAGIC       "\x89" "fmheap\n"
#define SUPER_BYTE_ORDER  UINT32_C(0x01020304)
#define SUPER_VERSION     UINT32_C(1)
#define SUPER_INCOMPAT    UINT64_C(0) /* feature bits this library knows; an unknown one: do not open */
#define SUPER_RO_COMPAT   UINT64_C(0) /* the same; an unknown one: open for reading only */
#define ORIGINAL_MAGIC_1  UINT64_C(123456) /* the original fmalloc */
#define ORIGINAL_MAGIC_2  UINT64_C(123457) /* its descendant in R */

enum super_kind { SUPER_LIVE = 1, SUPER_ATOMIC = 2 };
enum super_state { SUPER_CLEAN = 0, SUPER_DIRTY = 1 };

#define JOURNAL_EXTENTS 8

struct extent_rec {
	uint64_t off; /* 0: bytes from the file's start */
	uint64_t len; /* 8: bytes; 0: unused */
};

/* One sector, so that a write of it is not torn. Written whole, by one synchronous write, over the copy
 * with the lower sequence number. */
struct super_rec {
	uint8_t magic[8];           /*   0 */
	uint32_t byte_order;        /*   8 */
	uint32_t version;           /*  12 */
	uint64_t incompat;          /*  16 */
	uint64_t ro_compat;         /*  24 */
	uint8_t uuid[16];           /*  32: random, RFC 4122 version 4 */
	uint64_t sequence;          /*  48: the highest valid copy counts */
	uint32_t kind;              /*  56: enum super_kind */
	uint32_t state;             /*  60: enum super_state */
	uint64_t generation;        /*  64: counts the times the heap was taken into use */
	uint64_t preferred_address; /*  72: where FM_FIXED maps it; a multiple of SEGMENT_SIZE */
	uint8_t boot_id[16];        /*  80: of the boot that took it into use */
	uint64_t dev;               /*  96: which file that was: st_dev, */
	uint64_t ino;               /* 104: st_ino, */
	uint64_t birth_sec;         /* 112: and its time of birth, 0 if unknown */
	uint32_t birth_nsec;        /* 120 */
	uint32_t reserved_1;        /* 124: 0 */
	struct extent_rec journal[JOURNAL_EXTENTS]; /* 128 */
	uint64_t journal_oldest;    /* 256: atomic: the oldest commit of this generation whose record is still needed */
	uint8_t reserved_2[244];    /* 264: 0 */
	uint32_t checksum;          /* 508: CRC-32C of bytes 0..507 */
};

static_assert(sizeof(struct super_rec) == 512, "superblock is one sector");
static_assert(offsetof(struct super_rec, uuid) == 32, "format");
static_assert(offsetof(struct super_rec, sequence) == 48, "format");
static_assert(offsetof(struct super_rec, generation) == 64, "format");
static_assert(offsetof(struct super_rec, boot_id) == 80, "format");
static_assert(offsetof(struct super_rec, birth_nsec) == 120, "format");
static_assert(offsetof(struct super_rec, journal) == 128, "format");
static_assert(offsetof(struct super_rec, journal_oldest) == 256, "format");
static_assert(offsetof(struct super_rec, checksum) == 508, "format");

/* ------------------------------------------------------------------ truth page */

#define DIRECTORY_INLINE_WORDS UINT64_C(2048)
#define DIRECTORY_EXTENTS      8
#define DIRECTORY_EXTENT_WORDS (SEGMENT_SIZE / 8)

/* Words changed by single stores. */
struct truth_page_rec {
	uint64_t last_segment;     /*  0: number of the highest segment in use or used before */
	uint64_t root_table;       /*  8: offset of the root table, 0: none */
	uint64_t mark_sequence;    /* 16: sequence of the superblock whose dirty mark is on the device */
	uint64_t backed_blocks;    /* 24: st_blocks when the file was last extended, trimmed or closed */
	uint64_t directory_extent[DIRECTORY_EXTENTS]; /* 32: segment that holds the directory words of
	                                                 segments 2048 + 524288 * i on; 0: none */
	uint64_t reserved[500];    /* 96: 0 */
};

static_assert(sizeof(struct truth_page_rec) == 4096, "format");
static_assert(offsetof(struct truth_page_rec, directory_extent) == 32, "format");

/* ------------------------------------------------------------------ directory words
 *
 *   bits 0..7    kind
 *   bit  8       SEGMENT_METADATA: hint that the segment has no free slot and no free unit
 *   bits 16..55  SEGMENT_HUGE: length in pages of 4 KiB; it covers ceil(pages / 1024) segments
 *
 * A word that is neither free nor interior is a head. Interior counts only if the nearest head before
 * it is huge and reaches over it; else the segment is free. A directory segment counts only if the truth page
 * names it; else it is free. Segment 0 always has metadata; in its word only the hint counts.
 */
enum segment_kind {
	SEGMENT_FREE = 0,
	SEGMENT_INTERIOR = 1,
	SEGMENT_METADATA = 2,
	SEGMENT_HUGE = 3,
	SEGMENT_DIRECTORY = 4,
};

#define SEGMENT_FULL_HINT UINT64_C(0x100)
#define HUGE_PAGES_BITS   40

static inline unsigned segment_word_kind(uint64_t word)
{
	return (unsigned)(word & 0xff);
}

static inline uint64_t huge_word(uint64_t pages)
{
	return SEGMENT_HUGE | pages << 16;
}

static inline uint64_t huge_word_pages(uint64_t word)
{
	return word >> 16 & ((UINT64_C(1) << HUGE_PAGES_BITS) - 1);
}

static inline uint64_t huge_segments(uint64_t pages)
{
	return (pages + SEGMENT_PAGES - 1) / SEGMENT_PAGES;
}

/* ------------------------------------------------------------------ a segment's metadata unit
 *
 *   0 .. 512       unit words, one for each unit of the segment; the words of units that hold the header
 *                  or metadata are 0
 *   512 .. 1024    zero
 *   i * 1024 ..    the 64 pairs (live word, remote word) of unit i, if a slab begins there
 *
 * Pair w of the slab at unit u of segment s stands at place w xor (4 * ((u / 4 + s) mod 16)): first words would
 * else share few sets of the processor's cache. The pair behind the last one in use, if w <= 63, is zero.
 *
 * A slab with at most JOINT_WORDS pairs also has a joint word for each, the first half of the place of pair w + 32; the
 * other half is zero. Slot i is joined to slot i - 1 of the same word, as one object, if its joint bit and the live bits
 * of both are 1; a joint bit without that means nothing.
 *
 * Unit words:
 *   bits 0..7    kind
 *   bits 8..15   UNIT_SLAB: number of units
 *   bits 16..47  UNIT_SLAB: slot size in bytes;  UNIT_RUN: length in pages of 4 KiB
 *
 * Heads and interiors as in the directory.
 */
enum unit_kind {
	UNIT_FREE = 0,
	UNIT_INTERIOR = 1,
	UNIT_SLAB = 2,
	UNIT_RUN = 3,
};

#define SLAB_MAX_SLOTS 4096u
#define SLOT_MIN_SIZE  16u
#define UNIT_WORDS_LEN 512u
#define PAIRS_LEN      1024u
#define PAIRS          64u
#define JOINT_WORDS    31u

static inline unsigned unit_word_kind(uint64_t word)
{
	return (unsigned)(word & 0xff);
}

static inline uint64_t slab_word(unsigned units, uint32_t slot_size)
{
	return UNIT_SLAB | (uint64_t)units << 8 | (uint64_t)slot_size << 16;
}

static inline unsigned slab_word_units(uint64_t word)
{
	return (unsigned)(word >> 8 & 0xff);
}

static inline uint32_t slab_word_slot_size(uint64_t word)
{
	return (uint32_t)(word >> 16);
}

static inline uint64_t run_word(uint64_t pages)
{
	return UNIT_RUN | pages << 16;
}

static inline uint64_t run_word_pages(uint64_t word)
{
	return word >> 16 & 0xffffffff;
}

/* Units that a head word covers; 0 for what is no head. Not validated: may be more than a segment has. */
static inline uint64_t unit_word_units(uint64_t word)
{
	switch (unit_word_kind(word)) {
	case UNIT_SLAB:
		return slab_word_units(word);
	case UNIT_RUN:
		return (run_word_pages(word) + UNIT_PAGES - 1) / UNIT_PAGES;
	default:
		return 0;
	}
}

/* Unit of segment `segment_no` that holds its metadata; data units follow. */
static inline unsigned metadata_unit(uint64_t segment_no)
{
	return segment_no == 0 ? 1 : 0;
}

static inline uint64_t metadata_off(uint64_t segment_no)
{
	return (segment_no << SEGMENT_SHIFT) + ((uint64_t)metadata_unit(segment_no) << UNIT_SHIFT);
}

/* Place of pair 0; pair w is at w xor that. */
static inline unsigned pair_colour(uint64_t segment_no, unsigned unit)
{
	return 4 * ((unit / 4 + (unsigned)segment_no) & 15);
}

/* Slots joined to the one before, by the live and the joint word. */
static inline uint64_t joined_slots(uint64_t live, uint64_t joint)
{
	return joint & live & live << 1;
}

/* The slots joined to those in `heads`, which are joined to none. */
static inline uint64_t joined_to(uint64_t heads, uint64_t joined)
{
	/* from a run's first bit on the sum carries through the whole run */
	return joined & ~(joined + (heads << 1 & joined));
}

/* ------------------------------------------------------------------ journal of an atomic heap
 *
 * A record begins at a multiple of 4 KiB in a journal extent and lies in one extent: the header, `entries`
 * entries, zeros up to `len`. An entry is a word (offset << 16 | length) and, behind it, `length` bytes that
 * belong at `offset`; both are multiples of 8. A commit is one record of kind RECORD_COMMIT, or a chain: records of
 * kind RECORD_PART with rising sequences, and one of kind RECORD_COMMIT that names the first of them.
 */
#define RECORD_MAGIC "\x89" "fmrec\r\n"
#define RECORD_ALIGN LENGTH_PAGE

enum record_kind { RECORD_PART = 1, RECORD_COMMIT = 2 };

struct record_rec {
	uint8_t magic[8];        /*   0 */
	uint8_t uuid[16];        /*   8: of the heap */
	uint64_t generation;     /*  24: of the superblock under which it was written */
	uint64_t sequence;       /*  32: rises by one with each record of a generation */
	uint64_t commit;         /*  40: number of the commit; rises by one with each commit of a generation */
	uint64_t oldest;         /*  48: the oldest commit whose record is still needed */
	uint64_t position;       /*  56: where in the file the record lies */
	uint64_t len;            /*  64: bytes, a multiple of RECORD_ALIGN */
	uint64_t used;           /*  72: bytes up to the end of the last entry */
	uint64_t file_size;      /*  80: all entries lie below */
	uint64_t first;          /*  88: RECORD_COMMIT: sequence of the commit's first record, its own if alone */
	uint32_t kind;           /*  96: enum record_kind */
	uint32_t entries;        /* 100 */
	uint32_t chain_checksum; /* 104: RECORD_COMMIT: CRC-32C of the checksums of the parts, 0 if alone */
	uint8_t reserved[16];    /* 108: 0 */
	uint32_t checksum;       /* 124: CRC-32C of bytes 0..123 and of the entries, 128..used - 1 */
};

static_assert(sizeof(struct record_rec) == 128, "format");
static_assert(offsetof(struct record_rec, len) == 64, "format");
static_assert(offsetof(struct record_rec, first) == 88, "format");
static_assert(offsetof(struct record_rec, checksum) == 124, "format");

/* Bytes that the library gives a record at most; longer commits are chains, applied in pieces of this size. */
#define RECORD_MAX (8 * UINT64_C(1048576))

/* The longest entry: what 16 bits hold, in whole lines. */
#define ENTRY_MAX UINT64_C(65472)

static inline uint64_t entry_word(uint64_t off, uint64_t len)
{
	return off << 16 | len;
}

static inline uint64_t entry_off(uint64_t word)
{
	return word >> 16;
}

static inline uint64_t entry_len(uint64_t word)
{
	return word & 0xffff;
}

/* ------------------------------------------------------------------ roots
 *
 * The root table is an ordinary object: root_table_rec, then `capacity` words, each 0 or the offset of a
 * root_rec, itself an ordinary object that never changes while a word names it. */
struct root_table_rec {
	uint64_t capacity; /* 0: number of words */
	uint64_t word[];   /* 8 */
};

struct root_rec {
	uint64_t type_tag; /*  0 */
	uint64_t target;   /*  8: offset, 0: NULL */
	uint32_t name_len; /* 16: bytes, 1..255 */
	char name[];       /* 20: not terminated */
};

static_assert(offsetof(struct root_rec, name) == 20, "format");

#define ROOT_NAME_MAX 255u

#endif
