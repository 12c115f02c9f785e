/* The cross-entropy of sums of products, with its gradients, some rows of one client at a time.
 *
 * Rows are independent but for what they add to the gradients of keys and scales, so logits are formed for few of them:
 * they are written, normalised, differentiated and read while they lie in a core's own cache, and never leave it.
 */
#include "rounded_scores.h"

#define AT_ONCE (1 << 17) /* logits at once: 512 KB */
#define MOST_TERMS 16

/* One summand. Tensors of C clients lie one after the other; NULL where there is none. */
typedef struct {
    int64_t width;            /* K of queries and keys, 0 without */
    int64_t depth;            /* of the queries' gradient: K, made up to a multiple of LANES */
    const float *queries;     /* [C, R, K] */
    const float *keys;        /* [C, N, K], or [N, K] */
    int64_t keys_step;        /* from client to client: N * K, or 0 */
    const float *panels;      /* shared keys, packed, or NULL */
    const float *wide;        /* keys of one client, or of all, [N, depth] */
    const float *scale;       /* [C, N] */
    const float *constants;   /* [C, R, N] */
    const int64_t *ends;      /* sparse constants: row (c, r) has the entries ends[c * R + r] .. ends[c * R + r + 1] */
    const int64_t *columns;
    const float *values;
    float *into_queries;      /* [C, R, K] */
    float *into_keys;         /* [C, N, K] */
    float *into_scale;        /* [C, N] */
} Term;

typedef struct {
    int64_t clients, rows, candidates;
    int64_t terms;
    const int64_t *num_rows;  /* [C]: a client's own rows; those behind them are padding */
    const int64_t *targets;   /* [C, R] */
    const float *weights;     /* [C, R] */
    const uint8_t *exists;    /* [C, N], or NULL: all but candidate 0 */
    int64_t exists_step;
    const int64_t *excluded;  /* [C, X] or [C, R, X] candidates */
    const uint8_t *barred;    /* [C, R, X]: whether the row must not rank it */
    int64_t num_excluded, excluded_step, excluded_row_step; /* X; from client to client; from row to row, or 0 */
    int64_t rounded;          /* whether the factors of products are rounded to bfloat16 */
} Questions;

