/* The cross-entropy over a whole catalogue of clients that hold no item table: a table all share, less what their earlier
 * slopes came to, and the rows of their own items.
 *
 * A row's slopes are kept as exponentials, a span of items at a time, with one number for each span that they are to be
 * multiplied by: the largest logit and the sum of a row are known only behind its last span, and no slope is written
 * twice. While a span is near, all that is asked of it is done: logits, exponentials, the product with the table, and
 * those with earlier slopes.
 */
#include "vectors.h"

#define SPAN 256 /* items, as in rows.py; a multiple of TILE_COLUMNS */
#define NEAR 32  /* as in rows.py: rows of slopes that are read across at once: more, a kilobyte apart, are not held by L1 */
#define DEEP 128 /* as in rows.py: those that are at once where products are rounded, and rows are packed before */
#include "rounded_rows.h"

#define DOT_COLUMNS (LANES == 4 ? 2 : LANES / 4)
#define DOT_ROWS (LANES / DOT_COLUMNS)

/* One step of C clients. Tensors lie one client after the other. */
typedef struct {
    int64_t clients, rows, items, width, own, kept; /* C, R, V, D, n, K: no client has room for more slopes */
    int64_t room;              /* rows of slopes of all clients, those that have done their steps among them */
    const int64_t *begins;     /* [C] where a client's rows begin among these */
    const float *table;        /* [V, D] */
    const float *panels;       /* the same, packed */
    const float *low;          /* the same, rounded to bfloat16 and packed by fedmm_rows_pack; NULL: nothing is rounded */
    const int64_t *own_items;  /* [C, n]: 0 first, and again behind a client's last */
    const float *own_rows;     /* [C, n, D] */
    const float *queries;      /* [C, R, D] */
    const int64_t *num_rows;   /* [C] */
    const int64_t *targets;    /* [C, R], among the own items */
    const float *weights;      /* [C, R] */
    const uint8_t *exists;     /* [C, V], or NULL: all but item 0 */
    int64_t exists_step;
    const int64_t *excluded;   /* [C, X] or [C, R, X] items, or NULL */
    const uint8_t *barred;     /* [C, R, X] */
    int64_t num_excluded, excluded_step, excluded_row_step;
    int64_t *held;             /* [C] rows of slopes so far; this step's are added */
    float *slopes;             /* [spans, room, SPAN] */
    float *levels;             /* [room, spans] */
    float *factors;            /* [room, D]: of earlier rows rate * clipping * weight * query; of new ones weight * query */
    float *losses;             /* [C] */
    float *by_queries;         /* [C, R, D] */
    float *by_own;             /* [C, n, D] */
    float *rest;               /* [C]: the norm of the gradient by the table's other rows, or NULL */
    const int64_t *ends;       /* [C * R + 1] of what is added to scores, or NULL: row i has ends[i] .. ends[i + 1] of */
    const int32_t *columns;    /* items, ascending in a row, */
    const float *values;       /* and numbers, */
    const float *scale;        /* which count scale [C, V] times */
    int64_t *next;             /* [C * R] how far a row's are used up */
    float *said;               /* as many as there are values: their exponentials */
    float *by_scale;           /* [C, V] */
} Step;

/* What is worked on: all real rows one after the other, and each client's part of the memory behind them. */
typedef struct {
    float *queries, *logits, *sums;              /* [rows, D], [rows, SPAN], [rows, D] */
    float *most, *mass, *taken, *faded;          /* [rows] */
    float *before, *scaled, *gram, *at_own, *own_logits; /* a client: [R, K] thrice, [R, n] twice */
    float *spare; /* rounded queries and slopes */
} Memory;

static int64_t spans_of(int64_t items) { return (items + SPAN - 1) / SPAN; }
static int64_t all_rows(const Step *step) {
    int64_t total = 0;
    for (int64_t c = 0; c < step->clients; c++) total += step->num_rows[c];
    return total;
}

static int64_t room_of(const Step *step) { return step->rows * (3 * step->kept + 2 * step->own); }

int64_t fedmm_rows_scratch(const Step *step) {
    const int64_t height = height_of(all_rows(step)), spare = step->low ? height * (step->width + LANES + SPAN) : 0;
    return height * (2 * step->width + SPAN + 4) + step->clients * room_of(step) + spare + 4 * LANES;
}

