// Attention by tiles of 64 queries and 64 keys, so that the scores never leave the chip: memory grows with T, not T·S.
//     y = drop(P)·v,   P = softmax(q·kᵀ·scale)        q, g, y (B, T, H, HEAD), k, v (B, S, H, HEAD), all in bf16
// Softmax over tiles: keep each row's maximum and sum so far; when a larger maximum comes, shrink what was summed by
// exp(old − new). The way back makes P again from lse = ln Σ exp(score), tile by tile. (Dao et al. 2022,
// arXiv:2205.14135; the order of the loops is that of Dao 2023, arXiv:2307.08691.)
//
// For HEAD 64 and 32, T and S multiples of 64, no mask but the causal one (then S ≥ T), dropout known when it is
// compiled (DROP, the threshold of random.cuh, 0 for none). For all else softmax.cu or the plain rule serve.
// A row of q, k, v and of their gradients is `stride` numbers from the next: parts of one (B, T, 3·H·HEAD) will do.
// A block has 4 warps; each owns 16 rows of a tile. blockIdx.x is head and batch, blockIdx.y the tile. How many
// blocks shall fit at once the compiler is told: left alone it aims at more, and spills registers.
#include "random.cuh"
constexpr int K = HEAD, TILE = 64, WARPS = 4, STEPS = K / 16, dropped = DROP;
static_assert(K % 16 == 0 && K <= 64, "a tensor core takes 16 numbers of a head, and 64 are as many as fit registers");

struct Tile { alignas(16) bf16 x[TILE][K + 8]; };            // + 8: rows begin in different banks of shared memory
using Operand = u32[4];                                      // 16×16 numbers of bf16, dealt over a warp
using Result = float[4];                                     // 16×8 sums: the lane's [i] is at row(i), column(n, i)

__device__ int row(int i) { return threadIdx.x / 32 * 16 + i / 2 * 8 + lane() / 4; }
__device__ int column(int n, int i) { return n * 8 + lane() % 4 * 2 + i % 2; }

// Where the head of this block begins in an array (B, length, stride); and its tile number j, read and written.
__device__ size_t head(int H, int length, int stride) {
    return (size_t)(blockIdx.x / H) * length * stride + blockIdx.x % H * K;
}
__device__ void load(Tile& t, const bf16* p, int j, int stride) {
    for (int i = threadIdx.x * 8; i < TILE * K; i += WARPS * 32 * 8)              // 16 bytes at once, the most there is
        *(uint4*)&t.x[i / K][i % K] = *(const uint4*)&p[(size_t)(j * TILE + i / K) * stride + i % K];
}
__device__ void store(bf16* p, int j, int stride, const Result (&c)[K / 8], float s0, float s1) {
    for (int n = 0; n < K / 8; n++) for (int i = 0; i < 4; i += 2) {
        float s = i ? s1 : s0;
        store_pair(&p[(size_t)(j * TILE + row(i)) * stride + column(n, i)], c[n][i] * s, c[n][i + 1] * s);
    }
}
__device__ void own_rows(Operand (&a)[STEPS], const Tile& t) {                    // the warp's 16 rows of a tile
    const bf16* p = &t.x[threadIdx.x / 32 * 16 + lane() % 16][lane() / 16 * 8];
    for (int k = 0; k < STEPS; k++) ldmatrix(a[k], p + k * 16);
}
__device__ void as_operand(Operand (&a)[4], const Result (&c)[8]) {               // sums already lie as factors must
    for (int k = 0; k < 4; k++) for (int i = 0; i < 4; i++)
        store_pair((bf16*)&a[k][i], c[2 * k + i / 2][i % 2 * 2], c[2 * k + i / 2][i % 2 * 2 + 1]);
}
// c += a·bᵀ, (16, 64)
__device__ void multiply_transposed(Result (&c)[8], const Operand (&a)[STEPS], const Tile& b) {
    for (int k = 0; k < STEPS; k++) for (int n = 0; n < 4; n++) {
        Operand r;
        ldmatrix(r, &b.x[n * 16 + lane() % 8 + lane() / 16 * 8][k * 16 + lane() / 8 % 2 * 8]);
        mma(c[2 * n], a[k], r[0], r[1]);
        mma(c[2 * n + 1], a[k], r[2], r[3]);
    }
}
// c += a·b, (16, K)
__device__ void multiply(Result (&c)[K / 8], const Operand (&a)[4], const Tile& b) {
    for (int k = 0; k < 4; k++) for (int n = 0; n < STEPS; n++) {
        Operand r;
        ldmatrix_transposed(r, &b.x[k * 16 + lane() % 16][n * 16 + lane() / 16 * 8]);
        mma(c[2 * n], a[k], r[0], r[1]);
        mma(c[2 * n + 1], a[k], r[2], r[3]);
    }
}

