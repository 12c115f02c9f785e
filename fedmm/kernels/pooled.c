/* Queries of the pooled expert and their derivatives: a decayed mean of what the history's features say, projected,
 * normed and projected back.
 *
 * A decayed sum needs no sum over the past: total(l) = d total(l - 1) + f(l), and its derivative by d follows the same
 * way. So the forward pass keeps the slopes of the means by d, and no matrix of ages is formed.
 */
#include <float.h>

#include "maps.h"
#include "norms.h"

typedef struct {
    int64_t clients, windows, length, rows, width, inner; /* C, B, L, R, F, P */
    const int64_t *items;    /* [C, B, L], 0 at padding, which stands at the right */
    const float *values;     /* [V, F], zero where absent, or [C, V, F] */
    const uint8_t *present;  /* [V], or [C, V] */
    int64_t own_items;       /* V where each client has its own, 0 where all share them */
    const float *decays;     /* [C] */
    const float *projection; /* [C, P, F] */
    int64_t projection_step; /* from client to client */
    const float *gain;       /* [C, P] */
    int64_t gain_step;
    const float *bias;
    int64_t bias_step;
    float *saved;   /* C * fedmm_pooled_saved() */
    float *scratch; /* fedmm_pooled_scratch() */
} Pooled;

/* Numbers that one client keeps: means, their slopes, normed rows, rates, and whether there is a mean. */
int64_t fedmm_pooled_saved(const Pooled *own) {
    return (own->rows * (2 * own->width + own->inner + 2) + LANES - 1) / LANES * LANES;
}

int64_t fedmm_pooled_scratch(const Pooled *own) {
    return own->rows * (2 * own->inner + 2 * own->width) + own->inner * own->width + 4 * own->width + LANES;
}

/* One client's part of what is saved. */
typedef struct {
    int64_t rows; /* its real positions */
    float *means, *slopes, *normal, *rates, *has;
} Saved;

static Saved saved_of(const Pooled *own, int64_t client) {
    float *at = own->saved + client * fedmm_pooled_saved(own);
    const int64_t R = own->rows, F = own->width;
    Saved found = {0, at, at + R * F, at + 2 * R * F, at + 2 * R * F + R * own->inner, NULL};
    found.has = found.rates + R;
    const int64_t *items = own->items + client * own->windows * own->length;
    for (int64_t b = 0; b < own->windows; b++)
        for (int64_t l = 0; l < own->length && items[b * own->length + l]; l++) found.rows++;
    return found;
}

/* Means and their slopes by the decay, of every real position; ``sums`` has 2 * F numbers. */
static void pool(const Pooled *own, int64_t client, const Saved *into, float *sums) {
    const int64_t F = own->width, *items = own->items + client * own->windows * own->length;
    const float decay = own->decays[client];
    float *total = sums, *change = sums + F;
    int64_t r = 0;
    for (int64_t b = 0; b < own->windows; b++) {
        float mass = 0, more = 0;
        memset(sums, 0, sizeof(float) * 2 * F);
        for (int64_t l = 0; l < own->length; l++) {
            const int64_t item = items[b * own->length + l];
            if (!item) break;
            const int64_t place = client * own->own_items + item;
            const float *value = own->values + place * F;
            more = mass + decay * more;
            mass = decay * mass + (own->present[place] ? 1.0f : 0.0f);
            const float share = 1 / (mass > FLT_MIN ? mass : FLT_MIN);
            into->has[r] = mass > 0 ? 1.0f : 0.0f;
            const vector shares = all(share), decays = all(decay), mores = all(more);
            for (int64_t f = 0; f < F; f += LANES) {
                const vector before = load(total + f), next = decays * before + load(value + f);
                const vector turned = before + decays * load(change + f), mean = next * shares;
                store(total + f, next);
                store(change + f, turned);
                store(into->means + r * F + f, mean);
                store(into->slopes + r * F + f, (turned - mean * mores) * shares);
            }
            r++;
        }
    }
}

static void keep_those_with_a_mean(const Saved *own, int64_t width, float *rows) {
    for (int64_t r = 0; r < own->rows; r++)
        if (own->has[r] == 0) memset(rows + r * width, 0, sizeof(float) * width);
}

/* ``queries`` [C, R, F]: a client's real positions one after the other, zeros behind them. */
void fedmm_pooled_forward(const Pooled *own, float *queries) {
    const int64_t F = own->width, P = own->inner, R = own->rows;
    const float scale = 1 / sqrtf((float)P);
    float *projected = own->scratch, *normed = projected + R * P, *turned = normed + R * P + 2 * R * F;
    float *sums = turned + P * F;
    for (int64_t c = 0; c < own->clients; c++) {
        const Saved saved = saved_of(own, c);
        const float *projection = own->projection + c * own->projection_step;
        float *into = queries + c * R * F;
        pool(own, c, &saved, sums);
        map(saved.rows, F, P, saved.means, projection, NULL, projected, turned);
        norm(saved.rows, P, projected, own->gain + c * own->gain_step, own->bias + c * own->bias_step, saved.normal,
             saved.rates, normed);
        keep_those_with_a_mean(&saved, P, normed);
        product(saved.rows, F, P, normed, P, 1, projection, F, into, F, 0);
        for (int64_t i = 0; i < saved.rows * F; i++) into[i] *= scale;
        memset(into + saved.rows * F, 0, sizeof(float) * (R - saved.rows) * F);
    }
}

/* Derivatives, given those by the queries, ``incoming`` [C, R, F]: by the decay [C], the projection [C, P, F], the gain
 * and the bias [C, P]. */
void fedmm_pooled_backward(const Pooled *own, const float *incoming, float *into_decay, float *into_projection,
                           float *into_gain, float *into_bias) {
    const int64_t F = own->width, P = own->inner, R = own->rows;
    const float scale = 1 / sqrtf((float)P);
    float *one = own->scratch, *other = one + R * P, *given = other + R * P, *means = given + R * F;
    float *turned = means + R * F;
    for (int64_t c = 0; c < own->clients; c++) {
        const Saved saved = saved_of(own, c);
        const int64_t rows = saved.rows;
        const float *projection = own->projection + c * own->projection_step, *gain = own->gain + c * own->gain_step;
        float *into = into_projection + c * P * F;
        for (int64_t i = 0; i < rows * F; i++) given[i] = incoming[c * R * F + i] * scale;
        norm_again(rows, P, saved.normal, gain, own->bias + c * own->bias_step, one);
        keep_those_with_a_mean(&saved, P, one);
        product(P, F, rows, one, 1, P, given, F, into, F, 0);
        map(rows, F, P, given, projection, NULL, one, turned);
        keep_those_with_a_mean(&saved, P, one);
        memset(other, 0, sizeof(float) * rows * P);
        norm_back(rows, P, one, saved.normal, saved.rates, gain, other, into_gain + c * P, into_bias + c * P);
        product(P, F, rows, other, 1, P, saved.means, F, into, F, 1);
        map_back(rows, F, P, other, projection, means, 0);
        vector total = all(0);
        for (int64_t i = 0; i < rows * F; i += LANES) total += load(means + i) * load(saved.slopes + i);
        into_decay[c] = sum_of(total);
    }
}
