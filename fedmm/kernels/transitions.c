/* What transition counts say at the positions of clients: s(r, t) = sharpness * ln(1 + sum_o recency[o] C[h(l - o), t] scale(t)),
 * with each client's own part taken out of the counts C and of the totals that the scales come from.
 *
 * Entries are written in the order of items: what a row looks back at is added up in a row of the whole catalogue, and a
 * bit an item says where something was added.
 */
#include "vectors.h"

typedef struct {
    int64_t clients, windows, length, rows, items; /* C, B, L, R, V */
    int64_t candidates;       /* N */
    const int64_t *history;   /* [C, B, L] */
    const int64_t *places;    /* [C, R] flat over B * L */
    const int64_t *columns;   /* [C, N] items, 0 for none, or NULL: all, N = V */
    const int64_t *begins;    /* [V + 1] of the counts' rows */
    const int32_t *others;    /* their columns, ascending in a row */
    const float *counts;      /* the counts */
    const float *scaled;      /* times their columns' scales */
    const double *totals;     /* [V] */
    const float *scale;       /* [V] */
    const int64_t *own_begins; /* [C + 1] of training histories whose counts are taken out, or NULL */
    const int64_t *own;
    const double *by_gap;     /* [gaps] what a pair of places counts, 1 .. gaps places apart */
    int64_t gaps;
    const float *recency;     /* [recent] by how many items came after one */
    int64_t recent;
    double softening, residue;
    float sharpness;
} Transitions;

/* Of one client; numbers of [V] are 0 between rows, ``code`` and ``next`` -1 between clients. */
typedef struct {
    float *sum, *scale;   /* [V] */
    double *without;      /* [V] */
    uint64_t *marks, *wanted; /* [V / 64]: where something was added; the candidates */
    int32_t *code;        /* [V]: of an item that is looked back at, its number among them */
    int32_t *last, *before; /* [V], [places]: where an item stands in the training history, from its end */
    int64_t *ends;        /* how many items are looked back at, then [sources + 1] of what is kept of their counts */
    int32_t *kept;        /* their columns */
    float *values;
} Memory;

/* ln(1 + x), x at least 0, within a few units in the last place: 1 + x by its mantissa's polynomial, and what adding lost. */
INLINE vector logarithm_of_more(vector x) {
    const vector u = x + 1.0f, lost = (x - (u - 1.0f)) / u;
    const whole bits = (whole)u, power = (bits - 0x3f3504f3) >> 23;
    const vector e = (vector)(power + 0x4b400000) - 12582912.0f;
    const vector f = (vector)(bits - (power << 23)) - 1.0f, z = f * f;
    vector p = all(7.0376836292e-2f);
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * z - e * 2.12194440e-4f - z * 0.5f;
    return p + f + e * 0.693359375f + lost;
}

static void sharpen(int64_t size, float sharpness, float *values) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) store(values + i, logarithm_of_more(load(values + i)) * sharpness);
    if (i == size) return;
    float rest[LANES] = {0};
    memcpy(rest, values + i, sizeof(float) * (size - i));
    store(rest, logarithm_of_more(load(rest)) * sharpness);
    memcpy(values + i, rest, sizeof(float) * (size - i));
}

/* The item ``age`` places before a row's own, or -1 before the first. */
static int64_t source_of(const Transitions *asked, int64_t c, int64_t r, int64_t age) {
    const int64_t place = asked->places[c * asked->rows + r];
    if (place % asked->length < age) return -1;
    return asked->history[c * asked->windows * asked->length + place - age];
}

static int64_t entries_of(const Transitions *asked, int64_t item) { return asked->begins[item + 1] - asked->begins[item]; }

