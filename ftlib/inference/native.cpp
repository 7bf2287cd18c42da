// What a decoder layer computes between its products, on a CPU: norms, the gate, attention over slots, adapters.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "native.h"

namespace {

constexpr int kBlock = 64;    // states that are looked at together
constexpr int kTile = 32;     // tokens of a prompt that are
constexpr int kTogether = 4;  // queries whose sums stay in registers

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
template <typename T>
inline float scale_of(const T* row, long width, float epsilon) {
    Vec squares{};
    for (long at = 0; at < width; at += kLanes) {
        const Vec x = load(row + at);
        squares += x * x;
    }
    return 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon);
}

template <typename T>
void add_norm(T* states, const T* added, const T* weight, T* out, long rows, long width, float epsilon) {
#pragma omp parallel for schedule(dynamic, 2) if (rows * width > kAlone)
    for (long row = 0; row < rows; ++row) {
        T* mine = states + row * width;
        if (added != nullptr)
            for (long at = 0; at < width; at += kLanes)
                store(mine + at, load(mine + at) + load(added + row * width + at));
        const Vec scale = all(scale_of(mine, width, epsilon));
        for (long at = 0; at < width; at += kLanes)
            store(out + row * width + at, load(mine + at) * scale * load(weight + at));
    }
}

template <typename T>
void silu_mul(const T* both, T* out, long rows, long width) {
#pragma omp parallel for schedule(dynamic, 2) if (rows * width > kAlone)
    for (long row = 0; row < rows; ++row) {
        const T *gate = both + row * 2 * width, *up = gate + width;
        for (long at = 0; at < width; at += kLanes) {
            const Vec x = load(gate + at);
            store(out + row * width + at, x / (all(1.0f) + exponential(-x)) * load(up + at));
        }
    }
}

