// What a decoder layer computes between its products, on a CPU: norms, the gate, and attention over slots.
//
// Built by native.py on the machine it runs on. Rows are tokens. Values are float or bfloat16 in memory and float in
// between, rounded to nearest even; what one token gets depends on no other token of the step, to the bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

namespace {

constexpr int kLanes = 16;
constexpr int kBlock = 64;       // states that are looked at together
constexpr int kTile = 32;        // tokens of a prompt that are
constexpr long kAlone = 1 << 14; // values below which one thread is faster than two

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));

struct bfloat16 {
    uint16_t bits;
};

inline Vec load(const float *from) {
    Vec values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

inline Vec load(const bfloat16 *from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    Bits bits = __builtin_convertvector(halves, Bits) << 16;
    return (Vec)bits;
}

inline void store(float *to, Vec values) { std::memcpy(to, &values, sizeof values); }

inline void store(bfloat16 *to, Vec values) {
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

// e^x by a polynomial of degree 6 on [-ln2/2, ln2/2], relative error < 2e-7; nought below -87, e^88 above 88.
inline Vec exponential(Vec x) {
    const Ints tiny = x < all(-87.0f);
    x = tiny ? all(-87.0f) : x;
    x = x > all(88.0f) ? all(88.0f) : x;
    const Vec shifted = x * all(1.44269504f) + all(12582912.0f);  // 1.5 * 2^23: rounds to an integer
    const Vec n = shifted - all(12582912.0f);
    const Vec r = (x - n * all(0.693359375f)) + n * all(2.12194440e-4f);
    Vec p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1.0f);
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    p *= (Vec)power;
    return tiny ? Vec{} : p;
}

// The scale that gives `row` a root mean square of one.
template <typename T> inline float scale_of(const T *row, long width, float epsilon) {
    Vec squares{};
    for (long at = 0; at < width; at += kLanes) {
        const Vec x = load(row + at);
        squares += x * x;
    }
    return 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon);
}

template <typename T>
void add_norm(T *states, const T *added, const T *weight, T *out, long rows, long width, float epsilon) {
#pragma omp parallel for if (rows * width > kAlone)
    for (long row = 0; row < rows; ++row) {
        T *mine = states + row * width;
        if (added != nullptr)
            for (long at = 0; at < width; at += kLanes) store(mine + at, load(mine + at) + load(added + row * width + at));
        const Vec scale = all(scale_of(mine, width, epsilon));
        for (long at = 0; at < width; at += kLanes)
            store(out + row * width + at, load(mine + at) * scale * load(weight + at));
    }
}

template <typename T> void silu_mul(const T *both, T *out, long rows, long width) {
#pragma omp parallel for if (rows * width > kAlone)
    for (long row = 0; row < rows; ++row) {
        const T *gate = both + row * 2 * width, *up = gate + width;
        for (long at = 0; at < width; at += kLanes) {
            const Vec x = load(gate + at);
            store(out + row * width + at, x / (all(1.0f) + exponential(-x)) * load(up + at));
        }
    }
}

struct Attention {
    // Sizes of the layer.
    int64_t heads, kv_heads, head_dim, capacity, window;
    float scaling, epsilon;
};

// Tokens of one request in a step: `length` from `first` on, behind `start` states in `slot`.
struct Segment {
    int64_t slot, start, length, first;
};

// Turns a head by its position's angles, normed before if the layer does.
template <typename T>
inline void rotate(const T *head, const T *cosine, const T *sine, const T *weight, const Attention &a, Vec *out) {
    const int half = static_cast<int>(a.head_dim) / 2 / kLanes, vectors = 2 * half;
    for (int at = 0; at < vectors; ++at) out[at] = load(head + at * kLanes);
    if (weight != nullptr) {
        const Vec scale = all(scale_of(head, a.head_dim, a.epsilon));
        for (int at = 0; at < vectors; ++at) out[at] *= scale * load(weight + at * kLanes);
    }
    for (int at = 0; at < half; ++at) {
        const Vec low = out[at], high = out[at + half];
        out[at] = low * load(cosine + at * kLanes) - high * load(sine + at * kLanes);
        out[at + half] = high * load(cosine + (at + half) * kLanes) + low * load(sine + (at + half) * kLanes);
    }
}

