#ifndef NNET_FLOW_DENSE_H_
#define NNET_FLOW_DENSE_H_

#include "nnet_flow_common.h"

namespace nnet {

// Number of ones among the lowest N bits of v, as a tree of adders that are no wider than their sums.
// The leaf is a full adder: three bits of one weight.
template <int N> struct flow_popcount {
    static unsigned of(unsigned long long v) {
        #pragma HLS INLINE
        return flow_popcount<N / 2>::of(v) + flow_popcount<N - N / 2>::of(v >> (N / 2));
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

struct flow_dense_config : flow_config { // n_in, n_out: of one row; n_fold divides n_rows * n_out
    static const int n_rows = 1; // input vectors, each summed with the same weights
    static const int n_out = 1;
    static const int n_word = 1; // 64-bit words of a neuron in the ROM
    static const int gain = 1;
};

// Neurons of one pass, and the words of ROM that it reads: neighbours, so each lane has a bank of its own.
template <typename CONFIG_T> struct flow_dense_pass {
    static const int neurons = CONFIG_T::n_rows * CONFIG_T::n_out / CONFIG_T::n_fold;
    static const int banks = (neurons < CONFIG_T::n_out ? neurons : CONFIG_T::n_out) * CONFIG_T::n_word;
};

// Data of one bit, weights -g, 0, +g: sum = gain * #(taps that agree) + offset.
// With s_i = +-1 where a tap exists and c_i in {0, 1}: sum s_i c_i = #(c_i agrees with s_i) - #(s_i = -1); the domain's
// value a*c + b and the level g go into gain and offset. Masked and zero taps are zeros of `mask`.
template <class data_T, class res_T, typename CONFIG_T>
void flow_dense_xnor(data_T data[CONFIG_T::n_rows * CONFIG_T::n_in], res_T res[CONFIG_T::n_rows * CONFIG_T::n_out],
                     const unsigned long long sign[CONFIG_T::n_out * CONFIG_T::n_word],
                     const unsigned long long mask[CONFIG_T::n_out * CONFIG_T::n_word],
                     const int offset[CONFIG_T::n_out]) {
    #pragma HLS ARRAY_PARTITION variable=sign cyclic factor=flow_dense_pass<CONFIG_T>::banks
    #pragma HLS ARRAY_PARTITION variable=mask cyclic factor=flow_dense_pass<CONFIG_T>::banks
    unsigned long long word[CONFIG_T::n_rows * CONFIG_T::n_word];
    #pragma HLS ARRAY_PARTITION variable=word complete
Clear:
    for (int k = 0; k < CONFIG_T::n_rows * CONFIG_T::n_word; k++) {
        #pragma HLS UNROLL
        word[k] = 0;
    }
Pack:
    for (int i = 0; i < CONFIG_T::n_rows * CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        const int at = i % CONFIG_T::n_in;
        unsigned long long bit = flow_code(data[i]).to_uint() & 1;
        word[i / CONFIG_T::n_in * CONFIG_T::n_word + at / 64] |= bit << (at % 64);
    }
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Neuron:
        for (int n = 0; n < flow_dense_pass<CONFIG_T>::neurons; n++) {
            #pragma HLS UNROLL
            const int out = f * flow_dense_pass<CONFIG_T>::neurons + n;
            const int row = out / CONFIG_T::n_out, j = out % CONFIG_T::n_out;
            unsigned agree = 0;
        Word:
            for (int k = 0; k < CONFIG_T::n_word; k++) {
                #pragma HLS UNROLL
                const int w = j * CONFIG_T::n_word + k;
                agree += flow_popcount<64>::of(~(word[row * CONFIG_T::n_word + k] ^ sign[w]) & mask[w]);
            }
            typename CONFIG_T::sum_t sum = CONFIG_T::gain * (int)agree + offset[j];
            flow_set(res[out], sum);
        }
    }
}

// Any codes, any integer levels: sum = gain * (level * code, summed) + offset. Levels are `level_bits` wide fields.
template <class data_T, class res_T, typename CONFIG_T>
void flow_dense_mac(data_T data[CONFIG_T::n_rows * CONFIG_T::n_in], res_T res[CONFIG_T::n_rows * CONFIG_T::n_out],
                    const unsigned long long levels[CONFIG_T::n_out * CONFIG_T::n_word],
                    const int offset[CONFIG_T::n_out]) {
    #pragma HLS ARRAY_PARTITION variable=levels cyclic factor=flow_dense_pass<CONFIG_T>::banks
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Neuron:
        for (int n = 0; n < flow_dense_pass<CONFIG_T>::neurons; n++) {
            #pragma HLS UNROLL
            const int out = f * flow_dense_pass<CONFIG_T>::neurons + n;
            const int row = out / CONFIG_T::n_out, j = out % CONFIG_T::n_out;
            typename CONFIG_T::sum_t acc = 0;
        Tap:
            for (int i = 0; i < CONFIG_T::n_in; i++) {
                #pragma HLS UNROLL
                ap_int<CONFIG_T::level_bits> level =
                    flow_field(levels + j * CONFIG_T::n_word, i, CONFIG_T::level_bits);
                acc += level * flow_code(data[row * CONFIG_T::n_in + i]);
            }
            typename CONFIG_T::sum_t sum = CONFIG_T::gain * acc + offset[j];
            flow_set(res[out], sum);
        }
    }
}

} // namespace nnet

#endif
