#ifndef BNNFLOW_AP_INT_H_
#define BNNFLOW_AP_INT_H_

// The vendors' arbitrary-precision types as native integers of so many bits (clang's _BitInt), which is what they are in
// the intermediate code of an HLS compiler: one instruction an operation. Widths of results are the vendors' (UG1399), so
// that a program means the same with these headers as with theirs.
//
// Native integers are handed over by reference: beyond 64 bits clang would hand over their halves, through memory.

enum ap_q_mode { AP_RND, AP_RND_ZERO, AP_RND_MIN_INF, AP_RND_INF, AP_RND_CONV, AP_TRN, AP_TRN_ZERO };
enum ap_o_mode { AP_SAT, AP_SAT_ZERO, AP_SAT_SYM, AP_WRAP, AP_WRAP_SM };

#define AP_INLINE __attribute__((always_inline)) constexpr

AP_INLINE int ap_max(int a, int b) { return a > b ? a : b; }
AP_INLINE int ap_min(int a, int b) { return a < b ? a : b; }
AP_INLINE double ap_power(int n) { return n > 0 ? 2 * ap_power(n - 1) : n < 0 ? ap_power(n + 1) / 2 : 1; }
AP_INLINE long long ap_floor(double x) { return (long long)x - (x < (double)(long long)x); }

template <int W, bool S> struct ap_native {
    typedef _BitInt(W) type;
};
template <int W> struct ap_native<W, false> {
    typedef unsigned _BitInt(W) type;
};
template <> struct ap_native<1, true> { // C++ has no signed integer of one bit
    typedef _BitInt(2) type;
};

// W bits, I of them before the point, in two's complement where S; Q and O say how a value that does not fit is taken.
template <int W, int I, bool S, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP> struct ap_base;

// A native number as such a type.
template <class T> struct ap_of {};
#define AP_NUMBER(T, W, S)                                                                                                  \
    template <> struct ap_of<T> {                                                                                           \
        typedef ap_base<W, W, S> type;                                                                                      \
    };
AP_NUMBER(bool, 1, false)
AP_NUMBER(char, 8, true)
AP_NUMBER(signed char, 8, true)
AP_NUMBER(unsigned char, 8, false)
AP_NUMBER(short, 16, true)
AP_NUMBER(unsigned short, 16, false)
AP_NUMBER(int, 32, true)
AP_NUMBER(unsigned, 32, false)
AP_NUMBER(long, 64, true)
AP_NUMBER(unsigned long, 64, false)
AP_NUMBER(long long, 64, true)
AP_NUMBER(unsigned long long, 64, false)
#undef AP_NUMBER

template <class N> struct ap_bits; // some of the bits of a number, below

