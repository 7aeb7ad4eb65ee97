// CUDA on a CPU: as much of it as the kernels use, so that the very files that go to a GPU are tested without one.
// A fiber for every thread of a block; blocks run one after another. Slow, and no word about speed is meant; but one
// can step through a kernel with gdb. What a GPU has and this has not: threads that really run at once, addresses
// that must be aligned, fused multiply-add. Who asks is told what every thread does, and when (`note`).
// Read next: __init__.py, which compiles and calls.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>
#include <ucontext.h>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared")))       // one block at a time, so static is shared
using u32 = unsigned int;
struct uint3 { u32 x, y, z; };
struct float2 { float x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }

struct bf16 {                                       // rounds to the nearest, ties to even, as a GPU does
    unsigned short bits;
    bf16() = default;
    bf16(float f) { u32 u; memcpy(&u, &f, 4); bits = f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16; }
    operator float() const { u32 u = bits << 16; float f; memcpy(&f, &u, 4); return f; }
};
struct alignas(4) __nv_bfloat162 { bf16 x, y; };
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }

inline uint3 threadIdx, blockIdx, blockDim, gridDim;
extern char __start_shared[] __attribute__((weak)), __stop_shared[] __attribute__((weak));    // the linker's words

namespace gpu {
    struct Meeting { int expected = 0, arrived = 0, turn = 0; alignas(16) unsigned char slot[2][32][32]; };
    struct Thread {
        ucontext_t start; jmp_buf here; std::vector<char> stack; uint3 id;
        bool begun, done; Meeting* awaited; int turn;
        bool can_run() const { return !done && !(awaited && awaited->turn == turn); }
    };
    inline std::vector<Thread> threads;
    inline std::vector<Meeting> warps;
    inline Meeting block;
    inline jmp_buf scheduler;
    inline int self, removed;                       // the fiber that runs; the number of the barrier left out, or −1
    enum Event { begins, syncthreads, syncwarp, shuffle, goes_on, ends };       // EVENTS in __init__.py are their names
    struct Moment { int block, thread; Event event; };
    inline std::vector<Moment> moments;             // told when all is over: Python would not fit on a fiber's stack
    inline bool watched;
    inline int block_number;                        // of the block that runs
    inline void note(Event event) { if (watched) moments.push_back({block_number, self, event}); }
    inline void (*kernel)(void**);
    inline void** arguments;

    // setjmp and longjmp change fibers ten times as fast as swapcontext, which asks the kernel about signals.
    [[gnu::noinline]] inline void resume(Thread& t) {
        if (_setjmp(scheduler)) return;
        if (t.begun) _longjmp(t.here, 1);
        t.begun = true;
        setcontext(&t.start);
    }
    [[gnu::noinline]] inline void pause(Thread& t) { if (!_setjmp(t.here)) _longjmp(scheduler, 1); }

    inline Meeting& warp() { return warps[self / 32]; }
    inline void open(Meeting& m) { m.arrived = 0; m.turn++; }
    inline void meet(Meeting& m, Event arrives) {   // wait until all that are expected have come; the last need not
        note(arrives);
        Thread& me = threads[self];
        me.turn = m.turn;
        if (++m.arrived == m.expected) open(m);
        else { me.awaited = &m; pause(me); me.awaited = nullptr; }
        note(goes_on);
    }
    inline void leave(Meeting& m) { if (--m.expected && m.arrived == m.expected) open(m); }
    inline void run_kernel() {
        note(begins);
        kernel(arguments);
        note(ends);
        threads[self].done = true;
        leave(warp()); leave(block);
        _longjmp(scheduler, 1);
    }
    // Every lane lays down a value and reads those of others. Two sets of slots, used in turn: whoever lays down the
    // next value has not yet met those who still read this one.
    template <class T, class F> auto exchange(const T& mine, F read) {
        static_assert(sizeof(T) <= 32);
        Meeting& w = warp();
        auto& slot = w.slot[w.turn % 2];
        memcpy(slot[self % 32], &mine, sizeof(T));
        meet(w, shuffle);
        return read([&](int lane) { T t; memcpy(&t, slot[lane], sizeof(T)); return t; });
    }

