/* SimTier counts of many requests, as `moontide.tier_kernel` counts them, bit for bit. Called through ctypes; allocates nothing. */
#include "tiers.h"

#include <stdalign.h>
#include <string.h>

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#define EXPORT __attribute__((visibility("default")))
#else
#define PREFETCH(address) ((void)(address))
#define EXPORT
#endif

/* Changed with every change of a signature or of what a call means; `moontide.native` refuses another one. */
enum { ABI = 1 };

enum { HASH_MAX = 2 * TIERS_CHUNK, DIM_MAX = 1 << 17 };
static const int64_t PACKED_BYTES = 256 * 1024;

struct side {
    const int8_t *codes;
    int64_t stride;
    const float *inv_norm;
    const uint8_t *present;
    const int64_t *rows;
    const int64_t *offsets;
    const int64_t *keys;
};

/* One part of a history, at most TIERS_CHUNK behaviours. */
struct chunk {
    void *packed;
    void *candidates;
    const int8_t *zeros;
    alignas(64) int8_t bytes[TIERS_WIDE * TIERS_CHUNK];
    alignas(64) float history_inv[TIERS_CHUNK];
    const int8_t *codes[TIERS_CHUNK]; /* of behaviours that have a vector */
    int32_t slot[TIERS_CHUNK];        /* of a behaviour among those; -1: no vector */
    int32_t heads[HASH_MAX];          /* a behaviour of the key's bucket + 1; 0: none */
    int32_t next[TIERS_CHUNK];
    const int64_t *keys;
    int64_t size;  /* behaviours */
    int64_t valid; /* those with a vector */
    int shift;
};

struct batch {
    int64_t candidate[TIERS_WIDE];
    int32_t sums[TIERS_WIDE];
    float inv[TIERS_WIDE];
    int wide;
};

struct call {
    const struct side *left, *right;
    const struct level *level;
    struct chunk *chunk;
    int64_t dim, stride, most;
    int half;
    int32_t *counts, *missing;
};

static int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

static const struct level *level_of(int number)
{
    switch (number) {
    case 0: return tiers_scalar();
    case 1: return tiers_avx2();
    case 2: return tiers_avx512();
    default: return 0;
    }
}

/* Behaviours of a chunk: packed, they stay in the second cache. */
static int64_t chunk_rows(int64_t stride, int64_t code_bytes)
{
    int64_t fit = PACKED_BYTES / (stride * code_bytes) / TIERS_BLOCK * TIERS_BLOCK;
    return fit < TIERS_BLOCK ? TIERS_BLOCK : fit > TIERS_CHUNK ? TIERS_CHUNK : fit;
}

static const int8_t *vector(const struct side *side, int64_t at, float *inv)
{
    int64_t row = side->rows[at];
    if (row < 0 || !side->present[row] || side->inv_norm[row] == 0.0f)
        return 0;
    *inv = side->inv_norm[row];
    return side->codes + row * side->stride;
}

static uint64_t bucket(int64_t key, int shift) { return ((uint64_t)key * 0x9e3779b97f4a7c15u) >> shift; }

static void index_keys(struct chunk *c, const int64_t *keys)
{
    int bits = 3;
    while (((int64_t)1 << bits) < 2 * c->size)
        bits++;
    c->keys = keys;
    c->shift = 64 - bits;
    memset(c->heads, 0, sizeof *c->heads << bits);
    for (int64_t j = 0; j < c->size; j++) {
        int32_t *head = &c->heads[bucket(keys[j], c->shift)];
        c->next[j] = *head;
        *head = (int32_t)j + 1;
    }
}

static void load(const struct call *call, int64_t first, int64_t size)
{
    struct chunk *c = call->chunk;
    c->size = size;
    c->valid = 0;
    for (int64_t j = 0; j < size; j++) {
        const int8_t *codes = vector(call->right, first + j, &c->history_inv[c->valid]);
        c->slot[j] = codes ? (int32_t)c->valid : -1;
        if (!codes)
            continue;
        for (int64_t d = 0; d < call->dim; d += 64)
            PREFETCH(codes + d);
        c->codes[c->valid++] = codes;
    }
    int64_t full = round_up(c->valid, TIERS_BLOCK);
    for (int64_t j = c->valid; j < full; j++) {
        c->codes[j] = c->zeros;
        c->history_inv[j] = 0.0f;
    }
    int64_t bytes = TIERS_BLOCK * call->stride * call->level->code_bytes;
    for (int64_t block = 0; block < full / TIERS_BLOCK; block++)
        call->level->pack(c->codes + block * TIERS_BLOCK, call->dim, call->stride, (char *)c->packed + block * bytes);
    if (call->left->keys && call->right->keys)
        index_keys(c, call->right->keys + first);
    else
        c->keys = 0;
}

/* Behaviours on the candidate's own key; those with a vector are taken out of `bytes` where it is given. */
static int64_t drop(const struct call *call, int64_t candidate, int8_t *bytes, int64_t *with_vector)
{
    struct chunk *c = call->chunk;
    int64_t dropped = 0;
    *with_vector = 0;
    if (!c->keys)
        return 0;
    int64_t key = call->left->keys[candidate];
    for (int32_t j = c->heads[bucket(key, c->shift)]; j; j = c->next[j - 1]) {
        if (c->keys[j - 1] != key)
            continue;
        dropped++;
        if (bytes && c->slot[j - 1] >= 0) {
            bytes[c->slot[j - 1]] = TIERS_NOWHERE;
            ++*with_vector;
        }
    }
    return dropped;
}

