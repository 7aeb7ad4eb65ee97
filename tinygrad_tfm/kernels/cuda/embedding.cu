// The first step of a transformer: y = token[id] + position[t]           ids (…, T) → (…, T, D)
// Its gradient is not here: that of the tokens is a product with a one-hot matrix (the same at every run, which sums
// by atomicAdd are not, and nearly free), that of the positions a sum over the batch.
#include "warp.cuh"

// An id outside the vocabulary gives NaNs: the host would have to wait in order to look. n = rows·D.
extern "C" __global__ void __launch_bounds__(256)
embedding(const int* ids, const float* token, const float* position /* or null */, real* y,
          int V, int T, int D, int n) {
    for (int i = thread(); i < n; i += threads()) {
        int row = i / D, column = i % D, id = ids[row];
        float place = position ? position[row % T * D + column] : 0;
        y[i] = 0 <= id && id < V ? token[(size_t)id * D + column] + place : NAN;
    }
}