// 1 where the weight of key s for query t stays, 0 where dropout takes it: its place in P says which.
__device__ float kept(u64 seed, int t, int s, int T, int S) {
    return keep(random_bits((blockIdx.x * T + t) * (S / 2u) + s / 2u, seed), s % 2, dropped);
}

extern "C" __global__ void __launch_bounds__(128, 3)
attention(const bf16* q, const bf16* k, const bf16* v, const u64* key /* or null */, bf16* y, float* lse,
          float scale, float keep_scale, int causal, int H, int T, int S, int stride) {
    __shared__ Tile keys, values;
    int tile = gridDim.y - 1 - blockIdx.y;                                        // what takes longest is begun first
    int last = causal ? tile + (S - T) / TILE : S / TILE - 1;
    u64 seed = dropped ? *key : 0;
    Operand own[STEPS], p[4];
    Result out[K / 8] = {};
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {};                        // of the lane's two rows
    q += head(H, T, stride); k += head(H, S, stride); v += head(H, S, stride);
    y += head(H, T, H * K); lse += (size_t)blockIdx.x * T;

    load(keys, q, tile, stride);
    __syncthreads();
    own_rows(own, keys);
    for (int j = 0; j <= last; j++) {
        __syncthreads();                                                          // all are done with the last tile
        load(keys, k, j, stride);
        load(values, v, j, stride);
        __syncthreads();
        Result s[8] = {};
        multiply_transposed(s, own, keys);
        #pragma unroll                                                            // or arrays would leave the registers
        for (int half = 0; half < 2; half++) {
            float best = most[half], sum = 0;
            for (int n = 0; n < 8; n++) for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = causal && j == last && column(n, i) > row(i) ? -INFINITY : s[n][i] * scale;
                best = fmaxf(best, s[n][i]);
            }
            best = warp_max(best, 4);                                             // four neighbours share a row
            float shrink = __expf(most[half] - best);
            for (int n = 0; n < 8; n++) for (int i = 2 * half; i < 2 * half + 2; i++) {
                sum += s[n][i] = __expf(s[n][i] - best);
                if (dropped) s[n][i] *= kept(seed, tile * TILE + row(i), j * TILE + column(n, i), T, S);
            }
            for (int n = 0; n < K / 8; n++) { out[n][2 * half] *= shrink; out[n][2 * half + 1] *= shrink; }
            total[half] = total[half] * shrink + warp_sum(sum, 4);
            most[half] = best;
        }
        as_operand(p, s);
        multiply(out, p, values);
    }
    store(y, tile, H * K, out, keep_scale / total[0], keep_scale / total[1]);
    if (lane() % 4 == 0) for (int half = 0; half < 2; half++)
        lse[tile * TILE + row(2 * half)] = most[half] + logf(total[half]);
}

// delta = Σ g·y, what softmax's gradient subtracts in each row: (B, H, T), a warp for every query and head.
extern "C" __global__ void __launch_bounds__(256)
attention_delta(const bf16* y, const bf16* g, float* delta, int H, int T, int rows) {
    for (int r = warp(); r < rows; r += warps()) {                                // r counts (B, T, H)
        float s = 0;
        for (int c = lane(); c < K; c += 32) s += (float)y[(size_t)r * K + c] * (float)g[(size_t)r * K + c];
        s = warp_sum(s);
        if (lane() == 0) delta[((size_t)(r / H / T) * H + r % H) * T + r / H % T] = s;
    }
}

