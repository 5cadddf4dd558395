#ifndef NNET_FLOW_STEP_H_
#define NNET_FLOW_STEP_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_step_config : flow_config {
    static const int n_chan = 1; // channels are the last axis
    static const int n_threshold = 1;
};

// code = start + sign * #{k : x >= thresholds[k]}, per channel: what batch norm, bias and any quantised activation of Keras
// compute from the integer x, and what a thermometer's planes compute from an input.
template <class data_T, class res_T, typename CONFIG_T>
void flow_step(const data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_in], const int start[CONFIG_T::n_chan],
               const int sign[CONFIG_T::n_chan],
               const typename CONFIG_T::threshold_t thresholds[CONFIG_T::n_chan * CONFIG_T::n_threshold]) {
    typedef flow_channel_pass<CONFIG_T, CONFIG_T::n_threshold> pass;
    #pragma HLS ARRAY_PARTITION variable=start cyclic factor=pass::banks
    #pragma HLS ARRAY_PARTITION variable=sign cyclic factor=pass::banks
    #pragma HLS ARRAY_PARTITION variable=thresholds cyclic factor=pass::row_banks
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Element:
        for (int k = 0; k < pass::elements; k++) {
            #pragma HLS UNROLL
            const int i = f * pass::elements + k;
            if (i < CONFIG_T::n_in) {
                const int c = i % CONFIG_T::n_chan;
                const typename flow_bits<data_T>::code_t x = flow_code(data[i]);
                int count = 0;
            Threshold:
                for (int threshold = 0; threshold < CONFIG_T::n_threshold; threshold++) {
                    #pragma HLS UNROLL
                    count += x >= thresholds[c * CONFIG_T::n_threshold + threshold] ? 1 : 0;
                }
                flow_set(res[i], ap_int<16>(start[c] + sign[c] * count));
            }
        }
    }
}

// No threshold: every channel is constant.
template <class data_T, class res_T, typename CONFIG_T>
void flow_constant(const data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_in], const int start[CONFIG_T::n_chan]) {
    typedef flow_channel_pass<CONFIG_T> pass;
    #pragma HLS ARRAY_PARTITION variable=start cyclic factor=pass::banks
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Element:
        for (int k = 0; k < pass::elements; k++) {
            #pragma HLS UNROLL
            const int i = f * pass::elements + k;
            if (i < CONFIG_T::n_in) {
                flow_set(res[i], ap_int<16>(start[i % CONFIG_T::n_chan]));
            }
        }
    }
}

} // namespace nnet

#endif
