#ifndef NNET_FLOW_AFFINE_H_
#define NNET_FLOW_AFFINE_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_affine_config : flow_config {
    static const int n_chan = 1; // channels are the last axis
    static const int shift = 0;
};

// code = floor((mul * x + add) / 2^shift), per channel: the logits. product_t holds every product, proven by the call.
template <class data_T, class res_T, typename CONFIG_T>
void flow_affine(const data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_in], const long long mul[CONFIG_T::n_chan],
                 const long long add[CONFIG_T::n_chan]) {
    typedef flow_channel_pass<CONFIG_T> pass;
    #pragma HLS ARRAY_PARTITION variable=mul cyclic factor=pass::banks
    #pragma HLS ARRAY_PARTITION variable=add cyclic factor=pass::banks
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Element:
        for (int k = 0; k < pass::elements; k++) {
            #pragma HLS UNROLL
            const int i = f * pass::elements + k;
            if (i < CONFIG_T::n_in) {
                const int c = i % CONFIG_T::n_chan;
                typename CONFIG_T::product_t m = mul[c];
                typename CONFIG_T::product_t a = add[c];
                typename CONFIG_T::product_t product = m * flow_code(data[i]) + a;
                flow_set(res[i], typename CONFIG_T::product_t(product >> CONFIG_T::shift));
            }
        }
    }
}

} // namespace nnet

#endif