// gq = gs·k·scale with gs = P·(drop(g·vᵀ) − delta): rows are queries, and the loop goes over keys.
extern "C" __global__ void __launch_bounds__(128, 3)
attention_gq(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* lse, const float* delta,
             const u64* key /* or null */, bf16* gq, float scale, float keep_scale, int causal,
             int H, int T, int S, int stride) {
    __shared__ Tile keys, values;
    int tile = gridDim.y - 1 - blockIdx.y, last = causal ? tile + (S - T) / TILE : S / TILE - 1;
    u64 seed = dropped ? *key : 0;
    Operand own[STEPS], own_g[STEPS], a[4];
    Result out[K / 8] = {};
    float sums[2], deltas[2];
    q += head(H, T, stride); k += head(H, S, stride); v += head(H, S, stride); gq += head(H, T, stride);
    g += head(H, T, H * K); lse += (size_t)blockIdx.x * T; delta += (size_t)blockIdx.x * T;

    load(keys, q, tile, stride);
    load(values, g, tile, H * K);
    __syncthreads();
    own_rows(own, keys);
    own_rows(own_g, values);
    for (int half = 0; half < 2; half++) {
        sums[half] = lse[tile * TILE + row(2 * half)];
        deltas[half] = delta[tile * TILE + row(2 * half)];
    }
    for (int j = 0; j <= last; j++) {
        __syncthreads();
        load(keys, k, j, stride);
        load(values, v, j, stride);
        __syncthreads();
        Result s[8] = {}, h[8] = {};
        multiply_transposed(s, own, keys);
        multiply_transposed(h, own_g, values);
        for (int n = 0; n < 8; n++) for (int i = 0; i < 4; i++) {
            bool hidden = causal && j == last && column(n, i) > row(i);
            float stays = dropped ? keep_scale * kept(seed, tile * TILE + row(i), j * TILE + column(n, i), T, S) : 1;
            s[n][i] = hidden ? 0 : __expf(s[n][i] * scale - sums[i / 2]);
            s[n][i] *= stays * h[n][i] - deltas[i / 2];
        }
        as_operand(a, s);
        multiply(out, a, keys);
    }
    store(gq, tile, stride, out, scale, scale);
}

// gv = drop(P)ᵀ·g and gk = gsᵀ·q·scale: rows are keys, and the loop goes over queries. Scores are made a second time
// here so that no two blocks ever add to one number, which would need atomicAdd.
extern "C" __global__ void __launch_bounds__(128, 2)
attention_gkv(const bf16* q, const bf16* k, const bf16* v, const bf16* g, const float* lse, const float* delta,
              const u64* key /* or null */, bf16* gk, bf16* gv, float scale, float keep_scale, int causal,
              int H, int T, int S, int stride) {
    __shared__ Tile queries, gradients;
    __shared__ float sums[TILE], deltas[TILE];
    int tile = blockIdx.y, first = causal ? tile - (S - T) / TILE : 0;            // the first queries that see its keys
    u64 seed = dropped ? *key : 0;
    Operand own[STEPS], own_v[STEPS], a[4];
    Result out_k[K / 8] = {}, out_v[K / 8] = {};
    q += head(H, T, stride); k += head(H, S, stride); v += head(H, S, stride); g += head(H, T, H * K);
    gk += head(H, S, stride); gv += head(H, S, stride); lse += (size_t)blockIdx.x * T; delta += (size_t)blockIdx.x * T;

    load(queries, k, tile, stride);
    load(gradients, v, tile, stride);
    __syncthreads();
    own_rows(own, queries);
    own_rows(own_v, gradients);
    for (int j = first > 0 ? first : 0; j < T / TILE; j++) {
        __syncthreads();
        load(queries, q, j, stride);
        load(gradients, g, j, H * K);
        if (threadIdx.x < TILE) {
            sums[threadIdx.x] = lse[j * TILE + threadIdx.x];
            deltas[threadIdx.x] = delta[j * TILE + threadIdx.x];
        }
        __syncthreads();
        Result p[8] = {}, h[8] = {};
        multiply_transposed(p, own, queries);
        multiply_transposed(h, own_v, gradients);
        for (int n = 0; n < 8; n++) for (int i = 0; i < 4; i++) {
            int c = column(n, i);
            bool hidden = causal && j == first && row(i) > c;
            float stays = dropped ? keep_scale * kept(seed, j * TILE + c, tile * TILE + row(i), T, S) : 1;
            p[n][i] = hidden ? 0 : __expf(p[n][i] * scale - sums[c]);
            h[n][i] = p[n][i] * (stays * h[n][i] - deltas[c]);
            p[n][i] *= stays;
        }
        as_operand(a, p);
        multiply(out_v, a, gradients);
        as_operand(a, h);
        multiply(out_k, a, queries);
    }
    store(gk, tile, stride, out_k, scale, scale);
    store(gv, tile, stride, out_v, 1, 1);
}
