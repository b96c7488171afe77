/* From ids to rows: an open-addressed hash table over keys that lie elsewhere and never change: NUL-padded, `width` bytes each.
 *
 * A slot is 0 where it is free; else its high half is the high half of the key's hash and its low half is the row plus 1. One thread
 * adds while others look up: a slot is written once, in one store, after the key it names.
 */
#include <stdint.h>
#include <string.h>

enum { BATCH = 16 };

#define EXPORT __attribute__((visibility("default")))
#define TAG 0xffffffff00000000u

static uint64_t folded(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Keyed, so that nobody can choose ids that fall on one slot; multiply and fold, as wyhash does. */
static uint64_t hash(const uint8_t *id, int64_t size, const uint64_t seed[2])
{
    uint64_t state = seed[0] ^ (uint64_t)size;
    for (; size > 0; id += 16, size -= 16) {
        uint64_t words[2] = {0, 0};
        memcpy(words, id, size < 16 ? (size_t)size : 16);
        state = folded(words[0] ^ state, words[1] ^ seed[1]);
    }
    return folded(state ^ seed[1], seed[0]);
}

/* An id may hold a NUL; one that ends in NUL is none, for it would be equal to a key but for the padding. */
static int equal(const uint8_t *key, int64_t width, const uint8_t *id, int64_t size)
{
    if (memcmp(key, id, (size_t)size) || (size && !id[size - 1]))
        return 0;
    while (size < width && !key[size])
        size++;
    return size == width;
}

EXPORT int moontide_rows_abi(void)
{
    return 1;
}

/* Puts rows first to last - 1 into a table of mask + 1 slots, a power of two, more than rows. */
EXPORT void moontide_rows_add(uint64_t *slots, uint64_t mask, const uint8_t *keys, int64_t width, int64_t first, int64_t last,
                              const uint64_t *seed)
{
    for (int64_t row = first; row < last; row++) {
        const uint8_t *key = keys + row * width;
        int64_t size = width;
        while (size && !key[size - 1])
            size--;
        uint64_t h = hash(key, size, seed), at = h & mask;
        while (slots[at])
            at = (at + 1) & mask;
        __atomic_store_n(slots + at, (h & TAG) | (uint64_t)(row + 1), __ATOMIC_RELEASE);
    }
}

/* found[n]: the row of the id text[starts[n]] to text[stops[n] - 1], -1 where there is none. */
EXPORT void moontide_rows_find(const uint64_t *slots, uint64_t mask, const uint8_t *keys, int64_t width, const uint8_t *text,
                               const int64_t *starts, const int64_t *stops, int64_t count, const uint64_t *seed, int64_t *found)
{
    uint64_t hashes[BATCH], slot[BATCH];
    for (int64_t begin = 0; begin < count; begin += BATCH) {
        int many = count - begin < BATCH ? (int)(count - begin) : BATCH;
        /* Three passes: what one needs of memory, the one before has asked for. */
        for (int n = 0; n < many; n++) {
            int64_t start = starts[begin + n], size = stops[begin + n] - start;
            hashes[n] = size > width ? 0 : hash(text + start, size, seed);
            __builtin_prefetch(slots + (hashes[n] & mask));
        }
        for (int n = 0; n < many; n++) {
            uint64_t at = hashes[n] & mask;
            while ((slot[n] = __atomic_load_n(slots + at, __ATOMIC_ACQUIRE)) && ((slot[n] ^ hashes[n]) & TAG))
                at = (at + 1) & mask;
            if (slot[n])
                __builtin_prefetch(keys + ((slot[n] & ~TAG) - 1) * width);
        }
        for (int n = 0; n < many; n++) {
            int64_t start = starts[begin + n], size = stops[begin + n] - start;
            uint64_t at = hashes[n] & mask, now;
            found[begin + n] = -1;
            if (size > width || !slot[n])
                continue;
            int64_t row = (int64_t)(slot[n] & ~TAG) - 1;
            if (equal(keys + row * width, width, text + start, size)) {
                found[begin + n] = row;
                continue;
            }
            /* Another key with this tag: look at every slot. */
            for (; (now = __atomic_load_n(slots + at, __ATOMIC_ACQUIRE)); at = (at + 1) & mask) {
                row = (int64_t)(now & ~TAG) - 1;
                if (!((now ^ hashes[n]) & TAG) && equal(keys + row * width, width, text + start, size)) {
                    found[begin + n] = row;
                    break;
                }
            }
        }
    }
}
