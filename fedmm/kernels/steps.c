/* The end of a local step: each client's gradient is brought to a norm of at most so much, and its parameters move.
 *
 * A client's gradient is read twice while it is near: once for its norm, once for the step.
 */
#include "vectors.h"

/* One parameter of C clients: numbers of one client, its gradient [C, size] and its values [C, size]. */
typedef struct {
    int64_t size;
    const float *gradient;
    int64_t gradient_step; /* from client to client */
    float *value;
} Parameter;

/* Numbers added up in eight lanes at a time and blocks of 4096, so that the sum is as exact as a sum of halves. */
static double square_of(const float *own, int64_t size) {
    double total = 0;
    for (int64_t begin = 0; begin < size; begin += 4096) {
        const int64_t end = size - begin < 4096 ? size : begin + 4096;
        vector sums[4] = {{0}};
        int64_t i = begin;
        for (; i + 4 * LANES <= end; i += 4 * LANES)
            for (int k = 0; k < 4; k++) {
                const vector some = load(own + i + k * LANES);
                sums[k] += some * some;
            }
        float rest = 0;
        for (; i < end; i++) rest += own[i] * own[i];
        total += (double)sum_of((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest;
    }
    return total;
}

static void move(float *value, const float *gradient, int64_t size, float rate) {
    for (int64_t i = 0; i < size; i++) value[i] -= rate * gradient[i];
}

/* value -= rate * min(1, most / (|gradient| + 1e-6)) * gradient, the norm over all of a client's parameters, and over
 * others whose norm is ``rest`` [C] or NULL; ``most`` 0 clips nothing. Gradients stay as they are; ``factors`` [C] are
 * what they were brought down by. */
void fedmm_clipped_step(int64_t clients, int64_t number, const Parameter *own, float most, float rate, const float *rest,
                        float *factors) {
    for (int64_t c = 0; c < clients; c++) {
        float factor = 1;
        if (most > 0) {
            double total = rest ? (double)rest[c] * rest[c] : 0;
            for (int64_t p = 0; p < number; p++)
                total += square_of(own[p].gradient + c * own[p].gradient_step, own[p].size);
            const float norm = (float)sqrt(total);
            factor = most / (norm + 1e-6f);
            factor = factor > 1 ? 1 : factor; /* NaN stays NaN */
        }
        factors[c] = factor;
        for (int64_t p = 0; p < number; p++)
            move(own[p].value + c * own[p].size, own[p].gradient + c * own[p].gradient_step, own[p].size, rate * factor);
    }
}
