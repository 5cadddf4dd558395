// Put in front of a project's top function by a traced simulation: flow_print_codes writes a line of what an array, or
// a stream of pixels, holds. A stream is read and filled again, so that its reader finds it as it was.
#include "nnet_utils/nnet_flow_stream.h"
#include <cstdio>
template <class T> static void flow_print_code(const T &value) {
    std::printf(" %lld", nnet::flow_signed(value));
}
template <class T> static void flow_print_codes(const char *name, T *values, int size) {
    std::printf("TRACE %s", name);
    for (int i = 0; i < size; i++) {
        flow_print_code(values[i]);
    }
    std::puts("");
}
template <class T> static void flow_print_codes(const char *name, hls::stream<T> &stream, int size) {
    std::printf("TRACE %s", name);
    for (unsigned p = 0; p < size / T::size; p++) {
        T pixel = stream.read();
        for (unsigned c = 0; c < T::size; c++) {
            flow_print_code(pixel[c]);
        }
        stream.write(pixel);
    }
    std::puts("");
}
