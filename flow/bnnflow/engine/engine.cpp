// Integer graphs on packed bits: runs a program of fused steps, tile by tile of samples, on several threads.
//
// A program is a list of numbers that bnnflow/ir/packed.py writes and `Reader` reads, in the same order. It holds
// tensors and steps. A tensor is flat, an element of a sample after the other: bit planes of code - lo, 64 elements a
// word, or int32, or int64. A step computes rows of one tensor, a row being the channels of one position: its head makes
// 16 rows at a time of stored tensors, its tails change them in place, then they are stored. So no sum, and no window,
// is ever stored as a whole.
//
// All is exact. Integers wrap around (-fwrapv), and every result is proven to lie in its domain, which the row's type S
// holds: what is right modulo 2^32 or 2^64 is right. Sums are in float32 only where every partial sum is proven to be
// below 2^24.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
#define FLOW_POPCOUNT_LANES 1
#endif
#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define FLOW_BYTES 1
#endif

namespace {

using u8 = uint8_t;
using i32 = int32_t;
using u32 = uint32_t;
using i64 = int64_t;
using u64 = uint64_t;

constexpr int ROWS = 16;      // rows that a head makes at a time
constexpr int COUNTED = 4;    // rows, and vectors of outputs, whose counts stay in registers
constexpr int LINE = 64;      // bytes of a cache line, and of the widest vector

#ifdef FLOW_POPCOUNT_LANES
typedef u64 Lanes __attribute__((vector_size(64)));
constexpr int LANES = 8, VECTORS = 4;
inline Lanes popcount(Lanes v) { return (Lanes)_mm512_popcnt_epi64((__m512i)v); }
inline Lanes lanes(const u64* p) { return (Lanes)_mm512_loadu_si512(p); }
#else  // the instruction for one word at a time is faster than what narrower vectors have
typedef u64 Lanes;
constexpr int LANES = 1, VECTORS = 2;
inline Lanes popcount(Lanes v) { return __builtin_popcountll(v); }
inline Lanes lanes(const u64* p) { return *p; }
#endif

#if defined(__AVX512F__)
constexpr int VECTOR = 64, PRODUCTS = 8;  // bytes of a vector; rows whose sums stay in registers
#elif defined(__AVX__)
constexpr int VECTOR = 32, PRODUCTS = 4;
#else
constexpr int VECTOR = 16, PRODUCTS = 4;
#endif
template <class T> struct VectorOf { typedef T type __attribute__((vector_size(VECTOR), aligned(alignof(T)))); };
template <class T> using Vector = typename VectorOf<T>::type;

inline size_t words_of(size_t bits) { return (bits + 63) / 64; }
inline u64 low_bits(size_t n) { return n < 64 ? (u64(1) << n) - 1 : ~u64(0); }

// 64 bits from bit `at` on; the word behind is read, too.
inline u64 bits_at(const u64* p, size_t at) {
    const size_t shift = at % 64;
    p += at / 64;
    return shift ? p[0] >> shift | p[1] << (64 - shift) : p[0];
}

// Sets bits `at` to `at + n` of zeroed words to the lowest n of one, n from 1 to 64; those above are 0.
inline void put_bits(u64* to, size_t at, u64 bits, size_t n) {
    const size_t shift = at % 64;
    to += at / 64;
    to[0] |= bits << shift;
    if (shift + n > 64) to[1] |= bits >> (64 - shift);
}

// Sets bits `at` to `at + n` of zeroed words.
inline void copy_bits(u64* to, size_t at, const u64* from, size_t start, size_t n) {
    if (((at | start | n) & 63) == 0) {
        std::memcpy(to + at / 64, from + start / 64, n / 8);
        return;
    }
    for (size_t k = 0; k < n; k += 64) {
        const size_t m = std::min<size_t>(64, n - k);
        put_bits(to, at + k, bits_at(from, start + k) & low_bits(m), m);
    }
}

// Bit k is x[k] >= t[k]; n up to 64.
template <class S> inline u64 reached(const S* x, const S* t, size_t n) {
#ifdef FLOW_POPCOUNT_LANES
    if (sizeof(S) == 4 && n == 64) {
        u64 word = 0;
        for (int k = 0; k < 4; k++)
            word |= u64(_mm512_cmpge_epi32_mask(_mm512_loadu_si512(x + 16 * k), _mm512_loadu_si512(t + 16 * k)))
                    << 16 * k;
        return word;
    }
#endif
    u64 word = 0;
    for (size_t half = 0; half < n; half += 32) {
        u32 bits = 0;
        const size_t m = std::min<size_t>(32, n - half);
        for (size_t k = 0; k < m; k++) bits |= u32(x[half + k] >= t[half + k]) << k;
        word |= u64(bits) << half;
    }
    return word;
}

// Bit k is bit `plane` of x[k] - lo; n up to 64.
template <class S> inline u64 plane_of(const S* x, S lo, int plane, size_t n) {
    u64 word = 0;
    for (size_t half = 0; half < n; half += 32) {
        u32 bits = 0;
        const size_t m = std::min<size_t>(32, n - half);
        for (size_t k = 0; k < m; k++) bits |= (u32(x[half + k] - lo) >> plane & 1) << k;
        word |= u64(bits) << half;
    }
    return word;
}

// The numbers of a program, one after the other.
struct Reader {
    const i64* at;
    i64 next() { return *at++; }
    template <class T> const T* array() { return reinterpret_cast<const T*>(static_cast<intptr_t>(next())); }
    // A copy of an array of int64 as S, modulo its range.
    template <class S> std::vector<S> copy(size_t n) {
        const i64* from = array<i64>();
        return std::vector<S>(from, from + n);
    }
};

struct Tensor {
    i64 planes, wide, lo, size;  // planes 0: int64 where wide, else int32
    size_t words, stride, offset;  // 64-bit words of a plane; bytes of a sample, and of those before it
};

// A thread's samples, and room for what heads need on the way.
struct Tile {
    size_t samples;
    const std::vector<Tensor>& tensors;
    u8* arena;
    size_t capacity;  // samples that there is room for
    u8* scratch;

