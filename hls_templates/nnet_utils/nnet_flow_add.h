#ifndef NNET_FLOW_ADD_H_
#define NNET_FLOW_ADD_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_add_config : flow_config {};

// code = scale0 * x + constant: the same values on another grid. sum_t holds every partial sum, proven by the call.
template <class data_T, class res_T, typename CONFIG_T>
void flow_scale(const data_T data[CONFIG_T::n_in], const flow_at &at, res_T res[CONFIG_T::n_in],
                const long long scale[1][1], const long long constant[1][1]) {
    #pragma HLS INLINE
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        const typename CONFIG_T::x_t x = flow_code(data[i]);
        typename CONFIG_T::sum_t sum = typename CONFIG_T::sum_t(scale[0][0]) * x + constant[0][0];
        flow_set(res[i], sum);
    }
}

// code = scale0 * x + scale1 * y + constant.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_add(const data0_T data0[CONFIG_T::n_in], const data1_T data1[CONFIG_T::n_in], const flow_at &at,
              res_T res[CONFIG_T::n_in], const long long scale[1][2], const long long constant[1][1]) {
    #pragma HLS INLINE
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        const typename CONFIG_T::x_t x = flow_code(data0[i]);
        const typename CONFIG_T::y_t y = flow_code(data1[i]);
        typename CONFIG_T::sum_t sum = typename CONFIG_T::sum_t(scale[0][0]) * x +
                                       typename CONFIG_T::sum_t(scale[0][1]) * y + constant[0][0];
        flow_set(res[i], sum);
    }
}

} // namespace nnet

#endif
