#ifndef NNET_FLOW_COMMON_H_
#define NNET_FLOW_COMMON_H_

#include "ap_fixed.h"
#include "ap_int.h"

// Kernels of bnnflow work on integer codes: the raw bits of the ap_[u]fixed values that hls4ml puts on the edges.

// A function of a netlist. g++ takes minutes over thousands of them inlined, and seconds over calls.
#ifdef __SYNTHESIS__
#define FLOW_GATE inline
#else
#define FLOW_GATE static __attribute__((noinline))
#endif

namespace nnet {

template <class T> struct flow_bits;

template <int W, int I, ap_q_mode Q, ap_o_mode O, int N> struct flow_bits<ap_fixed<W, I, Q, O, N> > {
    static const int width = W;
    typedef ap_int<W> code_t;
};

template <int W, int I, ap_q_mode Q, ap_o_mode O, int N> struct flow_bits<ap_ufixed<W, I, Q, O, N> > {
    static const int width = W;
    typedef ap_uint<W> code_t;
};

// The code of a value, sign-extended where its type is signed.
template <class T> typename flow_bits<T>::code_t flow_code(const T &value) {
    #pragma HLS INLINE
    typename flow_bits<T>::code_t code;
    code.range(flow_bits<T>::width - 1, 0) = value.range(flow_bits<T>::width - 1, 0);
    return code;
}

// Give a value the bits of a code; the graph's rules prove that the code fits.
template <class T, class C> void flow_set(T &value, const C &code) {
    #pragma HLS INLINE
    ap_uint<flow_bits<T>::width> bits = code;
    value.range(flow_bits<T>::width - 1, 0) = bits;
}

// Every kernel is a loop of n_fold passes over its elements, each pass unrolled: strategy "Resource" folds reuse_factor
// times (interval 1), "Latency" is one pass that may start every reuse_factor cycles. Below a pipelined top function all
// loops are unrolled.
struct flow_config {
    static const int n_in = 1;
    static const int n_fold = 1;
    static const int interval = 1;
};

// Elements of one pass.
template <typename CONFIG_T> struct flow_pass {
    static const int elements = (CONFIG_T::n_in + CONFIG_T::n_fold - 1) / CONFIG_T::n_fold;
};

// Banks of a ROM of which one pass reads `words` in a row: one each, so that no lane waits for another. The vendors' tools
// divide an array into 4,096 at most; past that every bank is read for an equal share of the words.
template <int words> struct flow_banks {
    static const int share = (words + 4095) / 4096;
    static const int count = (words + share - 1) / share;
};

// A pass over elements whose constants are their channel's, `words` of them. Neighbours read the constants of neighbouring
// channels, in cyclic banks of their own. Only where the channels begin again in the middle of a pass is a bank read twice,
// and a ROM has two ports.
template <typename CONFIG_T, int words = 1> struct flow_channel_pass : flow_pass<CONFIG_T> {
    static const int channels =
        flow_pass<CONFIG_T>::elements < CONFIG_T::n_chan ? flow_pass<CONFIG_T>::elements : CONFIG_T::n_chan;
    static const int banks = flow_banks<channels>::count;             // of a ROM with one word a channel
    static const int row_banks = flow_banks<channels * words>::count; // of one with `words` a channel
};

// Field `index` of the words from `first` on; fields are `width` bits wide and do not cross words.
inline unsigned long long flow_field(const unsigned long long rom[], int first, int index, int width) {
    #pragma HLS INLINE
    const int per_word = 64 / width;
    const unsigned long long all = width == 64 ? ~0ULL : (1ULL << (width % 64)) - 1;
    return (rom[first + index / per_word] >> (index % per_word * width)) & all;
}

} // namespace nnet

#endif
