/* AVX-512 with VNNI: four products of unsigned by signed bytes are added to an int32 in one instruction.
 *
 * Behaviours are packed as code + 128, unsigned; the candidate's sum of codes times 128 is taken off at the start. Integers wrap,
 * so the dot product is exact as long as it fits an int32.
 */
#include "tiers.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { GROUPS = TIERS_BLOCK / 16 };

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

/* The inverse norms of 16 behaviours in the order of a packed group. */
INLINE __m512 inverses(const float *inv)
{
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(inv));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(inv + 16), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(inv + 32), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(inv + 48), 3);
}

/* The order of these products is the definition of a tier. */
INLINE __m512i whole(__m512i dots, __m512 ours, __m512 theirs, __m512 top)
{
    __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), ours);
    x = _mm512_mul_ps(_mm512_mul_ps(x, theirs), top);
    return _mm512_cvt_roundps_epi32(_mm512_min_ps(x, top), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
}

/* Not the intrinsic: GCC 12 copies every sum to memory in each step of the loop (2.3 times slower). */
#define ADD_DOTS(sum, theirs, ours) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(theirs), "v"(ours));

/* Sums have names, not numbers: the compiler keeps arrays of them in memory. */
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define START(i) \
    __m512i a##i = _mm512_setzero_si512(); \
    if (i < wide) \
        a##i = _mm512_set1_epi32((int32_t)(0u - 128u * (uint32_t)t->sums[i])); \
    __m512i b##i = a##i, c##i = a##i, d##i = a##i;
#define STEP(i) \
    if (i < wide) { \
        memcpy(&four, ours + i * t->stride + 4 * q, 4); \
        const __m512i codes = _mm512_set1_epi32(four); \
        ADD_DOTS(a##i, packed_a, codes) \
        ADD_DOTS(b##i, packed_b, codes) \
        ADD_DOTS(c##i, packed_c, codes) \
        ADD_DOTS(d##i, packed_d, codes) \
    }
#define FINISH(i) \
    if (i < wide) { \
        const __m512 inv = _mm512_set1_ps(t->candidate_inv[i]); \
        const __m512i first = _mm512_packs_epi32(whole(a##i, inv, inv_a, top), whole(b##i, inv, inv_b, top)); \
        const __m512i second = _mm512_packs_epi32(whole(c##i, inv, inv_c, top), whole(d##i, inv, inv_d, top)); \
        const __m512i bytes = _mm512_max_epi8(_mm512_packs_epi16(first, second), low); \
        _mm512_store_si512(t->bytes + i * TIERS_CHUNK + block * TIERS_BLOCK, bytes); \
    }

INLINE void tile_of(const int wide, const struct tile *t)
{
    const int8_t *ours = t->candidates;
    const __m512 top = _mm512_set1_ps((float)t->half);
    const __m512i low = _mm512_set1_epi8((char)(1 - t->half));
    const int64_t quads = (t->dim + 3) / 4;
    int32_t four;
    for (int64_t block = 0; block < t->blocks; block++) {
        const int8_t *packed = (const int8_t *)t->packed + block * TIERS_BLOCK * t->stride;
        EACH(START)
        for (int64_t q = 0; q < quads; q++) {
            const __m512i packed_a = _mm512_load_si512(packed + q * 256), packed_b = _mm512_load_si512(packed + q * 256 + 64);
            const __m512i packed_c = _mm512_load_si512(packed + q * 256 + 128), packed_d = _mm512_load_si512(packed + q * 256 + 192);
            EACH(STEP)
        }
        const float *inv = t->history_inv + block * TIERS_BLOCK;
        const __m512 inv_a = inverses(inv), inv_b = inverses(inv + 4), inv_c = inverses(inv + 8), inv_d = inverses(inv + 12);
        EACH(FINISH)
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

const struct level *tiers_avx512(void)
{
    static const struct level level = {1, pack, tile, tiers_count_avx2};
    int there = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
    return there && tiers_avx2() ? &level : 0;
}

#else
const struct level *tiers_avx512(void) { return 0; }
#endif
