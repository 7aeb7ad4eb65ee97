// Dropout:  y = x·m/(1 − p), each m being 0 with probability p and else 1. The way back is the same kernel on g.
// The mask is not an argument but made on the way, see random.cuh. Dropout inside attention: attention.cu.
#include "random.cuh"

// `keep_scale` is 1/(1 − p), `drop` the threshold of random.cuh. The key is read from the GPU's memory, so that a
// recorded step can be replayed with another one.
extern "C" __global__ void __launch_bounds__(256)
dropout(const real* __restrict__ x, const u64* __restrict__ key, real* __restrict__ y, u32 drop, float keep_scale,
        int n) {
    u64 seed = *key;
    #pragma unroll 2
    for (int pair = thread(); pair < (n + 1) / 2; pair += threads()) {
        u32 bits = random_bits(pair, seed);
        for (int half = 0; half < 2; half++) {
            int i = 2 * pair + half;
            if (i < n) y[i] = (float)x[i] * (keep(bits, half, drop) ? keep_scale : 0);
        }
    }
}