static Memory memory_of(const Step *step, float *scratch) {
    const int64_t total = height_of(all_rows(step));
    Memory own;
    own.queries = scratch;
    own.logits = own.queries + total * step->width;
    own.sums = own.logits + total * SPAN;
    own.most = own.sums + total * step->width;
    own.mass = own.most + total;
    own.taken = own.mass + total;
    own.faded = own.taken + total;
    own.before = own.faded + total;
    own.scaled = own.before + step->rows * step->kept;
    own.gram = own.scaled + step->rows * step->kept;
    own.at_own = own.gram + step->rows * step->kept;
    own.own_logits = own.at_own + step->rows * step->own;
    own.spare = own.before + step->clients * room_of(step);
    return own;
}

/* The same memory as client c has it, whose rows begin at ``first``. */
static Memory memory_at(const Step *step, const Memory *all_of, int64_t c, int64_t first) {
    const int64_t jump = c * room_of(step);
    return (Memory){
        all_of->queries + first * step->width, all_of->logits + first * SPAN, all_of->sums + first * step->width,
        all_of->most + first, all_of->mass + first, all_of->taken + first, all_of->faded + first,
        all_of->before + jump, all_of->scaled + jump, all_of->gram + jump, all_of->at_own + jump,
        all_of->own_logits + jump, NULL,
    };
}

static float dot(const float *one, const float *other, int64_t width) {
    vector total = all(0);
    for (int64_t k = 0; k < width; k += LANES) total += load(one + k) * load(other + k);
    return sum_of(total);
}

/* Before the first span: what queries come to with own rows and with the factors of earlier rows. */
static void prepare(const Step *step, const Memory *own, int64_t c) {
    const int64_t D = step->width, n = step->own, K = step->kept, held = step->held[c], rows = step->num_rows[c];
    const float *factors = step->factors + step->begins[c] * D;
    for (int64_t r = 0; r < rows; r++) {
        float *query = own->queries + r * D;
        memcpy(query, step->queries + (c * step->rows + r) * D, sizeof(float) * D);
        memset(own->sums + r * D, 0, sizeof(float) * D);
        own->most[r] = -INFINITY;
        own->mass[r] = own->taken[r] = 0;
        for (int64_t k = 0; k < held; k++) own->before[r * K + k] = -dot(query, factors + k * D, D);
        for (int64_t j = 0; j < n; j++) own->own_logits[r * n + j] = dot(query, step->own_rows + (c * n + j) * D, D);
        memset(own->at_own + r * n, 0, sizeof(float) * n);
        memset(own->gram + r * K, 0, sizeof(float) * K);
    }
}

/* What a span's logits have that no product gives: own items, and what may not be ranked. */
static void correct(const Step *step, const Memory *own, int64_t c, int64_t begin, int64_t size) {
    const int64_t n = step->own, X = step->num_excluded;
    const uint8_t *exists = step->exists ? step->exists + c * step->exists_step + begin : NULL;
    const int64_t *items = step->own_items + c * n;
    for (int64_t r = 0; r < step->num_rows[c]; r++) {
        float *row = own->logits + r * SPAN;
        for (int64_t j = 0; j < n; j++)
            if (items[j] >= begin && items[j] < begin + size && (items[j] || !j))
                row[items[j] - begin] = own->own_logits[r * n + j];
        if (step->ends) {
            const int64_t i = c * step->rows + r;
            const float *scale = step->scale + c * step->items;
            for (int64_t e = step->next[i]; e < step->ends[i + 1] && step->columns[e] < begin + size; e++)
                row[step->columns[e] - begin] += scale[step->columns[e]] * step->values[e];
        }
        for (int64_t j = size; j < SPAN; j++) row[j] = -INFINITY;
        if (exists) {
            for (int64_t j = 0; j < size; j++) row[j] = exists[j] ? row[j] : -INFINITY;
        } else if (!begin)
            row[0] = -INFINITY;
        const int64_t *index = step->excluded + c * step->excluded_step + r * step->excluded_row_step;
        const uint8_t *barred = step->barred + (c * step->rows + r) * X;
        for (int64_t x = 0; x < X; x++)
            if (barred[x] && index[x] >= begin && index[x] < begin + size) row[index[x] - begin] = -INFINITY;
        const int64_t target = step->targets[c * step->rows + r];
        if (target >= begin && target < begin + size) own->taken[r] = row[target - begin];
    }
}

