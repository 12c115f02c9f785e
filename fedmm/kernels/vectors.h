/* Vectors of floats, a tile of a matrix product in registers, and exponentials.
 *
 * The width of a vector and the tile follow the instructions that the compiler was told to use. Matrices are row-major;
 * the columns of every product are a multiple of LANES, so that no loop has an end of its own. Sums are taken in one
 * order, whatever else the machine does: the same input gives the same bits.
 */
#ifndef FEDMM_VECTORS_H
#define FEDMM_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define TILE_ROWS 6
#define TILE_VECTORS 4
#elif defined(__AVX__)
#define LANES 8
#define TILE_ROWS 6
#define TILE_VECTORS 2
#else
#define LANES 4
#define TILE_ROWS 6
#define TILE_VECTORS 4
#endif

#define TILE_COLUMNS (LANES * TILE_VECTORS)
#define DEPTH 128 /* how much of a product's inner axis is added up at a time: the right factor's part fits into L1 */
#define UNUSED __attribute__((unused))
#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t whole __attribute__((vector_size(4 * LANES)));
typedef float half __attribute__((vector_size(2 * LANES)));
typedef float quarter __attribute__((vector_size(LANES)));

INLINE vector load(const float *from) {
    vector value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE void store(float *into, vector value) { memcpy(into, &value, sizeof value); }

/* ``value`` in every place: named one by one, the compiler loads it from memory into all of them at once. */
INLINE vector all(float value) {
#if LANES == 16
    return (vector){value, value, value, value, value, value, value, value,
                    value, value, value, value, value, value, value, value};
#elif LANES == 8
    return (vector){value, value, value, value, value, value, value, value};
#else
    return (vector){value, value, value, value};
#endif
}

INLINE vector chosen(whole mask, vector yes, vector no) {
    return (vector)(((whole)yes & mask) | ((whole)no & ~mask));
}

/* One by one, the compiler takes numbers out of registers and puts them back. */
/* The second where one is no number. */
INLINE vector larger(vector one, vector other) {
#if LANES == 16
    return (vector)_mm512_max_ps((__m512)one, (__m512)other);
#else
    vector value;
    for (int i = 0; i < LANES; i++) value[i] = one[i] > other[i] ? one[i] : other[i];
    return value;
#endif
}

/* By halves, and the last quarter one by one: half the waiting of one sum after the other. */
INLINE float sum_of(vector value) {
    half halves[2];
    quarter quarters[2];
    memcpy(halves, &value, sizeof halves);
    const half once = halves[0] + halves[1];
    memcpy(quarters, &once, sizeof quarters);
    const quarter twice = quarters[0] + quarters[1];
    float total = twice[0];
    for (int i = 1; i < LANES / 4; i++) total += twice[i];
    return total;
}

INLINE float largest_of(vector value) {
    float most = value[0];
    for (int i = 1; i < LANES; i++) most = value[i] > most ? value[i] : most;
    return most;
}

/* exp(x), within two units in the last place; 0 below -87.3, where float32 has no normal number left; x is at most 0
 * wherever this is called. 2^n is put together from its bits, e^r is a polynomial in |r| <= ln 2 / 2. */
INLINE vector exponential(vector x) {
#if LANES == 16
    const vector safe = x;
#else
    const whole nothing = x < all(-87.3f);
    const vector safe = chosen(nothing, all(-87.3f), x);
#endif
    const vector shifted = safe * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's last bits are the integer */
    const vector n = shifted - 12582912.0f;
    const vector r = (safe - n * 0.693359375f) + n * 2.12194440e-4f;
    vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
#if LANES == 16
    const __mmask16 some = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
    return (vector)_mm512_maskz_scalef_ps(some, (__m512)p, (__m512)n);
#else
    const whole power = ((whole)shifted << 23) + (127 << 23);
    return chosen(nothing, all(0), p * (vector)power);
#endif
}

/* LANES vectors, turned: number j of vector i changes places with number i of vector j. Each pass interleaves the first
 * half of the vectors with the second; after as many passes as LANES has powers of two, all stand where they should. */
INLINE void turn(vector own[LANES]) {
#if defined(__clang__) || __GNUC__ >= 12
    for (int pass = 1; pass < LANES; pass *= 2) {
        vector next[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES / 2; i++) {
            const vector one = own[i], other = own[i + LANES / 2];
#if LANES == 16
            next[2 * i] = __builtin_shufflevector(one, other, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            next[2 * i + 1] =
                __builtin_shufflevector(one, other, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif LANES == 8
            next[2 * i] = __builtin_shufflevector(one, other, 0, 8, 1, 9, 2, 10, 3, 11);
            next[2 * i + 1] = __builtin_shufflevector(one, other, 4, 12, 5, 13, 6, 14, 7, 15);
#else
            next[2 * i] = __builtin_shufflevector(one, other, 0, 4, 1, 5);
            next[2 * i + 1] = __builtin_shufflevector(one, other, 2, 6, 3, 7);
#endif
        }
        memcpy(own, next, sizeof next);
    }
#else
    float numbers[LANES][LANES];
    memcpy(numbers, own, sizeof numbers);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) own[j][i] = numbers[i][j];
#endif
}

/* B [columns, rows] = A [rows, columns] transposed. */
UNUSED static void transpose(int64_t rows, int64_t columns, const float *A, int64_t left, float *B, int64_t right) {
    int64_t i = 0, j;
    for (; i + LANES <= rows; i += LANES) {
        for (j = 0; j + LANES <= columns; j += LANES) {
            vector own[LANES];
#pragma GCC unroll 16
            for (int k = 0; k < LANES; k++) own[k] = load(A + (i + k) * left + j);
            turn(own);
#pragma GCC unroll 16
            for (int k = 0; k < LANES; k++) store(B + (j + k) * right + i, own[k]);
        }
        for (; j < columns; j++)
            for (int k = 0; k < LANES; k++) B[j * right + i + k] = A[(i + k) * left + j];
    }
    for (; i < rows; i++)
        for (j = 0; j < columns; j++) B[j * right + i] = A[i * left + j];
}

/* One tile of C (+)= A B: element (i, k) of A stands at i * row + k * column, so that A may be read across. */
INLINE void tile(const int rows, const int vectors, int64_t depth, const float *A, int64_t row, int64_t column,
                 const float *B, int64_t right, float *C, int64_t out, int add) {
    vector sums[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) sums[i][j] = add ? load(C + i * out + j * LANES) : all(0);
    for (int64_t k = 0; k < depth; k++) {
        vector own[TILE_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) own[j] = load(B + k * right + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const vector left = all(A[i * row + k * column]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) sums[i][j] += left * own[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) store(C + i * out + j * LANES, sums[i][j]);
}

INLINE void strip(const int vectors, int64_t rows, int64_t depth, const float *A, int64_t row, int64_t column,
                  const float *B, int64_t right, float *C, int64_t out, int add) {
    int64_t i = 0;
    for (; i + TILE_ROWS <= rows; i += TILE_ROWS)
        tile(TILE_ROWS, vectors, depth, A + i * row, row, column, B, right, C + i * out, out, add);
    A += i * row;
    C += i * out;
    switch (rows - i) {
        case 1: tile(1, vectors, depth, A, row, column, B, right, C, out, add); break;
        case 2: tile(2, vectors, depth, A, row, column, B, right, C, out, add); break;
        case 3: tile(3, vectors, depth, A, row, column, B, right, C, out, add); break;
        case 4: tile(4, vectors, depth, A, row, column, B, right, C, out, add); break;
        case 5: tile(5, vectors, depth, A, row, column, B, right, C, out, add); break;
    }
}

/* C [rows, columns] = A [rows, depth] B [depth, columns], or C += A B where ``add``. ``columns`` is a multiple of LANES.
 * Element (i, k) of A stands at A[i * row + k * column]: (lda, 1) reads A as it lies, (1, lda) its transpose. */
UNUSED static void product(int64_t rows, int64_t columns, int64_t depth, const float *A, int64_t row, int64_t column,
                    const float *B, int64_t right, float *C, int64_t out, int add) {
    if (depth == 0 && !add)
        for (int64_t i = 0; i < rows; i++) memset(C + i * out, 0, sizeof(float) * columns);
    for (int64_t k = 0; k < depth; k += DEPTH) {
        const int64_t some = depth - k < DEPTH ? depth - k : DEPTH;
        const float *left = A + k * column, *under = B + k * right;
        const int more = add || k > 0;
        int64_t j = 0;
        for (; j + TILE_COLUMNS <= columns; j += TILE_COLUMNS)
            strip(TILE_VECTORS, rows, some, left, row, column, under + j, right, C + j, out, more);
        for (; TILE_VECTORS > 2 && j + 2 * LANES <= columns; j += 2 * LANES)
            strip(2, rows, some, left, row, column, under + j, right, C + j, out, more);
        for (; j < columns; j += LANES)
            strip(1, rows, some, left, row, column, under + j, right, C + j, out, more);
    }
}

#endif
