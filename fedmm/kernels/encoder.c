/* SASRec's blocks over learned positions, forward and back: one client after the other, its real positions alone.
 *
 * The windows of a client stand packed, one after the other, N rows in all: padding costs nothing, and what a client
 * needs stays in a core's own cache from its first map to its last.
 */
#include "attention.h"
#include "maps.h"
#include "norms.h"

/* Parameters of one block, in the order in which they are given. */
enum {
    ATTENTION_GAIN, ATTENTION_BIAS, QUERY, QUERY_BIAS, KEY, VALUE, VALUE_BIAS, OUTPUT, OUTPUT_BIAS,
    FEEDFORWARD_GAIN, FEEDFORWARD_BIAS, INNER, INNER_BIAS, OUTER, OUTER_BIAS, PARTS
};

/* C clients of B windows of up to L positions; states are D wide. D is a multiple of LANES. */
typedef struct {
    int64_t clients, windows, length, width, heads, blocks;
    int64_t places;                 /* P of the position table */
    const int64_t *lengths;         /* [C, B], 0 for a window that is padding */
    const float *embedded;          /* [C, B, L, D] */
    const float *masks;             /* dropout: [1 + 2 blocks, C, B, L, D], or NULL */
    const float *const *parameters; /* the position table, then PARTS for each block; each [C, ...] */
    const int64_t *strides;         /* from client to client in each; 0 where all share one */
    float *saved, *scratch;         /* fedmm_encoder_saved and fedmm_encoder_scratch numbers */
} Encoder;

/* One client: its N rows, how wide its heads are, and how wide all of them once made up to whole vectors. */
typedef struct {
    const Encoder *encoder;
    const int64_t *lengths;
    int64_t number, rows, head, whole_head, wide, shares;
} Client;

/* What the backward pass needs of one block. */
typedef struct {
    float *normal, *inner, *later, *query, *key, *value, *mixed, *rates, *later_rates, *shares;
} Kept;

static Client client(const Encoder *e, int64_t number) {
    Client own = {.encoder = e, .lengths = e->lengths + number * e->windows, .number = number};
    for (int64_t b = 0; b < e->windows; b++) {
        own.rows += own.lengths[b];
        own.shares += e->heads * own.lengths[b] * stepped(own.lengths[b]);
    }
    own.head = e->width / e->heads;
    own.whole_head = (own.head + LANES - 1) / LANES * LANES;
    own.wide = own.whole_head * e->heads;
    return own;
}

static int64_t kept_size(const Client *own) {
    return own->rows * (3 * own->encoder->width + 4 * own->wide) + 2 * stepped(own->rows) + own->shares;
}

static Kept kept(const Client *own, float *from) {
    const int64_t narrow_rows = own->rows * own->encoder->width, wide_rows = own->rows * own->wide;
    Kept k;
    k.normal = from;
    k.inner = k.normal + narrow_rows;
    k.later = k.inner + narrow_rows;
    k.query = k.later + narrow_rows;
    k.key = k.query + wide_rows;
    k.value = k.key + wide_rows;
    k.mixed = k.value + wide_rows;
    k.rates = k.mixed + wide_rows;
    k.later_rates = k.rates + stepped(own->rows);
    k.shares = k.later_rates + stepped(own->rows);
    return k;
}

/* How many numbers ``saved`` holds. */
int64_t fedmm_encoder_saved(const Encoder *e) {
    int64_t total = 0;
    for (int64_t c = 0; c < e->clients; c++) {
        const Client own = client(e, c);
        total += e->blocks * kept_size(&own);
    }
    return total;
}

/* How many numbers ``scratch`` holds: six sets of rows, what attention takes, two sets of wide weights. */
int64_t fedmm_encoder_scratch(const Encoder *e) {
    int64_t most = 0;
    const Client any = client(e, 0);
    for (int64_t c = 0; c < e->clients; c++) {
        const Client own = client(e, c);
        most = own.rows > most ? own.rows : most;
    }
    const int64_t longest = stepped(e->length);
    return 6 * most * any.wide + longest * (any.whole_head + longest) + 8 * (e->width + STEP) * any.wide +
           any.wide * e->width;
}

/* The first of this client's numbers in parameter ``part`` of ``block``; the position table is part -1 of block 0. */
static const float *parameter(const Client *own, int64_t block, int64_t part) {
    const int64_t place = 1 + block * PARTS + part;
    return own->encoder->parameters[place] + own->number * own->encoder->strides[place];
}

/* How many numbers of a client the parameter holds. */
static int64_t numbers_of(const Encoder *e, int part) {
    const int square = part == QUERY || part == KEY || part == VALUE || part == OUTPUT || part == INNER || part == OUTER;
    return square ? e->width * e->width : e->width;
}

/* Whether the heads are whole vectors as they are. */
static int is_whole(const Client *own) { return own->head == own->whole_head; }