    u8* at(int tensor, size_t sample) const {
        const Tensor& t = tensors[tensor];
        return arena + t.offset * capacity + t.stride * sample;
    }
    const u64* plane(int tensor, size_t sample, size_t p) const {
        return reinterpret_cast<const u64*>(at(tensor, sample)) + p * tensors[tensor].words;
    }
};

// Elements of a sample as a * code + b.
template <class S> void load(const Tile& tile, int tensor, size_t sample, size_t from, size_t n, S* out, S a, S b) {
    const Tensor& t = tile.tensors[tensor];
    const u8* data = tile.at(tensor, sample);
    if (!t.planes) {
        if (t.wide)
            for (size_t k = 0; k < n; k++) out[k] = a * S(reinterpret_cast<const i64*>(data)[from + k]) + b;
        else
            for (size_t k = 0; k < n; k++) out[k] = a * S(reinterpret_cast<const i32*>(data)[from + k]) + b;
        return;
    }
    const S lowest = a * S(t.lo) + b;
    for (int p = 0; p < t.planes; p++) {
        const u64* plane = tile.plane(tensor, sample, p);
        const S weight = a * S(1 << p);
        for (size_t first = 0; first < n; first += 32) {
            const u32 bits = u32(bits_at(plane, from + first));
            const size_t m = std::min<size_t>(32, n - first);
            S* to = out + first;
            if (p)
                for (size_t k = 0; k < m; k++) to[k] += bits >> k & 1 ? weight : S(0);
            else
                for (size_t k = 0; k < m; k++) to[k] = bits >> k & 1 ? S(lowest + weight) : lowest;
        }
    }
}

// Codes to elements of a sample. Bits that begin or end inside a word are added to words that have been zeroed.
template <class S> void store(const Tile& tile, int tensor, size_t sample, size_t to, size_t n, const S* x) {
    const Tensor& t = tile.tensors[tensor];
    u8* data = tile.at(tensor, sample);
    if (!t.planes) {
        if (t.wide)
            for (size_t k = 0; k < n; k++) reinterpret_cast<i64*>(data)[to + k] = x[k];
        else
            for (size_t k = 0; k < n; k++) reinterpret_cast<i32*>(data)[to + k] = i32(x[k]);
        return;
    }
    for (int p = 0; p < t.planes; p++) {
        u64* plane = reinterpret_cast<u64*>(data) + p * t.words;
        for (size_t first = 0; first < n; first += 64) {
            const size_t m = std::min<size_t>(64, n - first);
            put_bits(plane, to + first, plane_of(x + first, S(t.lo), p, m), m);
        }
    }
}

// Where the elements of a row of taps come from: `taps` neighbours of `length` channels each, beside one another in the
// image and in the row.
struct Segment {
    i64 y, x, taps, channel, length, at;
};

// Rows of taps of an image; without a window, an image of one row whose pixels are the positions.
struct Taps {
    i64 source, height, width, channels, columns, stride_y, stride_x, pad_y, pad_x;
    std::vector<Segment> segments;

    explicit Taps(Reader& r) {
        for (i64* field : {&source, &height, &width, &channels, &columns, &stride_y, &stride_x, &pad_y, &pad_x})
            *field = r.next();
        segments.resize(r.next());
        for (Segment& s : segments)
            for (i64* field : {&s.y, &s.x, &s.taps, &s.channel, &s.length, &s.at}) *field = r.next();
    }

    // take(segment, first element in the image, first one in the row, how many) for all that is inside the image.
    template <class Take> void each(size_t position, Take take) const {
        const i64 top = i64(position) / columns * stride_y - pad_y, left = i64(position) % columns * stride_x - pad_x;
        for (const Segment& s : segments) {
            const i64 y = top + s.y, x = left + s.x;
            const i64 first = std::max<i64>(0, -x), last = std::min(s.taps, width - x);
            if (y >= 0 && y < height && first < last)
                take(s, size_t(((y * width + x + first) * channels) + s.channel), size_t(s.at + first * s.length),
                     size_t((last - first) * s.length));
        }
    }
};

// Makes `n` rows of a tensor, from row `first` on, counted over all samples of the tile.
template <class S> struct Head {
    virtual ~Head() = default;
    virtual size_t scratch() const { return 0; }
    virtual void rows(const Tile& tile, size_t first, size_t n, S* out) const = 0;
    // A whole sample to a tensor of bit planes, without tails; false where there is no shorter way than by rows.
    virtual bool whole(const Tile&, size_t, int) const { return false; }
};

template <class S> struct Stored : Head<S> {
    int source;
    size_t positions, channels;
    Stored(Reader& r, size_t positions, size_t channels) : source(r.next()), positions(positions), channels(channels) {}
    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        for (size_t k = 0; k < n; k++) {
            const size_t sample = (first + k) / positions, p = (first + k) % positions;
            load<S>(tile, source, sample, p * channels, channels, out + k * channels, 1, 0);
        }
    }
};

