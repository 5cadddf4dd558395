#ifndef NNET_FLOW_STEP_H_
#define NNET_FLOW_STEP_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_step_config : flow_config {
    static const int n_chan = 1; // channels of a pass, the last axis
    static const int n_threshold = 1;
};

// code = start + sign * #{k : x >= thresholds[k]}, per channel: what batch norm, bias and any quantised activation of Keras
// compute from the integer x, and what a thermometer's planes compute from an input.
template <class data_T, class res_T, typename CONFIG_T>
void flow_step(const data_T data[CONFIG_T::n_in], const flow_at &at, res_T res[CONFIG_T::n_in],
               const int start[CONFIG_T::n_row][CONFIG_T::n_chan], const int sign[CONFIG_T::n_row][CONFIG_T::n_chan],
               const typename CONFIG_T::threshold_t thresholds[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_threshold]) {
    #pragma HLS INLINE
    const int banks = flow_banks<CONFIG_T::n_chan>::count;
    const int threshold_banks = flow_banks<CONFIG_T::n_chan * CONFIG_T::n_threshold>::count;
    #pragma HLS ARRAY_PARTITION variable=start cyclic factor=banks dim=2
    #pragma HLS ARRAY_PARTITION variable=sign cyclic factor=banks dim=2
    #pragma HLS ARRAY_PARTITION variable=thresholds cyclic factor=threshold_banks dim=2
    const int row = CONFIG_T::n_row == 1 ? 0 : at.pass;
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        const int c = i % CONFIG_T::n_chan;
        const typename CONFIG_T::x_t x = flow_code(data[i]);
        int count = 0;
    Threshold:
        for (int k = 0; k < CONFIG_T::n_threshold; k++) {
            #pragma HLS UNROLL
            count += x >= thresholds[row][c * CONFIG_T::n_threshold + k] ? 1 : 0;
        }
        flow_set(res[i], ap_int<18>(start[row][c] + sign[row][c] * count));
    }
}

// No threshold: every channel is constant.
template <class data_T, class res_T, typename CONFIG_T>
void flow_constant(const data_T data[CONFIG_T::n_in], const flow_at &at, res_T res[CONFIG_T::n_in],
                   const int start[CONFIG_T::n_row][CONFIG_T::n_chan]) {
    #pragma HLS INLINE
    const int banks = flow_banks<CONFIG_T::n_chan>::count;
    #pragma HLS ARRAY_PARTITION variable=start cyclic factor=banks dim=2
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        flow_set(res[i], ap_int<18>(start[CONFIG_T::n_row == 1 ? 0 : at.pass][i % CONFIG_T::n_chan]));
    }
}

} // namespace nnet

#endif
