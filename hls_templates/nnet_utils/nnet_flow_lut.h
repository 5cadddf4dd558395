#ifndef NNET_FLOW_LUT_H_
#define NNET_FLOW_LUT_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_lut_config : flow_config {
    static const int n_chan = 1; // channels of a pass, the last axis; 1 where all share one table
    static const int n_code = 1; // size of the input's domain
    static const int lowest = 0; // its lowest code
};

// Blocks of a table are its banks, because the code, known only at run time, may be any word of its channel's row. Where a
// row has at most 128 words (that is where the estimate counts LUTs, not blocks of RAM), every word is a bank, and a lane
// chooses among constants; else every row is a ROM, with a copy for every two lanes that share it.
template <typename CONFIG_T> struct flow_lut_banks {
    static const int size = CONFIG_T::n_chan * CONFIG_T::n_code;
    static const int count = CONFIG_T::n_code <= 128 && size <= 4096 ? size : CONFIG_T::n_chan;
};

// code = table[channel][x - lowest].
template <class data_T, class res_T, typename CONFIG_T>
void flow_lut(const data_T data[CONFIG_T::n_in], const flow_at &at, res_T res[CONFIG_T::n_in],
              const int table[CONFIG_T::n_row][CONFIG_T::n_chan * CONFIG_T::n_code]) {
    #pragma HLS INLINE
    const int banks = flow_lut_banks<CONFIG_T>::count;
    #pragma HLS ARRAY_PARTITION variable=table block factor=banks dim=2
Element:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        const typename CONFIG_T::x_t code = flow_code(data[i]);
        const int x = code.to_int() - CONFIG_T::lowest;
        flow_set(res[i], ap_int<32>(table[CONFIG_T::n_row == 1 ? 0 : at.pass][i % CONFIG_T::n_chan * CONFIG_T::n_code + x]));
    }
}

} // namespace nnet

#endif