/* No more entries than these are found in all rows; into ``kept`` no client keeps more, of ``sources`` items at most. */
int64_t fedmm_transition_entries(const Transitions *asked, int64_t *kept, int64_t *sources) {
    int64_t total = 0;
    *kept = *sources = 0;
    for (int64_t c = 0; c < asked->clients; c++) {
        int64_t own = 0, looked = 0;
        for (int64_t r = 0; r < asked->rows; r++) {
            int64_t found = 0;
            for (int64_t age = 0; age < asked->recent; age++) {
                const int64_t item = source_of(asked, c, r, age);
                if (item < 0) break;
                found += entries_of(asked, item);
                looked++;
            }
            own += found;
            if (asked->columns) total += found ? asked->candidates : 0; /* one item may stand in several columns */
            else total += found < asked->candidates ? found : asked->candidates;
        }
        if (own > *kept) *kept = own;
        if (looked > *sources) *sources = looked;
    }
    return total;
}

static void add_own_scales(const Transitions *asked, const Memory *memory, int64_t c) {
    const int64_t *own = asked->own + asked->own_begins[c], size = asked->own_begins[c + 1] - asked->own_begins[c];
    for (int64_t p = 0; p < size; p++) {
        memory->before[p] = memory->last[own[p]];
        memory->last[own[p]] = (int32_t)p;
        for (int64_t gap = 1; gap <= asked->gaps && gap <= p; gap++) {
            memory->without[own[p]] += asked->by_gap[gap - 1];
            memory->without[own[p - gap]] += asked->by_gap[gap - 1];
        }
    }
    for (int64_t p = 0; p < size; p++) {
        const double total = asked->totals[own[p]] - memory->without[own[p]];
        if (total < asked->residue) memory->scale[own[p]] = 0;
        else memory->scale[own[p]] = (float)(1 / asked->softening / sqrt(total));
    }
}

static void take_own_scales_out(const Transitions *asked, const Memory *memory, int64_t c) {
    for (int64_t p = asked->own_begins[c]; p < asked->own_begins[c + 1]; p++) {
        const int64_t item = asked->own[p];
        memory->scale[item] = asked->scale[item];
        memory->without[item] = 0;
        memory->last[item] = -1;
    }
}

/* Adds what the training history gave to an item's counts to ``memory->without``, or with ``clear`` makes that 0 again. */
static void own_counts(const Transitions *asked, const Memory *memory, int64_t c, int64_t item, double *into, int clear) {
    const int64_t *own = asked->own + asked->own_begins[c], size = asked->own_begins[c + 1] - asked->own_begins[c];
    for (int64_t p = memory->last[item]; p >= 0; p = memory->before[p])
        for (int64_t gap = 1; gap <= asked->gaps; gap++) {
            const double value = clear ? 0 : asked->by_gap[gap - 1];
            if (p >= gap) into[own[p - gap]] = clear ? 0 : into[own[p - gap]] + value;
            if (p + gap < size) into[own[p + gap]] = clear ? 0 : into[own[p + gap]] + value;
        }
}

/* The counts of the items that a client's rows look back at, its own taken out, times their columns' scales. */
static void keep_others(const Transitions *asked, const Memory *memory, int64_t c, double *gave) {
    int64_t number = 0, kept = 0;
    memory->ends[1] = 0;
    for (int64_t r = 0; r < asked->rows; r++)
        for (int64_t age = 0; age < asked->recent; age++) {
            const int64_t item = source_of(asked, c, r, age);
            if (item < 0) break;
            if (memory->code[item] >= 0) continue;
            if (asked->own) own_counts(asked, memory, c, item, gave, 0);
            for (int64_t e = asked->begins[item]; e < asked->begins[item + 1]; e++) {
                const int32_t column = asked->others[e];
                float value = asked->counts[e];
                if (asked->columns && !(memory->wanted[column >> 6] >> (column & 63) & 1)) continue;
                if (gave[column]) {
                    value = (float)(value - gave[column]);
                    if (value < asked->residue) continue;
                }
                memory->kept[kept] = column;
                memory->values[kept++] = value * memory->scale[column];
            }
            if (asked->own) own_counts(asked, memory, c, item, gave, 1);
            memory->code[item] = (int32_t)number;
            memory->ends[1 + ++number] = kept;
        }
    memory->ends[0] = number;
}

