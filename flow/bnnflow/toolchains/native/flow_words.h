#ifndef BNNFLOW_FLOW_WORDS_H_
#define BNNFLOW_FLOW_WORDS_H_

#include "ap_int.h"

// Tensors in words of 64 bits at the ports of a design: fields of `bits`, the first in the lowest bits of the first word,
// none across the end of a word.

template <int bits, class T, int size> void flow_from_words(const unsigned long long word[], T (&x)[size]) {
    for (int i = 0; i < size; i++) {
        flow_unroll(0);
        const unsigned long long field = word[i / (64 / bits)] >> (i % (64 / bits) * bits);
        x[i].range(bits - 1, 0) = ap_uint<bits>(field);
    }
}

template <int bits, class T, int size> void flow_to_words(const T (&x)[size], unsigned long long word[]) {
    for (int i = 0; i < size; i++) {
        flow_unroll(0);
        const ap_uint<bits> code = x[i].range(bits - 1, 0);
        const unsigned long long field = code.to_uint64() << (i % (64 / bits) * bits);
        word[i / (64 / bits)] = i % (64 / bits) ? word[i / (64 / bits)] | field : field;
    }
}

#endif