template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O> struct ap_base {
    static const int width = W, iwidth = I;
    static const ap_q_mode qmode = Q;
    static const ap_o_mode omode = O;
    static const bool sign_flag = S;
    typedef typename ap_native<W, S>::type native;

    native v; // the bits as an integer

    ap_base() = default;
    AP_INLINE ap_base(const ap_base &other) : v(other.v) {}
    template <int W2, int I2, bool S2, ap_q_mode Q2, ap_o_mode O2>
    AP_INLINE ap_base(const ap_base<W2, I2, S2, Q2, O2> &other) : v() {
        take<W2, W2 - I2>(other.v);
    }
    template <class T, class N = typename ap_of<T>::type> AP_INLINE ap_base(T value) : v() { take<N::width, 0>(value); }
    AP_INLINE ap_base(double value) : v() {
        const double scaled = value * ap_power(W - I);
        take<64, W - I>(Q == AP_TRN_ZERO ? (long long)scaled : ap_floor(scaled + (Q == AP_RND ? .5 : 0)));
    }
    template <class N> AP_INLINE ap_base(const ap_bits<N> &bits) : v() { take<N::width, 0>(bits.get().v); }

    // The number with these bits.
    AP_INLINE static ap_base bits(const native &value) {
        ap_base<W, I, S, AP_TRN, AP_WRAP> number;
        number.template take<W, W - I>(value);
        ap_base result;
        result.v = number.v;
        return result;
    }

    // Become the integer of W2 bits with F2 places behind the point.
    template <int W2, int F2, class T> AP_INLINE void take(const T &value) {
        constexpr int drop = F2 - (W - I);
        typedef _BitInt(ap_max(ap_max(W2 + ap_max(-drop, 0), W), drop) + 2) wide;
        wide x = wide(value) * (wide(1) << ap_max(-drop, 0));
        if constexpr (drop > 0) {
            static_assert(Q == AP_TRN || Q == AP_TRN_ZERO || Q == AP_RND || Q == AP_RND_CONV, "not a known rounding");
            constexpr wide half = wide(1) << (drop - 1);
            if constexpr (Q == AP_RND) {
                x += half;
            } else if constexpr (Q == AP_RND_CONV) {
                x += half - (x >> drop & 1 ? 0 : 1);
            } else if constexpr (Q == AP_TRN_ZERO) {
                x += x < 0 ? 2 * half - 1 : wide(0);
            }
            x >>= drop;
        }
        if constexpr (O != AP_WRAP) {
            static_assert(O == AP_SAT || O == AP_SAT_SYM, "not a known overflow");
            constexpr wide most = (wide(1) << (W - S)) - 1, least = !S ? wide(0) : O == AP_SAT_SYM ? -most : -most - 1;
            x = x > most ? most : x < least ? least : x;
        }
        if constexpr (W == 1 && S) {
            v = native(-(x & 1));
        } else {
            v = native(x);
        }
    }

    AP_INLINE ap_base &operator=(const ap_base &other) {
        v = other.v;
        return *this;
    }

    // Its integer part.
    AP_INLINE long long whole() const { return (long long)ap_base<ap_max(I, 1), ap_max(I, 1), S, AP_TRN_ZERO>(*this).v; }
    AP_INLINE int to_int() const { return (int)whole(); }
    AP_INLINE unsigned to_uint() const { return (unsigned)whole(); }
    AP_INLINE long long to_int64() const { return whole(); }
    AP_INLINE unsigned long long to_uint64() const { return (unsigned long long)whole(); }
    AP_INLINE double to_double() const { return (double)(long long)v * ap_power(I - W); }
    AP_INLINE float to_float() const { return (float)to_double(); }
    AP_INLINE operator bool() const { return v != 0; }
    template <class T, class = typename ap_of<T>::type> AP_INLINE operator T() const { return (T)whole(); }

    AP_INLINE ap_bits<ap_base> range(int high, int low) { return {this, high, low}; }
    AP_INLINE ap_bits<const ap_base> range(int high, int low) const { return {this, high, low}; }
    AP_INLINE ap_bits<ap_base> operator()(int high, int low) { return range(high, low); }
    AP_INLINE ap_bits<const ap_base> operator()(int high, int low) const { return range(high, low); }
    AP_INLINE ap_bits<ap_base> operator[](int place) { return range(place, place); }
    AP_INLINE ap_bits<const ap_base> operator[](int place) const { return range(place, place); }

    AP_INLINE bool operator!() const { return v == 0; }
    AP_INLINE ap_base<W, I, S> operator~() const { return ap_base<W, I, S>::bits(~v); }
    AP_INLINE ap_base<W + 1, I + 1, true> operator-() const {
        typedef _BitInt(W + 1) wide;
        return ap_base<W + 1, I + 1, true>::bits(wide(-wide(v)));
    }
    AP_INLINE ap_base operator+() const { return *this; }
    AP_INLINE ap_base operator<<(int places) const { return bits(native(v << places)); }
    AP_INLINE ap_base operator>>(int places) const { return bits(native(v >> places)); }
    AP_INLINE ap_base &operator<<=(int places) { return *this = *this << places; }
    AP_INLINE ap_base &operator>>=(int places) { return *this = *this >> places; }
    AP_INLINE ap_base &operator++() { return *this = *this + 1; }
    AP_INLINE ap_base &operator--() { return *this = *this - 1; }
    AP_INLINE ap_base operator++(int) {
        const ap_base before = *this;
        ++*this;
        return before;
    }
    AP_INLINE ap_base operator--(int) {
        const ap_base before = *this;
        --*this;
        return before;
    }
#define AP_COMPOUND(op)                                                                                                     \
    template <class T> AP_INLINE ap_base &operator op##=(const T &other) { return *this = ap_base(*this op other); }
    AP_COMPOUND(+)
    AP_COMPOUND(-)
    AP_COMPOUND(*)
    AP_COMPOUND(/)
    AP_COMPOUND(%)
    AP_COMPOUND(&)
    AP_COMPOUND(|)
    AP_COMPOUND(^)
#undef AP_COMPOUND
};