/* The block's parameters, those of attention made up to whole vectors in ``wide``. */
static void weights_of(const Client *own, int64_t block, const float *weights[PARTS], float *wide) {
    const int64_t D = own->encoder->width, heads = own->encoder->heads;
    const int across[] = {QUERY, KEY, VALUE, QUERY_BIAS, VALUE_BIAS};
    for (int part = 0; part < PARTS; part++) weights[part] = parameter(own, block, part);
    if (is_whole(own)) return;
    for (int i = 0; i < 5; i++) {
        const int64_t size = i < 3 ? D : 1;
        widen(heads, own->head, own->whole_head, size, weights[across[i]], wide);
        weights[across[i]] = wide;
        wide += own->wide * size;
    }
    for (int64_t d = 0; d < D; d++)
        widen(heads, own->head, own->whole_head, 1, weights[OUTPUT] + d * D, wide + d * own->wide);
    weights[OUTPUT] = wide;
}

/* The mask of a window at a site of dropout. */
INLINE const float *mask_of(const Client *own, int64_t site, int64_t window) {
    const Encoder *e = own->encoder;
    if (!e->masks) return NULL;
    return e->masks + ((site * e->clients + own->number) * e->windows + window) * e->length * e->width;
}

/* x += mask * said, window by window. */
static void add_said(const Client *own, int64_t site, const float *said, float *x) {
    for (int64_t b = 0; b < own->encoder->windows; b++) {
        const int64_t size = own->lengths[b] * own->encoder->width;
        const float *mask = mask_of(own, site, b);
        for (int64_t n = 0; n < size; n += LANES)
            store(x + n, load(x + n) + (mask ? load(said + n) * load(mask + n) : load(said + n)));
        x += size;
        said += size;
    }
}

/* out = mask * x, window by window. */
static void dropped(const Client *own, int64_t site, const float *x, float *out) {
    for (int64_t b = 0; b < own->encoder->windows; b++) {
        const int64_t size = own->lengths[b] * own->encoder->width;
        const float *mask = mask_of(own, site, b);
        for (int64_t n = 0; n < size; n += LANES) store(out + n, mask ? load(x + n) * load(mask + n) : load(x + n));
        x += size;
        out += size;
    }
}

/* Every head of every window; forward, or back where there is ``incoming``: into [3] are then the derivatives. */
static void heads_of(const Client *own, const Kept *k, const float *incoming, float *const into[3], float *scratch) {
    const float scale = 1.0f / sqrtf((float)own->head);
    const int64_t row = own->wide;
    float *shares = k->shares;
    int64_t first = 0;
    for (int64_t b = 0; b < own->encoder->windows; b++) {
        const int64_t length = own->lengths[b];
        for (int64_t h = 0; h < own->encoder->heads && length; h++) {
            const int64_t at = first * row + h * own->whole_head;
            if (incoming)
                attend_back(length, own->whole_head, scale, k->query + at, k->key + at, k->value + at, row, shares,
                            incoming + at, into[0] + at, into[1] + at, into[2] + at, scratch);
            else
                attend(length, own->whole_head, scale, k->query + at, k->key + at, k->value + at, row, shares,
                       k->mixed + at, scratch);
            shares += length * stepped(length);
        }
        first += length;
    }
}

/* ``yes`` where x is above 0, 0 elsewhere; where x is not a number, ``yes`` too: what diverges is seen to. */
INLINE vector rectified(vector x, vector yes) { return chosen(x <= all(0), all(0), yes); }

/* What comes of one block: x, in place. */
static void block_forward(const Client *own, int64_t block, const Kept *k, float *x, float *scratch) {
    const int64_t N = own->rows, D = own->encoder->width, wide = own->wide;
    float *normed = scratch, *said = normed + N * wide, *packed = said + N * wide;
    float *rest = packed + wide * D;
    const float *w[PARTS];
    weights_of(own, block, w, rest);
    norm(N, D, x, w[ATTENTION_GAIN], w[ATTENTION_BIAS], k->normal, k->rates, normed);
    map(N, D, wide, normed, w[QUERY], w[QUERY_BIAS], k->query, packed);
    map(N, D, wide, normed, w[KEY], NULL, k->key, packed);
    map(N, D, wide, normed, w[VALUE], w[VALUE_BIAS], k->value, packed);
    heads_of(own, k, NULL, NULL, rest + 4 * (D + STEP) * wide);
    map(N, wide, D, k->mixed, w[OUTPUT], w[OUTPUT_BIAS], said, packed);
    add_said(own, 1 + 2 * block, said, x);
    norm(N, D, x, w[FEEDFORWARD_GAIN], w[FEEDFORWARD_BIAS], k->later, k->later_rates, normed);
    map(N, D, D, normed, w[INNER], w[INNER_BIAS], k->inner, packed);
    for (int64_t n = 0; n < N * D; n += LANES) store(k->inner + n, rectified(load(k->inner + n), load(k->inner + n)));
    map(N, D, D, k->inner, w[OUTER], w[OUTER_BIAS], said, packed);
    add_said(own, 2 + 2 * block, said, x);
}

