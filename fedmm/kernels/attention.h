/* Causal attention of one head over one window, forward and back.
 *
 * Shares are kept with keys as rows and queries as columns: maxima and sums over the keys then go from row to row, many
 * queries at a time, and no product but that of the shares themselves needs a factor turned. Queries and keys go in
 * steps of STEP: a step of queries sees its own step of keys and those before, and nothing else is formed.
 */
#ifndef FEDMM_ATTENTION_H
#define FEDMM_ATTENTION_H

#include "vectors.h"

#define STEP 16 /* a multiple of LANES */

INLINE int64_t stepped(int64_t length) { return (length + STEP - 1) / STEP * STEP; }

INLINE int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }

/* out [width, stepped(length)] = A [length, width] transposed, zeros behind. */
static void turned(int64_t length, int64_t width, const float *A, int64_t row, float *out) {
    const int64_t columns = stepped(length), last = columns - STEP;
    for (int64_t d = 0; d < width; d++) memset(out + d * columns + last, 0, sizeof(float) * STEP);
    transpose(length, width, A, row, out, columns);
}

/* out [length, columns] = A [length, width] times B [width, columns], where a query may see the key. */
static void seen_product(int64_t length, int64_t width, const float *A, int64_t row, const float *B, float *out) {
    const int64_t columns = stepped(length);
    for (int64_t j = 0; j < length; j += STEP)
        product(smaller(STEP, length - j), columns - j, width, A + j * row, row, 1, B + j, columns,
                out + j * columns + j, columns, 0);
}

/* out [length, width] of queries: the sum over the keys that each sees of S [keys, queries] times B [keys, width]. */
static void over_keys(int64_t length, int64_t width, const float *S, const float *B, int64_t row, float *out) {
    const int64_t columns = stepped(length);
    for (int64_t i = 0; i < length; i += STEP) {
        const int64_t some = smaller(STEP, length - i);
        product(some, width, i + some, S + i, 1, columns, B, row, out + i * row, row, 0);
    }
}

/* out [length, width] of keys: the sum over the queries that see each of S [keys, queries] times B [queries, width]. */
static void over_queries(int64_t length, int64_t width, const float *S, const float *B, int64_t row, float *out) {
    const int64_t columns = stepped(length);
    for (int64_t j = 0; j < length; j += STEP)
        product(smaller(STEP, length - j), width, length - j, S + j * columns + j, columns, 1, B + j * row, row,
                out + j * row, row, 0);
}

/* The softmax of scale * S [keys, queries] over the keys that a query sees, in place; 0 where it sees none of them. */
static void to_shares(int64_t length, float scale, float *S) {
    const int64_t columns = stepped(length);
    whole place;
    for (int i = 0; i < LANES; i++) place[i] = i;
    for (int64_t i = 0; i < columns; i += LANES) {
        const int64_t own = i / STEP * STEP, end = smaller(own + STEP, length);
        float *first = S + i;
        vector most = all(-INFINITY), total = all(0);
        for (int64_t j = 0; j < own; j++) most = larger(most, load(first + j * columns));
        for (int64_t j = own; j < end; j++) {
            const whole later = place < (whole){0} + (int32_t)(j - i);
            const vector value = chosen(later, all(-INFINITY), load(first + j * columns));
            store(first + j * columns, value);
            most = larger(most, value);
        }
        for (int64_t j = 0; j < end; j++) {
            const vector value = exponential((load(first + j * columns) - most) * scale);
            store(first + j * columns, value);
            total += value;
        }
        const vector inverse = all(1) / total;
        for (int64_t j = 0; j < end; j++) store(first + j * columns, load(first + j * columns) * inverse);
    }
}

/* The derivative by S, in place of that by its shares P: scale * P * (G - sum over keys of P G). */
static void from_shares(int64_t length, float scale, const float *P, float *G) {
    const int64_t columns = stepped(length);
    for (int64_t i = 0; i < columns; i += LANES) {
        const int64_t end = smaller(i / STEP * STEP + STEP, length);
        vector total = all(0);
        for (int64_t j = 0; j < end; j++) total += load(P + j * columns + i) * load(G + j * columns + i);
        for (int64_t j = 0; j < end; j++) {
            const int64_t at = j * columns + i;
            store(G + at, load(P + at) * scale * (load(G + at) - total));
        }
    }
}

/* mixed [length, width] and the shares [length, stepped(length)], from the head's columns of queries, keys and values,
 * whose rows are ``row`` apart. ``scratch`` holds width * stepped(length). */
static void attend(int64_t length, int64_t width, float scale, const float *query, const float *key, const float *value,
                   int64_t row, float *shares, float *mixed, float *scratch) {
    turned(length, width, query, row, scratch);
    seen_product(length, width, key, row, scratch, shares);
    to_shares(length, scale, shares);
    over_keys(length, width, shares, value, row, mixed);
}

/* The derivatives by queries, keys and values, given ``incoming`` by what was mixed. ``scratch`` holds
 * (width + length) * stepped(length). */
static void attend_back(int64_t length, int64_t width, float scale, const float *query, const float *key,
                        const float *value, int64_t row, const float *shares, const float *incoming, float *into_query,
                        float *into_key, float *into_value, float *scratch) {
    float *slopes = scratch + width * stepped(length);
    turned(length, width, incoming, row, scratch);
    seen_product(length, width, value, row, scratch, slopes);
    over_queries(length, width, shares, incoming, row, into_value);
    from_shares(length, scale, shares, slopes);
    over_queries(length, width, slopes, query, row, into_key);
    over_keys(length, width, slopes, key, row, into_query);
}

#endif