// One token and the `groups` heads that share a key head: `queries` [groups, head_dim], turned and scaled.
template <typename T, int V>
void attend_one(const Vec *queries, const T *keys, const T *values, long from, long to, int groups, T *out) {
    constexpr int kMost = 8;
    for (int first = 0; first < groups; first += kMost) {
        const int count = std::min(groups - first, kMost);
        const Vec *q = queries + first * V;
        Vec sums[kMost][V] = {};
        float largest[kMost], totals[kMost] = {};
        std::fill(largest, largest + kMost, -std::numeric_limits<float>::infinity());
        alignas(64) float scores[kMost][kBlock];
        for (long start = from; start < to; start += kBlock) {
            const int here = static_cast<int>(std::min<long>(kBlock, to - start));
            for (int at = 0; at < here; ++at) {
                Vec key[V];
                for (int v = 0; v < V; ++v) key[v] = load(keys + (start + at) * V * kLanes + v * kLanes);
                for (int g = 0; g < count; ++g) {
                    Vec dot = q[g * V] * key[0];
                    for (int v = 1; v < V; ++v) dot += q[g * V + v] * key[v];
                    scores[g][at] = sum(dot);
                }
            }
            for (int g = 0; g < count; ++g) {
                std::fill(scores[g] + here, scores[g] + kBlock, -std::numeric_limits<float>::infinity());
                const float most = std::max(largest[g], *std::max_element(scores[g], scores[g] + here));
                const float shrink = std::exp(largest[g] - most);
                Vec total{};
                for (int at = 0; at < kBlock; at += kLanes) {
                    const Vec weights = exponential(load(scores[g] + at) - all(most));
                    store(scores[g] + at, weights);
                    total += weights;
                }
                totals[g] = totals[g] * shrink + sum(total);
                for (int v = 0; v < V; ++v) sums[g][v] *= all(shrink);
                largest[g] = most;
            }
            for (int at = 0; at < here; ++at) {
                Vec value[V];
                for (int v = 0; v < V; ++v) value[v] = load(values + (start + at) * V * kLanes + v * kLanes);
                for (int g = 0; g < count; ++g)
                    for (int v = 0; v < V; ++v) sums[g][v] += all(scores[g][at]) * value[v];
            }
        }
        for (int g = 0; g < count; ++g)
            for (int v = 0; v < V; ++v)
                store(out + ((first + g) * V + v) * kLanes, sums[g][v] * all(1.0f / totals[g]));
    }
}