template <class S> struct Gather : Head<S> {
    std::vector<int> sources;
    const i32* of;  // the source of every element; null where there is one
    const i32* index;
    std::vector<i64> runs;  // element, source, element of it, how many: where elements come in long runs
    size_t positions, channels;

    Gather(Reader& r, size_t positions, size_t channels) : positions(positions), channels(channels) {
        sources.resize(r.next());
        for (int& source : sources) source = r.next();
        of = r.array<i32>();
        index = r.array<i32>();
        const size_t n = r.next();
        const i64* from = r.array<i64>();
        runs.assign(from, from + 4 * n);
    }
    S code(const Tile& tile, size_t sample, size_t k) const {
        const int source = sources[of ? of[k] : 0];
        const Tensor& t = tile.tensors[source];
        if (!t.planes)
            return t.wide ? S(reinterpret_cast<const i64*>(tile.at(source, sample))[index[k]])
                          : S(reinterpret_cast<const i32*>(tile.at(source, sample))[index[k]]);
        S code = S(t.lo);
        for (int p = 0; p < t.planes; p++)
            code += S(tile.plane(source, sample, p)[index[k] / 64] >> index[k] % 64 & 1) << p;
        return code;
    }
    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        const bool plain = !of && !tile.tensors[sources[0]].planes && !tile.tensors[sources[0]].wide;
        for (size_t k = 0; k < n; k++) {
            const size_t sample = (first + k) / positions, from = (first + k) % positions * channels;
            const i32* data = reinterpret_cast<const i32*>(tile.at(sources[0], sample));
            S* row = out + k * channels;
            if (plain)
                for (size_t c = 0; c < channels; c++) row[c] = S(data[index[from + c]]);
            else
                for (size_t c = 0; c < channels; c++) row[c] = code(tile, sample, from + c);
        }
    }
    bool whole(const Tile& tile, size_t sample, int target) const override {
        const Tensor& t = tile.tensors[target];
        for (int source : sources)
            if (tile.tensors[source].planes != t.planes) return false;
        for (int p = 0; p < t.planes; p++) {
            u64* to = reinterpret_cast<u64*>(tile.at(target, sample)) + p * t.words;
            for (size_t k = 0; k < runs.size(); k += 4)
                copy_bits(to, runs[k], tile.plane(sources[runs[k + 1]], sample, p), runs[k + 2], runs[k + 3]);
            if (runs.empty()) {
                std::vector<const u64*> planes;
                for (int source : sources) planes.push_back(tile.plane(source, sample, p));
                for (i64 first = 0; first < t.size; first += 64) {
                    const size_t m = std::min<i64>(64, t.size - first);
                    const i32* at = index + first;
                    const u64* from = planes[0];
                    u64 word = 0;
                    if (of)
                        for (size_t k = 0; k < m; k++)
                            word |= (planes[of[first + k]][u32(at[k]) / 64] >> at[k] % 64 & 1) << k;
                    else
                        for (size_t k = 0; k < m; k++) word |= (from[u32(at[k]) / 64] >> at[k] % 64 & 1) << k;
                    to[first / 64] = word;
                }
            }
        }
        return true;
    }
};

template <class S> struct Add : Head<S> {
    int sources[2];
    S scales[2], constant;
    size_t positions, channels;
    Add(Reader& r, size_t positions, size_t channels) : positions(positions), channels(channels) {
        for (int k = 0; k < 2; k++) sources[k] = r.next(), scales[k] = S(r.next());
        constant = S(r.next());
    }
    size_t scratch() const override { return channels * sizeof(S); }
    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        S* other = reinterpret_cast<S*>(tile.scratch);
        for (size_t k = 0; k < n; k++, out += channels) {
            const size_t sample = (first + k) / positions, from = (first + k) % positions * channels;
            load<S>(tile, sources[0], sample, from, channels, out, scales[0], constant);
            load<S>(tile, sources[1], sample, from, channels, other, scales[1], 0);
            for (size_t c = 0; c < channels; c++) out[c] += other[c];
        }
    }
};

template <class S> struct Max : Head<S> {
    Taps taps;
    size_t positions, channels;
    Max(Reader& r, size_t positions, size_t channels) : taps(r), positions(positions), channels(channels) {}
    size_t scratch() const override { return channels * sizeof(S) + LINE; }
    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        S* one = reinterpret_cast<S*>(tile.scratch);
        const S lowest = S(tile.tensors[taps.source].lo);
        for (size_t k = 0; k < n; k++, out += channels) {
            std::fill(out, out + channels, lowest);
            taps.each((first + k) % positions, [&](const Segment&, size_t from, size_t, size_t) {
                load<S>(tile, taps.source, (first + k) / positions, from, channels, one, 1, 0);
                for (size_t c = 0; c < channels; c++) out[c] = std::max(out[c], one[c]);
            });
        }
    }
    bool whole(const Tile& tile, size_t sample, int target) const override {
        if (tile.tensors[target].planes != 1 || tile.tensors[taps.source].planes != 1) return false;
        // Of one bit, the largest is the OR.
        u64* to = reinterpret_cast<u64*>(tile.at(target, sample));
        const u64* from = tile.plane(taps.source, sample, 0);
        for (size_t p = 0; p < positions; p++)
            taps.each(p, [&](const Segment&, size_t start, size_t, size_t) {
                if (channels % 64)
                    copy_bits(to, p * channels, from, start, channels);
                else
                    for (size_t w = 0; w < channels / 64; w++) to[p * channels / 64 + w] |= from[start / 64 + w];
            });
        return true;
    }
};

