// Products of tokens with packed weights, in INT8 and bfloat16, on a CPU that multiplies these.
//
// A thread goes through its share of the outputs, weights in a row, and then helps the others, so that one that another
// process holds up is not left with all of it.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <memory>

#ifdef __AVX512VNNI__
#include <immintrin.h>
#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define FTLIB_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "native.h"

namespace {

#ifdef __AVX512VNNI__

constexpr int kColumns = 32;        // outputs that lie together in packed weights
constexpr int kRows = 12;           // tokens that are multiplied together: 24 of 32 registers are sums
constexpr int kMost = 32;           // or that many, in tiles
constexpr int kBytes = 64;          // of a token's values that a tile holds
constexpr long kPart = 9 * kBytes;  // of them that are taken together: weights and kMost tokens then fit the first cache
constexpr long kAhead = 8192;       // bytes of weights that are fetched before their turn

inline void fetch(const char* from, long bytes) {
    for (long at = 0; at < bytes; at += 64) _mm_prefetch(from + at, _MM_HINT_T0);
}

// What threads share in a loop: each takes its own range in order, then what others have left of theirs.
class Shares {
  public:
    explicit Shares(long count) : count_(count), threads_(omp_get_max_threads()), next_(new Place[threads_]) {
        for (int thread = 0; thread < threads_; ++thread) next_[thread].at = first(thread);
    }

    // Called by every thread of a parallel region.
    template <typename Body>
    void run(Body body) const {
        for (int other = 0, mine = omp_get_thread_num(); other < threads_; ++other) {
            const int owner = (mine + other) % threads_;
            for (long at; (at = next_[owner].at.fetch_add(1, std::memory_order_relaxed)) < first(owner + 1);) body(at);
        }
    }

  private:
    struct alignas(64) Place {
        std::atomic<long> at;
    };

    long first(int thread) const { return count_ * thread / threads_; }

    long count_;
    int threads_;
    std::unique_ptr<Place[]> next_;
};

#ifdef FTLIB_TILES

bool tiles_work = false;

// The tiles of a thread: sums 0 to 3 (tokens by outputs, two by two), tokens 4 and 5, weights 6 and 7.
class Tiles {
  public:
    ~Tiles() {
        if (rows_ > 0) _tile_release();
    }