// Turns a head by its position's angles, normed before if the layer does.
template <typename T>
inline void rotate(const T* head, const T* cosine, const T* sine, const T* weight, const Attention& a, Vec* out) {
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
void attend_one(const Vec* queries, const T* keys, const T* values, long from, long to, int groups, T* out) {
    constexpr int kMost = 8;
    for (int first = 0; first < groups; first += kMost) {
        const int count = std::min(groups - first, kMost);
        const Vec* q = queries + first * V;
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
            for (int v = 0; v < V; ++v) store(out + ((first + g) * V + v) * kLanes, sums[g][v] * all(1.0f / totals[g]));
    }
}

// What attend_tile works on, for `rows` queries (a multiple of kTogether).
template <int V>
struct Tile {
    static constexpr int kDim = V * kLanes;
    std::unique_ptr<Vec[]> memory;
    float *queries, *sums;    // [rows, kDim]
    float *largest, *totals;  // [rows]
    float* keys;              // [kDim, kBlock], so that a score is a lane
    float* values;            // [kBlock, kDim]

    explicit Tile(long rows) : memory(new Vec[2 * rows * V + 2 * (rows / kLanes + 1) + 2 * kDim * kBlock / kLanes]) {
        queries = reinterpret_cast<float*>(memory.get());
        sums = queries + rows * kDim;
        largest = sums + rows * kDim;
        totals = largest + (rows / kLanes + 1) * kLanes;
        keys = totals + (rows / kLanes + 1) * kLanes;
        values = keys + kDim * kBlock;
    }
};

// `count` neighbouring tokens of a prompt, the first at position `position`, and the heads that share a key head: the
// tile's queries are [count, groups, head_dim].
template <typename T, int V>
void attend_tile(const Tile<V>& tile, const T* keys, const T* values, long position, int count, int groups, long window,
                 T* out, long out_stride) {
    constexpr int kDim = V * kLanes, kWide = kBlock / kLanes, kHalf = V % 4 == 0 ? 4 : 2;
    const float kHidden = -std::numeric_limits<float>::infinity();
    const int rows = (count * groups + kTogether - 1) / kTogether * kTogether;
    std::fill(tile.largest, tile.largest + rows, kHidden);
    std::fill(tile.totals, tile.totals + rows, 0.0f);
    std::fill(tile.sums, tile.sums + rows * kDim, 0.0f);
    const long to = position + count, from = window > 0 ? std::max(0L, position - window + 1) : 0;
    for (long start = from; start < to; start += kBlock) {
        const int here = static_cast<int>(std::min<long>(kBlock, to - start));
        for (int at = 0; at < here; ++at) {
            alignas(64) float key[kDim];
            for (int v = 0; v < V; ++v) {
                store(key + v * kLanes, load(keys + (start + at) * kDim + v * kLanes));
                store(tile.values + at * kDim + v * kLanes, load(values + (start + at) * kDim + v * kLanes));
            }
            for (int d = 0; d < kDim; ++d) tile.keys[d * kBlock + at] = key[d];
        }
        for (int row = 0; row < rows; row += kTogether) {
            // States `low` to `high` of the block are what a token may see.
            const auto high_of = [&](int r) {
                return static_cast<int>(std::clamp<long>(position + r / groups + 1 - start, 0, here));
            };
            const auto low_of = [&](int r) {
                return window > 0
                           ? static_cast<int>(std::clamp<long>(position + r / groups - window + 1 - start, 0, here))
                           : 0;
            };
            const int highest = high_of(row + kTogether - 1), lowest = low_of(row);
            if (highest <= lowest) continue;
            const float* query = tile.queries + row * kDim;
            Vec dots[kTogether][kWide] = {};
            for (int d = 0; d < kDim; ++d) {
                Vec key[kWide];
                for (int w = 0; w < kWide; ++w) key[w] = load(tile.keys + d * kBlock + w * kLanes);
                for (int r = 0; r < kTogether; ++r)
                    for (int w = 0; w < kWide; ++w) dots[r][w] += all(query[r * kDim + d]) * key[w];
            }
            alignas(64) float scores[kTogether][kBlock];
            float shrink[kTogether];
            for (int r = 0; r < kTogether; ++r) {
                const int low = low_of(row + r), high = high_of(row + r);
                for (int w = 0; w < kWide; ++w) store(scores[r] + w * kLanes, dots[r][w]);
                std::fill(scores[r], scores[r] + low, kHidden);
                std::fill(scores[r] + std::max(low, high), scores[r] + kBlock, kHidden);
                float& largest = tile.largest[row + r];
                const float most =
                    high > low ? std::max(largest, *std::max_element(scores[r] + low, scores[r] + high)) : largest;
                shrink[r] = largest == most ? 1.0f : std::exp(largest - most);
                largest = most;
                Vec total{};
                // A token that has seen nothing yet has no largest score to subtract.
                const Vec base = all(most == kHidden ? 0.0f : most);
                for (int at = 0; at < kBlock; at += kLanes) {
                    const Vec weights = exponential(load(scores[r] + at) - base);
                    store(scores[r] + at, weights);
                    total += weights;
                }
                tile.totals[row + r] = tile.totals[row + r] * shrink[r] + sum(total);
            }
            for (int first = 0; first < V; first += kHalf) {
                Vec mine[kTogether][kHalf];
                float* sums = tile.sums + row * kDim + first * kLanes;
                for (int r = 0; r < kTogether; ++r)
                    for (int v = 0; v < kHalf; ++v) mine[r][v] = load(sums + r * kDim + v * kLanes) * all(shrink[r]);
                for (int at = lowest; at < highest; ++at)
                    for (int v = 0; v < kHalf; ++v) {
                        const Vec value = load(tile.values + at * kDim + (first + v) * kLanes);
                        for (int r = 0; r < kTogether; ++r) mine[r][v] += all(scores[r][at]) * value;
                    }
                for (int r = 0; r < kTogether; ++r)
                    for (int v = 0; v < kHalf; ++v) store(sums + r * kDim + v * kLanes, mine[r][v]);
            }
        }
    }
    for (int row = 0; row < count * groups; ++row)
        for (int v = 0; v < V; ++v)
            store(out + row / groups * out_stride + (row % groups * V + v) * kLanes,
                  load(tile.sums + row * kDim + v * kLanes) * all(1.0f / tile.totals[row]));
}

template <typename T, int V>
void attend(const Attention& a, const Segment* segments, long num_segments, const T* qkv, const T* cosine,
            const T* sine, const T* q_norm, const T* k_norm, T* keys, T* values, T* out) {
    constexpr int kDim = V * kLanes;
    const int groups = static_cast<int>(a.heads / a.kv_heads);
    const long width = (a.heads + 2 * a.kv_heads) * kDim, out_stride = a.heads * kDim;
    long tokens = 0, work = 0, tiles = 0;
    for (long s = 0; s < num_segments; ++s) {
        const Segment& segment = segments[s];
        tokens += segment.length;
        tiles += (segment.length + kTile - 1) / kTile;
        work += segment.length * (segment.start + segment.length / 2 + 1) * a.heads;
    }
    std::unique_ptr<int64_t[]> places(new int64_t[2 * tokens]);  // slot and position of each token
    std::unique_ptr<int64_t[]> tile_of(new int64_t[2 * tiles]);  // segment, and tokens of it before the tile
    long next = 0;
    for (long s = 0; s < num_segments; ++s) {
        const Segment& segment = segments[s];
        for (long at = 0; at < segment.length; ++at) {
            places[2 * (segment.first + at)] = segment.slot;
            places[2 * (segment.first + at) + 1] = segment.start + at;
            if (at % kTile == 0) {
                tile_of[2 * next] = s;
                tile_of[2 * next++ + 1] = at;
            }
        }
    }
#pragma omp parallel if (work * kDim > kAlone)
    {
#pragma omp for schedule(dynamic, 2)
        for (long token = 0; token < tokens; ++token) {
            const long slot = places[2 * token], position = places[2 * token + 1];
            for (long head = 0; head < a.kv_heads; ++head) {
                const T* key = qkv + token * width + (a.heads + head) * kDim;
                T* place = keys + ((slot * a.kv_heads + head) * a.capacity + position) * kDim;
                Vec turned[V];
                rotate(key, cosine + token * kDim, sine + token * kDim, k_norm, a, turned);
                for (int v = 0; v < V; ++v) store(place + v * kLanes, turned[v]);
                place = values + ((slot * a.kv_heads + head) * a.capacity + position) * kDim;
                std::memcpy(place, key + a.kv_heads * kDim, kDim * sizeof(T));
            }
        }
        const Tile<V> tile(std::min<long>(tokens, kTile) * groups + kTogether);
        Vec* queries = reinterpret_cast<Vec*>(tile.queries);
#pragma omp for schedule(dynamic)
        for (long item = 0; item < tiles * a.kv_heads; ++item) {
            const long t = tiles - 1 - item / a.kv_heads, head = item % a.kv_heads;
            const Segment& segment = segments[tile_of[2 * t]];
            const long before = tile_of[2 * t + 1], first = segment.first + before, position = segment.start + before;
            const int count = static_cast<int>(std::min<long>(kTile, segment.length - before));
            for (int row = 0; row < count * groups; ++row) {
                const long token = first + row / groups;
                const T* query = qkv + token * width + (head * groups + row % groups) * kDim;
                rotate(query, cosine + token * kDim, sine + token * kDim, q_norm, a, queries + row * V);
                for (int v = 0; v < V; ++v) queries[row * V + v] *= all(a.scaling);
            }
            const long states = (segment.slot * a.kv_heads + head) * a.capacity * kDim;
            T* to = out + first * out_stride + head * groups * kDim;
            if (count == 1) {
                const long from = a.window > 0 ? std::max(0L, position - a.window + 1) : 0;
                attend_one<T, V>(queries, keys + states, values + states, from, position + 1, groups, to);
            } else {
                attend_tile<T, V>(tile, keys + states, values + states, position, count, groups, a.window, to,
                                  out_stride);
            }
        }
    }
}

// Head widths are those of HEAD_DIMS in native.py.
template <typename T, typename... Rest>
void attend_any(const Attention* a, Rest... rest) {
    switch (a->head_dim) {
        case 32:
            return attend<T, 2>(*a, rest...);
        case 64:
            return attend<T, 4>(*a, rest...);
        case 96:
            return attend<T, 6>(*a, rest...);
        case 128:
            return attend<T, 8>(*a, rest...);
    }
}

// What adapters add to a product: each has A [ranks, width] and B [ranks, columns], of which rank r of part p, the p-th
// layer in the product, is r + p * (ranks / parts) and reaches only the columns from ends[p - 1] to ends[p].
struct Adapters {
    int64_t width, columns, ranks, parts;
    const int64_t* ends;
};

// Tokens `first` to `last` of a step are the adapter's at `index`.
struct Span {
    int64_t index, first, last;
};

// Products of `R` tokens, [R, width], and `N` rows of A.
template <int R, int N, typename T>
inline void multiply_a(const float* x, const T* a, long width, float* inner, long stride) {
    Vec sums[R][N] = {};
    for (long at = 0; at < width; at += kLanes) {
        Vec weights[N];
        for (int n = 0; n < N; ++n) weights[n] = load(a + n * width + at);
        for (int r = 0; r < R; ++r)
            for (int n = 0; n < N; ++n) sums[r][n] += load(x + r * width + at) * weights[n];
    }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) inner[r * stride + n] = sum(sums[r][n]);
}

