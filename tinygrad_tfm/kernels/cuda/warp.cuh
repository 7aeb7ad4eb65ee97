// What all kernels share: who a thread is, sums over a warp, numbers in pairs, and the tensor cores' instructions.
// No kernel stands here. Read next: gelu.cu, the shortest, then layer_norm.cu.
//
// `real` is how activations are stored, float or bf16, as the file that includes this one is compiled (REAL).
// Arithmetic is in float always: a number is widened when it is read and rounded once, when it is written.
#pragma once
using i64 = long long;
using u32 = unsigned int;
using u64 = unsigned long long;

#ifdef __CUDACC__                                  // on a CPU these few are the emulator's: emulator/cpu.h
#include <cuda_bf16.h>
using bf16 = __nv_bfloat16;
#define INFINITY __int_as_float(0x7f800000)        // the compiler in use, NVRTC, comes without <math.h>
#define NAN __int_as_float(0x7fffffff)

// Four 8×8 matrices of bf16 out of shared memory, dealt over the warp as `mma` wants them; every lane names a row.
__device__ inline void ldmatrix(u32 (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
}
__device__ inline void ldmatrix_transposed(u32 (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
}
// c += a·b on a tensor core: (16, 8) += (16, 16)·(16, 8), factors in bf16, sums in float.
__device__ inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#ifndef REAL
#define REAL float
#endif
using real = REAL;

// Work is dealt out like cards: `for (int i = thread(); i < n; i += threads())`. So every grid will do, neighbours
// read neighbouring numbers, and the launcher alone decides how many blocks keep a GPU busy. A block is made of whole
// warps, and an array begins at a multiple of 16 bytes.
__device__ inline int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline int threads() { return gridDim.x * blockDim.x; }
__device__ inline int warp() { return thread() / 32; }
__device__ inline int warps() { return threads() / 32; }
__device__ inline int lane() { return threadIdx.x % 32; }

// Over the 32 lanes of a warp, or over groups of `lanes` neighbours; all of them get the result.
__device__ inline float warp_sum(float v, int lanes = 32) {
    for (int o = lanes / 2; o; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    return v;
}
__device__ inline float warp_max(float v, int lanes = 32) {
    for (int o = lanes / 2; o; o /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    return v;
}

// Two neighbours at once: half as many instructions, and with bf16 still the four bytes a lane that memory likes.
__device__ inline float2 load_pair(const float* p) { return *(const float2*)p; }
__device__ inline float2 load_pair(const bf16* p) { return __bfloat1622float2(*(const __nv_bfloat162*)p); }
__device__ inline void store_pair(float* p, float x, float y) { *(float2*)p = make_float2(x, y); }
__device__ inline void store_pair(bf16* p, float x, float y) { *(__nv_bfloat162*)p = __floats2bfloat162_rn(x, y); }
