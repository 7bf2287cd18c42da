// What the kernels share: values of sixteen lanes, float or bfloat16 in memory and float in between.
//
// Built by native.py on the machine it runs on. Rows are tokens. Results are rounded to nearest even. Sums are taken in
// the same order whatever other requests a step has.

#pragma once

#include <cstdint>
#include <cstring>

// Of a layer's attention.
struct Attention {
    int64_t heads, kv_heads, head_dim, capacity, window;
    float scaling, epsilon;
};

// Tokens of one request in a step: `length` from `first` on, behind `start` states in `slot`.
struct Segment {
    int64_t slot, start, length, first;
};

struct bfloat16 {
    uint16_t bits;
};

namespace {

constexpr int kLanes = 16;
constexpr long kAlone = 1 << 14;  // values below which one thread is faster than two

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));

inline Vec load(const float* from) {
    Vec values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

inline Vec load(const bfloat16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    Bits bits = __builtin_convertvector(halves, Bits) << 16;
    return (Vec)bits;
}

inline void store(float* to, Vec values) { std::memcpy(to, &values, sizeof values); }

inline void store(bfloat16* to, Vec values) {
    Bits bits = (Bits)values;
    bits += 0x7FFF + ((bits >> 16) & 1);
    Halves halves = __builtin_convertvector(bits >> 16, Halves);
    std::memcpy(to, &halves, sizeof halves);
}

inline Vec all(float value) { return Vec{} + value; }

inline float sum(Vec v) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
    Eight eight[2];
    std::memcpy(eight, &v, sizeof v);
    Eight e = eight[0] + eight[1];
    Four four[2];
    std::memcpy(four, &e, sizeof e);
    Four f = four[0] + four[1];
    return (f[0] + f[2]) + (f[1] + f[3]);
}

}  // namespace

// The kernels, as native.py calls them. What they take is said there.
#define FTLIB_DECLARE(T, NAME)                                                                                         \
    extern "C" void add_norm_##NAME(T* states, const T* added, const T* weight, T* out, long rows, long width,         \
                                    float epsilon);                                                                    \
    extern "C" void silu_mul_##NAME(const T* both, T* out, long rows, long width);                                     \
    extern "C" void attend_##NAME(const Attention* a, const Segment* segments, long num_segments, const T* qkv,        \
                                  const T* cosine, const T* sine, const T* q_norm, const T* k_norm, T* keys,           \
                                  T* values, T* out);                                                                  \
    extern "C" void int8_linear_##NAME(const T* x, const int8_t* packed, const float* scales, const float* shifts,     \
                                       T* y, long rows, long width, long columns);

FTLIB_DECLARE(float, float32)
FTLIB_DECLARE(bfloat16, bfloat16)
extern "C" void bfloat16_linear_bfloat16(const bfloat16* x, const bfloat16* packed, bfloat16* y, long rows, long width,
                                         long columns);