/* Logits become exponentials below the largest so far; own items' stand apart, and the rest is kept in ``into``. */
static void exponentiate(const Step *step, const Memory *own, int64_t c, int64_t begin, int64_t size, float *into, float *levels) {
    const int64_t n = step->own, spans = spans_of(step->items);
    const int64_t *items = step->own_items + c * n;
    for (int64_t r = 0; r < step->num_rows[c]; r++) {
        float *row = own->logits + r * SPAN;
        vector most = load(row), sum = all(0);
        for (int64_t j = LANES; j < SPAN; j += LANES) most = larger(load(row + j), most);
        const float here = largest_of(most), last = own->most[r], now = here > last ? here : last;
        const float faded = now > last ? (last == -INFINITY ? 0 : expf(last - now)) : 1;
        const vector below = all(now == -INFINITY ? 0 : now); /* nothing may be ranked yet: all become 0 */
        for (int64_t j = 0; j < SPAN; j += LANES) {
            const vector value = exponential(load(row + j) - below);
            sum += value;
            store(row + j, value);
        }
        own->most[r] = now;
        own->faded[r] = faded;
        own->mass[r] = own->mass[r] * faded + sum_of(sum);
        if (faded != 1)
            for (int64_t d = 0; d < step->width; d++) own->sums[r * step->width + d] *= faded;
        levels[r * spans + begin / SPAN] = now;
        if (step->ends) {
            const int64_t i = c * step->rows + r;
            int64_t e = step->next[i];
            for (; e < step->ends[i + 1] && step->columns[e] < begin + size; e++)
                step->said[e] = row[step->columns[e] - begin];
            step->next[i] = e;
        }
        for (int64_t j = 0; j < n; j++)
            if (items[j] >= begin && items[j] < begin + size && (items[j] || !j)) {
                own->at_own[r * n + j] = row[items[j] - begin];
                row[items[j] - begin] = 0;
            }
        memcpy(into + r * SPAN, row, sizeof(float) * SPAN);
    }
}

/* Some rows by some others: sums over a span of the products of their numbers, DOT_ROWS by DOT_COLUMNS of them. */
INLINE vector dots(const float *const rows[DOT_ROWS], const float *const columns[DOT_COLUMNS]) {
    vector sums[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) sums[i] = all(0);
    for (int64_t p = 0; p < SPAN; p += LANES) {
        vector right[DOT_COLUMNS];
#pragma GCC unroll 4
        for (int j = 0; j < DOT_COLUMNS; j++) right[j] = load(columns[j] + p);
#pragma GCC unroll 4
        for (int i = 0; i < DOT_ROWS; i++) {
            const vector left = load(rows[i] + p);
#pragma GCC unroll 4
            for (int j = 0; j < DOT_COLUMNS; j++) sums[i * DOT_COLUMNS + j] += left * right[j];
        }
    }
    turn(sums);
    vector total = sums[0];
#pragma GCC unroll 16
    for (int i = 1; i < LANES; i++) total += sums[i];
    return total;
}

/* Adds a span's products of new slopes with earlier ones, and with each other where norms are asked for: gram [R, K]. */
static void add_gram(const Step *step, const Memory *own, int64_t c, int64_t span, const float *chunk) {
    const int64_t K = step->kept, held = step->held[c], rows = step->num_rows[c], spans = spans_of(step->items);
    const float *levels = step->levels + step->begins[c] * spans + span;
    const int64_t last = step->rest ? held + rows : held;
    for (int64_t i = 0; i < rows; i += DOT_ROWS) {
        const int64_t end = step->rest && last > held + i + DOT_ROWS ? held + i + DOT_ROWS : last; /* half is enough */
        for (int64_t k = 0; k < end; k += DOT_COLUMNS) {
            const float *left[DOT_ROWS], *right[DOT_COLUMNS];
            for (int a = 0; a < DOT_ROWS; a++) left[a] = own->logits + (i + a < rows ? i + a : rows - 1) * SPAN;
            for (int b = 0; b < DOT_COLUMNS; b++) right[b] = chunk + (k + b < end ? k + b : end - 1) * SPAN;
            const vector found = dots(left, right);
            for (int a = 0; a < DOT_ROWS && i + a < rows; a++)
                for (int b = 0; b < DOT_COLUMNS && k + b < end; b++) {
                    float *sum = own->gram + (i + a) * K + k + b;
                    const int64_t other = k + b - held;
                    const float value = found[a * DOT_COLUMNS + b];
                    if (other < 0) *sum = *sum * own->faded[i + a] + levels[(k + b) * spans] * value;
                    else *sum = *sum * own->faded[i + a] * own->faded[other] + value;
                }
        }
    }
}

