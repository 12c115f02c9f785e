/* Products of bfloat16 operands by tiles, sums in float32: what processors with amx_bf16 multiply by themselves.
 *
 * A tile of the left factor is 16 rows of 32 numbers as they lie in memory. One of the right factor is 16 pairs of rows,
 * each pair's numbers side by side: [16 pairs, 16 columns, 2]. Everything is made up with zeros to whole tiles.
 */
#ifndef FEDMM_ROUNDED_H
#define FEDMM_ROUNDED_H

#include "vectors.h"

#define SIDE 16           /* rows and columns of a tile of sums, and pairs of a tile of the right factor */
#define INNER (2 * SIDE)  /* what one product of tiles adds up */
#define TILE (SIDE * INNER)

typedef uint16_t brief; /* the bits of a bfloat16 */

INLINE int64_t tiles_of(int64_t numbers, int64_t side) { return (numbers + side - 1) / side; }

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__AVX512F__) && \
    defined(__linux__) && defined(__x86_64__)
#define ROUNDS 1

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether the system lets this process use tiles; it must be asked once. */
UNUSED static int tiles_allowed(void) {
    enum { ASK = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) Shapes;

/* The compiler's own forms of these name eight of the 64 bytes that they read or write: the others could still be on
 * their way. */
INLINE void load_shapes(const Shapes *from) { __asm__ volatile("ldtilecfg %0" ::"m"(*from)); }

INLINE void store_shapes(Shapes *into) { __asm__ volatile("sttilecfg %0" : "=m"(*into)); }

/* Eight whole tiles; ``kept`` is what the thread had before, which another library counts on to find again. */
static void begin_tiles(Shapes *kept) {
    Shapes own = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        own.rows[i] = SIDE;
        own.bytes[i] = 64;
    }
    store_shapes(kept);
    load_shapes(&own);
}

static void end_tiles(const Shapes *kept) {
    if (kept->palette) load_shapes(kept);
    else _tile_release();
}

INLINE whole rounded_vector(vector value) { /* in the low half of each place */
    return (whole)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)value));
}

INLINE whole paired(vector first, vector second) { return rounded_vector(first) | rounded_vector(second) << 16; }

/* ``numbers`` of them, a multiple of INNER. */
UNUSED static void round_row(int64_t numbers, const float *from, brief *into) {
    for (int64_t j = 0; j < numbers; j += LANES) {
        const __m256bh low = _mm512_cvtneps_pbh((__m512)load(from + j));
        memcpy(into + j, &low, sizeof low);
    }
}

/* A [rows, columns] into ``into`` [rows to whole tiles, columns to INNER], the left factor of a product. */
static void round_rows(int64_t rows, int64_t columns, const float *A, int64_t left, brief *into) {
    const int64_t wide = tiles_of(columns, INNER) * INNER;
    memset(into + rows * wide, 0, sizeof(brief) * (tiles_of(rows, SIDE) * SIDE - rows) * wide);
    for (int64_t i = 0; i < rows; i++, A += left, into += wide) {
        int64_t j = 0;
        for (; j + LANES <= columns; j += LANES) {
            const __m256bh low = _mm512_cvtneps_pbh((__m512)load(A + j));
            memcpy(into + j, &low, sizeof low);
        }
        if (j == wide) continue;
        float last[INNER] = {0};
        memcpy(last, A + j, sizeof(float) * (columns - j));
        for (int64_t k = 0; j + k < wide; k += LANES) {
            const __m256bh low = _mm512_cvtneps_pbh((__m512)load(last + k));
            memcpy(into + j + k, &low, sizeof low);
        }
    }
}

/* LANES numbers of row i, zeros where there are none. */
INLINE vector some_of(const float *A, int64_t rows, int64_t columns, int64_t left, int64_t i, int64_t j) {
    if (i >= rows || j >= columns) return all(0);
    if (j + LANES <= columns) return load(A + i * left + j);
    float own[LANES] = {0};
    memcpy(own, A + i * left + j, sizeof(float) * (columns - j));
    return load(own);
}

/* A [rows, columns] as a right factor whose rows are added up: tiles [columns / SIDE, rows / INNER]. */
static void pack_rows(int64_t rows, int64_t columns, const float *A, int64_t left, brief *into) {
    const int64_t inner = tiles_of(rows, INNER);
    for (int64_t j = 0; j < columns; j += SIDE) {
        const int64_t some = j + SIDE <= columns ? rows / 2 : 0; /* pairs without an end of rows or columns in them */
        for (int64_t i = 0; i < some; i++, into += INNER) {
            const whole pairs = paired(load(A + 2 * i * left + j), load(A + (2 * i + 1) * left + j));
            memcpy(into, &pairs, sizeof pairs);
        }
        for (int64_t i = some; i < inner * SIDE; i++, into += INNER) {
            const whole pairs =
                paired(some_of(A, rows, columns, left, 2 * i, j), some_of(A, rows, columns, left, 2 * i + 1, j));
            memcpy(into, &pairs, sizeof pairs);
        }
    }
}

/* A [rows, columns] as the right factor A', whose columns are added up: tiles [rows / SIDE, columns / INNER]. */
static void pack_columns(int64_t rows, int64_t columns, const float *A, int64_t left, brief *into) {
    for (int64_t i = 0; i < rows; i += SIDE)
        for (int64_t j = 0; j < columns; j += INNER, into += TILE) {
            vector own[LANES];
            const int full = i + SIDE <= rows && j + INNER <= columns;
            for (int k = 0; k < SIDE; k++) {
                const float *row = A + (i + k) * left + j;
                const vector first = full ? load(row) : some_of(A, rows, columns, left, i + k, j);
                const vector second = full ? load(row + LANES) : some_of(A, rows, columns, left, i + k, j + LANES);
                const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
                memcpy(&own[k], &both, sizeof both);
            }
            turn(own);
            memcpy(into, own, sizeof own);
        }
}

