/* AVX2: codes widened to int16, so that products of two bytes and their sums are exact. */
#include "tiers.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,popcnt")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { GROUPS = TIERS_BLOCK / 16, SPAN_MAX = 80 };

/* Groups of 16 behaviours; in a group, per two dims: 16 pairs of int16. Eight rows of 16 codes at a time are transposed. */
TARGET static void pack(const int8_t *const *rows, int64_t dim, int64_t stride, void *block)
{
    for (int eight = 0; eight < TIERS_BLOCK / 8; eight++) {
        int16_t *out = (int16_t *)block + eight / 2 * 16 * stride + eight % 2 * 16;
        for (int64_t d = 0; d < dim; d += 16) {
            int64_t left = dim - d < 16 ? dim - d : 16;
            __m256i r[8], t[8];
#pragma GCC unroll 8
            for (int row = 0; row < 8; row++) {
                int8_t codes[16] = {0};
                const int8_t *from = rows[eight * 8 + row] + d;
                if (left < 16)
                    from = memcpy(codes, from, (size_t)left);
                r[row] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
            }
#pragma GCC unroll 4
            for (int i = 0; i < 8; i += 2) {
                t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
                t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
            }
#pragma GCC unroll 2
            for (int i = 0; i < 8; i += 4) {
                r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
                r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
                r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
                r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                if (2 * i < left)
                    _mm256_store_si256((__m256i *)(out + 16 * d + 32 * i), _mm256_permute2x128_si256(r[i], r[4 + i], 0x20));
                if (8 + 2 * i < left)
                    _mm256_store_si256((__m256i *)(out + 16 * d + 32 * (4 + i)), _mm256_permute2x128_si256(r[i], r[4 + i], 0x31));
            }
        }
    }
}

INLINE __m256i tiers_of(__m256i dots, __m256 ours, __m256 theirs, __m256 top)
{
    __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), ours);
    x = _mm256_mul_ps(_mm256_mul_ps(x, theirs), top);
    return _mm256_cvtps_epi32(_mm256_round_ps(_mm256_min_ps(x, top), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
}

INLINE void tile_of(const int wide, const struct tile *t, int from)
{
    const __m256 top = _mm256_set1_ps((float)t->half);
    const __m128i low = _mm_set1_epi8((char)(1 - t->half));
    for (int64_t group = 0; group < t->blocks * GROUPS; group++) {
        const int16_t *packed = (const int16_t *)t->packed + group * 16 * t->stride;
        __m256i sum[3][2];
#pragma GCC unroll 3
        for (int i = 0; i < wide; i++)
            sum[i][0] = sum[i][1] = _mm256_setzero_si256();
        for (int64_t d = 0; d < t->dim; d += 2) {
            const __m256i left = _mm256_load_si256((const __m256i *)(packed + 16 * d));
            const __m256i right = _mm256_load_si256((const __m256i *)(packed + 16 * d + 16));
#pragma GCC unroll 3
            for (int i = 0; i < wide; i++) {
                int32_t two;
                memcpy(&two, (const int16_t *)t->candidates + (from + i) * t->stride + d, 4);
                const __m256i ours = _mm256_set1_epi32(two);
                sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(left, ours));
                sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(right, ours));
            }
        }
        const __m256 inv0 = _mm256_loadu_ps(t->history_inv + group * 16), inv1 = _mm256_loadu_ps(t->history_inv + group * 16 + 8);
#pragma GCC unroll 3
        for (int i = 0; i < wide; i++) {
            const __m256 ours = _mm256_set1_ps(t->candidate_inv[from + i]);
            __m256i both = _mm256_packs_epi32(tiers_of(sum[i][0], ours, inv0, top), tiers_of(sum[i][1], ours, inv1, top));
            both = _mm256_permute4x64_epi64(both, 0xd8);
            const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
            _mm_store_si128((__m128i *)(t->bytes + (from + i) * TIERS_CHUNK + group * 16), _mm_max_epi8(bytes, low));
        }
    }
}

TARGET static void tile(const struct tile *t, int wide)
{
    int from = 0;
    for (; from + 3 <= wide; from += 3)
        tile_of(3, t, from);
    if (wide - from == 2)
        tile_of(2, t, from);
    if (wide - from == 1)
        tile_of(1, t, from);
}

TARGET static void count(const int8_t *bytes, int64_t blocks, int half, int32_t *counts)
{
    if (2 * half > SPAN_MAX) {
        tiers_count_scalar(bytes, blocks, half, counts);
        return;
    }
    for (int t = 1 - half; t <= half; t++) {
        const __m256i value = _mm256_set1_epi8((char)t);
        int found = 0;
        for (int64_t at = 0; at < blocks * TIERS_BLOCK; at += 32)
            found += _mm_popcnt_u32((uint32_t)_mm256_movemask_epi8(
                _mm256_cmpeq_epi8(value, _mm256_load_si256((const __m256i *)(bytes + at)))));
        counts[t + half - 1] += found;
    }
}

const struct level *tiers_avx2(void)
{
    static const struct level level = {2, pack, tile, count};
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") ? &level : 0;
}

#else
const struct level *tiers_avx2(void) { return 0; }
#endif