// A sum by counting: level = least + sum of digits times their weight, each a bit plane of the levels, and code = lo +
// its planes. Then sum(level * (a*code + b)) over the present taps is
//     a * sum_q weight_q * #(codes & digits_q)  +  a * least * #(codes)  +  (a*lo + b) * sum(level),
// where #() counts bits, those of plane p times 2^p. The last term has one value a class of borders and output.
template <class S> struct Count : Head<S> {
    Taps taps;
    size_t positions, channels, groups, inputs, outputs, digits, planes, words, vectors;
    std::vector<u64> kernel;  // (group, digit, vector of outputs, word, lane)
    std::vector<S> least, weights, constants;  // (channels), (digit, channels), (class, channels)
    const i32* classes;                        // of every position
    bool total;                                // some `least` is not 0

    Count(Reader& r, size_t positions, size_t channels) : taps(r), positions(positions), channels(channels) {
        groups = r.next(), inputs = r.next(), digits = r.next(), planes = r.next();
        outputs = channels / groups, words = words_of(inputs), vectors = (outputs + LANES - 1) / LANES;
        const u64* bits = r.array<u64>();  // (digit, channels, word)
        kernel.assign(groups * digits * vectors * words * LANES, 0);
        for (size_t g = 0; g < groups; g++)
            for (size_t q = 0; q < digits; q++)
                for (size_t o = 0; o < outputs; o++)
                    for (size_t w = 0; w < words; w++)
                        kernel[(((g * digits + q) * vectors + o / LANES) * words + w) * LANES + o % LANES] =
                            bits[(q * channels + g * outputs + o) * words + w];
        least = r.copy<S>(channels), weights = r.copy<S>(digits * channels);
        total = std::any_of(least.begin(), least.end(), [](S l) { return l != 0; });
        classes = r.array<i32>();
        constants = r.copy<S>(channels * r.next());
    }
    size_t row() const { return planes * groups * words; }
    size_t scratch() const override { return ROWS * row() * 8; }

    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        u64* patches = reinterpret_cast<u64*>(tile.scratch);
        std::memset(patches, 0, ROWS * row() * 8);
        for (size_t k = 0; k < n; k++)
            taps.each((first + k) % positions, [&](const Segment&, size_t from, size_t at, size_t m) {
                for (size_t p = 0; p < planes; p++)
                    copy_bits(patches + k * row() + p * groups * words, at,
                              tile.plane(taps.source, (first + k) / positions, p), from, m);
            });
        for (size_t g = 0; g < groups; g++)
            for (size_t k = 0; k < n; k += COUNTED) {
                const u64* x = patches + k * row() + g * words;
                const size_t m = std::min<size_t>(COUNTED, n - k);
                for (size_t q = 0; q < digits; q++)
                    for (size_t v = 0; v < vectors;) {
                        const size_t left = vectors - v;
                        if (left >= VECTORS) sums<VECTORS>(x, g, q, v, m, first + k, out + k * channels), v += VECTORS;
                        else if (left >= 2) sums<2>(x, g, q, v, m, first + k, out + k * channels), v += 2;
                        else sums<1>(x, g, q, v, m, first + k, out + k * channels), v++;
                    }
            }
    }

    // Adds what V vectors of a group's outputs count of one digit to the sums of m rows.
    template <int V> void sums(const u64* x, size_t g, size_t q, size_t v, size_t m, size_t first, S* out) const {
        const u64* w = kernel.data() + ((g * digits + q) * vectors + v) * words * LANES;
        Lanes counts[COUNTED][V] = {};
        for (size_t p = planes; p--;) {
            const u64* plane = x + p * groups * words;
            for (auto& of_row : counts)
                for (Lanes& c : of_row) c <<= 1;
            for (size_t k = 0; k < words; k++)
                for (int j = 0; j < V; j++) {
                    const Lanes bits = lanes(w + (j * words + k) * LANES);
                    for (int i = 0; i < COUNTED; i++) counts[i][j] += popcount(plane[i * row() + k] & bits);
                }
        }
        u64 found[COUNTED][V * LANES];
        std::memcpy(found, counts, sizeof counts);
        const size_t o = g * outputs + v * LANES, some = std::min<size_t>(V * LANES, outputs - v * LANES);
        const S* weight = weights.data() + q * channels + o;
        for (size_t i = 0; i < m; i++) {
            S* sum = out + i * channels + o;
            if (q) {
                for (size_t k = 0; k < some; k++) sum[k] += weight[k] * S(found[i][k]);
                continue;
            }
            const S* constant = constants.data() + classes[(first + i) % positions] * channels + o;
            const S all = total ? ones(x + i * row()) : S(0);
            for (size_t k = 0; k < some; k++)
                sum[k] = weight[k] * S(found[i][k]) + least[o + k] * all + constant[k];
        }
    }

    S ones(const u64* x) const {
        u64 count = 0;
        for (size_t p = planes; p--;) {
            count <<= 1;
            for (size_t k = 0; k < words; k++) count += __builtin_popcountll(x[p * groups * words + k]);
        }
        return S(count);
    }
};

