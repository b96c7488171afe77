/* SimTier counts of int8 codes: what the levels of instruction sets share.
 *
 * A tile is up to TIERS_WIDE candidates against some blocks of TIERS_BLOCK behaviours each. Its result is one signed byte a pair:
 * t = min(ceil(cos * half), half), not below 1 - half, where tier = t + half - 1 and half = N / 2 is at most 125.
 */
#ifndef MOONTIDE_TIERS_H
#define MOONTIDE_TIERS_H

#include <stdint.h>

enum { TIERS_BLOCK = 64, TIERS_WIDE = 6, TIERS_CHUNK = 1024, TIERS_HALF_MAX = 125 };

/* The byte of a pair that is counted nowhere. */
#define TIERS_NOWHERE ((int8_t)-128)

struct tile {
    const void *candidates;   /* wide rows of `stride` codes of code_bytes each, zero beyond dim */
    const int32_t *sums;      /* of the codes of each candidate */
    const float *candidate_inv;
    const void *packed;       /* blocks of behaviours, as `pack` left them */
    const float *history_inv; /* one a behaviour; 0 where a block is not full */
    int8_t *bytes;            /* wide rows of TIERS_CHUNK bytes */
    int64_t blocks;
    int64_t dim;
    int64_t stride;           /* dim rounded up to 64 */
    int half;
};

struct level {
    int64_t code_bytes; /* 1: codes are worked on as int8; 2: as int16 */
    /* Packs TIERS_BLOCK rows of `dim` codes into TIERS_BLOCK * stride * code_bytes bytes, 64-byte aligned. */
    void (*pack)(const int8_t *const *rows, int64_t dim, int64_t stride, void *block);
    /* wide: 1 to TIERS_WIDE. */
    void (*tile)(const struct tile *tile, int wide);
    /* Adds the bytes of one candidate, `blocks` times TIERS_BLOCK, to counts[t + half - 1]. */
    void (*count)(const int8_t *bytes, int64_t blocks, int half, int32_t *counts);
};

const struct level *tiers_scalar(void);
/* NULL where the compiler or the processor has no such instructions. */
const struct level *tiers_avx2(void);
const struct level *tiers_avx512(void);

/* `count` of the levels; the scalar one is also for tiers so many that a compare for each costs more. */
void tiers_count_avx2(const int8_t *bytes, int64_t blocks, int half, int32_t *counts);
void tiers_count_scalar(const int8_t *bytes, int64_t blocks, int half, int32_t *counts);

#endif
