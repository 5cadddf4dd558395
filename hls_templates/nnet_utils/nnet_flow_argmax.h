#ifndef NNET_FLOW_ARGMAX_H_
#define NNET_FLOW_ARGMAX_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_argmax_config : flow_config {
    static const int n_chan = 1; // channels are the last axis
};

// The place of the largest code of every pixel, the first of equal ones: a tournament, so that the tree is shallow.
template <class data_T, class res_T, typename CONFIG_T>
void flow_argmax(const data_T data[CONFIG_T::n_in * CONFIG_T::n_chan], res_T res[CONFIG_T::n_in]) {
    const int n_chan = CONFIG_T::n_chan;
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Element:
        for (int k = 0; k < flow_pass<CONFIG_T>::elements; k++) {
            #pragma HLS UNROLL
            const int i = f * flow_pass<CONFIG_T>::elements + k;
            if (i < CONFIG_T::n_in) {
                typename flow_bits<data_T>::code_t code[n_chan];
                #pragma HLS ARRAY_PARTITION variable=code complete
                ap_uint<16> place[n_chan];
                #pragma HLS ARRAY_PARTITION variable=place complete
            Channel:
                for (int c = 0; c < n_chan; c++) {
                    #pragma HLS UNROLL
                    code[c] = flow_code(data[i * n_chan + c]);
                    place[c] = c;
                }
            Round:
                for (int r = 0; r < 16; r++) {
                    #pragma HLS UNROLL
                Match:
                    for (int c = 0; c + (1 << r) < n_chan; c += 2 << r) {
                        #pragma HLS UNROLL
                        if (code[c + (1 << r)] > code[c]) {
                            code[c] = code[c + (1 << r)];
                            place[c] = place[c + (1 << r)];
                        }
                    }
                }
                flow_set(res[i], place[0]);
            }
        }
    }
}

} // namespace nnet

#endif
