/* Scores of the neighbour expert: what the items of a history have near them, weighed by how long ago they were met.
 *
 * A row is s(l) = sum_{j <= l} d^(l-j) A[h_j]: where the row before it ended one item earlier, s(l) = d s(l-1) + A[h_l],
 * so that a window costs as much as its last row alone.
 */
#include "vectors.h"

typedef struct {
    int64_t clients, windows, length, rows, columns; /* C, B, L, R, N */
    const int64_t *items;      /* [C, B, L], 0 at padding, near which there is nothing */
    const int64_t *places;     /* [C, R], flat over B * L */
    const int64_t *begins;     /* [V + 1]: where the items near each item begin */
    const int32_t *near;       /* by owner: the items near it, none twice */
    const float *weights;      /* how near */
    const float *powers;       /* [L]: d^0, d^1, ... */
    const int64_t *candidates; /* [C, N], items; NULL for the whole catalogue, N = V */
    int32_t *columns_of;       /* [V], -1 everywhere before and after; not read without candidates */
} Neighbors;

/* row += weight * A[item]; ``columns_of`` NULL: the column of an item is itself. */
static void add(const Neighbors *own, const int32_t *columns_of, int64_t item, float weight, float *row) {
    for (int64_t k = own->begins[item]; k < own->begins[item + 1]; k++) {
        const int64_t column = columns_of ? columns_of[own->near[k]] : own->near[k];
        if (column >= 0) row[column] += weight * own->weights[k];
    }
}

static void score(const Neighbors *own, const int32_t *columns_of, int64_t client, float *rows) {
    const int64_t L = own->length, N = own->columns;
    const int64_t *items = own->items + client * own->windows * L, *places = own->places + client * own->rows;
    for (int64_t r = 0; r < own->rows; r++) {
        float *row = rows + r * N;
        const int64_t window = places[r] / L, last = places[r] % L;
        if (r && last && places[r] == places[r - 1] + 1) {
            const float decay = own->powers[1];
            for (int64_t n = 0; n < N; n++) row[n] = decay * row[n - N];
            add(own, columns_of, items[places[r]], 1, row);
            continue;
        }
        memset(row, 0, sizeof(float) * N);
        for (int64_t j = 0; j <= last; j++) add(own, columns_of, items[window * L + j], own->powers[last - j], row);
    }
}

/* ``scores`` [C, R, N]. */
void fedmm_neighbor_scores(const Neighbors *own, float *scores) {
    const int64_t R = own->rows, N = own->columns;
    for (int64_t c = 0; c < own->clients; c++) {
        float *rows = scores + c * R * N;
        if (!own->candidates) {
            score(own, NULL, c, rows);
            continue;
        }
        const int64_t *candidates = own->candidates + c * N;
        int32_t *columns_of = own->columns_of;
        int64_t again = 0; /* candidates that stand there more than once */
        for (int64_t n = 0; n < N; n++) {
            if (columns_of[candidates[n]] < 0) columns_of[candidates[n]] = (int32_t)n;
            else again++;
        }
        score(own, columns_of, c, rows);
        for (int64_t n = 0; again && n < N; n++) {
            const int64_t first = columns_of[candidates[n]];
            if (first == n) continue;
            for (int64_t r = 0; r < R; r++) rows[r * N + n] = rows[r * N + first];
        }
        for (int64_t n = 0; n < N; n++) columns_of[candidates[n]] = -1;
    }
}
