// AdamW, of one parameter or of many laid end to end:  m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,
//     w ← w − lr·(m̂/(√v̂ + ε) + decay·w)   with m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ)
// (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.) All in float.
#include "warp.cuh"

// What changes from step to step (learning rate, count of steps from 1, clipping factor) is read from the
// GPU's memory: a recorded step can be replayed.
extern "C" __global__ void __launch_bounds__(256)
adamw(float* __restrict__ w, const float* __restrict__ g, float* __restrict__ mean, float* __restrict__ square,
      const float* lr, const int* step, const float* factor, float beta1, float beta2, float eps, float decay, int n) {
    float rate = *lr, scale = *factor, t = *step;
    // 1 − βᵗ; taken from 1, a βᵗ near 1 would lose its digits, and with them the first steps.
    float weight1 = -expm1f(t * logf(beta1)), weight2 = -expm1f(t * logf(beta2));
    for (int i = thread(); i < n; i += threads()) {
        float d = scale * g[i];
        float m = mean[i] + (1 - beta1) * (d - mean[i]), v = square[i] + (1 - beta2) * (d * d - square[i]);
        float moved = w[i] - rate * (m / weight1 / (sqrtf(v / weight2) + eps) + decay * w[i]);
        mean[i] = m; square[i] = v; w[i] = moved;
    }
}
