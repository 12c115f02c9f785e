/* Linear maps of packed rows by weights [outputs, inputs], their derivatives, and heads made up to whole vectors. */
#ifndef FEDMM_MAPS_H
#define FEDMM_MAPS_H

#include "vectors.h"

/* out [rows, outputs] = x [rows, inputs] times weight transposed, plus bias. ``scratch`` holds inputs * outputs. */
UNUSED static void map(int64_t rows, int64_t inputs, int64_t outputs, const float *x, const float *weight, const float *bias,
                float *out, float *scratch) {
    transpose(outputs, inputs, weight, inputs, scratch, outputs);
    for (int64_t r = 0; r < rows && bias; r++)
        for (int64_t d = 0; d < outputs; d += LANES) store(out + r * outputs + d, load(bias + d));
    product(rows, outputs, inputs, x, inputs, 1, scratch, outputs, out, outputs, bias != NULL);
}

/* into [rows, inputs] = incoming [rows, outputs] times weight, or added to it. */
UNUSED static void map_back(int64_t rows, int64_t inputs, int64_t outputs, const float *incoming, const float *weight,
                     float *into, int add) {
    product(rows, inputs, outputs, incoming, outputs, 1, weight, inputs, into, inputs, add);
}

/* into [outputs, inputs]: the derivative by the weight; nothing where ``into`` is NULL. */
UNUSED static void map_weight(int64_t rows, int64_t inputs, int64_t outputs, const float *incoming, const float *x,
                       float *into) {
    if (into) product(outputs, inputs, rows, incoming, 1, outputs, x, inputs, into, inputs, 0);
}

/* into [columns]: the sum of rows x [rows, columns]; nothing where ``into`` is NULL. */
UNUSED static void add_up(int64_t rows, int64_t columns, const float *x, float *into) {
    if (!into) return;
    for (int64_t d = 0; d < columns; d += LANES) {
        vector total = all(0);
        for (int64_t r = 0; r < rows; r++) total += load(x + r * columns + d);
        store(into + d, total);
    }
}

/* Each head's ``width`` parts of ``size`` numbers, made up to ``whole_width`` parts with zeros. */
UNUSED static void widen(int64_t heads, int64_t width, int64_t whole_width, int64_t size, const float *from, float *into) {
    for (int64_t h = 0; h < heads; h++, from += width * size, into += whole_width * size) {
        memcpy(into, from, sizeof(float) * width * size);
        memset(into + width * size, 0, sizeof(float) * (whole_width - width) * size);
    }
}

/* And back, without what was made up. */
UNUSED static void narrow(int64_t heads, int64_t width, int64_t whole_width, int64_t size, const float *from, float *into) {
    for (int64_t h = 0; h < heads; h++)
        memcpy(into + h * width * size, from + h * whole_width * size, sizeof(float) * width * size);
}

#endif