/* How many numbers a row of logits takes: whole tiles of columns, and never a multiple of a page. */
int64_t fedmm_logits_width(int64_t candidates) {
    int64_t width = (candidates + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    return width % 1024 ? width : width + LANES;
}

int64_t fedmm_lanes(void) { return LANES; }

/* Whether this processor, and the system for this process, multiply bfloat16. */
int64_t fedmm_rounds(void) {
#if ROUNDS
    return tiles_allowed();
#else
    return 0;
#endif
}

static int64_t panels_of(int64_t candidates) { return (candidates + TILE_COLUMNS - 1) / TILE_COLUMNS; }

/* Numbers of packed keys [N, K]. */
int64_t fedmm_packed_numbers(int64_t candidates, int64_t width, int64_t rounded) {
    return rounded ? rounded_numbers(candidates, width) : panels_of(candidates) * TILE_COLUMNS * width;
}

/* Rows of logits at once: whole tiles. */
static int64_t height_of(const Questions *asked) {
    const int64_t side = asked->rounded ? INNER : TILE_ROWS, most = asked->rounded ? 4 * INNER : 20 * TILE_ROWS;
    const int64_t height = AT_ONCE / fedmm_logits_width(asked->candidates) / side * side;
    return height < side ? side : height > most ? most : height;
}

static int scaled(const Term *term) { return term->scale != NULL && (term->queries != NULL || term->constants != NULL); }

/* Numbers of scratch: logits, each scaled term's product, one client's packed keys, what derivatives need. */
int64_t fedmm_loss_scratch(const Questions *asked, const Term *terms) {
    const int64_t wide = fedmm_logits_width(asked->candidates), height = height_of(asked);
    int64_t total = height * wide, packed = 0, width = 0;
    for (int64_t t = 0; t < asked->terms; t++) {
        if (scaled(&terms[t])) total += height * wide;
        if (terms[t].queries && !terms[t].panels) packed += fedmm_packed_numbers(asked->candidates, terms[t].width, asked->rounded);
        if (terms[t].depth > width) width = terms[t].depth;
        if (terms[t].width > width) width = terms[t].width;
    }
    const int64_t spare = asked->rounded ? rounded_spare(height, wide, width) : height * width;
    return total + packed + spare + height + 16 * LANES;
}

/* Keys [N, K] as panels of TILE_COLUMNS candidates, [K, TILE_COLUMNS] each, zeros behind the last; or as tiles. */
void fedmm_pack(int64_t candidates, int64_t width, int64_t rounded, const float *keys, float *panels) {
    if (rounded) {
        rounded_pack(candidates, width, keys, panels);
        return;
    }
    for (int64_t begin = 0; begin < candidates; begin += TILE_COLUMNS, panels += width * TILE_COLUMNS) {
        const int64_t some = candidates - begin < TILE_COLUMNS ? candidates - begin : TILE_COLUMNS;
        if (some < TILE_COLUMNS) memset(panels, 0, sizeof(float) * width * TILE_COLUMNS);
        transpose(some, width, keys + begin * width, width, panels, TILE_COLUMNS);
    }
}

/* Some rows of one client. */
typedef struct {
    const Questions *asked;
    int64_t client, begin, rows; /* the first of them, and how many */
    int64_t height, wide;        /* of the room for logits */
    float *logits;               /* [rows, wide], later their slopes times the row's mass */
    float *shares;               /* [rows], each row's weight over its mass */
} Some;

static void multiply(const Some *own, const Term *term, const float *panels, float *spare, float *into, int add) {
    const int64_t N = own->asked->candidates, K = term->width;
    const float *queries = term->queries + (own->client * own->asked->rows + own->begin) * K;
    if (own->asked->rounded) {
        rounded_scores(own->rows, N, K, queries, panels, spare, into, own->wide, add);
        return;
    }
    for (int64_t j = 0; j < N; j += TILE_COLUMNS, panels += K * TILE_COLUMNS)
        product(own->rows, TILE_COLUMNS, K, queries, K, 1, panels, TILE_COLUMNS, into + j, own->wide, add);
}

static void add_constants(const Some *own, const Term *term, float *into, int add, const float *scale) {
    const int64_t N = own->asked->candidates, first = own->client * own->asked->rows + own->begin;
    for (int64_t r = 0; r < own->rows; r++) {
        float *row = into + r * own->wide;
        if (term->constants) {
            const float *given = term->constants + (first + r) * N;
            if (add)
                for (int64_t j = 0; j < N; j++) row[j] += given[j];
            else
                memcpy(row, given, sizeof(float) * N);
        }
        if (term->ends)
            for (int64_t e = term->ends[first + r]; e < term->ends[first + r + 1]; e++) {
                const int64_t column = term->columns[e];
                row[column] += scale ? scale[column] * term->values[e] : term->values[e];
            }
    }
}

/* The logits; scaled terms leave their products in ``products``, one behind the other. */
static void form_logits(const Some *own, const Term *terms, float *const *panels, float *products, float *spare) {
    const int64_t N = own->asked->candidates;
    int begun = 0;
    for (int64_t t = 0; t < own->asked->terms; t++) {
        const Term *term = &terms[t];
        const float *scale = term->scale ? term->scale + own->client * N : NULL;
        if (scaled(term)) {
            if (term->queries) multiply(own, term, panels[t], spare, products, 0);
            add_constants(own, term, products, term->queries != NULL, NULL);
            for (int64_t r = 0; r < own->rows; r++) {
                float *row = own->logits + r * own->wide;
                const float *said = products + r * own->wide;
                if (begun)
                    for (int64_t j = 0; j < N; j++) row[j] += said[j] * scale[j];
                else
                    for (int64_t j = 0; j < N; j++) row[j] = said[j] * scale[j];
            }
            products += own->height * own->wide;
        } else {
            if (term->queries) multiply(own, term, panels[t], spare, own->logits, begun);
            else if (!begun && !term->constants)
                for (int64_t r = 0; r < own->rows; r++) memset(own->logits + r * own->wide, 0, sizeof(float) * N);
            add_constants(own, term, own->logits, begun || term->queries != NULL, scale);
        }
        begun = 1;
    }
}

/* What no candidate is, or no longer one, becomes minus infinity. */
static void bar(const Some *own) {
    const Questions *asked = own->asked;
    const int64_t N = asked->candidates, X = asked->num_excluded;
    const uint8_t *exists = asked->exists ? asked->exists + own->client * asked->exists_step : NULL;
    for (int64_t r = 0; r < own->rows; r++) {
        float *row = own->logits + r * own->wide;
        for (int64_t j = N; j < own->wide; j++) row[j] = -INFINITY;
        if (exists) {
            for (int64_t j = 0; j < N; j++) row[j] = exists[j] ? row[j] : -INFINITY;
        } else
            row[0] = -INFINITY;
        if (!X) continue;
        const int64_t place = own->begin + r;
        const int64_t *index = asked->excluded + own->client * asked->excluded_step + place * asked->excluded_row_step;
        const uint8_t *barred = asked->barred + (own->client * asked->rows + place) * X;
        for (int64_t x = 0; x < X; x++)
            if (barred[x]) row[index[x]] = -INFINITY;
    }
}

/* The largest of a row: four at a time, so that none waits for another. */
static float largest_in(const float *row, int64_t wide) {
    vector most[4];
    for (int q = 0; q < 4; q++) most[q] = load(row); /* a row has no more than TILE_COLUMNS for certain */
    int64_t j = 0;
    for (; j + 4 * LANES <= wide; j += 4 * LANES)
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) most[q] = larger(load(row + j + q * LANES), most[q]);
    for (; j < wide; j += LANES) most[0] = larger(load(row + j), most[0]);
    return largest_of(larger(larger(most[0], most[1]), larger(most[2], most[3])));
}

