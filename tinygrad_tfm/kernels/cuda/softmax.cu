// Softmax, over what may be seen: for the attention that attention.cu is not made for, and by itself.
//     y = softmax(scale·x) where allowed, else 0,   gx = scale·y·(g − Σ g·y)        (batch, heads, T, S), row by row
// A warp owns a row, and y may be x, gx may be g: each number is read for the last time by the lane that replaces it.
// Read next: attention.cu.
#include "warp.cuh"

// `causal` lets query t see the first S − T + t + 1 keys. `mask` is True where a query may look; its rows for batch b,
// head h, query t begin at b·mask_batch + h·mask_head + t·mask_query: 0 is the stride of an axis it does not have.
// A row of nothing but −∞ gives `nothing`: 0 in attention, where there was nothing to be seen, and else NaN.
extern "C" __global__ void __launch_bounds__(256)
softmax(const real* x, const bool* mask /* or null */, real* y, float scale, float nothing, int causal,
        int mask_batch, int mask_head, int mask_query, int heads, int T, int S, int rows) {
    for (int r = warp(); r < rows; r += warps()) {
        int t = r % T, h = r / T % heads, b = r / T / heads;
        int end = causal ? S - T + t + 1 : S;
        const real* z = x + (size_t)r * S;
        const bool* allowed = mask + b * mask_batch + h * mask_head + t * mask_query;
        auto score = [&](int c) { return c < end && (!mask || allowed[c]) ? scale * (float)z[c] : -INFINITY; };
        float most = -INFINITY, total = 0;
        for (int c = lane(); c < end; c += 32) most = fmaxf(most, score(c));
        most = warp_max(most);
        if (most == -INFINITY) most = 0;           // nothing may be seen: exp(−∞ − 0) = 0, where −∞ − −∞ were NaN
        for (int c = lane(); c < end; c += 32) total += expf(score(c) - most);
        total = warp_sum(total);
        for (int c = lane(); c < S; c += 32)
            y[(size_t)r * S + c] = total == 0 ? nothing : expf(score(c) - most) / total;
    }
}

// What was not seen has y = 0 and with it no gradient: the way back needs no mask.
extern "C" __global__ void __launch_bounds__(256)
softmax_backward(const real* y, const real* g, real* gx, float scale, int S, int rows) {
    for (int r = warp(); r < rows; r += warps()) {
        size_t at = (size_t)r * S;
        float along = 0;
        for (int c = lane(); c < S; c += 32) along += (float)g[at + c] * (float)y[at + c];
        along = warp_sum(along);
        for (int c = lane(); c < S; c += 32) gx[at + c] = scale * (float)y[at + c] * ((float)g[at + c] - along);
    }
}
