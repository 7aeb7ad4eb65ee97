// Layer norm, with the residual addition and the dropout that stand before it in a transformer, and the way back.
//     h = x + drop(delta),   y = n·gain + bias   with n = (h − mean h)·rstd,   rstd = 1/√(var h + ε)     (rows, WIDTH)
// A warp owns a row and holds it in registers: one visit to memory instead of seven. The width is known to the
// compiler, even, and at most 1024; so is dropout (DROP, the threshold of random.cuh, 0 for none). For other widths, or
// without a gain, there is the plain rule. Read next: cross_entropy.cu.
#include "random.cuh"
constexpr int D = WIDTH, PAIRS = (D + 63) / 64, dropped = DROP;
static_assert(D % 2 == 0 && D <= 1024, "a lane reads numbers in pairs, and a wider row would not fit the registers");

struct Row {                                       // lane i holds columns 2i, 2i+1, 64+2i, 64+2i+1, 128+2i, …
    float v[2 * PAIRS];
    __device__ static int column(int i) { return i / 2 * 64 + lane() * 2 + i % 2; }
    __device__ static bool inside(int i) { return D % 64 == 0 || column(i) < D; }
    __device__ float operator[](int i) const { return v[i]; }
    template <class F> __device__ static Row of(F f) {
        Row r;
        for (int i = 0; i < 2 * PAIRS; i++) r.v[i] = inside(i) ? f(i) : 0;
        return r;
    }
    template <class T> __device__ static Row load(const T* p) {
        Row r = {};
        for (int i = 0; i < 2 * PAIRS; i += 2)
            if (inside(i)) { float2 pair = load_pair(p + column(i)); r.v[i] = pair.x; r.v[i + 1] = pair.y; }
        return r;
    }
    __device__ void store(real* p) const {
        for (int i = 0; i < 2 * PAIRS; i += 2) if (inside(i)) store_pair(p + column(i), v[i], v[i + 1]);
    }
    // What dropout leaves of row r: the mask of dropout.cu, whose positions count through all rows.
    __device__ Row drop(int r, u64 seed, float keep_scale) const {
        if (!dropped) return *this;
        return of([&](int i) {
            u32 bits = random_bits(((u32)r * D + column(i)) / 2, seed);
            return v[i] * (keep(bits, i % 2, dropped) ? keep_scale : 0);
        });
    }
    __device__ float mean() const {
        float s = 0;
        for (float x : v) s += x;
        return warp_sum(s) / D;
    }
};

// Without `delta` h is x. `sum` gets h and may be x itself. `key` is for dropout, keep_scale = 1/(1 − p).
extern "C" __global__ void __launch_bounds__(256)
layer_norm(const real* x, const real* delta /* or null */, const u64* key /* or null */, const float* gain,
           const float* bias /* or null */, real* sum /* or null */, real* y, float* mean, float* rstd,
           float keep_scale, float eps, int rows) {
    u64 seed = dropped ? *key : 0;
    Row scale = Row::load(gain), shift = {};
    if (bias) shift = Row::load(bias);
    for (int r = warp(); r < rows; r += warps()) {
        size_t at = (size_t)r * D;
        Row h = Row::load(x + at);
        if (delta) {
            Row d = Row::load(delta + at).drop(r, seed, keep_scale);
            h = Row::of([&](int i) { return (float)(real)(h[i] + d[i]); });      // as stored: the way back reads that
        }
        if (sum) h.store(sum + at);
        float m = h.mean();
        float s = rsqrtf(Row::of([&](int i) { return (h[i] - m) * (h[i] - m); }).mean() + eps);
        Row::of([&](int i) { return (h[i] - m) * s * scale[i] + shift[i]; }).store(y + at);
        if (lane() == 0) { mean[r] = m; rstd[r] = s; }
    }
}

// gx = skip + rstd·(a − mean a − n·mean(a·n)) with a = g·gain; `skip` is the gradient that came past the norm, and
// may be gx itself; gdelta = drop(gx). Every block leaves its share of Σ g·n and Σ g in its row of `shares` (blocks, 2,
// WIDTH).
extern "C" __global__ void __launch_bounds__(256)
layer_norm_backward(const real* g, const real* h, const float* gain, const float* mean, const float* rstd,
                    const real* skip /* or null */, const u64* key /* or null */, real* gx,
                    real* gdelta /* or null */, float* shares, float keep_scale, int rows) {
    __shared__ float share[2 * D];
    u64 seed = dropped ? *key : 0;
    Row scale = Row::load(gain), ggain = {}, gbias = {};
    for (int r = warp(); r < rows; r += warps()) {
        size_t at = (size_t)r * D;
        float m = mean[r], s = rstd[r];
        Row grad = Row::load(g + at), n = Row::load(h + at), past = {};
        if (skip) past = Row::load(skip + at);
        n = Row::of([&](int i) { return (n[i] - m) * s; });
        ggain = Row::of([&](int i) { return ggain[i] + grad[i] * n[i]; });
        gbias = Row::of([&](int i) { return gbias[i] + grad[i]; });
        Row a = Row::of([&](int i) { return grad[i] * scale[i]; });
        float even = a.mean(), along = Row::of([&](int i) { return a[i] * n[i]; }).mean();
        Row sent = Row::of([&](int i) { return past[i] + s * (a[i] - even - n[i] * along); });
        sent.store(gx + at);
        if (gdelta) sent.drop(r, seed, keep_scale).store(gdelta + at);
    }
    // One warp after the other, not atomicAdd: the order never changes, and so neither does the rounding.
    for (int w = 0; w < blockDim.x / 32; w++) {
        for (int i = 0; i < 2 * PAIRS; i++) if (threadIdx.x / 32 == w && Row::inside(i)) {
            float *to_gain = &share[Row::column(i)], *to_bias = to_gain + D;
            *to_gain = (w ? *to_gain : 0) + ggain[i];
            *to_bias = (w ? *to_bias : 0) + gbias[i];
        }
        __syncthreads();
    }
    for (int c = threadIdx.x; c < 2 * D; c += blockDim.x) shares[blockIdx.x * 2 * D + c] = share[c];
}

// The gradients of gain and bias: the blocks' shares added up, a thread for every column.
extern "C" __global__ void __launch_bounds__(256)
layer_norm_weights(const float* shares, float* ggain, float* gbias /* or null */, int blocks) {
    for (int c = thread(); c < 2 * D; c += threads()) {
        float total = 0;
        #pragma unroll 16                          // so many shares are on their way at once
        for (int b = 0; b < blocks; b++) total += shares[b * 2 * D + c];
        if (c < D) ggain[c] = total;
        else if (gbias) gbias[c - D] = total;
    }
}