static void want(const Transitions *asked, const Memory *memory, int64_t c, int yes) {
    const int64_t *items = asked->columns + c * asked->candidates;
    for (int64_t j = 0; j < asked->candidates; j++) {
        uint64_t *word = memory->wanted + (items[j] >> 6);
        *word = yes ? *word | (uint64_t)1 << (items[j] & 63) : 0;
    }
}

static void forget(const Transitions *asked, const Memory *memory, int64_t c) {
    for (int64_t r = 0; r < asked->rows; r++)
        for (int64_t age = 0; age < asked->recent; age++) {
            const int64_t item = source_of(asked, c, r, age);
            if (item < 0) break;
            memory->code[item] = -1;
        }
}

/* Before the rows of a client: its counts, where ``gave`` [V] zeros are worked in. */
static void begin_client(const Transitions *asked, const Memory *memory, int64_t c, double *gave) {
    if (asked->columns) want(asked, memory, c, 1);
    if (asked->own) add_own_scales(asked, memory, c);
    keep_others(asked, memory, c, gave);
}

/* Behind them: what is worked in is as it was. */
static void end_client(const Transitions *asked, const Memory *memory, int64_t c) {
    forget(asked, memory, c);
    if (asked->own) take_own_scales_out(asked, memory, c);
    if (asked->columns) want(asked, memory, c, 0);
}

/* What is kept of the counts as dense rows of candidates, ``wide`` numbers each. */
static void spread_rows(const Transitions *asked, const Memory *memory, int64_t c, int64_t wide, float *rows) {
    const int64_t *items = asked->columns ? asked->columns + c * asked->candidates : NULL;
    for (int64_t k = 0; k < memory->ends[0]; k++, rows += wide) {
        float *row = items ? memory->sum : rows;
        const int64_t begin = memory->ends[1 + k], end = memory->ends[2 + k];
        if (!items) memset(row, 0, sizeof(float) * wide);
        for (int64_t e = begin; e < end; e++) row[memory->kept[e]] = memory->values[e];
        if (!items) continue;
        for (int64_t j = 0; j < wide; j++) rows[j] = j < asked->candidates && items[j] ? row[items[j]] : 0;
        for (int64_t e = begin; e < end; e++) row[memory->kept[e]] = 0;
    }
}

/* Adds what a row's items say to ``memory->sum`` and marks where. */
static void add_up(const Transitions *asked, const Memory *memory, int64_t c, int64_t r) {
    for (int64_t age = 0; age < asked->recent; age++) {
        const int64_t item = source_of(asked, c, r, age);
        if (item < 0) break;
        const float weight = asked->recency[age];
        const int64_t code = asked->own ? memory->code[item] : 0;
        const int64_t begin = asked->own ? memory->ends[1 + code] : asked->begins[item];
        const int64_t end = asked->own ? memory->ends[2 + code] : asked->begins[item + 1];
        const int32_t *columns = asked->own ? memory->kept : asked->others;
        const float *values = asked->own ? memory->values : asked->scaled;
        for (int64_t e = begin; e < end; e++) {
            memory->sum[columns[e]] += weight * values[e];
            memory->marks[columns[e] >> 6] |= (uint64_t)1 << (columns[e] & 63);
        }
    }
}

/* Moves a row's sums, in the order of items, to ``values`` and where they stood to ``columns``; returns how many. */
static int64_t move_out(const Transitions *asked, const Memory *memory, int32_t *columns, float *values) {
    int64_t found = 0;
    for (int64_t word = 0; word <= asked->items >> 6; word++) {
        for (uint64_t left = memory->marks[word]; left; left &= left - 1) {
            const int32_t item = (int32_t)(word * 64 + __builtin_ctzll(left));
            columns[found] = item;
            values[found++] = memory->sum[item];
            memory->sum[item] = 0;
        }
        memory->marks[word] = 0;
    }
    return found;
}

