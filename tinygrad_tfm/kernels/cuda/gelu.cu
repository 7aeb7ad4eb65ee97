// GELU and its derivative:  y = x·Φ(x),  gx = g·(Φ(x) + x·φ(x))   with the normal distribution Φ and its density φ.
// (Hendrycks & Gimpel 2016, arXiv:1606.08415, the exact form.) Read next: layer_norm.cu.
#include "warp.cuh"
__device__ inline float below(float x) { return 0.5f + 0.5f * erff(x * 0.70710678f); }               // Φ, by 1/√2
__device__ inline float density(float x) { return 0.39894228f * expf(-0.5f * x * x); }               // φ, by 1/√(2π)

// Four numbers are in flight for every thread: with one, a GPU would wait for memory most of the time.
extern "C" __global__ void __launch_bounds__(256)
gelu(const real* __restrict__ x, real* __restrict__ y, int n) {
    #pragma unroll 4
    for (int i = thread(); i < n; i += threads()) {
        float v = x[i];
        y[i] = v * below(v);
    }
}

extern "C" __global__ void __launch_bounds__(256)
gelu_backward(const real* __restrict__ x, const real* __restrict__ g, real* __restrict__ gx, int n) {
    #pragma unroll 4
    for (int i = thread(); i < n; i += threads()) {
        float v = x[i];
        gx[i] = (float)g[i] * (below(v) + v * density(v));
    }
}
