// Cross-entropy of logits and its gradient in one visit: what the way back needs is at hand on the way forward.
//     loss_r = −ln softmax(z_r)[target_r]/n,   g_r = (softmax(z_r) − onehot(target_r))/n         logits (rows, vocab)
// n = *counted says how many targets count; where target_r is `ignore_index`, loss and gradient are 0. The losses are
// still to be added up. Label smoothing is the plain rule's. Read next: softmax.cu.
#include "warp.cuh"

// Rows lie `stride` ≥ vocab apart: a matrix product likes a padded vocabulary. The padding's gradient is 0. `g` may be
// the logits themselves. A warp visits its row three times, but only once does it come from far away.
extern "C" __global__ void __launch_bounds__(256)
cross_entropy(const real* logits, const i64* targets, const float* counted, real* g, float* loss,
              int rows, int vocab, int stride, int ignore_index) {
    float share = 1 / *counted;
    for (int r = warp(); r < rows; r += warps()) {
        const real* z = logits + (size_t)r * stride;
        i64 target = targets[r];
        bool counts = target != ignore_index, known = 0 <= target && target < vocab;
        float most = -INFINITY, total = 0;
        for (int c = lane(); c < vocab; c += 32) most = fmaxf(most, z[c]);
        most = warp_max(most);
        for (int c = lane(); c < vocab; c += 32) total += expf((float)z[c] - most);
        total = warp_sum(total);
        if (lane() == 0)                           // an impossible target gives NaN: the host would wait if it looked
            loss[r] = !counts ? 0 : known ? (logf(total) - ((float)z[target] - most)) * share : NAN;
        __syncwarp();                              // the loss has read its logit, which may now be overwritten
        for (int c = lane(); c < stride; c += 32)
            g[(size_t)r * stride + c] =
                counts && c < vocab ? (expf((float)z[c] - most) / total - (c == target)) * share : 0.f;
    }
}