/* (embedded * sqrt(D) + positions) * mask, packed. */
static void begin(const Client *own, float *x) {
    const Encoder *e = own->encoder;
    const vector scale = all(sqrtf((float)e->width));
    const float *table = parameter(own, 0, -1);
    for (int64_t b = 0; b < e->windows; b++) {
        const int64_t size = own->lengths[b] * e->width;
        const float *from = e->embedded + (own->number * e->windows + b) * e->length * e->width;
        const float *mask = mask_of(own, 0, b);
        for (int64_t n = 0; n < size; n += LANES) {
            const vector value = load(from + n) * scale + load(table + n);
            store(x + n, mask ? value * load(mask + n) : value);
        }
        x += size;
    }
}

/* Packed rows to where they belong in [C, B, L, D], times ``scale``, zeros at padding. */
static void unpack(const Client *own, const float *x, float scale, float *into) {
    const Encoder *e = own->encoder;
    const int64_t whole_size = e->length * e->width;
    for (int64_t b = 0; b < e->windows; b++) {
        const int64_t size = own->lengths[b] * e->width;
        float *window = into + (own->number * e->windows + b) * whole_size;
        for (int64_t n = 0; n < size; n += LANES) store(window + n, load(x + n) * scale);
        memset(window + size, 0, sizeof(float) * (whole_size - size));
        x += size;
    }
}

/* The other way. */
static void pack(const Client *own, const float *from, float *x) {
    const Encoder *e = own->encoder;
    for (int64_t b = 0; b < e->windows; b++) {
        const int64_t size = own->lengths[b] * e->width;
        memcpy(x, from + (own->number * e->windows + b) * e->length * e->width, sizeof(float) * size);
        x += size;
    }
}

/* States before the last norm into ``hidden`` [C, B, L, D]. */
void fedmm_encoder_forward(const Encoder *e, float *hidden) {
    float *saved = e->saved;
    for (int64_t c = 0; c < e->clients; c++) {
        const Client own = client(e, c);
        float *x = e->scratch;
        begin(&own, x);
        for (int64_t block = 0; block < e->blocks; block++) {
            const Kept k = kept(&own, saved);
            block_forward(&own, block, &k, x, x + own.rows * own.wide);
            saved += kept_size(&own);
        }
        unpack(&own, x, 1.0f, hidden);
    }
}

/* Where this client's derivatives of the block's parameters go: their own places, or ``wide`` for those of attention
 * that are made up to whole vectors; NULL where none is asked for. */
static void places_of(const Client *own, int64_t block, float *const *gradients, float *into[PARTS], float *wide) {
    const int64_t D = own->encoder->width;
    const int made_up[] = {QUERY, KEY, VALUE, OUTPUT, QUERY_BIAS, VALUE_BIAS};
    for (int part = 0; part < PARTS; part++) {
        float *start = gradients[1 + block * PARTS + part];
        into[part] = start ? start + own->number * numbers_of(own->encoder, part) : NULL;
    }
    for (int i = 0; i < 6 && !is_whole(own); i++) {
        if (into[made_up[i]]) into[made_up[i]] = wide;
        wide += own->wide * (i < 4 ? D : 1);
    }
}

/* Those that were made up, to their own places. */
static void settle(const Client *own, int64_t block, float *const *gradients, float *const wide[PARTS]) {
    const int64_t D = own->encoder->width, heads = own->encoder->heads;
    float *into[PARTS];
    const int across[] = {QUERY, KEY, VALUE, QUERY_BIAS, VALUE_BIAS};
    if (is_whole(own)) return;
    for (int part = 0; part < PARTS; part++) {
        float *start = gradients[1 + block * PARTS + part];
        into[part] = start ? start + own->number * numbers_of(own->encoder, part) : NULL;
    }
    for (int i = 0; i < 5; i++)
        if (into[across[i]])
            narrow(heads, own->head, own->whole_head, i < 3 ? D : 1, wide[across[i]], into[across[i]]);
    for (int64_t d = 0; d < D && into[OUTPUT]; d++)
        narrow(heads, own->head, own->whole_head, 1, wide[OUTPUT] + d * own->wide, into[OUTPUT] + d * D);
}