/* The same of the items that are candidates, as columns among these; all sums are 0 again. */
static int64_t move_candidates_out(const Transitions *asked, const Memory *memory, int64_t c, int32_t *columns, float *values) {
    const int64_t *items = asked->columns + c * asked->candidates;
    int64_t found = 0;
    for (int64_t j = 0; j < asked->candidates; j++) {
        const int64_t item = items[j];
        if (!item || !(memory->marks[item >> 6] >> (item & 63) & 1)) continue;
        columns[found] = (int32_t)j;
        values[found++] = memory->sum[item];
    }
    for (int64_t word = 0; word <= asked->items >> 6; word++) {
        for (uint64_t left = memory->marks[word]; left; left &= left - 1)
            memory->sum[word * 64 + __builtin_ctzll(left)] = 0;
        memory->marks[word] = 0;
    }
    return found;
}

static Memory memory_of(const Transitions *asked, int64_t kept, float *floats, double *doubles, int64_t *words, int32_t *places) {
    const int64_t V = asked->items, marks = (V >> 6) + 1;
    const Memory memory = {
        floats, floats + V, doubles, (uint64_t *)words, (uint64_t *)words + marks, places, places + V,
        places + 2 * V + kept, words + 2 * marks, places + 2 * V, floats + 2 * V,
    };
    memcpy(memory.scale, asked->scale, sizeof(float) * V);
    return memory;
}

/* Writes the entries of row (c, r) at ends[c * R + r] .. ends[c * R + r + 1]. ``floats`` has 2 V + kept numbers, of
 * which the first V are 0; ``doubles`` 2 V zeros; ``words`` twice V / 64 + 1 zeros and sources + 2 more; ``places`` 2 V
 * times -1, then kept and the longest training history. */
void fedmm_transitions(const Transitions *asked, int64_t kept, float *floats, double *doubles, int64_t *words, int32_t *places,
                       int64_t *ends, int32_t *columns, float *values) {
    const Memory memory = memory_of(asked, kept, floats, doubles, words, places);
    int64_t found = 0;
    ends[0] = 0;
    for (int64_t c = 0; c < asked->clients; c++) {
        if (asked->own) begin_client(asked, &memory, c, doubles + asked->items);
        for (int64_t r = 0; r < asked->rows; r++) {
            const int64_t row = c * asked->rows + r;
            add_up(asked, &memory, c, r);
            found += asked->columns ? move_candidates_out(asked, &memory, c, columns + found, values + found)
                                    : move_out(asked, &memory, columns + found, values + found);
            sharpen(found - ends[row], asked->sharpness, values + ends[row]);
            ends[row + 1] = found;
        }
        if (asked->own) end_client(asked, &memory, c);
    }
}

/* The same scores densely, into ``scores`` [C, R, N]: for counts that are there for many pairs of items. ``rows`` has
 * sources times N numbers, N made up to whole vectors, and N more; the others are as above. */
void fedmm_dense_transitions(const Transitions *asked, int64_t kept, float *floats, double *doubles, int64_t *words,
                             int32_t *places, float *rows, float *scores) {
    const int64_t V = asked->items, N = asked->candidates, wide = (N + LANES - 1) / LANES * LANES;
    const Memory memory = memory_of(asked, kept, floats, doubles, words, places);
    float *sum = rows;
    rows += wide;
    for (int64_t c = 0; c < asked->clients; c++) {
        begin_client(asked, &memory, c, doubles + V);
        spread_rows(asked, &memory, c, wide, rows);
        for (int64_t r = 0; r < asked->rows; r++) {
            memset(sum, 0, sizeof(float) * wide);
            for (int64_t age = 0; age < asked->recent; age++) {
                const int64_t item = source_of(asked, c, r, age);
                if (item < 0) break;
                const float weight = asked->recency[age], *row = rows + memory.code[item] * wide;
                for (int64_t j = 0; j < wide; j += LANES) store(sum + j, load(sum + j) + load(row + j) * weight);
            }
            sharpen(N, asked->sharpness, sum);
            memcpy(scores + (c * asked->rows + r) * N, sum, sizeof(float) * N);
        }
        end_client(asked, &memory, c);
    }
}