// A sum by multiplication, in T: float while it is exact, else S.
template <class S, class T> struct Product : Head<S> {
    static constexpr int L = VECTOR / sizeof(T);
    Taps taps;
    size_t positions, channels, groups, inputs, outputs, vectors;
    T a, b;
    std::vector<T> kernel;  // (group, vector of outputs, input, lane)

    Product(Reader& r, size_t positions, size_t channels) : taps(r), positions(positions), channels(channels) {
        groups = r.next(), inputs = r.next(), a = T(r.next()), b = T(r.next());
        outputs = channels / groups, vectors = (outputs + L - 1) / L;
        const i64* levels = r.array<i64>();  // (inputs, channels)
        kernel.assign(groups * vectors * inputs * L, 0);
        for (size_t g = 0; g < groups; g++)
            for (size_t o = 0; o < outputs; o++)
                for (size_t k = 0; k < inputs; k++)
                    kernel[((g * vectors + o / L) * inputs + k) * L + o % L] = T(levels[k * channels + g * outputs + o]);
    }
    size_t row() const { return groups * inputs; }
    size_t scratch() const override { return ROWS * row() * sizeof(T); }

    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        T* patches = reinterpret_cast<T*>(tile.scratch);
        std::memset(patches, 0, ROWS * row() * sizeof(T));
        for (size_t k = 0; k < n; k++)
            taps.each((first + k) % positions, [&](const Segment&, size_t from, size_t at, size_t m) {
                load<T>(tile, taps.source, (first + k) / positions, from, m, patches + k * row() + at, a, b);
            });
        for (size_t g = 0; g < groups; g++)
            for (size_t v = 0; v < vectors;)
                if (vectors - v >= 2) sums<2>(patches, g, v, n, out), v += 2;
                else sums<1>(patches, g, v, n, out), v++;
    }

    template <int V> void sums(const T* patches, size_t g, size_t v, size_t n, S* out) const {
        const T* w = kernel.data() + (g * vectors + v) * inputs * L;
        const size_t o = g * outputs + v * L, some = std::min<size_t>(V * L, outputs - v * L);
        for (size_t k = 0; k < n; k += PRODUCTS) {
            const T* x = patches + k * row() + g * inputs;
            Vector<T> sums[PRODUCTS][V] = {};
            for (size_t i = 0; i < inputs; i++)
                for (int j = 0; j < V; j++) {
                    const Vector<T> level = *reinterpret_cast<const Vector<T>*>(w + (j * inputs + i) * L);
                    for (int r = 0; r < PRODUCTS; r++) sums[r][j] += x[r * row() + i] * level;
                }
            T found[PRODUCTS][V * L];
            std::memcpy(found, sums, sizeof sums);
            for (size_t r = 0; r < std::min<size_t>(PRODUCTS, n - k); r++)
                for (size_t c = 0; c < some; c++) out[(k + r) * channels + o + c] = S(found[r][c]);
        }
    }
};

#ifdef FLOW_BYTES
// A sum by products of bytes, four at a time, where code - lo and levels are bytes: a * sum(level * (code - lo)), plus
// (a*lo + b) * sum(level), of which there is one value a class of borders and output, as in Count.
template <class S> struct Bytes : Head<S> {
    static constexpr int L = 16;
    Taps taps;
    size_t positions, channels, groups, inputs, outputs, quads, vectors;
    S a;
    u8 lowest;                     // -lo, modulo 256 as all bytes
    std::vector<int8_t> kernel;    // (group, vector of outputs, four inputs, lane, one of four)
    std::vector<S> constants;      // (class, channels)
    const i32* classes;            // of every position

    Bytes(Reader& r, size_t positions, size_t channels) : taps(r), positions(positions), channels(channels) {
        groups = r.next(), inputs = r.next(), a = S(r.next()), lowest = u8(-r.next());
        outputs = channels / groups, quads = (inputs + 3) / 4, vectors = (outputs + L - 1) / L;
        const i64* levels = r.array<i64>();  // (inputs, channels)
        kernel.assign(groups * vectors * quads * L * 4, 0);
        for (size_t g = 0; g < groups; g++)
            for (size_t o = 0; o < outputs; o++)
                for (size_t k = 0; k < inputs; k++)
                    kernel[(((g * vectors + o / L) * quads + k / 4) * L + o % L) * 4 + k % 4] =
                        int8_t(levels[k * channels + g * outputs + o]);
        classes = r.array<i32>();
        constants = r.copy<S>(channels * r.next());
    }
    size_t row() const { return groups * quads * 4; }
    size_t scratch() const override { return ROWS * row(); }

    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        u8* patches = tile.scratch;
        std::memset(patches, 0, ROWS * row());
        for (size_t k = 0; k < n; k++)
            taps.each((first + k) % positions, [&](const Segment&, size_t from, size_t at, size_t m) {
                load<u8>(tile, taps.source, (first + k) / positions, from, m, patches + k * row() + at, 1, lowest);
            });
        for (size_t g = 0; g < groups; g++)
            for (size_t v = 0; v < vectors;) {
                const size_t left = vectors - v;
                if (left >= 4) sums<4>(patches, g, v, first, n, out), v += 4;
                else if (left >= 2) sums<2>(patches, g, v, first, n, out), v += 2;
                else sums<1>(patches, g, v, first, n, out), v++;
            }
    }

    template <int V> void sums(const u8* patches, size_t g, size_t v, size_t first, size_t n, S* out) const {
        const int8_t* w = kernel.data() + (g * vectors + v) * quads * L * 4;
        const size_t o = g * outputs + v * L, some = std::min<size_t>(V * L, outputs - v * L);
        for (size_t k = 0; k < n; k += COUNTED) {
            const u8* x = patches + k * row() + g * quads * 4;
            __m512i sums[COUNTED][V];
            for (auto& of_row : sums)
                for (__m512i& sum : of_row) sum = _mm512_setzero_si512();
            for (size_t i = 0; i < quads; i++)
                for (int r = 0; r < COUNTED; r++) {
                    i32 four;
                    std::memcpy(&four, x + r * row() + i * 4, 4);
                    for (int j = 0; j < V; j++)
                        sums[r][j] = _mm512_dpbusd_epi32(sums[r][j], _mm512_set1_epi32(four),
                                                         _mm512_loadu_si512(w + (j * quads + i) * L * 4));
                }
            i32 found[COUNTED][V * L];
            std::memcpy(found, sums, sizeof sums);
            for (size_t r = 0; r < std::min<size_t>(COUNTED, n - k); r++) {
                const S* constant = constants.data() + classes[(first + k + r) % positions] * channels + o;
                S* sum = out + (k + r) * channels + o;
                for (size_t c = 0; c < some; c++) sum[c] = a * S(found[r][c]) + constant[c];
            }
        }
    }
};
#endif

