// The norm of all gradients together, √Σ g², and the factor that brings it down to a limit. The host never reads them.
// Two steps, because blocks cannot wait for each other: every block leaves its share, then one block adds the shares.
// For one grid the order is always the same, and so is the last bit. Who uses the factor: adamw.cu.
#include "warp.cuh"

__device__ inline float block_sum(float v) {
    __shared__ float share[32];
    v = warp_sum(v);
    if (lane() == 0) share[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane() < blockDim.x / 32 ? share[lane()] : 0);
}

extern "C" __global__ void __launch_bounds__(256)
sum_of_squares(const float* g, float* shares, int n) {
    float v = 0;
    #pragma unroll 4
    for (int i = thread(); i < n; i += threads()) v += g[i] * g[i];
    v = block_sum(v);
    if (threadIdx.x == 0) shares[blockIdx.x] = v;
}

// factor = min(1, limit/norm) (Pascanu et al. 2012, arXiv:1211.5063, algorithm 1). To be run by a single block.
extern "C" __global__ void __launch_bounds__(256)
clip_factor(const float* shares, float* norm, float* factor, float limit, int blocks) {
    float v = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) v += shares[i];
    v = sqrtf(block_sum(v));
    float ratio = limit / (v + 1e-6f);
    if (threadIdx.x == 0) { *norm = v; *factor = ratio >= 1 ? 1 : ratio; }        // NaN stays NaN, and is seen
}