// Bits high..low of a number.
template <class N> struct ap_bits {
    static const int width = N::width;
    typedef ap_base<width, width, false> number_type;
    typedef typename number_type::native raw;
    typedef unsigned _BitInt(width + 1) wide;

    N *number;
    int high, low;

    AP_INLINE number_type mask() const { return number_type::bits(raw((wide(1) << (high - low + 1)) - 1)); }
    AP_INLINE number_type get() const { return number_type::bits(raw(raw(raw(number->v) >> low) & mask().v)); }
    AP_INLINE const ap_bits &set(const raw &value) const {
        const raw others = raw(number->v) & raw(~raw(mask().v << low));
        number->v = N::bits(typename N::native(raw(others | raw(raw(value & mask().v) << low)))).v;
        return *this;
    }
    AP_INLINE const ap_bits &operator=(const ap_bits &other) const { return set(other.get().v); }
    template <class M> AP_INLINE const ap_bits &operator=(const ap_bits<M> &other) const { return set(raw(other.get().v)); }
    template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O>
    AP_INLINE const ap_bits &operator=(const ap_base<W, I, S, Q, O> &value) const {
        return set(raw(typename ap_native<W, false>::type(value.v)));
    }
    template <class T, class = typename ap_of<T>::type> AP_INLINE const ap_bits &operator=(T value) const {
        return set(raw(value));
    }
    AP_INLINE operator number_type() const { return get(); }
    AP_INLINE operator unsigned long long() const { return (unsigned long long)get().v; }
};

// --- two numbers -----------------------------------------------------------------------------------------------------

#define AP_FIRST_TYPE int W, int I, bool S, ap_q_mode Q, ap_o_mode O
#define AP_SECOND_TYPE int W2, int I2, bool S2, ap_q_mode Q2, ap_o_mode O2
#define AP_FIRST const ap_base<W, I, S, Q, O> &a
#define AP_SECOND const ap_base<W2, I2, S2, Q2, O2> &b

// A native number on either side.
#define AP_MIXED(op)                                                                                                        \
    template <AP_FIRST_TYPE, class T, class N = typename ap_of<T>::type>                                                    \
    AP_INLINE auto operator op(AP_FIRST, T b) { return a op N(b); }                                                         \
    template <AP_FIRST_TYPE, class T, class N = typename ap_of<T>::type>                                                    \
    AP_INLINE auto operator op(T b, AP_FIRST) { return N(b) op a; }

// What holds both: places behind the point, and before it.
#define AP_BEHIND ap_max(W - I, W2 - I2)
#define AP_BEFORE ap_max(I + (S2 && !S), I2 + (S && !S2))
#define AP_ALIGNED(wide, op) wide(a.v) * (wide(1) << (AP_BEHIND - (W - I))) op wide(b.v) * (wide(1) << (AP_BEHIND - (W2 - I2)))

