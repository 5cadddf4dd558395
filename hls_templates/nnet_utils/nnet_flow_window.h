#ifndef NNET_FLOW_WINDOW_H_
#define NNET_FLOW_WINDOW_H_

#include "nnet_flow_common.h"

// Sums and maxima over the last axis of a tensor, or over the taps of a kernel at every position of an image.
//
// An image is n_rows x n_cols pixels of n_chan codes (a matrix one row of pixels, a vector one pixel). Pixels are packed
// in 64-bit words, `field` bits a code, none across a word's end. At a position the taps' codes are collected into words
// again, those of a group together (group, tap, channel within the group), and CONFIG_T::cell makes the outputs of them.
// A tap outside the image holds `fill`.

namespace nnet {

// Number of ones among the lowest N bits of v, as a tree of adders that are no wider than their sums.
// The leaves are full adders, of three bits: about half of them, in threes, are on either side.
template <int N> struct flow_popcount {
    static unsigned of(unsigned long long v) {
        #pragma HLS INLINE
        static const int low = (N / 2 + 2) / 3 * 3;
        return flow_popcount<low>::of(v) + flow_popcount<N - low>::of(v >> low);
    }
};
template <> struct flow_popcount<3> {
    static unsigned of(unsigned long long v) {
        #pragma HLS INLINE
        return (unsigned)(v & 1) + (unsigned)((v >> 1) & 1) + (unsigned)((v >> 2) & 1);
    }
};
template <> struct flow_popcount<2> {
    static unsigned of(unsigned long long v) {
        #pragma HLS INLINE
        return (unsigned)(v & 1) + (unsigned)((v >> 1) & 1);
    }
};
template <> struct flow_popcount<1> {
    static unsigned of(unsigned long long v) {
        #pragma HLS INLINE
        return (unsigned)(v & 1);
    }
};

struct flow_window_config : flow_config {
    static const int n_rows = 1, n_cols = 1, n_chan = 1; // the image
    static const int k_rows = 1, k_cols = 1;             // the kernel
    static const int s_rows = 1, s_cols = 1;             // strides
    static const int d_rows = 1, d_cols = 1;             // dilation
    static const int p_rows = 0, p_cols = 0;             // rows and columns of absent taps before the image
    static const int o_rows = 1, o_cols = 1;             // positions
    static const int n_group = 1;                        // of the channels
    static const int n_out = 1;                          // outputs of a position; n_fold shares n_out * positions
    static const int field = 1;                          // bits of a code in a word
    static const int gain = 1;
    static const int n_value = 1, n_gain = 1;            // of flow_values: an output's values; n_out where each has its own
    static const int n_border = 1;                       // classes of borders, each with an offset for every output
    static const int index_words = 1, level_words = 1;   // of an output, in ROMs of flow_shared and flow_mac
    static const long long fill = 0;
};

// Sizes that follow from the configuration.
template <typename CONFIG_T> struct flow_sizes {
    static const int per_word = 64 / CONFIG_T::field;
    static const int pixel = (CONFIG_T::n_chan + per_word - 1) / per_word; // words
    static const int taps = CONFIG_T::k_rows * CONFIG_T::k_cols;
    static const int share = CONFIG_T::n_chan / CONFIG_T::n_group; // channels of a group
    static const int fields = taps * share;                        // taps of an output
    static const int words = (fields + per_word - 1) / per_word;
    static const int in_last = fields - per_word * (words - 1); // taps in the last word
    static const int per_group = CONFIG_T::n_out / CONFIG_T::n_group;
    static const int positions = CONFIG_T::o_rows * CONFIG_T::o_cols;
    // n_fold passes: over the outputs of every position, or over blocks of whole positions.
    static const int block = CONFIG_T::n_fold > positions ? 1 : positions / CONFIG_T::n_fold;
    static const int lanes = CONFIG_T::n_fold > positions ? CONFIG_T::n_out * positions / CONFIG_T::n_fold
                                                          : CONFIG_T::n_out; // outputs of a position in one pass
    static const int passes = CONFIG_T::n_out / lanes;
    // Banks of the ROMs; every lane reads some of its own. Positions of a block may be of different classes of borders.
    static const int gains = lanes < CONFIG_T::n_gain ? lanes : CONFIG_T::n_gain;
    static const int offsets = CONFIG_T::n_border * CONFIG_T::n_out;
    static const int mask_banks = flow_banks<lanes * CONFIG_T::n_value * words>::count; // and those of signs
    static const int index_banks = flow_banks<lanes * CONFIG_T::index_words>::count;
    static const int level_banks = flow_banks<lanes * CONFIG_T::level_words>::count;
    static const int base_banks = flow_banks<gains>::count;
    static const int value_banks = flow_banks<gains * CONFIG_T::n_value>::count;
    static const int offset_banks = flow_banks<(block > 1 && offsets <= 4096 ? offsets : lanes)>::count;
    static const int span_rows = (CONFIG_T::k_rows - 1) * CONFIG_T::d_rows + 1, before_rows = span_rows - 1;
    static const int span_cols = (CONFIG_T::k_cols - 1) * CONFIG_T::d_cols + 1;
    // Whole words can be copied where no word of a pixel is shared by groups or left partly empty.
    static const bool whole = CONFIG_T::n_group == 1 && CONFIG_T::n_chan % per_word == 0;
};

inline unsigned long long flow_ones(int width) {
    #pragma HLS INLINE
    return width >= 64 ? ~0ULL : (1ULL << width) - 1;
}

// The words of the pixel whose codes begin at `first`.
template <class data_T, typename CONFIG_T>
void flow_pack(const data_T data[], int first, unsigned long long pixel[flow_sizes<CONFIG_T>::pixel]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
Clear:
    for (int k = 0; k < sizes::pixel; k++) {
        #pragma HLS UNROLL
        pixel[k] = 0;
    }
Pack:
    for (int c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        unsigned long long code = (unsigned long long)flow_code(data[first + c]).to_int64() & flow_ones(CONFIG_T::field);
        pixel[c / sizes::per_word] |= code << (c % sizes::per_word * CONFIG_T::field);
    }
}

// The words of an absent pixel.
template <typename CONFIG_T> void flow_absent(unsigned long long pixel[flow_sizes<CONFIG_T>::pixel]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    const unsigned long long fill = (unsigned long long)CONFIG_T::fill & flow_ones(CONFIG_T::field);
Absent:
    for (int k = 0; k < sizes::pixel; k++) {
        #pragma HLS UNROLL
        pixel[k] = 0;
    Field:
        for (int f = 0; f < sizes::per_word; f++) {
            #pragma HLS UNROLL
            if (k * sizes::per_word + f < CONFIG_T::n_chan) {
                pixel[k] |= fill << (f * CONFIG_T::field);
            }
        }
    }
}

// Taps of pixels -> words group by group.
template <typename CONFIG_T>
void flow_collect(const unsigned long long taps[flow_sizes<CONFIG_T>::taps * flow_sizes<CONFIG_T>::pixel],
                  unsigned long long word[CONFIG_T::n_group * flow_sizes<CONFIG_T>::words]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
Clear:
    for (int k = 0; k < CONFIG_T::n_group * sizes::words; k++) {
        #pragma HLS UNROLL
        word[k] = sizes::whole ? taps[k] : 0;
    }
    if (!sizes::whole) {
    Group:
        for (int g = 0; g < CONFIG_T::n_group; g++) {
            #pragma HLS UNROLL
        Field:
            for (int i = 0; i < sizes::fields; i++) {
                #pragma HLS UNROLL
                const int tap = i / sizes::share, c = g * sizes::share + i % sizes::share;
                unsigned long long code = flow_field(taps, tap * sizes::pixel, c, CONFIG_T::field);
                word[g * sizes::words + i / sizes::per_word] |= code << (i % sizes::per_word * CONFIG_T::field);
            }
        }
    }
}

// Ones among an output's taps of one bit. The last word is counted only as far as it holds taps: what is past them is 0,
// but a compiler sees that of constants only.
template <typename CONFIG_T> unsigned flow_ones_among(const unsigned long long word[flow_sizes<CONFIG_T>::words]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    unsigned ones = flow_popcount<sizes::in_last>::of(word[sizes::words - 1]);
Whole:
    for (int k = 0; k + 1 < sizes::words; k++) {
        #pragma HLS UNROLL
        ones += flow_popcount<64>::of(word[k]);
    }
    return ones;
}

// --- what a cell does with the words of a position; pass f of flow_sizes::passes makes outputs f*lanes.. ---------------

// Codes of one bit, weights -g, 0, +g: sum = gain * #(taps that agree) + offset.
// With s_i = +-1 where a tap exists and c_i in {0, 1}: sum s_i c_i = #(c_i agrees with s_i) - #(s_i = -1); the domain's
// value a*c + b and the level g go into gain and offset. Masked and zero taps are zeros of `mask`. An absent tap is c = 0
// and adds nothing, but b per level: there is an offset for each class of borders.
template <class res_T, typename CONFIG_T>
void flow_count(const unsigned long long word[], int pass, int border, res_T res[],
                const unsigned long long sign[CONFIG_T::n_out * flow_sizes<CONFIG_T>::words],
                const unsigned long long mask[CONFIG_T::n_out * flow_sizes<CONFIG_T>::words],
                const int offset[flow_sizes<CONFIG_T>::offsets]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=sign cyclic factor=sizes::mask_banks
    #pragma HLS ARRAY_PARTITION variable=mask cyclic factor=sizes::mask_banks
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks
Neuron:
    for (int n = 0; n < sizes::lanes; n++) {
        #pragma HLS UNROLL
        const int j = pass * sizes::lanes + n, g = j / sizes::per_group;
        unsigned long long agree[sizes::words];
        #pragma HLS ARRAY_PARTITION variable=agree complete
    Word:
        for (int k = 0; k < sizes::words; k++) {
            #pragma HLS UNROLL
            const int w = j * sizes::words + k;
            agree[k] = ~(word[g * sizes::words + k] ^ sign[w]) & mask[w];
        }
        typename CONFIG_T::sum_t sum =
            CONFIG_T::gain * (int)flow_ones_among<CONFIG_T>(agree) + offset[border * CONFIG_T::n_out + j];
        flow_set(res[j], sum);
    }
}

// Ones among the words of every group.
template <typename CONFIG_T> void flow_ones_of(const unsigned long long word[], unsigned ones[CONFIG_T::n_group]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
Group:
    for (int g = 0; g < CONFIG_T::n_group; g++) {
        #pragma HLS UNROLL
        ones[g] = flow_ones_among<CONFIG_T>(word + g * sizes::words);
    }
}

// Codes of one bit: sum = base * #(ones) + value * #(ones whose level is base + value), summed + offset. Of many levels
// the values are digits: base 0, and a level the sum of its digits.
// The first popcount is that of all outputs of a group. An output has a row of `mask` for each of its values. The domain's
// a is in base and values; an absent tap is c = 0 and adds nothing, but b per level: offset.
template <class res_T, typename CONFIG_T>
void flow_values(const unsigned long long word[], int pass, int border, res_T res[],
                 const unsigned long long mask[CONFIG_T::n_out * CONFIG_T::n_value * flow_sizes<CONFIG_T>::words],
                 const long long base[CONFIG_T::n_gain], const long long value[CONFIG_T::n_gain * CONFIG_T::n_value],
                 const int offset[flow_sizes<CONFIG_T>::offsets]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=mask cyclic factor=sizes::mask_banks
    #pragma HLS ARRAY_PARTITION variable=base cyclic factor=sizes::base_banks
    #pragma HLS ARRAY_PARTITION variable=value cyclic factor=sizes::value_banks
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks
    unsigned ones[CONFIG_T::n_group];
    #pragma HLS ARRAY_PARTITION variable=ones complete
    flow_ones_of<CONFIG_T>(word, ones);
Neuron:
    for (int n = 0; n < sizes::lanes; n++) {
        #pragma HLS UNROLL
        const int j = pass * sizes::lanes + n, g = j / sizes::per_group, own = j % CONFIG_T::n_gain;
        typename CONFIG_T::sum_t sum = base[own] * ones[g] + offset[border * CONFIG_T::n_out + j];
    Value:
        for (int v = 0; v < CONFIG_T::n_value; v++) {
            #pragma HLS UNROLL
            unsigned long long part[sizes::words];
            #pragma HLS ARRAY_PARTITION variable=part complete
        Word:
            for (int k = 0; k < sizes::words; k++) {
                #pragma HLS UNROLL
                const int w = (j * CONFIG_T::n_value + v) * sizes::words + k;
                part[k] = word[g * sizes::words + k] & mask[w];
            }
            sum += value[own * CONFIG_T::n_value + v] * flow_ones_among<CONFIG_T>(part);
        }
        flow_set(res[j], sum);
    }
}

// Codes of one bit, two levels, kernels of a codebook: base * #(ones) + value * #(ones whose level is base + value) + offset.
// At an input channel the taps' second popcount has as many results as the codebook has patterns (of one bit a tap, set
// where the level is base + value). They are counted once a position, and each output adds up those that it looks up by
// the indices of its kernels, group by group and channel by channel. Where outputs share lanes an index is no constant,
// so that a choice among the results would be larger than another popcount: each lane counts its own pattern.
template <class res_T, typename CONFIG_T>
void flow_shared(const unsigned long long word[], int pass, int border, res_T res[],
                 const unsigned long long pattern[CONFIG_T::n_pattern],
                 const unsigned long long index[CONFIG_T::n_out * CONFIG_T::index_words],
                 const long long base[CONFIG_T::n_gain], const long long value[CONFIG_T::n_gain],
                 const int offset[flow_sizes<CONFIG_T>::offsets]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=pattern complete
    #pragma HLS ARRAY_PARTITION variable=index cyclic factor=sizes::index_banks
    #pragma HLS ARRAY_PARTITION variable=base cyclic factor=sizes::base_banks
    #pragma HLS ARRAY_PARTITION variable=value cyclic factor=sizes::value_banks
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks
    unsigned ones[CONFIG_T::n_group], part[sizes::lanes];
    #pragma HLS ARRAY_PARTITION variable=ones complete
    #pragma HLS ARRAY_PARTITION variable=part complete
    flow_ones_of<CONFIG_T>(word, ones);
Clear:
    for (int n = 0; n < sizes::lanes; n++) {
        #pragma HLS UNROLL
        part[n] = 0;
    }
Channel:
    for (int c = 0; c < sizes::share; c++) {
        #pragma HLS UNROLL
        unsigned long long taps[CONFIG_T::n_group]; // of this channel
        #pragma HLS ARRAY_PARTITION variable=taps complete
        unsigned count[CONFIG_T::n_group * CONFIG_T::n_pattern];
        #pragma HLS ARRAY_PARTITION variable=count complete
    Group:
        for (int g = 0; g < CONFIG_T::n_group; g++) {
            #pragma HLS UNROLL
            taps[g] = 0;
        Tap:
            for (int t = 0; t < sizes::taps; t++) {
                #pragma HLS UNROLL
                taps[g] |= flow_field(word, g * sizes::words, t * sizes::share + c, 1) << t;
            }
        Pattern:
            for (int k = 0; k < CONFIG_T::n_pattern; k++) {
                #pragma HLS UNROLL
                count[g * CONFIG_T::n_pattern + k] = flow_popcount<sizes::taps>::of(taps[g] & pattern[k]);
            }
        }
    Neuron:
        for (int n = 0; n < sizes::lanes; n++) {
            #pragma HLS UNROLL
            const int j = pass * sizes::lanes + n, g = j / sizes::per_group;
            const int k = (int)flow_field(index, j * CONFIG_T::index_words, c, CONFIG_T::index_bits);
            part[n] += sizes::passes == 1 ? count[g * CONFIG_T::n_pattern + k]
                                          : flow_popcount<sizes::taps>::of(taps[g] & pattern[k]);
        }
    }
Sum:
    for (int n = 0; n < sizes::lanes; n++) {
        #pragma HLS UNROLL
        const int j = pass * sizes::lanes + n, g = j / sizes::per_group, own = j % CONFIG_T::n_gain;
        typename CONFIG_T::sum_t sum = base[own] * ones[g] + value[own] * part[n] + offset[border * CONFIG_T::n_out + j];
        flow_set(res[j], sum);
    }
}

// Any codes (code_t), any integer levels: sum = gain * (level * code, summed) + offset. Levels are `level_bits` wide.
template <class res_T, typename CONFIG_T>
void flow_mac(const unsigned long long word[], int pass, int border, res_T res[],
              const unsigned long long levels[CONFIG_T::n_out * CONFIG_T::level_words],
              const int offset[flow_sizes<CONFIG_T>::offsets]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    #pragma HLS ARRAY_PARTITION variable=levels cyclic factor=sizes::level_banks
    #pragma HLS ARRAY_PARTITION variable=offset cyclic factor=sizes::offset_banks
Neuron:
    for (int n = 0; n < sizes::lanes; n++) {
        #pragma HLS UNROLL
        const int j = pass * sizes::lanes + n, g = j / sizes::per_group;
        typename CONFIG_T::sum_t acc = 0;
    Tap:
        for (int i = 0; i < sizes::fields; i++) {
            #pragma HLS UNROLL
            ap_int<CONFIG_T::level_bits> level =
                flow_field(levels, j * CONFIG_T::level_words, i, CONFIG_T::level_bits);
            typename CONFIG_T::code_t code = flow_field(word, g * sizes::words, i, CONFIG_T::field);
            acc += level * code;
        }
        typename CONFIG_T::sum_t sum = CONFIG_T::gain * acc + offset[border * CONFIG_T::n_out + j];
        flow_set(res[j], sum);
    }
}

// The largest code of a channel's taps; every channel is a group, an absent tap holds the lowest code.
template <class res_T, typename CONFIG_T>
void flow_max(const unsigned long long word[], int pass, int border, res_T res[]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
Neuron:
    for (int n = 0; n < sizes::lanes; n++) {
        #pragma HLS UNROLL
        const int j = pass * sizes::lanes + n;
        typename CONFIG_T::code_t most = flow_field(word, j * sizes::words, 0, CONFIG_T::field);
    Tap:
        for (int i = 1; i < sizes::fields; i++) {
            #pragma HLS UNROLL
            typename CONFIG_T::code_t code = flow_field(word, j * sizes::words, i, CONFIG_T::field);
            most = code > most ? code : most;
        }
        flow_set(res[j], most);
    }
}

// --- all positions of an image in arrays -----------------------------------------------------------------------------

template <class data_T, class res_T, typename CONFIG_T>
void flow_positions(const data_T data[CONFIG_T::n_rows * CONFIG_T::n_cols * CONFIG_T::n_chan],
                    res_T res[flow_sizes<CONFIG_T>::positions * CONFIG_T::n_out]) {
    typedef flow_sizes<CONFIG_T> sizes;
    unsigned long long image[CONFIG_T::n_rows * CONFIG_T::n_cols][sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=image complete dim=0
Pixel:
    for (int p = 0; p < CONFIG_T::n_rows * CONFIG_T::n_cols; p++) {
        #pragma HLS UNROLL
        flow_pack<data_T, CONFIG_T>(data, p * CONFIG_T::n_chan, image[p]);
    }
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Position:
        for (int b = 0; b < sizes::block; b++) {
            #pragma HLS UNROLL
            const int at = f / sizes::passes * sizes::block + b;
            const int row = at / CONFIG_T::o_cols, col = at % CONFIG_T::o_cols;
            unsigned long long taps[sizes::taps * sizes::pixel];
            #pragma HLS ARRAY_PARTITION variable=taps complete
        Tap:
            for (int t = 0; t < sizes::taps; t++) {
                #pragma HLS UNROLL
                const int y = row * CONFIG_T::s_rows + t / CONFIG_T::k_cols * CONFIG_T::d_rows - CONFIG_T::p_rows;
                const int x = col * CONFIG_T::s_cols + t % CONFIG_T::k_cols * CONFIG_T::d_cols - CONFIG_T::p_cols;
                flow_absent<CONFIG_T>(taps + t * sizes::pixel);
                if (y >= 0 && y < CONFIG_T::n_rows && x >= 0 && x < CONFIG_T::n_cols) {
                Copy:
                    for (int k = 0; k < sizes::pixel; k++) {
                        #pragma HLS UNROLL
                        taps[t * sizes::pixel + k] = image[y * CONFIG_T::n_cols + x][k];
                    }
                }
            }
            unsigned long long word[CONFIG_T::n_group * sizes::words];
            #pragma HLS ARRAY_PARTITION variable=word complete
            flow_collect<CONFIG_T>(taps, word);
            res_T out[CONFIG_T::n_out];
            #pragma HLS ARRAY_PARTITION variable=out complete
            CONFIG_T::cell(word, f % sizes::passes, CONFIG_T::border(row, col), out);
        Lane:
            for (int n = 0; n < sizes::lanes; n++) {
                #pragma HLS UNROLL
                const int j = f % sizes::passes * sizes::lanes + n;
                flow_set(res[at * CONFIG_T::n_out + j], flow_code(out[j]));
            }
        }
    }
}

} // namespace nnet

#endif
