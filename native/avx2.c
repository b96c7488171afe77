/* AVX2: codes widened to int16, so that products of two bytes and their sums are exact. */
#include "tiers.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))
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

INLINE int highest(__m256i v)
{
    __m128i x = _mm_max_epi8(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 8));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 4));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 2));
    x = _mm_max_epi8(x, _mm_srli_si128(x, 1));
    return (int8_t)_mm_cvtsi128_si32(x);
}

/* ~v is -v - 1, which turns the order round. */
INLINE int lowest(__m256i v) { return ~highest(_mm256_xor_si256(v, _mm256_set1_epi8(-1))); }

INLINE int total(__m256i bytes)
{
    const __m256i sums = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si32(_mm_add_epi64(two, _mm_srli_si128(two, 8)));
}

/* Four tiers at a time, a compare each; a byte of a sum holds the at most TIERS_CHUNK / 32 that it counts. */
TARGET void tiers_count_avx2(const int8_t *bytes, int64_t blocks, int half, int32_t *counts)
{
    __m256i most = _mm256_load_si256((const __m256i *)bytes), least = most;
    for (int64_t at = 32; at < blocks * TIERS_BLOCK; at += 32) {
        const __m256i v = _mm256_load_si256((const __m256i *)(bytes + at));
        most = _mm256_max_epi8(most, v);
        least = _mm256_min_epi8(least, v);
    }
    int low = lowest(least), high = highest(most);
    if (low < 1 - half)
        low = 1 - half;
    if (high - low > SPAN_MAX) {
        tiers_count_scalar(bytes, blocks, half, counts);
        return;
    }
    for (int t = low; t <= high; t += 4) {
        const __m256i v0 = _mm256_set1_epi8((char)t), v1 = _mm256_set1_epi8((char)(t + 1));
        const __m256i v2 = _mm256_set1_epi8((char)(t + 2)), v3 = _mm256_set1_epi8((char)(t + 3));
        __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
        for (int64_t at = 0; at < blocks * TIERS_BLOCK; at += 32) {
            const __m256i v = _mm256_load_si256((const __m256i *)(bytes + at));
            s0 = _mm256_sub_epi8(s0, _mm256_cmpeq_epi8(v, v0));
            s1 = _mm256_sub_epi8(s1, _mm256_cmpeq_epi8(v, v1));
            s2 = _mm256_sub_epi8(s2, _mm256_cmpeq_epi8(v, v2));
            s3 = _mm256_sub_epi8(s3, _mm256_cmpeq_epi8(v, v3));
        }
        int32_t *to = counts + t + half - 1;
        to[0] += total(s0);
        if (t + 1 <= high)
            to[1] += total(s1);
        if (t + 2 <= high)
            to[2] += total(s2);
        if (t + 3 <= high)
            to[3] += total(s3);
    }
}

const struct level *tiers_avx2(void)
{
    static const struct level level = {2, pack, tile, tiers_count_avx2};
    return __builtin_cpu_supports("avx2") ? &level : 0;
}

#else
const struct level *tiers_avx2(void) { return 0; }
#endif