/* Logits become exponentials, and so the slopes of each row's own loss by them times the exponentials' sum, the mass,
 * by which weights are divided instead; returns the weighted sum of the losses. */
static double normalise(const Some *own) {
    const int64_t first = own->client * own->asked->rows + own->begin;
    double total = 0;
    for (int64_t r = 0; r < own->rows; r++) {
        float *row = own->logits + r * own->wide;
        const int64_t target = own->asked->targets[first + r];
        const float taken = row[target], most = largest_in(row, own->wide), weight = own->asked->weights[first + r];
        const vector largest = all(most);
        vector sums[2] = {all(0), all(0)};
        int64_t j = 0;
        for (; j + 2 * LANES <= own->wide; j += 2 * LANES)
#pragma GCC unroll 2
            for (int q = 0; q < 2; q++) {
                const vector value = exponential(load(row + j + q * LANES) - largest);
                sums[q] += value;
                store(row + j + q * LANES, value);
            }
        for (; j < own->wide; j += LANES) {
            const vector value = exponential(load(row + j) - largest);
            sums[0] += value;
            store(row + j, value);
        }
        const float mass = sum_of(sums[0] + sums[1]);
        row[target] -= mass;
        own->shares[r] = weight / mass;
        total += (double)weight * (logf(mass) + most - taken);
    }
    return total;
}

/* The scale's gradient, sum_r weight * slope * product, and the slopes by the product in its place; where they are to be
 * rounded, that is done to each row while it is near. */
static void differentiate_scale(const Some *own, const Term *term, float *said, brief *low) {
    const int64_t N = own->asked->candidates, last = tiles_of(N, INNER) * INNER;
    const float *scale = term->scale + own->client * N;
    float *into = term->into_scale ? term->into_scale + own->client * N : NULL;
    for (int64_t r = 0; r < own->rows; r++, said += own->wide) {
        const float *slope = own->logits + r * own->wide;
        const float weight = own->shares[r];
        if (into)
            for (int64_t j = 0; j < N; j++) {
                into[j] += weight * slope[j] * said[j];
                said[j] = slope[j] * scale[j];
            }
        else
            for (int64_t j = 0; j < N; j++) said[j] = slope[j] * scale[j];
        for (int64_t j = N; j < own->wide; j++) said[j] = 0;
        if (low) round_row(last, said, low + r * last);
    }
}

static void differentiate_sparse_scale(const Some *own, const Term *term) {
    const int64_t first = own->client * own->asked->rows + own->begin;
    float *into = term->into_scale + own->client * own->asked->candidates;
    for (int64_t r = 0; r < own->rows; r++) {
        const float weight = own->shares[r];
        for (int64_t e = term->ends[first + r]; e < term->ends[first + r + 1]; e++)
            into[term->columns[e]] += weight * own->logits[r * own->wide + term->columns[e]] * term->values[e];
    }
}

