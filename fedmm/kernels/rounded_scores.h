/* The scores of a catalogue and their gradients by rounded products, some rows of one client at a time. */
#ifndef FEDMM_ROUNDED_SCORES_H
#define FEDMM_ROUNDED_SCORES_H

#include "rounded.h"

/* The gradients of every row's own loss by its scores, and what they meet. */
typedef struct {
    int64_t rows, candidates, width;
    const float *slope; /* [rows, wide], zeros behind the last candidate */
    int64_t wide;
    const brief *low;     /* the same rounded, [rows to whole tiles, candidates to INNER] */
    const float *weights; /* [rows] */
    const float *queries; /* [rows, width] */
} Slopes;

static int64_t across_numbers(int64_t candidates, int64_t width) {
    return tiles_of(candidates, SIDE) * tiles_of(width, INNER) * TILE / 2;
}

/* How many floats' room rounded keys [N, K] take: packed for the scores, then for their gradient by the queries. */
static int64_t rounded_numbers(int64_t candidates, int64_t width) {
    return across_numbers(candidates, width) + tiles_of(width, SIDE) * tiles_of(candidates, INNER) * TILE / 2;
}

/* The room that rounded queries and slopes take, [height, width] and [height, wide]. */
static int64_t rounded_spare(int64_t height, int64_t wide, int64_t width) {
    const int64_t depth = tiles_of(width, INNER) * INNER;
    return 2 * height * wide + 3 * height * depth;
}

#if ROUNDS

static void rounded_pack(int64_t candidates, int64_t width, const float *keys, float *panels) {
    pack_columns(candidates, width, keys, width, (brief *)panels);
    pack_rows(candidates, width, keys, width, (brief *)(panels + across_numbers(candidates, width)));
}

/* The scores of ``rows`` queries (+)= into ``into`` [rows to whole tiles, wide]. */
static void rounded_scores(int64_t rows, int64_t candidates, int64_t width, const float *queries, const float *panels,
                           float *spare, float *into, int64_t wide, int add) {
    brief *left = (brief *)spare;
    round_rows(rows, width, queries, width, left);
    rounded_product(tiles_of(rows, SIDE), tiles_of(candidates, SIDE), tiles_of(width, INNER), left,
                    (const brief *)panels, into, wide, add);
}

/* Each query's gradient times its row's weight into ``into`` [rows, width]. */
static void rounded_queries(const Slopes *own, const float *panels, float *spare, float *into) {
    const int64_t rows = tiles_of(own->rows, SIDE), inner = tiles_of(own->candidates, INNER);
    const int64_t columns = tiles_of(own->width, SIDE), depth = columns * SIDE;
    float *sums = spare;
    const brief *right = (const brief *)(panels + across_numbers(own->candidates, own->width));
    rounded_product(rows, columns, inner, own->low, right, sums, depth, 0);
    for (int64_t r = 0; r < own->rows; r++)
        for (int64_t k = 0; k < own->width; k++) into[r * own->width + k] = sums[r * depth + k] * own->weights[r];
}

/* The keys' gradient (+)= into ``into`` [candidates, width]. */
static void rounded_keys(const Slopes *own, float *spare, float *into, int add) {
    const int64_t K = own->width, inner = tiles_of(own->rows, INNER);
    float *weighted = spare, *turned_over = weighted + own->rows * K;
    for (int64_t r = 0; r < own->rows; r++)
        for (int64_t k = 0; k < K; k++) weighted[r * K + k] = own->queries[r * K + k] * own->weights[r];
    transpose(own->rows, K, weighted, K, turned_over, own->rows);
    brief *left = (brief *)(spare + 2 * inner * INNER * K), *right = left + inner * INNER * K;
    round_rows(K, own->rows, turned_over, own->rows, left);
    pack_rows(own->rows, tiles_of(own->candidates, SIDE) * SIDE, own->slope, own->wide, right);
    rounded_product_turned(K, own->candidates, inner, left, right, into, K, add);
}

#else /* fedmm_rounds() says 0, and nobody asks */

typedef int Shapes;
UNUSED static void nothing(int any, ...) { (void)any; }
#define begin_tiles(...) nothing(0, __VA_ARGS__)
#define end_tiles(...) nothing(0, __VA_ARGS__)
#define round_row(...) nothing(0, __VA_ARGS__)
#define rounded_pack(...) nothing(0, __VA_ARGS__)
#define rounded_scores(...) nothing(0, __VA_ARGS__)
#define rounded_queries(...) nothing(0, __VA_ARGS__)
#define rounded_keys(...) nothing(0, __VA_ARGS__)

#endif

#endif