    // Makes tiles for up to kMost tokens.
    void fit(int rows) {
        if (rows == rows_) return;
        rows_ = rows;
        struct alignas(64) {
            uint8_t palette = 1, start = 0, unused[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } sizes;
        const int upper = std::min(rows, 16), lower = rows - upper;
        const int rows_of[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
        for (int tile = 0; tile < 8; ++tile) {
            sizes.rows[tile] = static_cast<uint8_t>(rows_of[tile]);
            sizes.bytes[tile] = rows_of[tile] > 0 ? kBytes : 0;
        }
        asm volatile("" : : "r"(&sizes) : "memory");  // the intrinsic tells the compiler of eight bytes only
        _tile_loadconfig(&sizes);
    }

    // Adds to `sums`, [kMost, kColumns], what the values from `from` to `to` (bytes, multiples of kBytes) of the tokens, which
    // are `stride` bytes apart, give with a block of weights; from 0 the sums begin anew. `ahead`: fetch weights to come.
    template <typename Weight>
    void multiply(const void* tokens, long stride, const Weight* block, long from, long to, bool ahead,
                  void* sums) const {
        constexpr long kRow = kColumns * 4;  // bytes of a token's sums, and of as many weights
        const char *x = static_cast<const char*>(tokens), *weights = reinterpret_cast<const char*>(block) + from / 4 * kRow;
        char *upper = static_cast<char*>(sums), *lower = upper + 16 * kRow;
        const bool two = rows_ > 16;
        if (from > 0) {
            _tile_loadd(0, upper, kRow);
            _tile_loadd(1, upper + kBytes, kRow);
        } else {
            _tile_zero(0);
            _tile_zero(1);
        }
        if (two && from > 0) {
            _tile_loadd(2, lower, kRow);
            _tile_loadd(3, lower + kBytes, kRow);
        } else if (two) {
            _tile_zero(2);
            _tile_zero(3);
        }
        for (long at = from; at < to; at += kBytes, weights += 16 * kRow) {
            if (ahead) fetch(weights + kAhead, 16 * kRow);
            _tile_loadd(6, weights, kRow);
            _tile_loadd(7, weights + kBytes, kRow);
            _tile_loadd(4, x + at, stride);
            add_products<Weight, 4>();
            if (two) {
                _tile_loadd(5, x + 16 * stride + at, stride);
                add_products<Weight, 5>();
            }
        }
        _tile_stored(0, upper, kRow);
        _tile_stored(1, upper + kBytes, kRow);
        if (two) {
            _tile_stored(2, lower, kRow);
            _tile_stored(3, lower + kBytes, kRow);
        }
    }

  private:
    template <typename Weight, int Tokens>
    static void add_products() {
        if constexpr (sizeof(Weight) == 1 && Tokens == 4) {
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
        } else if constexpr (sizeof(Weight) == 1) {
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        } else if constexpr (Tokens == 4) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        } else {
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }

    int rows_ = 0;
};

#endif

// Rounds each token to 8 bits by its largest value; bits are stored + 128, as the instruction wants them unsigned.
template <typename T>
void quantize(const T* x, uint8_t* bits, float* scales, long rows, long width) {
#pragma omp for schedule(dynamic, 2)
    for (long row = 0; row < rows; ++row) {
        Vec most{}, broken{};  // broken: not a number where one of the values is not finite
        for (long at = 0; at < width; at += kLanes) {
            const Vec values = load(x + row * width + at), size = values < all(0.0f) ? -values : values;
            most = size > most ? size : most;
            broken += values - values;
        }
        float largest = 1e-12f;
        for (int lane = 0; lane < kLanes; ++lane) largest = std::max(largest, most[lane]);
        const Vec scale = all(127.0f / largest);
        for (long at = 0; at < width; at += kLanes) {
            // 1.5 * 2^23 rounds to an integer, which its low bits then are.
            const Ints rounded = (Ints)(load(x + row * width + at) * scale + all(12582912.0f)) + 128;
            _mm_storeu_si128(reinterpret_cast<__m128i*>(bits + row * width + at),
                             _mm512_cvtepi32_epi8((__m512i)rounded));
        }
        scales[row] = largest / 127.0f + sum(broken);
    }
}

inline __m512i spread(const void* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

inline __m512i add_products(__m512i sums, __m512i x, __m512i weights, int8_t) {
    return _mm512_dpbusd_epi32(sums, x, weights);
}

#ifdef __AVX512BF16__
inline __m512i add_products(__m512i sums, __m512i x, __m512i weights, bfloat16) {
    return (__m512i)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)weights);
}
#endif

// Sums [R, kColumns] of R tokens, whose values are `stride` bytes, and one block of packed weights, [stride / 4][kColumns]
// of four bytes each.
template <int R, typename Weight>
inline void multiply(const void* tokens, long stride, const Weight* block, void* found) {
    const char *x = static_cast<const char*>(tokens), *weights = reinterpret_cast<const char*>(block);
    __m512i sums[R][2];
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
    for (long at = 0; at < stride; at += 4, weights += 4 * kColumns) {
        fetch(weights + kAhead, 4 * kColumns);
        const __m512i left = _mm512_loadu_si512(weights), right = _mm512_loadu_si512(weights + 64);
        for (int r = 0; r < R; ++r) {
            const __m512i values = spread(x + r * stride + at);
            sums[r][0] = add_products(sums[r][0], values, left, Weight{});
            sums[r][1] = add_products(sums[r][1], values, right, Weight{});
        }
    }
    std::memcpy(found, sums, sizeof sums);
}

template <int R = kRows, typename Weight>
inline void multiply_some(int rows, const void* tokens, long stride, const Weight* block, void* sums) {
    if (rows == R)
        multiply<R>(tokens, stride, block, sums);
    else if constexpr (R > 1)
        multiply_some<R - 1>(rows, tokens, stride, block, sums);
}

// Within a parallel region: sums of `rows` tokens, [rows, stride bytes], and all packed weights. `round` makes outputs at a
// pointer of kColumns sums of a token, and gets the token and the block's first output.
template <typename Weight, typename T, typename Round>
void products(const Shares& blocks, const void* tokens, long rows, long stride, const Weight* packed, T* y, long columns,
              Round round) {
    const char* x = static_cast<const char*>(tokens);
    typedef int32_t Sums[kColumns];
#ifdef FTLIB_TILES
    Tiles tiles;
    const bool in_tiles = tiles_work && stride % kBytes == 0;
#else
    constexpr bool in_tiles = false;
#endif
    const std::unique_ptr<Vec[]> memory(new Vec[(in_tiles ? rows : kRows) * kColumns / kLanes]);
    Sums* sums = reinterpret_cast<Sums*>(memory.get());
    blocks.run([&](long number) {
        const long first = number * kColumns;
        const Weight* block = packed + first * (stride / static_cast<long>(sizeof(Weight)));
        const long here = std::min<long>(kColumns, columns - first);
        const auto write = [&](const Sums* found, long row, long count) {
            for (long r = 0; r < count; ++r) {
                T* to = y + (row + r) * columns + first;
                if (here == kColumns) {
                    round(found[r], row + r, first, to);
                } else {
                    T out[kColumns];
                    round(found[r], row + r, first, out);
                    std::memcpy(to, out, here * sizeof(T));
                }
            }
        };
#ifdef FTLIB_TILES
        if (in_tiles) {
            const long part = rows > kMost ? kPart : stride;
            for (long from = 0; from < stride; from += part)
                for (long row = 0; row < rows; row += kMost) {
                    tiles.fit(static_cast<int>(std::min<long>(kMost, rows - row)));
                    tiles.multiply(x + row * stride, stride, block, from, std::min(from + part, stride), row == 0,
                                   sums + row);
                }
            write(sums, 0, rows);
            return;
        }
#endif
        for (long row = 0; row < rows; row += kRows) {
            const int count = static_cast<int>(std::min<long>(kRows, rows - row));
            multiply_some(count, x + row * stride, stride, block, sums);
            write(sums, row, count);
        }
    });
}

inline long num_blocks(long columns) { return (columns + kColumns - 1) / kColumns; }

// Sixteen of the sums that `products` finds.
template <typename Value>
inline Value lanes(const int32_t* sums) {
    Value values;
    std::memcpy(&values, sums, sizeof values);
    return values;
}

template <typename T>
void int8_linear(const T* x, const int8_t* packed, const float* scales, const float* shifts, T* y, long rows,
                 long width, long columns) {
    std::unique_ptr<uint8_t[]> bits(new uint8_t[rows * width]);
    std::unique_ptr<float[]> sizes(new float[rows]);
    const Shares blocks(num_blocks(columns));
#pragma omp parallel if (width * columns > kAlone)
    {
        quantize(x, bits.get(), sizes.get(), rows, width);
        products(blocks, bits.get(), rows, width, packed, y, columns, [&](const int32_t* sums, long row, long first, T* to) {
            for (int at = 0; at < kColumns; at += kLanes) {
                const Vec sum = __builtin_convertvector(lanes<Ints>(sums + at), Vec);
                store(to + at, (sum - load(shifts + first + at)) * (all(sizes[row]) * load(scales + first + at)));
            }
        });
    }
}

#ifdef __AVX512BF16__

void bfloat16_linear(const bfloat16* x, const bfloat16* packed, bfloat16* y, long rows, long width, long columns) {
    const Shares blocks(num_blocks(columns));
#pragma omp parallel if (width * columns > kAlone)
    products(blocks, x, rows, 2 * width, packed, y, columns, [](const int32_t* sums, long, long, bfloat16* to) {
        const __m512bh both = _mm512_cvtne2ps_pbh(lanes<__m512>(sums + kLanes), lanes<__m512>(sums));
        std::memcpy(to, &both, sizeof both);
    });
}

#endif
#endif

}  // namespace

// Absent where the CPU lacks the instruction.
#ifdef __AVX512VNNI__
#define FTLIB_INT8(T, NAME)                                                                                        \
    extern "C" void int8_linear_##NAME(const T* x, const int8_t* packed, const float* scales, const float* shifts, \
                                       T* y, long rows, long width, long columns) {                                \
        int8_linear(x, packed, scales, shifts, y, rows, width, columns);                                           \
    }

FTLIB_INT8(float, float32)
FTLIB_INT8(bfloat16, bfloat16)

#ifdef __AVX512BF16__
extern "C" void bfloat16_linear_bfloat16(const bfloat16* x, const bfloat16* packed, bfloat16* y, long rows, long width,
                                         long columns) {
    bfloat16_linear(x, packed, y, rows, width, columns);
}
#endif
#endif

// Asks Linux for the tiles of AMX, before a process's first product, or does without. Returns whether they are used.
extern "C" int use_tiles(int wanted) {
#ifdef FTLIB_TILES
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
    tiles_work = wanted != 0 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return tiles_work;
#else
    return static_cast<void>(wanted), 0;
#endif
}