/* The feed-forward part: ``slope`` [N, D], the derivative by its output, becomes that by its input. */
static void feedforward_back(const Client *own, int64_t block, const Kept *k, const float *const *w,
                             float *const *into, float *slope, float *scratch) {
    const int64_t N = own->rows, D = own->encoder->width;
    float *said = scratch, *inner = said + N * own->wide, *normed = inner + N * own->wide, *spare = normed + N * D;
    dropped(own, 2 + 2 * block, slope, said);
    add_up(N, D, said, into[OUTER_BIAS]);
    map_weight(N, D, D, said, k->inner, into[OUTER]);
    map_back(N, D, D, said, w[OUTER], inner, 0);
    for (int64_t n = 0; n < N * D; n += LANES)
        store(inner + n, rectified(load(k->inner + n), load(inner + n)));
    add_up(N, D, inner, into[INNER_BIAS]);
    norm_again(N, D, k->later, w[FEEDFORWARD_GAIN], w[FEEDFORWARD_BIAS], normed);
    map_weight(N, D, D, inner, normed, into[INNER]);
    map_back(N, D, D, inner, w[INNER], said, 0);
    norm_back(N, D, said, k->later, k->later_rates, w[FEEDFORWARD_GAIN], slope,
              into[FEEDFORWARD_GAIN] ? into[FEEDFORWARD_GAIN] : spare,
              into[FEEDFORWARD_BIAS] ? into[FEEDFORWARD_BIAS] : spare + D);
}

/* And the attention. */
static void attention_back(const Client *own, int64_t block, const Kept *k, const float *const *w, float *const *into,
                           float *slope, float *scratch) {
    const int64_t N = own->rows, D = own->encoder->width, wide = own->wide;
    float *said = scratch, *mixed = said + N * wide, *spare = mixed + N * wide + 3 * N * wide;
    float *const parts[3] = {mixed + N * wide, mixed + 2 * N * wide, mixed + 3 * N * wide};
    const int weight[] = {QUERY, KEY, VALUE}, bias[] = {QUERY_BIAS, PARTS, VALUE_BIAS};
    dropped(own, 1 + 2 * block, slope, said);
    add_up(N, D, said, into[OUTPUT_BIAS]);
    map_weight(N, wide, D, said, k->mixed, into[OUTPUT]);
    map_back(N, wide, D, said, w[OUTPUT], mixed, 0);
    heads_of(own, k, mixed, parts, spare);
    norm_again(N, D, k->normal, w[ATTENTION_GAIN], w[ATTENTION_BIAS], said);
    for (int i = 0; i < 3; i++) {
        map_weight(N, D, wide, parts[i], said, into[weight[i]]);
        if (bias[i] != PARTS) add_up(N, wide, parts[i], into[bias[i]]);
        map_back(N, D, wide, parts[i], w[weight[i]], mixed, i > 0);
    }
    norm_back(N, D, mixed, k->normal, k->rates, w[ATTENTION_GAIN], slope,
              into[ATTENTION_GAIN] ? into[ATTENTION_GAIN] : spare,
              into[ATTENTION_BIAS] ? into[ATTENTION_BIAS] : spare + D);
}

/* The derivative by the position table, [P, D]: the sum over the windows. */
static void positions_back(const Client *own, const float *slope, float *into) {
    const Encoder *e = own->encoder;
    into += own->number * e->places * e->width;
    memset(into, 0, sizeof(float) * e->places * e->width);
    for (int64_t b = 0; b < e->windows; b++) {
        const int64_t size = own->lengths[b] * e->width;
        for (int64_t n = 0; n < size; n += LANES) store(into + n, load(into + n) + load(slope + n));
        slope += size;
    }
}

/* From the derivative by the states, ``incoming`` [C, B, L, D], those by what was embedded and by the parameters, each
 * [C, ...] in one piece; NULL where one is not asked for. */
void fedmm_encoder_backward(const Encoder *e, const float *incoming, float *into_embedded, float *const *gradients) {
    const float *saved = e->saved;
    const Client any = client(e, 0);
    float *own_wide = e->scratch, *into_wide = own_wide + 4 * (e->width + STEP) * any.wide;
    float *slope = into_wide + 4 * (e->width + STEP) * any.wide;
    for (int64_t c = 0; c < e->clients; c++) {
        const Client own = client(e, c);
        float *rest = slope + own.rows * own.wide;
        pack(&own, incoming, slope);
        for (int64_t block = e->blocks - 1; block >= 0; block--) {
            const Kept k = kept(&own, (float *)saved + block * kept_size(&own));
            const float *w[PARTS];
            float *into[PARTS];
            weights_of(&own, block, w, own_wide);
            places_of(&own, block, gradients, into, into_wide);
            feedforward_back(&own, block, &k, w, into, slope, rest);
            attention_back(&own, block, &k, w, into, slope, rest);
            settle(&own, block, gradients, into);
        }
        dropped(&own, 0, slope, slope);
        if (gradients[0]) positions_back(&own, slope, gradients[0]);
        if (into_embedded) unpack(&own, slope, sqrtf((float)e->width), into_embedded);
        saved += e->blocks * kept_size(&own);
    }
}
