/* AVX-512 with VNNI: four products of unsigned by signed bytes are added to an int32 in one instruction.
 *
 * Behaviours are packed as code + 128, unsigned; the candidate's sum of codes times 128 is taken off at the start. Integers wrap,
 * so the dot product is exact as long as it fits an int32.
 */
#include "tiers.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vnni,avx2,popcnt")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { GROUPS = TIERS_BLOCK / 16, SPAN_MAX = 80 };

/* 16 rows of 16 int32 -> 16 columns. */
INLINE void transpose(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* r[4a + b], 128-bit lane l: column 4l + b of rows 4a..4a+3. */
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++) {
        __m512i low01 = _mm512_shuffle_i32x4(r[b], r[4 + b], 0x44), high01 = _mm512_shuffle_i32x4(r[b], r[4 + b], 0xee);
        __m512i low23 = _mm512_shuffle_i32x4(r[8 + b], r[12 + b], 0x44), high23 = _mm512_shuffle_i32x4(r[8 + b], r[12 + b], 0xee);
        t[b] = _mm512_shuffle_i32x4(low01, low23, 0x88);
        t[4 + b] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
        t[8 + b] = _mm512_shuffle_i32x4(high01, high23, 0x88);
        t[12 + b] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}

/* Per four dims: four groups of 16 behaviours. A group takes the rows whose bytes end in it when the saturating packs of `tile`
 * have interleaved the groups, so that bytes come out in the order of the rows. */
TARGET static void pack(const int8_t *const *rows, int64_t dim, int64_t stride, void *block)
{
    (void)stride;
    int8_t *out = block;
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    for (int64_t d = 0; d < dim; d += 64) {
        int64_t left = dim - d < 64 ? dim - d : 64;
        __mmask64 there = left == 64 ? ~(__mmask64)0 : (((__mmask64)1 << left) - 1);
        for (int group = 0; group < GROUPS; group++) {
            __m512i r[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                const int8_t *row = rows[(i >> 2) * 16 + group * 4 + (i & 3)];
                r[i] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, row + d), flip);
            }
            transpose(r);
            int8_t *to = out + d * TIERS_BLOCK + group * 64;
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                if (4 * i < left)
                    _mm512_store_si512(to + i * 256, r[i]);
        }
    }
}

INLINE void tile_of(const int wide, const struct tile *t)
{
    const __m512 top = _mm512_set1_ps((float)t->half);
    const __m512i low = _mm512_set1_epi8((char)(1 - t->half));
    const int64_t quads = (t->dim + 3) / 4;
    for (int64_t block = 0; block < t->blocks; block++) {
        const int8_t *packed = (const int8_t *)t->packed + block * TIERS_BLOCK * t->stride;
        __m512i sum[TIERS_WIDE][GROUPS];
#pragma GCC unroll 8
        for (int i = 0; i < wide; i++)
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++)
                sum[i][g] = _mm512_set1_epi32((int32_t)(0u - 128u * (uint32_t)t->sums[i]));
        for (int64_t q = 0; q < quads; q++) {
            __m512i theirs[GROUPS];
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++)
                theirs[g] = _mm512_load_si512(packed + q * 256 + g * 64);
#pragma GCC unroll 8
            for (int i = 0; i < wide; i++) {
                int32_t four;
                memcpy(&four, (const int8_t *)t->candidates + i * t->stride + 4 * q, 4);
                const __m512i ours = _mm512_set1_epi32(four);
#pragma GCC unroll 4
                for (int g = 0; g < GROUPS; g++)
                    sum[i][g] = _mm512_dpbusd_epi32(sum[i][g], theirs[g], ours);
            }
        }
        __m512 theirs_inv[GROUPS];
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; g++) {
            /* In the order of the packed groups: see `pack`. */
            const float *inv = t->history_inv + block * TIERS_BLOCK + g * 4;
            __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(inv));
            v = _mm512_insertf32x4(v, _mm_loadu_ps(inv + 16), 1);
            v = _mm512_insertf32x4(v, _mm_loadu_ps(inv + 32), 2);
            theirs_inv[g] = _mm512_insertf32x4(v, _mm_loadu_ps(inv + 48), 3);
        }
#pragma GCC unroll 8
        for (int i = 0; i < wide; i++) {
            const __m512 ours_inv = _mm512_set1_ps(t->candidate_inv[i]);
            __m512i whole[GROUPS];
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++) {
                __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i][g]), ours_inv);
                x = _mm512_mul_ps(_mm512_mul_ps(x, theirs_inv[g]), top);
                whole[g] = _mm512_cvt_roundps_epi32(_mm512_min_ps(x, top), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
            }
            const __m512i first = _mm512_packs_epi32(whole[0], whole[1]), second = _mm512_packs_epi32(whole[2], whole[3]);
            const __m512i bytes = _mm512_max_epi8(_mm512_packs_epi16(first, second), low);
            _mm512_store_si512(t->bytes + i * TIERS_CHUNK + block * TIERS_BLOCK, bytes);
        }
    }
}

TARGET static void tile(const struct tile *t, int wide)
{
    switch (wide) {
    case 1: tile_of(1, t); break;
    case 2: tile_of(2, t); break;
    case 3: tile_of(3, t); break;
    case 4: tile_of(4, t); break;
    case 5: tile_of(5, t); break;
    default: tile_of(6, t); break;
    }
}

INLINE int largest(__m512i v)
{
    __m256i half = _mm256_max_epi8(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i x = _mm_max_epi8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 8));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 4));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 2));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 1));
    return (int8_t)_mm_cvtsi128_si32(x);
}

/* A compare and a population count for each tier between the lowest and the highest that occur. */
TARGET static void count(const int8_t *bytes, int64_t blocks, int half, int32_t *counts)
{
    __m512i most = _mm512_load_si512(bytes), least = most;
    for (int64_t at = 1; at < blocks; at++) {
        const __m512i v = _mm512_load_si512(bytes + at * 64);
        most = _mm512_max_epi8(most, v);
        least = _mm512_min_epi8(least, v);
    }
    const int high = largest(most);
    /* ~v = -v - 1 turns the order round. */
    int low = ~largest(_mm512_xor_si512(least, _mm512_set1_epi8(-1)));
    if (low < 1 - half)
        low = 1 - half;
    if (high - low > SPAN_MAX) {
        tiers_count_scalar(bytes, blocks, half, counts);
        return;
    }
    for (int t = low; t <= high; t++) {
        const __m512i value = _mm512_set1_epi8((char)t);
        int64_t found = 0;
        for (int64_t at = 0; at < blocks; at++)
            found += _mm_popcnt_u64(_mm512_cmpeq_epi8_mask(value, _mm512_load_si512(bytes + at * 64)));
        counts[t + half - 1] += (int32_t)found;
    }
}

const struct level *tiers_avx512(void)
{
    static const struct level level = {1, pack, tile, count};
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni")
                   && __builtin_cpu_supports("popcnt")
               ? &level
               : 0;
}

#else
const struct level *tiers_avx512(void) { return 0; }
#endif