// A sum over taps within each channel, of which there are `times` outputs each.
template <class S> struct Depthwise : Head<S> {
    Taps taps;
    size_t positions, channels, times;
    S a, b;
    std::vector<S> kernel;  // (tap, channels)
    Depthwise(Reader& r, size_t positions, size_t channels) : taps(r), positions(positions), channels(channels) {
        times = r.next(), a = S(r.next()), b = S(r.next());
        kernel = r.copy<S>(taps.segments.size() * channels);
    }
    size_t scratch() const override { return channels * sizeof(S); }
    void rows(const Tile& tile, size_t first, size_t n, S* out) const override {
        S* x = reinterpret_cast<S*>(tile.scratch);
        const size_t inputs = channels / times;
        for (size_t k = 0; k < n; k++, out += channels) {
            std::fill(out, out + channels, S(0));
            taps.each((first + k) % positions, [&](const Segment& tap, size_t from, size_t, size_t) {
                load<S>(tile, taps.source, (first + k) / positions, from, inputs, x, a, b);
                const S* level = kernel.data() + (&tap - taps.segments.data()) * channels;
                if (times == 1)
                    for (size_t c = 0; c < channels; c++) out[c] += level[c] * x[c];
                else
                    for (size_t c = 0; c < channels; c++) out[c] += level[c] * x[c / times];
            });
        }
    }
};

// Changes the rows of a tensor in place.
template <class S> struct Tail {
    virtual ~Tail() = default;
    virtual void apply(S* x, size_t channels) const = 0;
};

template <class S> struct Steps : Tail<S> {
    size_t count;
    std::vector<S> thresholds, start, sign;  // thresholds (count, channels)
    Steps(Reader& r, size_t channels) : count(r.next()) {
        thresholds = r.copy<S>(count * channels), start = r.copy<S>(channels), sign = r.copy<S>(channels);
    }
    void apply(S* x, size_t channels) const override {
        for (size_t first = 0; first < channels; first += 64) {
            const size_t m = std::min<size_t>(64, channels - first);
            S found[64] = {};
            for (size_t k = 0; k < count; k++) {
                const S* t = thresholds.data() + k * channels + first;
                for (size_t c = 0; c < m; c++) found[c] += x[first + c] >= t[c] ? S(1) : S(0);
            }
            for (size_t c = 0; c < m; c++) x[first + c] = start[first + c] + sign[first + c] * found[c];
        }
    }
};

template <class S> struct Search : Tail<S> {  // the same of many thresholds
    size_t count;
    std::vector<S> thresholds, start, sign;  // thresholds (channels, count)
    Search(Reader& r, size_t channels) : count(r.next()) {
        thresholds = r.copy<S>(count * channels), start = r.copy<S>(channels), sign = r.copy<S>(channels);
    }
    void apply(S* x, size_t channels) const override {
        for (size_t c = 0; c < channels; c++) {
            const S* row = thresholds.data() + c * count;
            x[c] = start[c] + sign[c] * S(std::upper_bound(row, row + count, x[c]) - row);
        }
    }
};

template <class S> struct Table : Tail<S> {
    size_t rows, size;
    S lo;
    std::vector<S> codes;  // (channels or 1, size)
    Table(Reader& r, size_t) : rows(r.next()), size(r.next()), lo(S(r.next())) { codes = r.copy<S>(rows * size); }
    void apply(S* x, size_t channels) const override {
        const size_t step = rows > 1 ? size : 0;
        for (size_t c = 0; c < channels; c++) x[c] = codes[c * step + size_t(x[c] - lo)];
    }
};

template <class S> struct Affine : Tail<S> {
    std::vector<i64> mul, add;
    int shift;
    Affine(Reader& r, size_t channels) {
        mul = r.copy<i64>(channels), add = r.copy<i64>(channels), shift = int(r.next());
    }
    void apply(S* x, size_t channels) const override {
        for (size_t c = 0; c < channels; c++) x[c] = S((mul[c] * i64(x[c]) + add[c]) >> shift);
    }
};

template <class S> struct Scale : Tail<S> {
    S scale, constant;
    Scale(Reader& r, size_t) : scale(S(r.next())), constant(S(r.next())) {}
    void apply(S* x, size_t channels) const override {
        for (size_t c = 0; c < channels; c++) x[c] = scale * x[c] + constant;
    }
};

template <class S> struct Argmax : Tail<S> {
    Argmax(Reader&, size_t) {}
    void apply(S* x, size_t channels) const override { x[0] = S(std::max_element(x, x + channels) - x); }
};

struct Step {
    virtual ~Step() = default;
    virtual size_t scratch() const = 0;
    virtual void run(Tile& tile) const = 0;
};

