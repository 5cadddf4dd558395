#ifndef NNET_FLOW_GATHER_H_
#define NNET_FLOW_GATHER_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_gather_config : flow_config {
    static const int n_out = 1;
    static const int n_in1 = 1;
};

// res[i] = data[index[i]]: reshape, permute, repeat. Only wires, once the loop is unrolled.
template <class data_T, class res_T, typename CONFIG_T>
void flow_gather(const data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_out], const int index[CONFIG_T::n_out]) {
    #pragma HLS PIPELINE
    #pragma HLS ARRAY_PARTITION variable=index complete
Wire:
    for (int i = 0; i < CONFIG_T::n_out; i++) {
        #pragma HLS UNROLL
        flow_set(res[i], flow_code(data[index[i]]));
    }
}

// The same from two inputs, one after the other.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_join(const data0_T data0[CONFIG_T::n_in], const data1_T data1[CONFIG_T::n_in1], res_T res[CONFIG_T::n_out],
               const int index[CONFIG_T::n_out]) {
    #pragma HLS PIPELINE
    #pragma HLS ARRAY_PARTITION variable=index complete
Wire:
    for (int i = 0; i < CONFIG_T::n_out; i++) {
        #pragma HLS UNROLL
        if (index[i] < CONFIG_T::n_in) {
            flow_set(res[i], flow_code(data0[index[i]]));
        } else {
            flow_set(res[i], flow_code(data1[index[i] - CONFIG_T::n_in]));
        }
    }
}

// One array for each of two readers: DATAFLOW wants one consumer an array.
template <class data_T, class res_T, typename CONFIG_T>
void flow_fork(const data_T data[CONFIG_T::n_in], res_T res1[CONFIG_T::n_in], res_T res2[CONFIG_T::n_in]) {
    #pragma HLS PIPELINE
Wire:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        flow_set(res1[i], flow_code(data[i]));
        flow_set(res2[i], flow_code(data[i]));
    }
}

} // namespace nnet

#endif
