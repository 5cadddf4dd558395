#ifndef NNET_FLOW_AFFINE_H_
#define NNET_FLOW_AFFINE_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_affine_config : flow_config {
    static const int n_chan = 1; // channels of a pass, the last axis
    static const int shift = 0;
};

// code = floor((mul * x + add) / 2^shift), per channel: the logits. product_t holds every product, proven by the call.
template <class data_T, class res_T, typename CONFIG_T>
void flow_affine(const data_T data[CONFIG_T::n_in], const flow_at &at, res_T res[CONFIG_T::n_in],
                 const long long mul[CONFIG_T::n_row][CONFIG_T::n_chan],
                 const long long add[CONFIG_T::n_row][CONFIG_T::n_chan]) {
    #pragma HLS INLINE
    const int banks = flow_banks<CONFIG_T::n_chan>::count;
    #pragma HLS ARRAY_PARTITION variable=mul cyclic factor=banks dim=2
    #pragma HLS ARRAY_PARTITION variable=add cyclic factor=banks dim=2
    const int row = CONFIG_T::n_row == 1 ? 0 : at.pass;
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        typename CONFIG_T::product_t m = mul[row][i % CONFIG_T::n_chan];
        typename CONFIG_T::product_t a = add[row][i % CONFIG_T::n_chan];
        const typename CONFIG_T::x_t x = flow_code(data[i]);
        typename CONFIG_T::product_t product = m * x + a;
        flow_set(res[i], typename CONFIG_T::product_t(product >> CONFIG_T::shift));
    }
}

} // namespace nnet

#endif