template <class S> struct Fused : Step {
    int target;
    size_t positions, channels, kept;  // kept: channels that are stored, 1 behind an argmax
    std::unique_ptr<Head<S>> head;
    std::vector<std::unique_ptr<Tail<S>>> tails;
    const Steps<S>* last = nullptr;  // one threshold whose result is stored as a bit
    std::vector<u64> inverted;       // channels where that bit is 1 below it

    Fused(Reader& r, const std::vector<Tensor>& tensors) {
        target = r.next(), positions = r.next(), channels = r.next();
        kept = tensors[target].size / positions;
        head = make_head(r);
        for (size_t n = r.next(); n--;) tails.push_back(make_tail(r));
        if (!tails.empty() && tensors[target].planes == 1) last = dynamic_cast<const Steps<S>*>(tails.back().get());
        if (last && last->count != 1) last = nullptr;
        inverted.assign(words_of(channels) + 1, 0);
        for (size_t c = 0; last && c < channels; c++)
            inverted[c / 64] |= u64(last->start[c] - S(tensors[target].lo)) % 2 << c % 64;
    }

    std::unique_ptr<Head<S>> make_head(Reader& r) {
        switch (r.next()) {
        case 0: return std::make_unique<Stored<S>>(r, positions, channels);
        case 1: return std::make_unique<Gather<S>>(r, positions, channels);
        case 2: return std::make_unique<Add<S>>(r, positions, channels);
        case 3: return std::make_unique<Max<S>>(r, positions, channels);
        case 4: return std::make_unique<Count<S>>(r, positions, channels);
        case 5: return std::make_unique<Product<S, float>>(r, positions, channels);
        case 6: return std::make_unique<Product<S, S>>(r, positions, channels);
#ifdef FLOW_BYTES
        case 8: return std::make_unique<Bytes<S>>(r, positions, channels);
#endif
        default: return std::make_unique<Depthwise<S>>(r, positions, channels);
        }
    }
    std::unique_ptr<Tail<S>> make_tail(Reader& r) {
        switch (r.next()) {
        case 0: return std::make_unique<Steps<S>>(r, channels);
        case 1: return std::make_unique<Search<S>>(r, channels);
        case 2: return std::make_unique<Table<S>>(r, channels);
        case 3: return std::make_unique<Affine<S>>(r, channels);
        case 4: return std::make_unique<Scale<S>>(r, channels);
        default: return std::make_unique<Argmax<S>>(r, channels);
        }
    }

    // Rows begin on a cache line, behind the head's own room.
    size_t own() const { return (head->scratch() + 2 * LINE) / LINE * LINE; }
    size_t block() const { return std::max<size_t>(1, std::min<size_t>(ROWS, 65536 / channels)); }
    size_t scratch() const override { return own() + block() * channels * sizeof(S) + LINE; }

    void run(Tile& tile) const override {
        const Tensor& t = tile.tensors[target];
        for (size_t s = 0; t.planes && s < tile.samples; s++) std::memset(tile.at(target, s), 0, t.stride);
        if (tails.empty() && t.planes && head->whole(tile, 0, target)) {
            for (size_t s = 1; s < tile.samples; s++) head->whole(tile, s, target);
            return;
        }
        S* rows = reinterpret_cast<S*>(tile.scratch + own());
        const size_t all = tile.samples * positions;
        for (size_t first = 0; first < all; first += block()) {
            const size_t n = std::min(block(), all - first);
            head->rows(tile, first, n, rows);
            for (size_t k = 0; k < n; k++) finish(tile, first + k, rows + k * channels);
        }
    }

    void finish(const Tile& tile, size_t row, S* x) const {
        const size_t sample = row / positions, at = row % positions * kept;
        for (const auto& tail : tails)
            if (tail.get() != last) tail->apply(x, channels);
        if (!last) {
            store(tile, target, sample, at, kept, x);
            return;
        }
        u64* plane = reinterpret_cast<u64*>(tile.at(target, sample));
        for (size_t first = 0; first < channels; first += 64) {
            const size_t m = std::min<size_t>(64, channels - first);
            put_bits(plane, at + first, reached(x + first, last->thresholds.data() + first, m) ^ inverted[first / 64], m);
        }
    }
};

// What a caller hands in: codes of an integer type, or real values of a floating-point type.
struct Input {
    int tensor;
    i64 lo, hi;
    double scale, offset;
};

// True where some number is no code; what is written in its place means nothing. Without branches, for vectors.
template <class T> bool codes_of(const T* x, size_t n, const Input& in, bool round, i32* codes) {
    if constexpr (std::is_floating_point<T>::value) {
        const double lo = double(in.lo), hi = double(in.hi);
        int power;
        const double factor = 1 / in.scale;  // of a power of two: times it is division, bit for bit
        const bool exact = std::frexp(in.scale, &power) == 0.5 && std::isfinite(factor);
        i64 bad = 0;
        auto all = [&](auto divided) {
            for (size_t k = 0; k < n; k++) {
                const double scaled = divided(double(x[k]) - in.offset), code = std::nearbyint(scaled);
                const bool good = (code >= lo) & (code <= hi) & (round | (code == scaled));  // false for no number
                bad |= good ? 0 : 1;
                codes[k] = i32(good ? code : 0.0);
            }
        };
        if (exact) all([=](double v) { return v * factor; });
        else all([&](double v) { return v / in.scale; });
        return bad;
    } else {
        T least = n ? x[0] : T(in.lo), most = least;
        for (size_t k = 0; k < n; k++) least = std::min(least, x[k]), most = std::max(most, x[k]);
        for (size_t k = 0; k < n; k++) codes[k] = i32(x[k]);
        const bool huge = std::is_unsigned<T>::value && sizeof(T) == 8 && u64(most) > u64(INT64_MAX);
        return huge || i64(least) < in.lo || i64(most) > in.hi;
    }
}

struct Program {
    std::vector<Tensor> tensors;
    std::vector<Input> inputs;
    std::vector<int> outputs;
    std::vector<std::unique_ptr<Step>> steps;
    size_t sample = 0, scratch = 0, widest = 0;  // bytes; elements of the largest input

