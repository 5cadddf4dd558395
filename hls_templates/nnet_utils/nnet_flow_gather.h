#ifndef NNET_FLOW_GATHER_H_
#define NNET_FLOW_GATHER_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_gather_config : flow_config {
    static const int n_out = 1;
};

// res[i] = data[index[i]]: reshape, permute, repeat. Only wires, once the loop is unrolled.
template <class data_T, class res_T, typename CONFIG_T>
void flow_gather(const data_T data[CONFIG_T::n_in], const flow_at &at, res_T res[CONFIG_T::n_out],
                 const int index[1][CONFIG_T::n_out]) {
    #pragma HLS INLINE
Wire:
    for (int i = 0; i < CONFIG_T::n_out; i++) {
        #pragma HLS UNROLL
        flow_set(res[i], flow_code(data[index[0][i]]));
    }
}

// The same from two inputs, one after the other.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_join(const data0_T data0[CONFIG_T::n_in], const data1_T data1[], const flow_at &at, res_T res[CONFIG_T::n_out],
               const int index[1][CONFIG_T::n_out]) {
    #pragma HLS INLINE
Wire:
    for (int i = 0; i < CONFIG_T::n_out; i++) {
        #pragma HLS UNROLL
        if (index[0][i] < CONFIG_T::n_in) {
            flow_set(res[i], flow_code(data0[index[0][i]]));
        } else {
            flow_set(res[i], flow_code(data1[index[0][i] - CONFIG_T::n_in]));
        }
    }
}

} // namespace nnet

#endif
