#ifndef NNET_FLOW_RAMP_H_
#define NNET_FLOW_RAMP_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_ramp_config : flow_config {
    static const int n_chan = 1; // channels of a pass, the last axis
    static const int n_ramp = 1;
    static const int n_exception = 1;
    static const int shift = 0;
    static const int ties = 0; // 1 where some ramp rounds ties to one parity
};

// code = start + sign * (sum of clip(q, 0, most) over the ramps + what exceptions at x add), per channel, where
// q = floor((mul * x + add) / 2^shift), one less at a tie: the thresholds of a quantised activation of many bits.
// product_t holds every product, proven by the call.
template <class data_T, class res_T, typename CONFIG_T>
void flow_ramp(const data_T data[CONFIG_T::n_in], const flow_at &at, res_T res[CONFIG_T::n_in],
               const int start[CONFIG_T::n_row][CONFIG_T::n_chan], const int sign[CONFIG_T::n_row][CONFIG_T::n_chan],
               const long long mul[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_ramp],
               const long long add[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_ramp],
               const int most[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_ramp],
               const int tie[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_ramp],
               const int exception[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_exception],
               const int more[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_exception]) {
    #pragma HLS INLINE
    const int banks = flow_banks<CONFIG_T::n_chan>::count;
    const int ramp_banks = flow_banks<CONFIG_T::n_chan * CONFIG_T::n_ramp>::count;
    const int exception_banks = flow_banks<CONFIG_T::n_chan * CONFIG_T::n_exception>::count;
    #pragma HLS ARRAY_PARTITION variable=start cyclic factor=banks dim=2
    #pragma HLS ARRAY_PARTITION variable=sign cyclic factor=banks dim=2
    #pragma HLS ARRAY_PARTITION variable=mul cyclic factor=ramp_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=add cyclic factor=ramp_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=most cyclic factor=ramp_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=tie cyclic factor=ramp_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=exception cyclic factor=exception_banks dim=2
    #pragma HLS ARRAY_PARTITION variable=more cyclic factor=exception_banks dim=2
    const int row = CONFIG_T::n_row == 1 ? 0 : at.pass;
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        const int c = i % CONFIG_T::n_chan;
        const typename CONFIG_T::x_t x = flow_code(data[i]);
        ap_int<18> count = 0;
    Ramp:
        for (int k = 0; k < CONFIG_T::n_ramp; k++) {
            #pragma HLS UNROLL
            const int r = c * CONFIG_T::n_ramp + k;
            const typename CONFIG_T::mul_t m = mul[row][r];
            const typename CONFIG_T::product_t a = add[row][r];
            const typename CONFIG_T::product_t v = m * x + a;
            typename CONFIG_T::product_t q = v >> CONFIG_T::shift;
            if (CONFIG_T::ties) {
                const typename CONFIG_T::product_t whole = q << CONFIG_T::shift;
                q -= whole == v && (q & 1) == tie[row][r] ? 1 : 0;
            }
            count += q < 0 ? ap_int<18>(0) : q > most[row][r] ? ap_int<18>(most[row][r]) : ap_int<18>(q);
        }
    Exception:
        for (int k = 0; k < CONFIG_T::n_exception; k++) {
            #pragma HLS UNROLL
            const int e = c * CONFIG_T::n_exception + k;
            count += x == exception[row][e] ? more[row][e] : 0;
        }
        flow_set(res[i], ap_int<18>(start[row][c] + sign[row][c] * count));
    }
}

} // namespace nnet

#endif