/* Adds what a row's loss changes by the scales of what is added to its scores. */
static void differentiate_scale(const Step *step, int64_t c, int64_t r, const float *levels) {
    const int64_t i = c * step->rows + r, target = step->targets[i];
    float *into = step->by_scale + c * step->items;
    for (int64_t e = step->ends[i]; e < step->ends[i + 1]; e++) {
        const int64_t item = step->columns[e];
        const float slope = step->said[e] * levels[item / SPAN] - (item == target);
        into[item] += step->weights[i] * slope * step->values[e];
    }
}

/* Behind the last span: losses, and all gradients but those of the table. */
static void finish(const Step *step, const Memory *own, int64_t c) {
    const int64_t D = step->width, n = step->own, K = step->kept, held = step->held[c], rows = step->num_rows[c];
    const int64_t spans = spans_of(step->items);
    const int64_t *items = step->own_items + c * n;
    const float *weights = step->weights + c * step->rows;
    float *factors = step->factors + step->begins[c] * D, *levels = step->levels + (step->begins[c] + held) * spans;
    double loss = 0, squares = 0;
    memset(step->by_own + c * n * D, 0, sizeof(float) * n * D);
    if (step->ends) memset(step->by_scale + c * step->items, 0, sizeof(float) * step->items);
    for (int64_t r = 0; r < rows; r++) {
        const float most = own->most[r], share = 1 / own->mass[r], weight = weights[r];
        float *into = step->by_queries + (c * step->rows + r) * D, *weighted = factors + (held + r) * D;
        loss += (double)weight * (logf(own->mass[r]) + most - own->taken[r]);
        for (int64_t s = 0; s < spans; s++) {
            float *level = levels + r * spans + s;
            *level = *level == -INFINITY ? 0 : expf(*level - most) * share;
        }
        if (step->ends) differentiate_scale(step, c, r, levels + r * spans);
        for (int64_t d = 0; d < D; d++) {
            into[d] = own->sums[r * D + d] * share;
            weighted[d] = own->queries[r * D + d] * weight;
        }
        for (int64_t k = 0; k < held; k++) {
            const float less = own->gram[r * K + k] * share;
            for (int64_t d = 0; d < D; d++) into[d] -= less * factors[k * D + d];
        }
        for (int64_t j = 0; j < n; j++) {
            if (j && !items[j]) continue;
            float slope = own->at_own[r * n + j] * levels[r * spans + items[j] / SPAN];
            if (items[j] == step->targets[c * step->rows + r]) slope -= 1;
            const float *from = step->own_rows + (c * n + j) * D;
            float *to = step->by_own + (c * n + j) * D;
            for (int64_t d = 0; d < D; d++) {
                into[d] += slope * from[d];
                to[d] += slope * weighted[d];
            }
        }
        for (int64_t d = 0; d < D; d++) into[d] *= weight;
        for (int64_t other = 0; step->rest && other <= r; other++) {
            const float product_of = dot(weighted, factors + (held + other) * D, D);
            const float both = own->gram[r * K + held + other] * share / own->mass[other];
            squares += (double)both * product_of * (other == r ? 1 : 2);
        }
    }
    memset(step->by_queries + (c * step->rows + rows) * D, 0, sizeof(float) * (step->rows - rows) * D);
    step->losses[c] = (float)loss;
    if (step->rest) step->rest[c] = squares < 0 ? 0 : (float)sqrt(squares); /* NaN stays NaN */
    step->held[c] += rows;
}

/* How many floats' room the rounded table takes. */
int64_t fedmm_rows_packed_numbers(int64_t items, int64_t width) { return spans_of(items) * span_numbers(width); }

void fedmm_rows_pack(int64_t items, int64_t width, const float *table, float *into) {
    for (int64_t begin = 0; begin < items; begin += SPAN, into += span_numbers(width))
        pack_span(items - begin < SPAN ? items - begin : SPAN, width, table + begin * width, into);
}

