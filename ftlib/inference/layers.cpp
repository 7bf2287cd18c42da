// All decoder layers of a step in one call, where no adapter comes between their kernels.

#include "native.h"

// Absent where the CPU has no products of ours.
#ifdef __AVX512VNNI__

// Packed weights: INT8 with scales and shifts, bfloat16 without.
struct Product {
    int64_t width, columns;
    const void* packed;
    const float *scales, *shifts;
};

struct Layer {
    Attention attention;
    float epsilons[2];
    const void* norms[2];   // before attention and before the gate
    const void *q_norm, *k_norm;
    void *keys, *values;
    Product qkv, out, gate_up, down;
};

namespace {

#define FTLIB_OVERLOAD(T, NAME)                                                                                     \
    inline void add_norm(T* states, const T* added, const void* weight, T* out, long rows, long width, float e) {   \
        add_norm_##NAME(states, added, static_cast<const T*>(weight), out, rows, width, e);                         \
    }                                                                                                               \
    inline void silu_mul(const T* both, T* out, long rows, long width) { silu_mul_##NAME(both, out, rows, width); } \
    inline void attend(const Layer& layer, const Segment* segments, long num_segments, const T* qkv,                \
                       const T* cosine, const T* sine, T* out) {                                                    \
        attend_##NAME(&layer.attention, segments, num_segments, qkv, cosine, sine,                                  \
                      static_cast<const T*>(layer.q_norm), static_cast<const T*>(layer.k_norm),                     \
                      static_cast<T*>(layer.keys), static_cast<T*>(layer.values), out);                             \
    }                                                                                                               \
    inline void int8(const Product& p, const T* x, T* y, long rows) {                                               \
        int8_linear_##NAME(x, static_cast<const int8_t*>(p.packed), p.scales, p.shifts, y, rows, p.width, p.columns); \
    }

FTLIB_OVERLOAD(float, float32)
FTLIB_OVERLOAD(bfloat16, bfloat16)

template <typename T>
void multiply(const Product& product, const T* x, T* y, long rows) {
#ifdef __AVX512BF16__
    if constexpr (sizeof(T) == sizeof(bfloat16))
        if (product.scales == nullptr) {
            const auto* packed = static_cast<const bfloat16*>(product.packed);
            bfloat16_linear_bfloat16(x, packed, y, rows, product.width, product.columns);
            return;
        }
#endif
    int8(product, x, y, rows);
}

template <typename T>
void run_layers(const Layer* layers, long num_layers, const Segment* segments, long num_segments, T* states,
                const T* cosine, const T* sine, T* scratch, long rows) {
    const T* added = nullptr;
    long width = 0;
    for (const Layer* layer = layers; layer < layers + num_layers; ++layer) {
        width = layer->qkv.width;
        T* read = scratch;
        T* moved = read + rows * width;
        T* qkv = moved + rows * width;
        T* attended = qkv + rows * layer->qkv.columns;
        T* both = attended + rows * layer->out.width;
        T* gated = both + rows * layer->gate_up.columns;
        add_norm(states, added, layer->norms[0], read, rows, width, layer->epsilons[0]);
        multiply(layer->qkv, read, qkv, rows);
        attend(*layer, segments, num_segments, qkv, cosine, sine, attended);
        multiply(layer->out, attended, moved, rows);
        add_norm(states, moved, layer->norms[1], read, rows, width, layer->epsilons[1]);
        multiply(layer->gate_up, read, both, rows);
        silu_mul(both, gated, rows, layer->down.width);
        multiply(layer->down, gated, moved, rows);
        added = moved;  // by the next norm
    }
    for (long at = 0; at < rows * width; at += kLanes) store(states + at, load(states + at) + load(added + at));
}

}  // namespace

#define FTLIB_LAYERS(T, NAME)                                                                                        \
    extern "C" void run_layers_##NAME(const Layer* layers, long num_layers, const Segment* segments,                 \
                                      long num_segments, T* states, const T* cosine, const T* sine, T* scratch,      \
                                      long rows) {                                                                   \
        run_layers(layers, num_layers, segments, num_segments, states, cosine, sine, scratch, rows);                 \
    }

FTLIB_LAYERS(float, float32)
FTLIB_LAYERS(bfloat16, bfloat16)

#endif