/* What was written before stands in memory: the compiler's tile loads do not say that they read it. */
#define WRITTEN __asm__ volatile("" ::: "memory")
#define LEFT(tile, i) _tile_loadd(tile, A + (i) * SIDE * wide + k * INNER, sizeof(brief) * wide)
#define RIGHT(tile, j) _tile_loadd(tile, B + ((j) * inner + k) * TILE, sizeof(brief) * INNER)

/* Sums of 2 x 2 tiles (``more_rows``, ``more_columns``: whether there are second ones) in the registers 0 to 3. */
INLINE void multiply_tiles(int64_t inner, const brief *A, const brief *B, const int more_rows, const int more_columns) {
    WRITTEN;
    const int64_t wide = inner * INNER;
    for (int64_t k = 0; k < inner; k++) {
        LEFT(4, 0);
        RIGHT(6, 0);
        _tile_dpbf16ps(0, 4, 6);
        if (more_columns) {
            RIGHT(7, 1);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (more_rows) {
            LEFT(5, 1);
            _tile_dpbf16ps(2, 5, 6);
            if (more_columns) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

#undef LEFT
#undef RIGHT

INLINE void some_sums(int64_t inner, const brief *A, const brief *B, float *C, int64_t out, const int add,
                      const int more_rows, const int more_columns) {
    const int64_t stride = sizeof(float) * out;
    WRITTEN;
    if (add) {
        _tile_loadd(0, C, stride);
        if (more_columns) _tile_loadd(1, C + SIDE, stride);
        if (more_rows) _tile_loadd(2, C + SIDE * out, stride);
        if (more_rows && more_columns) _tile_loadd(3, C + SIDE * out + SIDE, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    multiply_tiles(inner, A, B, more_rows, more_columns);
    _tile_stored(0, C, stride);
    if (more_columns) _tile_stored(1, C + SIDE, stride);
    if (more_rows) _tile_stored(2, C + SIDE * out, stride);
    if (more_rows && more_columns) _tile_stored(3, C + SIDE * out + SIDE, stride);
}

/* C [rows, columns] (+)= A B, in whole tiles: ``rows`` by ``columns`` tiles of sums over ``inner``; C's rows and columns
 * behind the last ones are written, too. */
static void rounded_product(int64_t rows, int64_t columns, int64_t inner, const brief *A, const brief *B, float *C,
                            int64_t out, int add) {
    for (int64_t j = 0; j < columns; j += 2)
        for (int64_t i = 0; i < rows; i += 2) {
            const brief *left = A + i * SIDE * inner * INNER, *right = B + j * inner * TILE;
            float *into = C + i * SIDE * out + j * SIDE;
            const int form = 4 * (add != 0) + 2 * (i + 1 < rows) + (j + 1 < columns);
            switch (form) {
                case 0: some_sums(inner, left, right, into, out, 0, 0, 0); break;
                case 1: some_sums(inner, left, right, into, out, 0, 0, 1); break;
                case 2: some_sums(inner, left, right, into, out, 0, 1, 0); break;
                case 3: some_sums(inner, left, right, into, out, 0, 1, 1); break;
                case 4: some_sums(inner, left, right, into, out, 1, 0, 0); break;
                case 5: some_sums(inner, left, right, into, out, 1, 0, 1); break;
                case 6: some_sums(inner, left, right, into, out, 1, 1, 0); break;
                case 7: some_sums(inner, left, right, into, out, 1, 1, 1); break;
            }
        }
}

/* A tile of sums, turned, (+)= into rows [some, SIDE] of C. */
INLINE void turned(const float *sums, int64_t some, float *C, int64_t out, int add) {
    vector own[LANES];
    memcpy(own, sums, sizeof own);
    turn(own);
    for (int64_t i = 0; i < some; i++) store(C + i * out, add ? load(C + i * out) + own[i] : own[i]);
}

/* C [columns, rows] (+)= (A B)', where ``rows`` is a multiple of SIDE and no row of C behind ``columns`` is written. */
static void rounded_product_turned(int64_t rows, int64_t columns, int64_t inner, const brief *A, const brief *B,
                                   float *C, int64_t out, int add) {
    float sums[4][SIDE * SIDE] __attribute__((aligned(64)));
    for (int64_t j = 0; j < columns; j += 2 * SIDE)
        for (int64_t i = 0; i < rows; i += 2 * SIDE) {
            const int more_rows = i + SIDE < rows, more_columns = j + SIDE < columns;
            const brief *left = A + i * inner * INNER, *right = B + j / SIDE * inner * TILE;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            multiply_tiles(inner, left, right, more_rows, more_columns);
            _tile_stored(0, sums[0], sizeof(float) * SIDE);
            _tile_stored(1, sums[1], sizeof(float) * SIDE);
            _tile_stored(2, sums[2], sizeof(float) * SIDE);
            _tile_stored(3, sums[3], sizeof(float) * SIDE);
            for (int q = 0; q < 4; q++) {
                const int64_t row = i + q / 2 * SIDE, column = j + q % 2 * SIDE;
                if (row >= rows || column >= columns) continue;
                const int64_t some = columns - column < SIDE ? columns - column : SIDE;
                turned(sums[q], some, C + column * out + row, out, add);
            }
        }
}

#else
#define ROUNDS 0
#endif

#endif
