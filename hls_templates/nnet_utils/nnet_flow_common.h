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

// A kernel that goes over pixels, positions or a whole array applies CONFIG_T::cell, which calls the kernels of nodes in
// a row with their constants: arrays of one row a pass, of which every lane reads words of its own.
struct flow_config {
    static const int n_in = 1;  // elements of a pass
    static const int n_row = 1; // passes with constants of their own; 1 where all share them
    static const int interval = 1;
};

// Where a cell is: at row `fold` of the constants of taps, at pass `pass` over the outputs of a position of a class of
// borders; `first` where the pass begins.
struct flow_at {
    int fold, pass, border;
    bool first;
};

// Banks of a row of `words` that one pass reads: one each, so that no lane waits for another. The vendors' tools divide
// an array into 4,096 at most; past that every bank is read for an equal share of the words.
template <int words> struct flow_banks {
    static const int share = (words + 4095) / 4096;
    static const int count = (words + share - 1) / share;
};

// Field `index` of the words from `first` on; fields are `width` bits wide and do not cross words.
template <class word_T> unsigned long long flow_field(const word_T rom[], int first, int index, int width) {
    #pragma HLS INLINE
    const int per_word = 64 / width;
    const unsigned long long all = width == 64 ? ~0ULL : (1ULL << (width % 64)) - 1;
    const unsigned long long word = rom[first + index / per_word];
    return (word >> (index % per_word * width)) & all;
}

} // namespace nnet

#endif
