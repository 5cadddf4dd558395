#ifndef NNET_FLOW_GATHER_H_
#define NNET_FLOW_GATHER_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_gather_config {
    static const int n_in = 1;
    static const int n_out = 1;
    static const int n_wire = 1;
};

// res[i] = data[index[i]]: reshape, permute, repeat. Only wires, once the loop is unrolled.
template <class data_T, class res_T, typename CONFIG_T>
void flow_gather(data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_out], const int index[CONFIG_T::n_out]) {
    #pragma HLS INLINE
Wire:
    for (int i = 0; i < CONFIG_T::n_out; i++) {
        #pragma HLS UNROLL
        flow_set(res[i], flow_code(data[index[i]]));
    }
}

// res[to[k]] = data[from[k]]: one input's part of a concatenation.
template <class data_T, class res_T, typename CONFIG_T>
void flow_place(data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_out], const int from[CONFIG_T::n_wire],
                const int to[CONFIG_T::n_wire]) {
    #pragma HLS INLINE
Wire:
    for (int k = 0; k < CONFIG_T::n_wire; k++) {
        #pragma HLS UNROLL
        flow_set(res[to[k]], flow_code(data[from[k]]));
    }
}

} // namespace nnet

#endif