static void count_batch(const struct call *call, struct batch *batch)
{
    struct chunk *c = call->chunk;
    int64_t blocks = round_up(c->valid, TIERS_BLOCK) / TIERS_BLOCK;
    struct tile tile = {c->candidates, batch->sums, batch->inv,  c->packed,    c->history_inv,
                        c->bytes,      blocks,      call->dim, call->stride, call->half};
    call->level->tile(&tile, batch->wide);
    for (int i = 0; i < batch->wide; i++) {
        int64_t candidate = batch->candidate[i], lost;
        int8_t *bytes = c->bytes + i * TIERS_CHUNK;
        int32_t *counts = call->counts + candidate * 2 * call->half;
        int64_t dropped = drop(call, candidate, bytes, &lost);
        call->level->count(bytes, blocks, call->half, counts);
        /* Padding has cosine 0. */
        counts[call->half - 1] -= (int32_t)(blocks * TIERS_BLOCK - c->valid);
        call->missing[candidate] += (int32_t)(c->size - dropped - (c->valid - lost));
    }
    batch->wide = 0;
}

static void add_candidate(const struct call *call, struct batch *batch, int64_t candidate, const int8_t *codes)
{
    int64_t at = batch->wide * call->stride;
    int32_t sum = 0;
    if (call->level->code_bytes == 1) {
        memcpy((int8_t *)call->chunk->candidates + at, codes, (size_t)call->dim);
        for (int64_t d = 0; d < call->dim; d++)
            sum += codes[d];
    } else {
        for (int64_t d = 0; d < call->dim; d++)
            ((int16_t *)call->chunk->candidates)[at + d] = codes[d];
    }
    batch->sums[batch->wide] = sum;
    batch->candidate[batch->wide++] = candidate;
}

/* The candidates in begin..end - 1 of one request against its behaviours. */
static void count_request(const struct call *call, int64_t begin, int64_t end, int64_t first, int64_t last)
{
    struct batch batch = {.wide = 0};
    for (int64_t at = first; at < last; at += call->most) {
        load(call, at, last - at < call->most ? last - at : call->most);
        for (int64_t candidate = begin; candidate < end; candidate++) {
            const int8_t *codes = call->chunk->valid ? vector(call->left, candidate, &batch.inv[batch.wide]) : 0;
            if (!codes) {
                int64_t none;
                call->missing[candidate] += (int32_t)(call->chunk->size - drop(call, candidate, 0, &none));
                continue;
            }
            add_candidate(call, &batch, candidate, codes);
            if (batch.wide == TIERS_WIDE)
                count_batch(call, &batch);
        }
        if (batch.wide)
            count_batch(call, &batch);
    }
}

EXPORT int moontide_tiers_abi(void) { return ABI; }

/* 1 where this processor has the level: 0 scalar, 1 AVX2, 2 AVX-512 VNNI. */
EXPORT int moontide_tiers_has(int level) { return level_of(level) != 0; }

/* Bytes of working memory that one call needs; -1: a level or a size that there is not. */
EXPORT int64_t moontide_tiers_scratch(int level, int64_t dim)
{
    const struct level *found = level_of(level);
    if (!found || dim < 1 || dim > DIM_MAX)
        return -1;
    int64_t stride = round_up(dim, 64);
    int64_t packed = chunk_rows(stride, found->code_bytes) * stride * found->code_bytes;
    return 64 + round_up(sizeof(struct chunk), 64) + packed + (TIERS_WIDE * found->code_bytes + 1) * stride;
}

/* Adds to counts (R, tiers) and missing (R,) of the candidates in begin..end - 1, each against its request.
 *
 * requests + 1 offsets on both sides; tiers is even, 2 to 250; scratch as moontide_tiers_scratch says, one a thread.
 * Returns 0; 1: arguments outside these rules, and nothing was done. */
EXPORT int moontide_tiers_count(const struct side *left, const struct side *right, int64_t requests, int64_t dim, int64_t tiers,
                                int level, int64_t begin, int64_t end, void *scratch, int32_t *counts, int32_t *missing)
{
    const struct level *found = level_of(level);
    if (!found || dim < 1 || dim > DIM_MAX || tiers < 2 || tiers > 2 * TIERS_HALF_MAX || tiers % 2)
        return 1;
    int64_t stride = round_up(dim, 64);
    char *memory = (char *)round_up((int64_t)(intptr_t)scratch, 64);
    struct chunk *chunk = (struct chunk *)memory;
    memory += round_up(sizeof *chunk, 64);
    int64_t wide = TIERS_WIDE * found->code_bytes * stride;
    memset(memory, 0, (size_t)(wide + stride));
    chunk->candidates = memory;
    chunk->zeros = (int8_t *)memory + wide;
    chunk->packed = memory + wide + stride;
    struct call call = {left, right, found, chunk, dim, stride, chunk_rows(stride, found->code_bytes), (int)tiers / 2, counts, missing};
    int64_t low = 0, high = requests; /* the request that holds `begin` */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (left->offsets[middle] <= begin)
            low = middle;
        else
            high = middle;
    }
    for (int64_t u = low; u < requests && left->offsets[u] < end; u++) {
        int64_t from = left->offsets[u] > begin ? left->offsets[u] : begin;
        int64_t to = left->offsets[u + 1] < end ? left->offsets[u + 1] : end;
        if (from < to)
            count_request(&call, from, to, right->offsets[u], right->offsets[u + 1]);
    }
    return 0;
}