// `R` neighbouring tokens of one adapter; `scratch` has room for [R, width + ranks].
template <int R, typename T>
void add_adapter(const Adapters& adapters, const T* x, const T* a, const T* b, T* y, float* scratch) {
    const long width = adapters.width, columns = adapters.columns, ranks = adapters.ranks,
               each = ranks / adapters.parts;
    float* inner = scratch + R * width;
    for (long at = 0; at < R * width; at += kLanes) store(scratch + at, load(x + at));
    long rank = 0;
    for (; rank + 4 <= ranks; rank += 4) multiply_a<R, 4>(scratch, a + rank * width, width, inner + rank, ranks);
    for (; rank < ranks; ++rank) multiply_a<R, 1>(scratch, a + rank * width, width, inner + rank, ranks);
    for (long part = 0, first = 0; part < adapters.parts; first = adapters.ends[part++])
        for (long at = first; at < adapters.ends[part]; at += kLanes) {
            Vec sums[R] = {};
            for (rank = part * each; rank < (part + 1) * each; ++rank) {
                const Vec weights = load(b + rank * columns + at);
                for (int r = 0; r < R; ++r) sums[r] += all(inner[r * ranks + rank]) * weights;
            }
            for (int r = 0; r < R; ++r) store(y + r * columns + at, load(y + r * columns + at) + sums[r]);
        }
}

