/* Layer norm (Ba et al., 2016) of packed rows, and its derivative. */
#ifndef FEDMM_NORMS_H
#define FEDMM_NORMS_H

#include "vectors.h"

#define NORM_EPSILON 1e-6f

/* Rows x [rows, width] of mean 0 and variance 1 into ``normal``, one over their standard deviations into ``rates``
 * [rows], and normal * gain + bias into ``out``. */
UNUSED static void norm(int64_t rows, int64_t width, const float *x, const float *gain, const float *bias, float *normal,
                 float *rates, float *out) {
    for (int64_t r = 0; r < rows; r++, x += width, normal += width, out += width) {
        vector total = all(0), squares = all(0);
        for (int64_t d = 0; d < width; d += LANES) total += load(x + d);
        const vector mean = all(sum_of(total) / (float)width);
        for (int64_t d = 0; d < width; d += LANES) {
            const vector apart = load(x + d) - mean;
            squares += apart * apart;
        }
        rates[r] = 1.0f / sqrtf(sum_of(squares) / (float)width + NORM_EPSILON);
        const vector rate = all(rates[r]);
        for (int64_t d = 0; d < width; d += LANES) {
            const vector even = (load(x + d) - mean) * rate;
            store(normal + d, even);
            store(out + d, even * load(gain + d) + load(bias + d));
        }
    }
}

/* normal * gain + bias again, as the forward pass had it. */
UNUSED static void norm_again(int64_t rows, int64_t width, const float *normal, const float *gain, const float *bias,
                       float *out) {
    for (int64_t r = 0; r < rows; r++, normal += width, out += width)
        for (int64_t d = 0; d < width; d += LANES)
            store(out + d, load(normal + d) * load(gain + d) + load(bias + d));
}

/* Adds to ``into`` the derivative by x, given ``incoming`` by the norm's output: rate * (g - mean(g) - n mean(g n))
 * with g = incoming * gain. ``into_gain`` and ``into_bias`` [width] are written. */
UNUSED static void norm_back(int64_t rows, int64_t width, const float *incoming, const float *normal, const float *rates,
                      const float *gain, float *into, float *into_gain, float *into_bias) {
    memset(into_gain, 0, sizeof(float) * width);
    memset(into_bias, 0, sizeof(float) * width);
    for (int64_t r = 0; r < rows; r++, incoming += width, normal += width, into += width) {
        vector total = all(0), along = all(0);
        for (int64_t d = 0; d < width; d += LANES) {
            const vector own = load(incoming + d), even = load(normal + d), g = own * load(gain + d);
            total += g;
            along += g * even;
            store(into_gain + d, load(into_gain + d) + own * even);
            store(into_bias + d, load(into_bias + d) + own);
        }
        const vector mean = all(sum_of(total) / (float)width), slope = all(sum_of(along) / (float)width);
        const vector rate = all(rates[r]);
        for (int64_t d = 0; d < width; d += LANES) {
            const vector g = load(incoming + d) * load(gain + d);
            store(into + d, load(into + d) + rate * (g - mean - load(normal + d) * slope));
        }
    }
}

#endif