    // All blocks; false if the threads of one wait for each other in vain. A warp runs as far as it can before the
    // next begins, first to last or, reversed, last to first: without a barrier where one is needed somebody then
    // reads what is not yet written, or writes what is still to be read. Shared memory begins as NaNs.
    inline bool run(uint3 grid, uint3 shape, bool reversed) {
        blockDim = shape; gridDim = grid;
        int n = shape.x * shape.y * shape.z, blocks = grid.x * grid.y * grid.z;
        auto order = [&](int i, int count) { return reversed ? count - 1 - i : i; };
        threads.resize(n);
        for (int i = 0; i < blocks; i++) {
            u32 b = block_number = order(i, blocks);
            blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
            if (__start_shared) memset(__start_shared, 0xff, __stop_shared - __start_shared);
            block = Meeting{}; block.expected = n;
            warps.assign((n + 31) / 32, Meeting{});
            for (u32 j = 0; j < (u32)n; j++) {
                Thread& t = threads[j];
                warps[j / 32].expected++;
                t.stack.resize(1 << 16);
                t.id = {j % shape.x, j / shape.x % shape.y, j / shape.x / shape.y};
                t.begun = t.done = false; t.awaited = nullptr;
                getcontext(&t.start);
                t.start.uc_stack.ss_sp = t.stack.data(); t.start.uc_stack.ss_size = t.stack.size();
                makecontext(&t.start, run_kernel, 0);
            }
            for (bool moved = true; moved;) {
                moved = false;
                for (int w = 0, count = warps.size(); w < count; w++)
                    for (bool warp_moved = true; warp_moved;) {
                        warp_moved = false;
                        for (int l = 0; l < 32; l++) {
                            self = order(w, count) * 32 + order(l, 32);
                            if (self >= n || !threads[self].can_run()) continue;
                            threadIdx = threads[self].id;
                            resume(threads[self]);
                            moved = warp_moved = true;
                        }
                    }
            }
            for (Thread& t : threads) if (!t.done) return false;
        }
        return true;
    }
    template <class... A, size_t... I> void spread(void (*f)(A...), void** a, std::index_sequence<I...>) {
        f(*(A*)a[I]...);
    }
    template <class... A> void spread(void (*f)(A...), void** a) { spread(f, a, std::index_sequence_for<A...>{}); }
}

inline void __syncthreads() { gpu::meet(gpu::block, gpu::syncthreads); }
inline void __syncwarp() { gpu::meet(gpu::warp(), gpu::syncwarp); }
inline float __shfl_xor_sync(u32, float v, int o) {
    return gpu::exchange(v, [&](auto lane) { return lane((gpu::self % 32) ^ o); });
}
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }

// The tensor cores' instructions, as the PTX manual deals numbers over lanes (sections ldmatrix and mma.m16n8k16).
template <bool transposed> void ldmatrix_on_cpu(u32 (&r)[4], const bf16* row) {
    int l = gpu::self % 32;
    gpu::exchange(row, [&](auto row_of) {
        for (int m = 0; m < 4; m++) for (int i = 0; i < 2; i++) {
            bf16 x = transposed ? row_of(m * 8 + l % 4 * 2 + i)[l / 4] : row_of(m * 8 + l / 4)[l % 4 * 2 + i];
            memcpy((char*)&r[m] + 2 * i, &x, 2);
        }
        return 0;
    });
}
inline void ldmatrix(u32 (&r)[4], const bf16* row) { ldmatrix_on_cpu<false>(r, row); }
inline void ldmatrix_transposed(u32 (&r)[4], const bf16* row) { ldmatrix_on_cpu<true>(r, row); }
inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    struct Mine { bf16 a[4][2], b[2][2]; } mine;
    u32 b[2] = {b0, b1};
    memcpy(mine.a, a, 16); memcpy(mine.b, b, 8);
    int l = gpu::self % 32;
    gpu::exchange(mine, [&](auto lane) {
        for (int k = 0; k < 4; k++) {               // lane k of a quad holds factors 2k, 2k+1, 2k+8, 2k+9
            Mine rows = lane(l / 4 * 4 + k), columns[2] = {lane(l % 4 * 8 + k), lane(l % 4 * 8 + 4 + k)};
            for (int i = 0; i < 4; i++) for (int high = 0; high < 2; high++) for (int e = 0; e < 2; e++)
                c[i] += (float)rows.a[i / 2 + 2 * high][e] * (float)columns[i % 2].b[high][e];
        }
        return 0;
    });
}

// Called from Python: numbers {grid x, y, z, block x, y, z, reversed, barrier to leave out}, the arguments, and who is
// to be told afterwards what happened, or null.
#define KERNEL(name) extern "C" bool run_##name(const int* n, void** a, void (*tell)(int, int, int)) { \
    gpu::kernel = [](void** a) { gpu::spread(name, a); }; gpu::arguments = a; gpu::removed = n[7]; \
    gpu::watched = tell; gpu::moments.clear(); \
    bool done = gpu::run({(u32)n[0], (u32)n[1], (u32)n[2]}, {(u32)n[3], (u32)n[4], (u32)n[5]}, n[6]); \
    for (auto m : gpu::moments) tell(m.block, m.thread, m.event); \
    return done; }