template <int R = kTogether, typename T>
void add_adapter_some(int rows, const Adapters& adapters, const T* x, const T* a, const T* b, T* y, float* scratch) {
    if (rows == R)
        add_adapter<R>(adapters, x, a, b, y, scratch);
    else if constexpr (R > 1)
        add_adapter_some<R - 1>(rows, adapters, x, a, b, y, scratch);
}

template <typename T>
void add_adapters(const Adapters& adapters, const Span* spans, long num_spans, const T* x, const T* a, const T* b,
                  T* y) {
    long tiles = 0, tokens = 0;
    for (long s = 0; s < num_spans; ++s) {
        tokens += spans[s].last - spans[s].first;
        tiles += (spans[s].last - spans[s].first + kTogether - 1) / kTogether;
    }
    std::unique_ptr<Span[]> tile_of(new Span[tiles]);
    for (long s = 0, tile = 0; s < num_spans; ++s)
        for (long first = spans[s].first; first < spans[s].last; first += kTogether)
            tile_of[tile++] = {spans[s].index, first, std::min<long>(first + kTogether, spans[s].last)};
    const long each = adapters.ranks * (adapters.width + adapters.columns / adapters.parts);
#pragma omp parallel if (tokens * each > 4 * kAlone)
    {
        std::unique_ptr<float[]> scratch(new float[kTogether * (adapters.width + adapters.ranks)]);
#pragma omp for schedule(dynamic)
        for (long t = 0; t < tiles; ++t) {
            const Span& tile = tile_of[t];
            add_adapter_some(static_cast<int>(tile.last - tile.first), adapters, x + tile.first * adapters.width,
                             a + tile.index * adapters.ranks * adapters.width,
                             b + tile.index * adapters.ranks * adapters.columns, y + tile.first * adapters.columns,
                             scratch.get());
        }
    }
}

}  // namespace

#define FTLIB_KERNELS(T, NAME)                                                                                         \
    extern "C" void add_norm_##NAME(T* states, const T* added, const T* weight, T* out, long rows, long width,         \
                                    float epsilon) {                                                                   \
        add_norm(states, added, weight, out, rows, width, epsilon);                                                    \
    }                                                                                                                  \
    extern "C" void silu_mul_##NAME(const T* both, T* out, long rows, long width) {                                    \
        silu_mul(both, out, rows, width);                                                                              \
    }                                                                                                                  \
    extern "C" void add_adapters_##NAME(const Adapters* adapters, const Span* spans, long num_spans, const T* x,       \
                                        const T* a, const T* b, T* y) {                                                \
        add_adapters(*adapters, spans, num_spans, x, a, b, y);                                                         \
    }                                                                                                                  \
    extern "C" void attend_##NAME(const Attention* a, const Segment* segments, long num_segments, const T* qkv,         \
                                 const T* cosine, const T* sine, const T* q_norm, const T* k_norm, T* keys, T* values, \
                                 T* out) {                                                                             \
        attend_any<T>(a, segments, num_segments, qkv, cosine, sine, q_norm, k_norm, keys, values, out);            \
    }

FTLIB_KERNELS(float, float32)
FTLIB_KERNELS(bfloat16, bfloat16)