    explicit Program(Reader r) {
        tensors.resize(r.next());
        for (Tensor& t : tensors) {
            t.planes = r.next(), t.wide = r.next(), t.lo = r.next(), t.size = r.next();
            t.words = words_of(t.size) + 1;  // bits_at looks one further
            const size_t bytes = t.planes ? t.planes * t.words * 8 : t.size * (t.wide ? 8 : 4);
            t.stride = (bytes + 7) / 8 * 8, t.offset = sample;
            sample += t.stride;
        }
        inputs.resize(r.next());
        for (Input& in : inputs) {
            in.tensor = r.next(), in.lo = r.next(), in.hi = r.next();
            const double* real = r.array<double>();
            in.scale = real[0], in.offset = real[1];
            widest = std::max(widest, size_t(tensors[in.tensor].size));
        }
        outputs.resize(r.next());
        for (int& output : outputs) output = r.next();
        for (size_t n = r.next(); n--;)
            if (r.next()) steps.push_back(std::make_unique<Fused<i64>>(r, tensors));
            else steps.push_back(std::make_unique<Fused<i32>>(r, tensors));
        for (const auto& step : steps) scratch = std::max(scratch, step->scratch());
        scratch = std::max(scratch, widest * 4);
    }

    // Samples of a tile: as many as a core's own cache holds.
    size_t tile() const { return std::max<size_t>(1, std::min<size_t>(256, (size_t(1) << 20) / std::max<size_t>(1, sample))); }

    template <class T> bool take(Tile& tile, const Input& in, const void* data, size_t first, bool round) const {
        const Tensor& t = tensors[in.tensor];
        bool bad = false;
        for (size_t s = 0; s < tile.samples; s++) {
            const T* x = static_cast<const T*>(data) + (first + s) * t.size;
            i32* codes = reinterpret_cast<i32*>(t.planes ? tile.scratch : tile.at(in.tensor, s));
            bad |= codes_of(x, t.size, in, round, codes);
            if (t.planes) {
                std::memset(tile.at(in.tensor, s), 0, t.stride);
                store(tile, in.tensor, s, 0, t.size, codes);
            }
        }
        return bad;
    }

    // False where an input is outside its domain, or off its grid.
    bool run(Tile& tile, const void* const* data, const u8* kinds, size_t first, bool round, i64* const* results) const {
        bool bad = false;
        for (size_t k = 0; k < inputs.size(); k++) switch (kinds[k]) {
            case 0: bad |= take<int8_t>(tile, inputs[k], data[k], first, round); break;
            case 1: bad |= take<int16_t>(tile, inputs[k], data[k], first, round); break;
            case 2: bad |= take<i32>(tile, inputs[k], data[k], first, round); break;
            case 3: bad |= take<i64>(tile, inputs[k], data[k], first, round); break;
            case 4: bad |= take<u8>(tile, inputs[k], data[k], first, round); break;
            case 5: bad |= take<uint16_t>(tile, inputs[k], data[k], first, round); break;
            case 6: bad |= take<u32>(tile, inputs[k], data[k], first, round); break;
            case 7: bad |= take<u64>(tile, inputs[k], data[k], first, round); break;
            case 8: bad |= take<float>(tile, inputs[k], data[k], first, round); break;
            default: bad |= take<double>(tile, inputs[k], data[k], first, round);
        }
        if (bad) return false;
        for (const auto& step : steps) step->run(tile);
        for (size_t k = 0; k < outputs.size(); k++) {
            const size_t size = tensors[outputs[k]].size;
            for (size_t s = 0; s < tile.samples; s++)
                load<i64>(tile, outputs[k], s, 0, size, results[k] + (first + s) * size, 1, 0);
        }
        return true;
    }
};

enum { DONE, BAD_INPUT, NO_MEMORY };

}  // namespace

extern "C" {

// 1 where there are sums by products of bytes.
int flow_bytes() {
#ifdef FLOW_BYTES
    return 1;
#else
    return 0;
#endif
}

// A program of its numbers; the arrays that these point to stay with the caller until flow_free. Null without memory.
void* flow_new(const i64* numbers) {
    try {
        return new Program(Reader{numbers});
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void flow_free(void* program) { delete static_cast<Program*>(program); }

// Runs n samples: arrays of the inputs with the kinds of their elements, arrays of int64 for the outputs.
int flow_run(const void* program, i64 n, const void* const* data, const u8* kinds, int round, i64* const* results,
             int threads) {
    const Program& p = *static_cast<const Program*>(program);
    // A tile for each thread at least, where there are samples enough.
    const size_t count = size_t(n), capacity = std::max<size_t>(1, std::min(p.tile(), (count + threads - 1) / threads));
    std::atomic<size_t> next{0};
    std::atomic<int> state{DONE};
    auto work = [&] {
        try {
            std::vector<u64> memory((p.sample * capacity + p.scratch + 2 * LINE) / 8 + 2);
            u8* arena = reinterpret_cast<u8*>(memory.data());
            u8* scratch = reinterpret_cast<u8*>((reinterpret_cast<uintptr_t>(arena + p.sample * capacity) + LINE) & ~uintptr_t(LINE - 1));
            for (size_t first; state == DONE && (first = next.fetch_add(capacity)) < count;) {
                Tile tile{std::min(capacity, count - first), p.tensors, arena, capacity, scratch};
                if (!p.run(tile, data, kinds, first, round != 0, results)) state = BAD_INPUT;
            }
        } catch (const std::bad_alloc&) {
            state = NO_MEMORY;
        }
    };
    std::vector<std::thread> others;
    const size_t tiles = (count + capacity - 1) / capacity;
    try {
        for (size_t k = 1; k < std::min<size_t>(threads, tiles); k++) others.emplace_back(work);
    } catch (const std::exception&) {
        // fewer threads, then
    }
    work();
    for (std::thread& thread : others) thread.join();
    return state;
}

}  // extern "C"
