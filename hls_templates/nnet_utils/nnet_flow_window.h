#ifndef NNET_FLOW_WINDOW_H_
#define NNET_FLOW_WINDOW_H_

#include "nnet_flow_common.h"

// Sums and maxima over the last axis of a tensor, or over the taps of a kernel at every position of an image: what a cell
// does with the codes of a position. The loops over positions are in nnet_flow_array.h and nnet_flow_stream.h.
//
// An image is n_rows x n_cols pixels of n_chan codes (a matrix one row of pixels, a vector one pixel). Codes are packed in
// words of 64 bits, `field` bits a code, none across a word's end. At a position the taps' codes are collected into words
// again, in the order in which they are needed: `simd` of them are a chunk, and a chunk begins with a word. The taps of an
// output are in the order (tap, channel); channels that are in groups follow each other group by group.
// A tap outside the image holds `fill`.
//
// Of n_out outputs `pe` are computed in a pass, and of their taps `simd` in a cycle. Where channels are in groups, a pass
// computes all outputs of some `groups`, with all their taps, or (flow_fold) some outputs of one.

namespace nnet {

// Bits of a number up to N.
template <int N> struct flow_width { static const int bits = flow_width<N / 2>::bits + 1; };
template <> struct flow_width<0> { static const int bits = 0; };

// Number of taps that agree among N of them from `first` on, as a tree of adders that are as wide as their sums: of bits,
// P to a word, each complemented where `sign` has a 0, and 0 where `mask` has one. Where these are constants, a wire is
// left of each bit, or an inverter, which all outputs that read the bit share.
// The leaves are full adders, of three bits: about half of them, in threes, are on either side. Of constant signs a leaf
// has few kinds, and outputs share them, too: because of their widths no compiler adds up in another order.
template <int P, int N> struct flow_tree {
    typedef ap_uint<flow_width<N>::bits> count_t;
    template <class data_T, class sign_T, class mask_T>
    static count_t of(const data_T word[], int first, const sign_T sign[], const mask_T mask[]) {
        #pragma HLS INLINE
        const int low = N > 3 ? (N / 2 + 2) / 3 * 3 : (N + 1) / 2;
        const count_t left = flow_tree<P, low>::of(word, first, sign, mask);
        const count_t right = flow_tree<P, N - low>::of(word, first + low, sign, mask);
        return left + right;
    }
};
template <int P> struct flow_tree<P, 1> {
    template <class data_T, class sign_T, class mask_T>
    static ap_uint<1> of(const data_T word[], int first, const sign_T sign[], const mask_T mask[]) {
        #pragma HLS INLINE
        const ap_uint<1> bit = word[first / P] >> (first % P);
        return mask[first / 64] >> (first % 64) & 1 ? (sign[first / 64] >> (first % 64) & 1 ? bit : ap_uint<1>(~bit)) : ap_uint<1>(0);
    }
};

struct flow_window_config : flow_config {
    static const int n_rows = 1, n_cols = 1, n_chan = 1; // the image
    static const int k_rows = 1, k_cols = 1;             // the kernel
    static const int s_rows = 1, s_cols = 1;             // strides
    static const int d_rows = 1, d_cols = 1;             // dilation
    static const int p_rows = 0, p_cols = 0;             // rows and columns of absent taps before the image
    static const int o_rows = 1, o_cols = 1;             // positions
    static const int at_once = 1;                        // positions that are computed at the same time
    static const int n_group = 1;                        // of the channels
    static const int n_out = 1;                          // outputs of a position
    static const int pe = 1, simd = 1;                   // outputs and taps of a cycle
    static const int apart = 0;                          // 1 where passes are not folded but functions of their own
    static const int packed = 0;                         // 1 where the cell needs words of 64 bits
    static const int field = 1;                          // bits of a code in a word
    static const int masked = 1;                         // 0 where flow_count counts all taps
    static const int gain = 1;
    static const int n_value = 1, n_gain = 1;            // of flow_values: an output's values; pe where each has its own
    static const int n_border = 1;                       // classes of borders, each with an offset for every output
    static const int n_acc = 1;                          // partial sums of a pass
    static const int index_words = 1, level_words = 1;   // of an output, in rows of flow_shared and flow_mac
    static const long long fill = 0;
    typedef ap_uint<1> acc_t;          // of a partial sum
    typedef unsigned long long word_t; // of constants
    typedef ap_uint<64> chunk_t;       // of a memory of pixels
};

template <bool first, class A, class B> struct flow_choice { typedef A type; };
template <class A, class B> struct flow_choice<false, A, B> { typedef B type; };

// Sizes that follow from the configuration.
template <typename CONFIG_T> struct flow_sizes {
    static const int passes = CONFIG_T::n_out / CONFIG_T::pe;
    static const int folds = passes * (CONFIG_T::n_chan / CONFIG_T::n_group * CONFIG_T::k_rows * CONFIG_T::k_cols /
                                       CONFIG_T::simd); // cycles of a position
    // Where all constants are known, codes are wires, and to pack them in words would only be work for a compiler.
    static const bool wires = flow_synthesis && (folds == 1 || CONFIG_T::apart) && !CONFIG_T::packed;
    static const int per_word = wires ? 1 : 64 / CONFIG_T::field; // codes in a word
    typedef typename flow_choice<wires, ap_uint<CONFIG_T::field>, unsigned long long>::type data_t; // of a word
    static const int pixel = (CONFIG_T::n_chan + per_word - 1) / per_word; // words
    static const int taps = CONFIG_T::k_rows * CONFIG_T::k_cols;
    static const int share = CONFIG_T::n_chan / CONFIG_T::n_group; // channels of a group
    static const int fields = taps * share;                        // taps of an output
    static const int chunks = fields / CONFIG_T::simd;
    static const int words = (CONFIG_T::simd + per_word - 1) / per_word; // of a chunk
    static const int rom_words = (CONFIG_T::simd + 63) / 64;             // of one bit for each of its taps
    static const int per_group = CONFIG_T::n_out / CONFIG_T::n_group;    // outputs
    static const int groups = CONFIG_T::n_group == 1 || CONFIG_T::pe < per_group ? 1 : CONFIG_T::pe / per_group;
    static const int ready = groups * words;                                         // words that a cycle reads
    static const int all_words = CONFIG_T::n_group * chunks * words;                 // of a position
    static const int positions = CONFIG_T::o_rows * CONFIG_T::o_cols;
    static const int turns = positions / CONFIG_T::at_once;
    // Banks of the rows of constants; every lane reads some of its own.
    static const int mask_banks = flow_banks<CONFIG_T::pe * CONFIG_T::n_value * rom_words>::count; // and of signs
    static const int level_banks = flow_banks<CONFIG_T::pe * CONFIG_T::level_words>::count;
    static const int base_banks = flow_banks<CONFIG_T::n_gain>::count;
    static const int gain_banks = flow_banks<CONFIG_T::n_gain * CONFIG_T::n_value>::count;
    static const int offset_banks = flow_banks<CONFIG_T::pe>::count;
    static const int offset_rows = CONFIG_T::n_border * passes;
    static const int span_rows = (CONFIG_T::k_rows - 1) * CONFIG_T::d_rows + 1, before_rows = span_rows - 1;
    static const int span_cols = (CONFIG_T::k_cols - 1) * CONFIG_T::d_cols + 1, before_cols = span_cols - 1;
    // The image with absent pixels around it, as far as positions reach or pixels are.
    static const int reach_rows = (CONFIG_T::o_rows - 1) * CONFIG_T::s_rows + span_rows;
    static const int reach_cols = (CONFIG_T::o_cols - 1) * CONFIG_T::s_cols + span_cols;
    static const int end_rows = CONFIG_T::p_rows + CONFIG_T::n_rows, end_cols = CONFIG_T::p_cols + CONFIG_T::n_cols;
    static const int height = reach_rows > end_rows ? reach_rows : end_rows;
    static const int width = reach_cols > end_cols ? reach_cols : end_cols;
    // Whole words can be copied where no word of a pixel is shared by groups or chunks, or left partly empty.
    static const bool whole = CONFIG_T::n_group == 1 && CONFIG_T::n_chan % per_word == 0 && CONFIG_T::simd % per_word == 0;
};

inline unsigned long long flow_ones(int width) {
    #pragma HLS INLINE
    return width >= 64 ? ~0ULL : (1ULL << width) - 1;
}

// Make a code number `index` of those that begin with word `first`, in words that hold no later one.
template <typename CONFIG_T>
void flow_put(typename flow_sizes<CONFIG_T>::data_t word[], int first, int index, unsigned long long code) {
    #pragma HLS INLINE
    const int per_word = flow_sizes<CONFIG_T>::per_word, at = first + index / per_word, place = index % per_word;
    if (place == 0) {
        word[at] = code;
    } else {
        word[at] |= code << (place * CONFIG_T::field);
    }
}

// The words of the pixel whose codes begin at `first`.
template <class data_T, typename CONFIG_T>
void flow_pack(const data_T data[], int first, typename flow_sizes<CONFIG_T>::data_t pixel[flow_sizes<CONFIG_T>::pixel]) {
    #pragma HLS INLINE
Pack:
    for (int c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        flow_put<CONFIG_T>(pixel, 0, c, flow_code(data[first + c]).to_uint64());
    }
}

// The words of an absent pixel.
template <typename CONFIG_T>
void flow_absent(typename flow_sizes<CONFIG_T>::data_t pixel[flow_sizes<CONFIG_T>::pixel]) {
    #pragma HLS INLINE
Absent:
    for (int c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        flow_put<CONFIG_T>(pixel, 0, c, (unsigned long long)CONFIG_T::fill & flow_ones(CONFIG_T::field));
    }
}

// Code `index` of those that begin with word `first`.
template <typename CONFIG_T>
unsigned long long flow_code_at(const typename flow_sizes<CONFIG_T>::data_t word[], int first, int index) {
    #pragma HLS INLINE
    const int per_word = flow_sizes<CONFIG_T>::per_word;
    const unsigned long long all = word[first + index / per_word];
    return (all >> (index % per_word * CONFIG_T::field)) & flow_ones(CONFIG_T::field);
}

#ifdef FLOW_MACHINE
inline int flow_least(int a, int b) { return a < b ? a : b; }

// flow_collect, as many codes at a time as follow each other in a word of either side.
template <typename CONFIG_T> void flow_collect_words(const unsigned long long taps[], unsigned long long word[]) {
    typedef flow_sizes<CONFIG_T> sizes;
    int many;
    for (int g = 0; g < CONFIG_T::n_group; g++) {
        for (int i = 0; i < sizes::fields; i += many) {
            const int tap = i / sizes::share, in_tap = i % sizes::share, c = g * sizes::share + in_tap;
            const int in_chunk = i % CONFIG_T::simd, from = c % sizes::per_word, to = in_chunk % sizes::per_word;
            many = flow_least(flow_least(sizes::share - in_tap, CONFIG_T::simd - in_chunk), sizes::per_word - (from > to ? from : to));
            const unsigned long long codes = taps[tap * sizes::pixel + c / sizes::per_word] >> (from * CONFIG_T::field) &
                                             flow_ones(many * CONFIG_T::field);
            unsigned long long &all = word[(g * sizes::chunks + i / CONFIG_T::simd) * sizes::words + in_chunk / sizes::per_word];
            all = (to ? all : 0) | codes << (to * CONFIG_T::field);
        }
    }
}
#endif

// Taps of pixels -> words group by group, chunk by chunk.
template <typename CONFIG_T>
void flow_collect(const typename flow_sizes<CONFIG_T>::data_t taps[flow_sizes<CONFIG_T>::taps * flow_sizes<CONFIG_T>::pixel],
                  typename flow_sizes<CONFIG_T>::data_t word[flow_sizes<CONFIG_T>::all_words]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    if (sizes::whole) {
    Copy:
        for (int k = 0; k < sizes::all_words; k++) {
            #pragma HLS UNROLL
            word[k] = taps[k];
        }
        return;
    }
#ifdef FLOW_MACHINE
    flow_collect_words<CONFIG_T>(taps, word);
#else
Group:
    for (int g = 0; g < CONFIG_T::n_group; g++) {
        #pragma HLS UNROLL
    Field:
        for (int i = 0; i < sizes::fields; i++) {
            #pragma HLS UNROLL
            const int tap = i / sizes::share, c = g * sizes::share + i % sizes::share;
            flow_put<CONFIG_T>(word, (g * sizes::chunks + i / CONFIG_T::simd) * sizes::words, i % CONFIG_T::simd,
                               flow_code_at<CONFIG_T>(taps, tap * sizes::pixel, c));
        }
    }
#endif
}

// The words of the next cycle come to the front, those of this one to the end.
template <typename CONFIG_T> void flow_rotate(typename flow_sizes<CONFIG_T>::data_t word[flow_sizes<CONFIG_T>::all_words]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    typename sizes::data_t front[sizes::ready];
    #pragma HLS ARRAY_PARTITION variable=front complete
Front:
    for (int k = 0; k < sizes::ready; k++) {
        #pragma HLS UNROLL
        front[k] = word[k];
    }
Next:
    for (int k = 0; k + sizes::ready < sizes::all_words; k++) {
        #pragma HLS UNROLL
        word[k] = word[k + sizes::ready];
    }
End:
    for (int k = 0; k < sizes::ready; k++) {
        #pragma HLS UNROLL
        word[sizes::all_words - sizes::ready + k] = front[k];
    }
}

// Taps of one bit that agree among those of a chunk. Of words that are read at run time the bits are made at once, of
// constants each by itself. What is past the last tap of a chunk is 0 in `mask`.
template <typename CONFIG_T, class word_T>
typename CONFIG_T::acc_t flow_agreeing(const typename flow_sizes<CONFIG_T>::data_t word[flow_sizes<CONFIG_T>::words],
                       const word_T sign[], const word_T mask[]) {
    #pragma HLS INLINE
    typedef typename CONFIG_T::acc_t acc_T;
    typedef flow_sizes<CONFIG_T> sizes;
    unsigned long long agree[sizes::rom_words], all[sizes::rom_words];
    #pragma HLS ARRAY_PARTITION variable=agree complete
    #pragma HLS ARRAY_PARTITION variable=all complete
All:
    for (int k = 0; k < sizes::rom_words; k++) {
        #pragma HLS UNROLL
        all[k] = ~0ULL;
    }
    if (sizes::wires) {
        return CONFIG_T::masked ? acc_T(flow_tree<1, CONFIG_T::simd>::of(word, 0, sign, mask))
                                : acc_T(flow_tree<1, CONFIG_T::simd>::of(word, 0, sign, all));
    }
    unsigned ones = 0;
Word:
    for (int k = 0; k < sizes::rom_words; k++) {
        #pragma HLS UNROLL
        const unsigned long long taken = CONFIG_T::masked ? mask[k] : all[k];
        agree[k] = ~((unsigned long long)word[k] ^ sign[k]) & taken & flow_ones(CONFIG_T::simd - 64 * k);
#ifdef FLOW_MACHINE
        ones += __builtin_popcountll(agree[k]);
#endif
    }
    return flow_synthesis ? acc_T(flow_tree<64, CONFIG_T::simd>::of(agree, 0, all, all)) : acc_T(ones);
}

// --- what a cell does with the words of a cycle: it adds to the partial sums `acc`, and makes the codes of a pass -------

// Codes of one bit, weights -g, 0, +g: sum = gain * #(taps that agree) + offset.
// With s_i = +-1 where a tap exists and c_i in {0, 1}: sum s_i c_i = #(c_i agrees with s_i) - #(s_i = -1); the domain's
// value a*c + b and the level g go into gain and offset. Masked and zero taps are zeros of `mask`. An absent tap is c = 0
// and adds nothing, but b per level: there is an offset for each class of borders. The sum has a known range, so that
// sum_t, which holds that range, may wrap on the way to it.
template <class res_T, typename CONFIG_T>
void flow_count(const typename flow_sizes<CONFIG_T>::data_t word[], const flow_at &at, typename CONFIG_T::acc_t acc[], res_T res[],
                const typename CONFIG_T::word_t sign[flow_sizes<CONFIG_T>::folds][CONFIG_T::pe * flow_sizes<CONFIG_T>::rom_words],
                const typename CONFIG_T::word_t mask[flow_sizes<CONFIG_T>::folds][CONFIG_T::pe * flow_sizes<CONFIG_T>::rom_words],
                const int offset[flow_sizes<CONFIG_T>::offset_rows][CONFIG_T::pe]) {
    #pragma HLS INLINE
    typedef typename CONFIG_T::acc_t acc_T;
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=sign cyclic factor=sizes::mask_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=mask cyclic factor=sizes::mask_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks dim=2
Neuron:
    for (int n = 0; n < CONFIG_T::pe; n++) {
        #pragma HLS UNROLL
        const int g = CONFIG_T::n_group == 1 ? 0 : n / sizes::per_group;
        const acc_T ones = flow_agreeing<CONFIG_T>(word + g * sizes::words, sign[at.fold] + n * sizes::rom_words,
                                                      mask[at.fold] + n * sizes::rom_words);
        acc[n] = at.first ? ones : acc_T(acc[n] + ones);
        typename CONFIG_T::sum_t sum =
            CONFIG_T::gain * acc[n].to_int() + offset[at.border * sizes::passes + at.pass][n];
        flow_set(res[n], sum);
    }
}

// The same where no tap is masked: `masked` is 0.
template <class res_T, typename CONFIG_T>
void flow_count(const typename flow_sizes<CONFIG_T>::data_t word[], const flow_at &at, typename CONFIG_T::acc_t acc[], res_T res[],
                const typename CONFIG_T::word_t sign[flow_sizes<CONFIG_T>::folds][CONFIG_T::pe * flow_sizes<CONFIG_T>::rom_words],
                const int offset[flow_sizes<CONFIG_T>::offset_rows][CONFIG_T::pe]) {
    #pragma HLS INLINE
    flow_count<res_T, CONFIG_T>(word, at, acc, res, sign, sign, offset);
}

// Ones among the words of every group that a cycle reads, added to acc.
template <typename CONFIG_T>
void flow_ones_of(const typename flow_sizes<CONFIG_T>::data_t word[], const flow_at &at,
                  typename CONFIG_T::acc_t acc[flow_sizes<CONFIG_T>::groups]) {
    #pragma HLS INLINE
    typedef typename CONFIG_T::acc_t acc_T;
    typedef flow_sizes<CONFIG_T> sizes;
    unsigned long long all[sizes::rom_words];
    #pragma HLS ARRAY_PARTITION variable=all complete
All:
    for (int k = 0; k < sizes::rom_words; k++) {
        #pragma HLS UNROLL
        all[k] = ~0ULL;
    }
Group:
    for (int g = 0; g < sizes::groups; g++) {
        #pragma HLS UNROLL
        const acc_T ones = flow_agreeing<CONFIG_T>(word + g * sizes::words, all, all);
        acc[g] = at.first ? ones : acc_T(acc[g] + ones);
    }
}

// Codes of one bit: sum = base * #(ones) + value * #(ones whose level is base + value), summed + offset. Of many levels
// the values are digits: base 0, and a level the sum of its digits.
// The first popcount is that of all outputs of a group. An output has its own words of `mask` for each of its values. The
// domain's a is in base and values; an absent tap is c = 0 and adds nothing, but b per level: offset.
template <class res_T, typename CONFIG_T>
void flow_values(const typename flow_sizes<CONFIG_T>::data_t word[], const flow_at &at, typename CONFIG_T::acc_t acc[], res_T res[],
                 const typename CONFIG_T::word_t mask[flow_sizes<CONFIG_T>::folds][CONFIG_T::pe * CONFIG_T::n_value * flow_sizes<CONFIG_T>::rom_words],
                 const long long base[][CONFIG_T::n_gain], const long long value[][CONFIG_T::n_gain * CONFIG_T::n_value],
                 const int offset[flow_sizes<CONFIG_T>::offset_rows][CONFIG_T::pe]) {
    #pragma HLS INLINE
    typedef typename CONFIG_T::acc_t acc_T;
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=mask cyclic factor=sizes::mask_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=base cyclic factor=sizes::base_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=value cyclic factor=sizes::gain_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks dim=2
    const int row = CONFIG_T::n_row == 1 ? 0 : at.pass;
    typedef typename CONFIG_T::word_t word_T;
    acc_T *all = acc + CONFIG_T::pe * CONFIG_T::n_value;
    flow_ones_of<CONFIG_T>(word, at, all);
    word_T every[sizes::rom_words];
    #pragma HLS ARRAY_PARTITION variable=every complete
All:
    for (int k = 0; k < sizes::rom_words; k++) {
        #pragma HLS UNROLL
        every[k] = ~0ULL;
    }
Neuron:
    for (int n = 0; n < CONFIG_T::pe; n++) {
        #pragma HLS UNROLL
        const int g = CONFIG_T::n_group == 1 ? 0 : n / sizes::per_group, own = n % CONFIG_T::n_gain;
        typename CONFIG_T::sum_t sum =
            base[row][own] * all[g].to_int() + offset[at.border * sizes::passes + at.pass][n];
    Value:
        for (int v = 0; v < CONFIG_T::n_value; v++) {
            #pragma HLS UNROLL
            const int i = n * CONFIG_T::n_value + v;
            const acc_T ones =
                flow_agreeing<CONFIG_T>(word + g * sizes::words, every, mask[at.fold] + i * sizes::rom_words);
            acc[i] = at.first ? ones : acc_T(acc[i] + ones);
            sum += value[row][own * CONFIG_T::n_value + v] * acc[i].to_int();
        }
        flow_set(res[n], sum);
    }
}

// Codes of one bit, two levels, kernels of a codebook: base * #(ones) + value * #(ones whose level is base + value) + offset.
// At an input channel the taps' second popcount has as many results as the codebook has patterns (of one bit a tap, set
// where the level is base + value). They are counted once a position, and each output adds up those that it looks up by
// the indices of its kernels, group by group and channel by channel. Nothing is folded: where outputs share lanes an
// index is no constant, so that a choice among the results would be larger than another popcount.
template <class res_T, typename CONFIG_T>
void flow_shared(const typename flow_sizes<CONFIG_T>::data_t word[], const flow_at &at, typename CONFIG_T::acc_t acc[], res_T res[],
                 const unsigned long long pattern[1][CONFIG_T::n_pattern],
                 const unsigned long long index[1][CONFIG_T::n_out * CONFIG_T::index_words],
                 const long long base[1][CONFIG_T::n_gain], const long long value[1][CONFIG_T::n_gain],
                 const int offset[CONFIG_T::n_border][CONFIG_T::n_out]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks dim=2
    unsigned part[CONFIG_T::n_out];
    #pragma HLS ARRAY_PARTITION variable=part complete
    flow_ones_of<CONFIG_T>(word, at, acc);
Clear:
    for (int j = 0; j < CONFIG_T::n_out; j++) {
        #pragma HLS UNROLL
        part[j] = 0;
    }
Channel:
    for (int c = 0; c < sizes::share; c++) {
        #pragma HLS UNROLL
        unsigned count[CONFIG_T::n_group * CONFIG_T::n_pattern];
        #pragma HLS ARRAY_PARTITION variable=count complete
    Group:
        for (int g = 0; g < CONFIG_T::n_group; g++) {
            #pragma HLS UNROLL
            const unsigned long long all[1] = {~0ULL};
            unsigned long long taps[sizes::taps]; // of this channel
            #pragma HLS ARRAY_PARTITION variable=taps complete
        Tap:
            for (int t = 0; t < sizes::taps; t++) {
                #pragma HLS UNROLL
                taps[t] = flow_code_at<CONFIG_T>(word, g * sizes::words, t * sizes::share + c);
            }
        Pattern:
            for (int k = 0; k < CONFIG_T::n_pattern; k++) {
                #pragma HLS UNROLL
                count[g * CONFIG_T::n_pattern + k] = flow_tree<1, sizes::taps>::of(taps, 0, all, pattern[0] + k).to_uint();
            }
        }
    Neuron:
        for (int j = 0; j < CONFIG_T::n_out; j++) {
            #pragma HLS UNROLL
            const int k = (int)flow_field(index[0], j * CONFIG_T::index_words, c, CONFIG_T::index_bits);
            part[j] += count[j / sizes::per_group * CONFIG_T::n_pattern + k];
        }
    }
Sum:
    for (int j = 0; j < CONFIG_T::n_out; j++) {
        #pragma HLS UNROLL
        const int g = j / sizes::per_group, own = j % CONFIG_T::n_gain;
        typename CONFIG_T::sum_t sum = base[0][own] * acc[g].to_int() + value[0][own] * part[j] + offset[at.border][j];
        flow_set(res[j], sum);
    }
}

#ifdef FLOW_MACHINE
// The levels of flow_mac as words of the machine, made once.
template <typename CONFIG_T, class number_T> struct flow_levels {
    typedef flow_sizes<CONFIG_T> sizes;
    number_T level[sizes::folds][CONFIG_T::pe][CONFIG_T::simd];
    explicit flow_levels(const typename CONFIG_T::word_t words[sizes::folds][CONFIG_T::pe * CONFIG_T::level_words]) {
        for (int fold = 0; fold < sizes::folds; fold++) {
            for (int i = 0; i < CONFIG_T::pe * CONFIG_T::simd; i++) {
                const int n = i / CONFIG_T::simd, tap = i % CONFIG_T::simd;
                const ap_int<CONFIG_T::level_bits> own =
                    flow_field(words[fold], n * CONFIG_T::level_words, tap, CONFIG_T::level_bits);
                level[fold][n][tap] = (number_T)own.to_int64();
            }
        }
    }
};
#endif

// Any codes (code_t), any integer levels: sum = gain * (level * code, summed) + offset. Levels are `level_bits` wide.
template <class res_T, typename CONFIG_T>
void flow_mac(const typename flow_sizes<CONFIG_T>::data_t word[], const flow_at &at, typename CONFIG_T::acc_t acc[], res_T res[],
              const typename CONFIG_T::word_t levels[flow_sizes<CONFIG_T>::folds][CONFIG_T::pe * CONFIG_T::level_words],
              const int offset[flow_sizes<CONFIG_T>::offset_rows][CONFIG_T::pe]) {
    #pragma HLS INLINE
    typedef typename CONFIG_T::acc_t acc_T;
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=levels cyclic factor=sizes::level_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks dim=2
#ifdef FLOW_MACHINE
    // Sums of so many bits, whatever wraps on the way to them.
    typedef typename flow_choice<(acc_T::width <= 32), unsigned, unsigned long long>::type number_T;
    static const flow_levels<CONFIG_T, number_T> all(levels);
    number_T code[sizes::groups][CONFIG_T::simd];
    for (int i = 0; i < sizes::groups * CONFIG_T::simd; i++) {
        const int g = i / CONFIG_T::simd, tap = i % CONFIG_T::simd;
        const typename CONFIG_T::code_t own = flow_code_at<CONFIG_T>(word, g * sizes::words, tap);
        code[g][tap] = (number_T)own.to_int64();
    }
#endif
Neuron:
    for (int n = 0; n < CONFIG_T::pe; n++) {
        #pragma HLS UNROLL
        const int g = CONFIG_T::n_group == 1 ? 0 : n / sizes::per_group;
#ifdef FLOW_MACHINE
        number_T taps = 0;
        for (int i = 0; i < CONFIG_T::simd; i++) {
            taps += all.level[at.fold][n][i] * code[g][i];
        }
        const acc_T total = taps;
#else
        acc_T total = 0;
    Tap:
        for (int i = 0; i < CONFIG_T::simd; i++) {
            #pragma HLS UNROLL
            const ap_int<CONFIG_T::level_bits> level =
                flow_field(levels[at.fold], n * CONFIG_T::level_words, i, CONFIG_T::level_bits);
            const typename CONFIG_T::code_t code = flow_code_at<CONFIG_T>(word, g * sizes::words, i);
            total += level * code;
        }
#endif
        acc[n] = at.first ? total : acc_T(acc[n] + total);
        typename CONFIG_T::sum_t sum = CONFIG_T::gain * acc[n] + offset[at.border * sizes::passes + at.pass][n];
        flow_set(res[n], sum);
    }
}

// The largest code of a channel's taps; every channel is a group, an absent tap holds the lowest code.
template <class res_T, typename CONFIG_T>
void flow_max(const typename flow_sizes<CONFIG_T>::data_t word[], const flow_at &at, typename CONFIG_T::acc_t acc[], res_T res[]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
Neuron:
    for (int n = 0; n < CONFIG_T::pe; n++) {
        #pragma HLS UNROLL
        typename CONFIG_T::code_t most = flow_code_at<CONFIG_T>(word, n * sizes::words, 0);
    Tap:
        for (int i = 1; i < sizes::fields; i++) {
            #pragma HLS UNROLL
            const typename CONFIG_T::code_t code = flow_code_at<CONFIG_T>(word, n * sizes::words, i);
            most = code > most ? code : most;
        }
        flow_set(res[n], most);
    }
}

// The codes of a pass, lane by lane, -> `all` those of a position: they come in behind those of the passes before.
template <int lanes, int all, class res_T> void flow_append(const res_T lane[lanes], res_T out[all]) {
    #pragma HLS INLINE
Earlier:
    for (int j = 0; j + lanes < all; j++) {
        #pragma HLS UNROLL
        flow_set(out[j], flow_code(out[j + lanes]));
    }
Lane:
    for (int n = 0; n < lanes; n++) {
        #pragma HLS UNROLL
        flow_set(out[all - lanes + n], flow_code(lane[n]));
    }
}

} // namespace nnet

#endif