// `count` neighbouring tokens of a prompt, the first at position `position`, and the heads that share a key head:
// `queries` [count, groups, head_dim]. Keys are transposed block by block, so that a score is a lane.
template <typename T, int V>
void attend_tile(const Vec *queries, const T *keys, const T *values, long position, int count, int groups, long window,
                 T *out, long out_stride, float *scratch) {
    constexpr int kDim = V * kLanes, kWide = kBlock / kLanes;
    const int rows = count * groups;
    float *transposed = scratch, *largest = transposed + kDim * kBlock, *totals = largest + rows;
    Vec *sums = reinterpret_cast<Vec *>(scratch + kDim * kBlock + (2 * rows + kLanes - 1) / kLanes * kLanes);
    std::fill(largest, largest + rows, -std::numeric_limits<float>::infinity());
    std::fill(totals, totals + rows, 0.0f);
    std::fill(sums, sums + rows * V, Vec{});
    const long to = position + count;
    const long from = window > 0 ? std::max(0L, position - window + 1) : 0;
    alignas(64) float scores[kBlock];
    for (long start = from; start < to; start += kBlock) {
        const int here = static_cast<int>(std::min<long>(kBlock, to - start));
        for (int at = 0; at < here; ++at) {
            alignas(64) float key[kDim];
            for (int v = 0; v < V; ++v) store(key + v * kLanes, load(keys + (start + at) * kDim + v * kLanes));
            for (int d = 0; d < kDim; ++d) transposed[d * kBlock + at] = key[d];
        }
        for (int row = 0; row < rows; ++row) {
            const long own = position + row / groups;
            // States `low` to `high` of the block are what this token may see.
            const int high = static_cast<int>(std::min<long>(here, own + 1 - start));
            const int low = window > 0 ? static_cast<int>(std::max(0L, own - window + 1 - start)) : 0;
            if (high <= low) continue;
            const float *query = reinterpret_cast<const float *>(queries + row * V);
            Vec dots[kWide] = {};
            for (int d = 0; d < kDim; ++d) {
                const Vec q = all(query[d]);
                for (int w = 0; w < kWide; ++w) dots[w] += q * load(transposed + d * kBlock + w * kLanes);
            }
            for (int w = 0; w < kWide; ++w) store(scores + w * kLanes, dots[w]);
            std::fill(scores, scores + low, -std::numeric_limits<float>::infinity());
            std::fill(scores + high, scores + kBlock, -std::numeric_limits<float>::infinity());
            const float most = std::max(largest[row], *std::max_element(scores + low, scores + high));
            const float shrink = std::exp(largest[row] - most);
            Vec total{};
            for (int at = 0; at < kBlock; at += kLanes) {
                const Vec weights = exponential(load(scores + at) - all(most));
                store(scores + at, weights);
                total += weights;
            }
            totals[row] = totals[row] * shrink + sum(total);
            largest[row] = most;
            Vec mine[V];
            for (int v = 0; v < V; ++v) mine[v] = sums[row * V + v] * all(shrink);
            for (int at = low; at < high; ++at)
                for (int v = 0; v < V; ++v)
                    mine[v] += all(scores[at]) * load(values + (start + at) * kDim + v * kLanes);
            for (int v = 0; v < V; ++v) sums[row * V + v] = mine[v];
        }
    }
    for (int row = 0; row < rows; ++row)
        for (int v = 0; v < V; ++v)
            store(out + row / groups * out_stride + (row % groups * V + v) * kLanes,
                  sums[row * V + v] * all(1.0f / totals[row]));
}

