// The norm of all gradients together, √Σ g². The host never reads it.
// Two steps, because blocks cannot wait for each other: every block leaves its share, then one block adds the shares.
// For one grid the order is always the same, and so is the last bit. Read next: adamw.cu, which gets the factor that
// brings the norm down to a limit.
#include "warp.cuh"

__device__ inline float block_sum(float v) {
    __shared__ float share[32];
    v = warp_sum(v);
    if (lane() == 0) share[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(lane() < blockDim.x / 32 ? share[lane()] : 0);
}

// The blocks of one gradient write from shares[first] on.
extern "C" __global__ void __launch_bounds__(256)
sum_of_squares(const float* g, float* shares, int first, int n) {
    float v = 0;
    #pragma unroll 4
    for (int i = thread(); i < n; i += threads()) v += g[i] * g[i];
    v = block_sum(v);
    if (threadIdx.x == 0) shares[first + blockIdx.x] = v;
}

// To be run by a single block.
extern "C" __global__ void __launch_bounds__(256)
gradient_norm(const float* shares, float* norm, int n) {
    float v = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) v += shares[i];
    v = block_sum(v);
    if (threadIdx.x == 0) *norm = sqrtf(v);
}
