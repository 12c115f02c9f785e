/* Products of few rows with a table by rounded ones, a SPAN of items at a time: for rows.c, which says what SPAN and DEEP
 * are. */
#ifndef FEDMM_ROUNDED_ROWS_H
#define FEDMM_ROUNDED_ROWS_H

#include "rounded.h"

/* Rows of what is worked on: whole tiles of them, whose last rows nobody reads. */
static int64_t height_of(int64_t rows) { return tiles_of(rows, SIDE) * SIDE; }

/* A span of the rounded table: packed for the logits, then for the queries' gradients. */
static int64_t first_numbers(int64_t width) { return SPAN / SIDE * tiles_of(width, INNER) * TILE / 2; }
static int64_t span_numbers(int64_t width) {
    return first_numbers(width) + tiles_of(width, SIDE) * (SPAN / INNER) * TILE / 2;
}

#if ROUNDS

static void pack_span(int64_t size, int64_t D, const float *table, float *into) {
    pack_columns(size, D, table, D, (brief *)into);
    pack_rows(size, D, table, D, (brief *)(into + first_numbers(D)));
}

/* ``rows`` queries [rows, D], rounded, to the front of ``spare``. */
static void round_rows_of(int64_t rows, int64_t D, const float *queries, float *spare) {
    round_rows(rows, D, queries, D, (brief *)spare);
}

/* logits [rows, SPAN] of the queries in ``spare``. */
static void rounded_logits(int64_t rows, int64_t size, int64_t D, const float *spare, const float *low, float *logits) {
    rounded_product(tiles_of(rows, SIDE), tiles_of(size, SIDE), tiles_of(D, INNER), (const brief *)spare,
                    (const brief *)low, logits, SPAN, 0);
}

/* sums [rows, D] += slopes [rows, SPAN] by a span of the table. */
static void add_rounded_sums(int64_t rows, int64_t size, int64_t D, const float *slopes, float *spare, const float *low,
                             float *sums) {
    brief *left = (brief *)spare + height_of(rows) * tiles_of(D, INNER) * INNER;
    round_rows(rows, size, slopes, SPAN, left);
    rounded_product(tiles_of(rows, SIDE), tiles_of(D, SIDE), tiles_of(size, INNER), left,
                    (const brief *)(low + first_numbers(D)), sums, D, 1);
}

/* into [size, D] += slopes [some, SPAN]' scaled [some, D], of at most DEEP rows. */
static void add_rounded_total(int64_t some, int64_t size, int64_t D, const float *slopes, const float *scaled,
                              float *spare, float *into) {
    const int64_t inner = tiles_of(some, INNER);
    brief *left = (brief *)(spare + DEEP * D), *right = left + inner * INNER * D;
    transpose(some, D, scaled, D, spare, some);
    round_rows(D, some, spare, some, left);
    pack_rows(some, tiles_of(size, SIDE) * SIDE, slopes, SPAN, right);
    rounded_product_turned(D, size, inner, left, right, into, D, 1);
}

#else /* fedmm_rounds() says 0, and nobody asks */

typedef int Shapes;
UNUSED static void nothing(int any, ...) { (void)any; }
#define begin_tiles(...) nothing(0, __VA_ARGS__)
#define end_tiles(...) nothing(0, __VA_ARGS__)
#define pack_span(...) nothing(0, __VA_ARGS__)
#define round_rows_of(...) nothing(0, __VA_ARGS__)
#define rounded_logits(...) nothing(0, __VA_ARGS__)
#define add_rounded_sums(...) nothing(0, __VA_ARGS__)
#define add_rounded_total(...) nothing(0, __VA_ARGS__)

#endif

#endif