template <typename T, int V>
void attend(const Attention &a, const Segment *segments, long num_segments, const T *qkv, const T *cosine, const T *sine, const T *q_norm, const T *k_norm, T *keys,
            T *values, T *out) {
    constexpr int kDim = V * kLanes;
    const int groups = static_cast<int>(a.heads / a.kv_heads);
    const long width = (a.heads + 2 * a.kv_heads) * kDim, out_stride = a.heads * kDim;
    long tokens = 0, work = 0, tiles = 0;
    for (long s = 0; s < num_segments; ++s) {
        const Segment &segment = segments[s];
        tokens += segment.length;
        tiles += (segment.length + kTile - 1) / kTile;
        work += segment.length * (segment.start + segment.length / 2 + 1) * a.heads;
    }
    std::unique_ptr<int64_t[]> places(new int64_t[2 * tokens]);  // slot and position of each token
    std::unique_ptr<int64_t[]> tile_of(new int64_t[2 * tiles]);  // segment, and tokens of it before the tile
    long tile = 0;
    for (long s = 0; s < num_segments; ++s) {
        const Segment &segment = segments[s];
        for (long at = 0; at < segment.length; ++at) {
            places[2 * (segment.first + at)] = segment.slot;
            places[2 * (segment.first + at) + 1] = segment.start + at;
            if (at % kTile == 0) {
                tile_of[2 * tile] = s;
                tile_of[2 * tile++ + 1] = at;
            }
        }
    }
#pragma omp parallel if (work * kDim > kAlone)
    {
#pragma omp for
        for (long token = 0; token < tokens; ++token) {
            const long slot = places[2 * token], position = places[2 * token + 1];
            for (long head = 0; head < a.kv_heads; ++head) {
                const T *key = qkv + token * width + (a.heads + head) * kDim;
                T *place = keys + ((slot * a.kv_heads + head) * a.capacity + position) * kDim;
                Vec turned[V];
                rotate(key, cosine + token * kDim, sine + token * kDim, k_norm, a, turned);
                for (int v = 0; v < V; ++v) store(place + v * kLanes, turned[v]);
                place = values + ((slot * a.kv_heads + head) * a.capacity + position) * kDim;
                std::memcpy(place, key + a.kv_heads * kDim, kDim * sizeof(T));
            }
        }
        std::unique_ptr<Vec[]> queries(new Vec[kTile * groups * V]);
        const long scratch_size = kDim * kBlock + (2 * kTile * groups + kLanes) + kTile * groups * kDim;
        std::unique_ptr<Vec[]> scratch(new Vec[scratch_size / kLanes + 1]);
#pragma omp for schedule(dynamic)
        for (long item = 0; item < tiles * a.kv_heads; ++item) {
            const long t = tiles - 1 - item / a.kv_heads, head = item % a.kv_heads;
            const Segment &segment = segments[tile_of[2 * t]];
            const long before = tile_of[2 * t + 1], first = segment.first + before, position = segment.start + before;
            const int count = static_cast<int>(std::min<long>(kTile, segment.length - before));
            for (int row = 0; row < count * groups; ++row) {
                const long token = first + row / groups;
                const T *query = qkv + token * width + (head * groups + row % groups) * kDim;
                rotate(query, cosine + token * kDim, sine + token * kDim, q_norm, a, queries.get() + row * V);
                for (int v = 0; v < V; ++v) queries[row * V + v] *= all(a.scaling);
            }
            const long states = (segment.slot * a.kv_heads + head) * a.capacity * kDim;
            T *to = out + first * out_stride + head * groups * kDim;
            if (count == 1) {
                const long from = a.window > 0 ? std::max(0L, position - a.window + 1) : 0;
                attend_one<T, V>(queries.get(), keys + states, values + states, from, position + 1, groups, to);
            } else {
                attend_tile<T, V>(queries.get(), keys + states, values + states, position, count, groups, a.window, to,
                                  out_stride, reinterpret_cast<float *>(scratch.get()));
            }
        }
    }
}

template <typename T>
int attend_any(const Attention *a, const Segment *segments, long num_segments, const T *qkv, const T *cosine, const T *sine, const T *q_norm, const T *k_norm,
               T *keys, T *values, T *out) {
    switch (a->head_dim) {
    case 32: attend<T, 2>(*a, segments, num_segments, qkv, cosine, sine, q_norm, k_norm, keys, values, out); return 0;
    case 64: attend<T, 4>(*a, segments, num_segments, qkv, cosine, sine, q_norm, k_norm, keys, values, out); return 0;
    case 96: attend<T, 6>(*a, segments, num_segments, qkv, cosine, sine, q_norm, k_norm, keys, values, out); return 0;
    case 128: attend<T, 8>(*a, segments, num_segments, qkv, cosine, sine, q_norm, k_norm, keys, values, out); return 0;
    default: return 1;
    }
}

}  // namespace

#define FTLIB_KERNELS(T, NAME)                                                                                         \
    extern "C" void add_norm_##NAME(T *states, const T *added, const T *weight, T *out, long rows, long width,         \
                                    float epsilon) {                                                                   \
        add_norm(states, added, weight, out, rows, width, epsilon);                                                    \
    }                                                                                                                  \
    extern "C" void silu_mul_##NAME(const T *both, T *out, long rows, long width) { silu_mul(both, out, rows, width); } \
    extern "C" int attend_##NAME(const Attention *a, const Segment *segments, long num_segments, const T *qkv,           \
                                 const T *cosine, const T *sine, const T *q_norm, const T *k_norm, T *keys, T *values, \
                                 T *out) {                                                                             \
        return attend_any(a, segments, num_segments, qkv, cosine, sine, q_norm, k_norm, keys, values, out);                                    \
    }

FTLIB_KERNELS(float, float32)
FTLIB_KERNELS(bfloat16, bfloat16)