/* Gradients of queries and keys, given the slopes by their product, and rounded ones where that is asked for. */
static void differentiate_product(const Some *own, const Term *term, const float *panels, const float *slope,
                                  const brief *low, float *spare) {
    const int64_t N = own->asked->candidates, K = term->width, depth = term->depth;
    const int64_t first = own->client * own->asked->rows + own->begin;
    if (own->asked->rounded) {
        const Slopes slopes = {own->rows, N, K, slope, own->wide, low, own->shares, term->queries + first * K};
        if (term->into_queries) rounded_queries(&slopes, panels, spare, term->into_queries + first * K);
        if (term->into_keys)
            rounded_keys(&slopes, spare, term->into_keys + own->client * N * K, own->begin > 0);
        return;
    }
    if (term->into_queries) {
        const float *keys = term->wide + own->client * (term->keys_step ? N * depth : 0);
        product(own->rows, depth, N, slope, own->wide, 1, keys, depth, spare, depth, 0);
        for (int64_t r = 0; r < own->rows; r++) {
            float *into = term->into_queries + (first + r) * K;
            for (int64_t k = 0; k < K; k++) into[k] = spare[r * depth + k] * own->shares[r];
        }
    }
    if (term->into_keys) {
        for (int64_t r = 0; r < own->rows; r++)
            for (int64_t k = 0; k < K; k++)
                spare[r * K + k] = term->queries[(first + r) * K + k] * own->shares[r];
        product(N, K, own->rows, slope, 1, own->wide, spare, K, term->into_keys + own->client * N * K, K, own->begin > 0);
    }
}

static void differentiate(const Some *own, const Term *terms, float *const *panels, float *products, float *spare) {
    const int64_t last = tiles_of(own->asked->candidates, INNER) * INNER;
    brief *low = own->asked->rounded ? (brief *)spare : NULL;
    float *behind = low ? spare + own->height * own->wide / 2 : spare;
    for (int64_t t = 0; t < own->asked->terms; t++) {
        const Term *term = &terms[t];
        const float *slope = own->logits;
        if (scaled(term)) {
            differentiate_scale(own, term, products, low);
            slope = products;
            products += own->height * own->wide;
        } else {
            if (term->scale && term->into_scale) differentiate_sparse_scale(own, term);
            for (int64_t r = 0; low && term->into_queries && r < own->rows; r++)
                round_row(last, slope + r * own->wide, low + r * last);
        }
        if (term->queries) differentiate_product(own, term, panels[t], slope, low, behind);
    }
}

/* Gradients start from nothing where rows add up, and where there is no row. */
static void clear(const Questions *asked, const Term *term, int64_t client, int64_t rows) {
    const int64_t N = asked->candidates, K = term->width;
    if (term->into_scale) memset(term->into_scale + client * N, 0, sizeof(float) * N);
    if (term->into_keys && !rows) memset(term->into_keys + client * N * K, 0, sizeof(float) * N * K);
    if (term->into_queries) {
        float *padding = term->into_queries + (client * asked->rows + rows) * K;
        memset(padding, 0, sizeof(float) * (asked->rows - rows) * K);
    }
}

/* Each client's weighted loss into ``losses`` [C], the gradients into what the terms name; ``scratch`` has
 * fedmm_loss_scratch() numbers. */
void fedmm_cross_entropy(const Questions *asked, const Term *terms, float *scratch, float *losses) {
    const int64_t N = asked->candidates, wide = fedmm_logits_width(N), height = height_of(asked);
    float *panels[MOST_TERMS], *logits = scratch, *products = logits + height * wide, *packed = products, *shares;
    Shapes kept;
    if (asked->rounded) begin_tiles(&kept);
    for (int64_t t = 0; t < asked->terms; t++)
        if (scaled(&terms[t])) packed += height * wide;
    shares = packed;
    packed += (height + LANES - 1) / LANES * LANES;
    for (int64_t c = 0; c < asked->clients; c++) {
        float *spare = packed;
        for (int64_t t = 0; t < asked->terms; t++) {
            clear(asked, &terms[t], c, asked->num_rows[c]);
            panels[t] = (float *)terms[t].panels;
            if (!terms[t].queries || terms[t].panels) continue;
            panels[t] = spare;
            spare += fedmm_packed_numbers(N, terms[t].width, asked->rounded);
            if (!asked->num_rows[c]) continue;
            fedmm_pack(N, terms[t].width, asked->rounded, terms[t].keys + c * terms[t].keys_step, panels[t]);
        }
        double total = 0;
        for (int64_t begin = 0; begin < asked->num_rows[c]; begin += height) {
            const int64_t left = asked->num_rows[c] - begin;
            const Some own = {asked, c, begin, left < height ? left : height, height, wide, logits, shares};
            form_logits(&own, terms, panels, products, spare);
            bar(&own);
            total += normalise(&own);
            differentiate(&own, terms, panels, products, spare);
        }
        losses[c] = (float)total;
    }
    if (asked->rounded) end_tiles(&kept);
}
