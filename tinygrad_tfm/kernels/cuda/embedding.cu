// The first step of a transformer, a row of a table for every id:  y = table[id]       ids (N), table (V, D) → (N, D)
// Its gradient is not here: it is a product with a one-hot matrix (the same at every run, which sums by atomicAdd are
// not, and nearly free while the table is small). Read next: layer_norm.cu.
#include "warp.cuh"

// An id outside the table gives NaNs: the host would have to wait in order to look. n = N·D.
extern "C" __global__ void __launch_bounds__(256)
embedding(const i64* ids, const float* table, real* y, int V, int D, int n) {
    for (int i = thread(); i < n; i += threads()) {
        i64 id = ids[i / D];
        y[i] = 0 <= id && id < V ? table[id * D + i % D] : NAN;
    }
}
