// The mask of dropout, unfolded from a key and a number's position: bit for bit that of tinygrad_tfm/random.py.
// Because of that no mask is ever stored: the way back makes it again. Read next: dropout.cu.
#pragma once
#include "warp.cuh"

// 32 random bits that depend on nothing but a position and the key (`random_bits` in Python).
__device__ inline u32 random_bits(u32 position, u64 key) {
    u32 bits = position + (u32)key;
    bits ^= bits >> 16; bits *= 0x7FEB352D; bits ^= bits >> 15; bits += (u32)(key >> 32);
    bits ^= bits >> 16; bits *= 0x846CA68B; bits ^= bits >> 15;
    return bits;
}

// One hash decides about two numbers: position/2 says which hash, the position's last bit which half of it.
// A number is dropped if its 16 bits are below `drop` = min(round(p·2¹⁶), 2¹⁶ − 1)    (`drop_below` in Python).
__device__ inline bool keep(u32 bits, int half, u32 drop) { return (bits >> 16 * half & 0xFFFF) >= drop; }
