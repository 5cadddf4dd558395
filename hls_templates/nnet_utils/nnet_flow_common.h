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

// Where g++ runs a design, a number of ap_private.h is a word of the machine, so that its bits are taken at once, the taps
// of a sum are added up in such words, and its bits counted by one instruction. -DFLOW_SLOW leaves what is synthesised.
#if !defined(__SYNTHESIS__) && !defined(FLOW_SLOW) && defined(__AP_PRIVATE_H__)
#define FLOW_MACHINE
#endif

namespace nnet {

#ifdef FLOW_MACHINE
static const bool flow_synthesis = false;
#else
static const bool flow_synthesis = true;
#endif

// The bits of a value. Its sign, where a kernel needs it, is in a type of the kernel's configuration.
template <class T> ap_uint<T::width> flow_code(const T &value) {
    #pragma HLS INLINE
#ifdef FLOW_MACHINE
    return value.V.to_uint64();
#else
    ap_uint<T::width> code;
    code.range(T::width - 1, 0) = value.range(T::width - 1, 0);
    return code;
#endif
}

#ifndef __SYNTHESIS__
// The code of a value, of which a test bench does not know the sign.
template <class T> long long flow_signed(const T &value) {
    const long long code = flow_code(value).to_uint64();
    return value < 0 ? code - (1LL << T::width) : code;
}
#endif

// Give a value the bits of a code; the graph's rules prove that the code fits.
template <class T, class C> void flow_set(T &value, const C &code) {
    #pragma HLS INLINE
    const ap_uint<T::width> bits = code;
#ifdef FLOW_MACHINE
    value.V = decltype(value.V)(bits.to_uint64());
#else
    value.range(T::width - 1, 0) = bits;
#endif
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
