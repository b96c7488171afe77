/* The level that every processor has. */
#include <string.h>

#include "tiers.h"

static void pack(const int8_t *const *rows, int64_t dim, int64_t stride, void *block)
{
    int16_t *out = block;
    for (int row = 0; row < TIERS_BLOCK; row++)
        for (int64_t d = 0; d < dim; d++)
            out[row * stride + d] = rows[row][d];
}

static int32_t dot(const int16_t *a, const int16_t *b, int64_t dim)
{
    int32_t sum = 0;
    for (int64_t d = 0; d < dim; d++)
        sum += (int32_t)a[d] * b[d];
    return sum;
}

/* The order of these products is the definition of a tier. */
static int8_t tier_byte(int32_t dot, float candidate_inv, float history_inv, int half)
{
    float x = (float)dot * candidate_inv;
    x = x * history_inv;
    x = x * (float)half;
    if (!(x < (float)half))
        return (int8_t)half;
    if (!(x > (float)(1 - half)))
        return (int8_t)(1 - half);
    int t = (int)x;
    return (int8_t)(t + ((float)t < x));
}

static void tile(const struct tile *t, int wide)
{
    const int16_t *candidates = t->candidates, *packed = t->packed;
    for (int i = 0; i < wide; i++)
        for (int64_t j = 0; j < t->blocks * TIERS_BLOCK; j++) {
            int32_t product = dot(candidates + i * t->stride, packed + j * t->stride, t->dim);
            t->bytes[i * TIERS_CHUNK + j] = tier_byte(product, t->candidate_inv[i], t->history_inv[j], t->half);
        }
}

void tiers_count_scalar(const int8_t *bytes, int64_t blocks, int half, int32_t *counts)
{
    /* Four tables: neighbours are often of one tier, and an increment waits for the one before it on the same number. */
    int32_t table[4][256];
    memset(table, 0, sizeof table);
    for (int64_t at = 0; at < blocks * TIERS_BLOCK; at += 4)
        for (int n = 0; n < 4; n++)
            table[n][(uint8_t)bytes[at + n]]++;
    for (int t = 1 - half; t <= half; t++) {
        uint8_t byte = (uint8_t)(int8_t)t;
        counts[t + half - 1] += table[0][byte] + table[1][byte] + table[2][byte] + table[3][byte];
    }
}

const struct level *tiers_scalar(void)
{
    static const struct level level = {2, pack, tile, tiers_count_scalar};
    return &level;
}