#define AP_ALIGNING(op, before, sign)                                                                                       \
    template <AP_FIRST_TYPE, AP_SECOND_TYPE> AP_INLINE auto operator op(AP_FIRST, AP_SECOND) {                              \
        typedef ap_base<(before) + AP_BEHIND, (before), (sign)> result;                                                     \
        typedef _BitInt(ap_max((before) + AP_BEHIND, 1) + 1) wide;                                                          \
        return result::bits(typename result::native(AP_ALIGNED(wide, op)));                                                 \
    }                                                                                                                       \
    AP_MIXED(op)
AP_ALIGNING(+, AP_BEFORE + 1, S || S2)
AP_ALIGNING(-, AP_BEFORE + 1, true)
AP_ALIGNING(&, AP_BEFORE, S || S2)
AP_ALIGNING(|, AP_BEFORE, S || S2)
AP_ALIGNING(^, AP_BEFORE, S || S2)
#undef AP_ALIGNING

template <AP_FIRST_TYPE, AP_SECOND_TYPE> AP_INLINE auto operator*(AP_FIRST, AP_SECOND) {
    typedef ap_base<W + W2, I + I2, S || S2> result;
    typedef _BitInt(W + W2 + 1) wide;
    return result::bits(typename result::native(wide(a.v) * wide(b.v)));
}
AP_MIXED(*)

template <AP_FIRST_TYPE, AP_SECOND_TYPE> AP_INLINE auto operator/(AP_FIRST, AP_SECOND) {
    constexpr int behind = ap_max(W2 - I2, 0);
    typedef ap_base<W + behind + S2, I + W2 - I2 + S2, S || S2> result;
    typedef _BitInt(W + behind + W2 + 2) wide;
    return result::bits(typename result::native(wide(a.v) * (wide(1) << behind) / wide(b.v)));
}
AP_MIXED(/)

template <AP_FIRST_TYPE, AP_SECOND_TYPE> AP_INLINE auto operator%(AP_FIRST, AP_SECOND) {
    static_assert(W == I && W2 == I2, "a remainder is one of integers");
    constexpr int least = ap_min(W, W2 + (!S2 && S));
    typedef ap_base<least, least, S> result;
    typedef _BitInt(ap_max(W, W2) + 2) wide;
    return result::bits(typename result::native(wide(a.v) % wide(b.v)));
}
AP_MIXED(%)

#define AP_COMPARISON(op)                                                                                                   \
    template <AP_FIRST_TYPE, AP_SECOND_TYPE> AP_INLINE bool operator op(AP_FIRST, AP_SECOND) {                              \
        typedef _BitInt(ap_max(AP_BEFORE + AP_BEHIND, 1) + 2) wide;                                                         \
        return AP_ALIGNED(wide, op);                                                                                        \
    }                                                                                                                       \
    AP_MIXED(op)
AP_COMPARISON(==)
AP_COMPARISON(!=)
AP_COMPARISON(<)
AP_COMPARISON(<=)
AP_COMPARISON(>)
AP_COMPARISON(>=)
#undef AP_COMPARISON

// --- the types by their names ----------------------------------------------------------------------------------------

// What comes from behind a point is cut off towards zero in integers, and is rounded as Q says in fixed-point numbers.

#define AP_NAMED(name)                                                                                                      \
    name() = default;                                                                                                       \
    template <class T> AP_INLINE name(const T &value) : base(value) {}                                                      \
    AP_INLINE name(const name &other) : base(other) {}                                                                      \
    AP_INLINE name &operator=(const name &other) {                                                                          \
        this->v = other.v;                                                                                                  \
        return *this;                                                                                                       \
    }

template <int W> struct ap_int : ap_base<W, W, true, AP_TRN_ZERO> {
    typedef ap_base<W, W, true, AP_TRN_ZERO> base;
    AP_NAMED(ap_int)
};

template <int W> struct ap_uint : ap_base<W, W, false, AP_TRN_ZERO> {
    typedef ap_base<W, W, false, AP_TRN_ZERO> base;
    AP_NAMED(ap_uint)
};

#endif
