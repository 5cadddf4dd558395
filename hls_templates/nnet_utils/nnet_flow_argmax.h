#ifndef NNET_FLOW_ARGMAX_H_
#define NNET_FLOW_ARGMAX_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_argmax_config : flow_config {
    static const int n_chan = 1; // channels are the last axis
};

// The largest of N codes and its place, the first of equal ones: a tournament, so that the tree is shallow.
template <int N> struct flow_tournament {
    template <class code_T> static void of(const code_T code[], int first, code_T &most, ap_uint<16> &place) {
        #pragma HLS INLINE
        code_T other;
        ap_uint<16> other_place;
        flow_tournament<(N + 1) / 2>::of(code, first, most, place);
        flow_tournament<N / 2>::of(code, first + (N + 1) / 2, other, other_place);
        const bool more = other > most;
        most = more ? other : most;
        place = more ? other_place : place;
    }
};
template <> struct flow_tournament<1> {
    template <class code_T> static void of(const code_T code[], int first, code_T &most, ap_uint<16> &place) {
        #pragma HLS INLINE
        most = code[first];
        place = first;
    }
};

// The place of the largest code of every pixel.
template <class data_T, class res_T, typename CONFIG_T>
void flow_argmax(const data_T data[CONFIG_T::n_in * CONFIG_T::n_chan], const flow_at &at, res_T res[CONFIG_T::n_in]) {
    #pragma HLS INLINE
    typedef typename CONFIG_T::x_t code_T;
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        code_T code[CONFIG_T::n_chan], most;
        #pragma HLS ARRAY_PARTITION variable=code complete
        ap_uint<16> place;
    Channel:
        for (int c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            code[c] = flow_code(data[i * CONFIG_T::n_chan + c]);
        }
        flow_tournament<CONFIG_T::n_chan>::template of<code_T>(code, 0, most, place);
        flow_set(res[i], place);
    }
}

} // namespace nnet

#endif