/* Losses and gradients of one step; ``scratch`` has fedmm_rows_scratch() numbers. */
void fedmm_rows_step(const Step *step, float *scratch) {
    const int64_t C = step->clients, D = step->width, K = step->kept, V = step->items, total = all_rows(step);
    const int64_t spans = spans_of(V);
    const Memory whole_of = memory_of(step, scratch);
    if (step->ends) memcpy(step->next, step->ends, sizeof(int64_t) * C * step->rows);
    int64_t first = 0;
    for (int64_t c = 0; c < C; first += step->num_rows[c++]) {
        const Memory own = memory_at(step, &whole_of, c, first);
        prepare(step, &own, c);
    }
    Shapes kept;
    if (step->low) {
        begin_tiles(&kept);
        round_rows_of(total, D, whole_of.queries, whole_of.spare);
    }
    for (int64_t begin = 0; begin < V; begin += SPAN) {
        const int64_t size = V - begin < SPAN ? V - begin : SPAN, span = begin / SPAN;
        const float *low = step->low ? step->low + span * span_numbers(D) : NULL;
        if (low) rounded_logits(total, size, D, whole_of.spare, low, whole_of.logits);
        for (int64_t j = 0; !low && j < size; j += TILE_COLUMNS)
            product(total, TILE_COLUMNS, D, whole_of.queries, D, 1, step->panels + (begin + j) * D, TILE_COLUMNS,
                    whole_of.logits + j, SPAN, 0);
        first = 0;
        for (int64_t c = 0; c < C; first += step->num_rows[c++]) {
            const int64_t held = step->held[c], rows = step->num_rows[c];
            const Memory own = memory_at(step, &whole_of, c, first);
            float *chunk = step->slopes + (span * step->room + step->begins[c]) * SPAN;
            float *levels = step->levels + step->begins[c] * spans;
            if (held) {
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t k = 0; k < held; k++)
                        own.scaled[r * held + k] = own.before[r * K + k] * levels[k * spans + span];
                product(rows, SPAN, held, own.scaled, held, 1, chunk, SPAN, own.logits, SPAN, 1);
            }
            correct(step, &own, c, begin, size);
            exponentiate(step, &own, c, begin, size, chunk + held * SPAN, levels + held * spans);
            if (held || step->rest) add_gram(step, &own, c, span, chunk);
        }
        if (low) add_rounded_sums(total, size, D, whole_of.logits, whole_of.spare, low, whole_of.sums);
        else product(total, D, size, whole_of.logits, SPAN, 1, step->table + begin * D, D, whole_of.sums, D, 1);
    }
    if (step->low) end_tiles(&kept);
    first = 0;
    for (int64_t c = 0; c < C; first += step->num_rows[c++]) {
        const Memory own = memory_at(step, &whole_of, c, first);
        finish(step, &own, c);
    }
}

/* Adds weight times level * slope' factor of the rows begin .. end of all that are kept to ``into`` [V, D]; ``weights`` is
 * by row. ``scratch`` has NEAR * D numbers, or DEEP * (3 * D + SPAN) where products are ``rounded``. */
void fedmm_rows_total(int64_t begin, int64_t end, int64_t room, int64_t items, int64_t width, int64_t rounded,
                      const float *slopes, const float *levels, const float *factors, const float *weights, float *into,
                      float *scratch) {
    const int64_t spans = spans_of(items), D = width, near = rounded ? DEEP : NEAR;
    Shapes kept;
    if (rounded) begin_tiles(&kept);
    for (int64_t first = 0; first < items; first += SPAN) {
        const int64_t size = items - first < SPAN ? items - first : SPAN, span = first / SPAN;
        for (int64_t k = begin; k < end; k += near) {
            const int64_t some = end - k < near ? end - k : near;
            for (int64_t i = 0; i < some; i++) {
                const float level = levels[(k + i) * spans + span] * weights[k + i];
                for (int64_t d = 0; d < D; d++) scratch[i * D + d] = factors[(k + i) * D + d] * level;
            }
            const float *own = slopes + (span * room + k) * SPAN;
            if (rounded) add_rounded_total(some, size, D, own, scratch, scratch + DEEP * D, into + first * D);
            else product(size, D, some, own, 1, SPAN, scratch, D, into + first * D, D, 1);
        }
    }
    if (rounded) end_tiles(&kept);
}
