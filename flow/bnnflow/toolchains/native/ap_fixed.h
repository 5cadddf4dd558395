#ifndef BNNFLOW_AP_FIXED_H_
#define BNNFLOW_AP_FIXED_H_

#include "ap_int.h"

// N, saturation bits, is not supported: it matters in modes of overflow that ap_int.h refuses.

template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0> struct ap_fixed : ap_base<W, I, true, Q, O> {
    typedef ap_base<W, I, true, Q, O> base;
    AP_NAMED(ap_fixed)
};

template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0> struct ap_ufixed : ap_base<W, I, false, Q, O> {
    typedef ap_base<W, I, false, Q, O> base;
    AP_NAMED(ap_ufixed)
};

#endif
