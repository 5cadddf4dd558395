#ifndef NNET_FLOW_LUT_H_
#define NNET_FLOW_LUT_H_

#include "nnet_flow_common.h"

namespace nnet {

struct flow_lut_config : flow_config {
    static const int n_chan = 1; // channels are the last axis; 1 where all share one table
    static const int n_code = 1; // size of the input's domain
    static const int lowest = 0; // its lowest code
};

// Blocks of a table are its banks, because the code, known only at run time, may be any word of its channel's row. Where a
// row has at most 128 words (that is where the estimate counts LUTs, not blocks of RAM), every word is a bank, and a lane
// chooses among constants; else every row is a ROM. A long row that all channels share stays one ROM for all lanes, and how
// many of them read it in a cycle is up to the vendor's tool.
template <typename CONFIG_T> struct flow_lut_pass : flow_pass<CONFIG_T> {
    static const int size = CONFIG_T::n_chan * CONFIG_T::n_code;
    static const int banks = CONFIG_T::n_code <= 128 && size <= 4096 ? size : CONFIG_T::n_chan;
};

// code = table[channel][x - lowest].
template <class data_T, class res_T, typename CONFIG_T>
void flow_lut(const data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_in],
              const int table[CONFIG_T::n_chan * CONFIG_T::n_code]) {
    typedef flow_lut_pass<CONFIG_T> pass;
    #pragma HLS ARRAY_PARTITION variable=table block factor=pass::banks
Fold:
    for (int f = 0; f < CONFIG_T::n_fold; f++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
    Element:
        for (int k = 0; k < pass::elements; k++) {
            #pragma HLS UNROLL
            const int i = f * pass::elements + k;
            if (i < CONFIG_T::n_in) {
                const int x = flow_code(data[i]).to_int() - CONFIG_T::lowest;
                flow_set(res[i], ap_int<32>(table[i % CONFIG_T::n_chan * CONFIG_T::n_code + x]));
            }
        }
    }
}

} // namespace nnet

#endif
