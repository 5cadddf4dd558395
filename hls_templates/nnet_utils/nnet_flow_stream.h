#ifndef NNET_FLOW_STREAM_H_
#define NNET_FLOW_STREAM_H_

#include "hls_stream.h"
#include "nnet_flow_window.h"
#include "nnet_types.h"

// io_stream: a tensor is a stream of pixels (nnet::array of the last axis), row by row; a vector is one pixel.
// No state is kept between images.

namespace nnet {

struct flow_stream_config : flow_config {
    static const int n_pixel = 1;  // of the result
    static const int n_chan = 1;   // of a pixel of the result
    static const int n_first = 1;  // pixels of the input,
    static const int c_first = 1;  // its channels,
    static const int n_second = 1; // and the same of a second input
    static const int c_second = 1;
};

// Every pixel by itself.
template <class data_T, class res_T, typename CONFIG_T>
void flow_each(hls::stream<data_T> &data, hls::stream<res_T> &res) {
Pixel:
    for (int p = 0; p < CONFIG_T::n_pixel; p++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
        data_T in = data.read();
        res_T out;
        CONFIG_T::cell(in.data, 0, 0, out.data);
        res.write(out);
    }
}

// Pixels of two streams, side by side.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_pair(hls::stream<data0_T> &data0, hls::stream<data1_T> &data1, hls::stream<res_T> &res) {
Pixel:
    for (int p = 0; p < CONFIG_T::n_pixel; p++) {
        #pragma HLS PIPELINE II=CONFIG_T::interval
        data0_T in0 = data0.read();
        data1_T in1 = data1.read();
        res_T out;
        CONFIG_T::cell(in0.data, in1.data, 0, 0, out.data);
        res.write(out);
    }
}

// One stream for each of two readers.
template <class data_T, class res_T, typename CONFIG_T>
void flow_split(hls::stream<data_T> &data, hls::stream<res_T> &res1, hls::stream<res_T> &res2) {
Pixel:
    for (int p = 0; p < CONFIG_T::n_pixel; p++) {
        #pragma HLS PIPELINE
        data_T in = data.read();
        res_T out1, out2;
    Wire:
        for (int c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            flow_set(out1[c], flow_code(in[c]));
            flow_set(out2[c], flow_code(in[c]));
        }
        res1.write(out1);
        res2.write(out2);
    }
}

// A whole tensor of a stream -> all[first..].
template <int n_pixel, int n_chan, class data_T, class code_T>
void flow_store(hls::stream<data_T> &data, int first, code_T all[]) {
    #pragma HLS INLINE
Store:
    for (int p = 0; p < n_pixel; p++) {
        #pragma HLS PIPELINE
        data_T in = data.read();
    Code:
        for (int c = 0; c < n_chan; c++) {
            #pragma HLS UNROLL
            flow_set(all[first + p * n_chan + c], flow_code(in[c]));
        }
    }
}

// Stored elements -> the pixels of a stream.
template <class res_T, typename CONFIG_T, class code_T>
void flow_pick(const code_T all[], hls::stream<res_T> &res, const int index[CONFIG_T::n_pixel * CONFIG_T::n_chan]) {
    #pragma HLS INLINE
    #pragma HLS ARRAY_PARTITION variable=index cyclic factor=CONFIG_T::n_chan
Pixel:
    for (int p = 0; p < CONFIG_T::n_pixel; p++) {
        #pragma HLS PIPELINE
        res_T out;
    Code:
        for (int c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            flow_set(out[c], flow_code(all[index[p * CONFIG_T::n_chan + c]]));
        }
        res.write(out);
    }
}

// Elements that move between pixels: the whole tensor is stored first.
template <class data_T, class res_T, typename CONFIG_T>
void flow_shuffle(hls::stream<data_T> &data, hls::stream<res_T> &res,
                  const int index[CONFIG_T::n_pixel * CONFIG_T::n_chan]) {
    typename res_T::value_type all[CONFIG_T::n_first * CONFIG_T::c_first];
    flow_store<CONFIG_T::n_first, CONFIG_T::c_first>(data, 0, all);
    flow_pick<res_T, CONFIG_T>(all, res, index);
}

// The same from two tensors, one after the other.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_shuffle_two(hls::stream<data0_T> &data0, hls::stream<data1_T> &data1, hls::stream<res_T> &res,
                      const int index[CONFIG_T::n_pixel * CONFIG_T::n_chan]) {
    const int n_first = CONFIG_T::n_first * CONFIG_T::c_first;
    typename res_T::value_type all[n_first + CONFIG_T::n_second * CONFIG_T::c_second];
    flow_store<CONFIG_T::n_first, CONFIG_T::c_first>(data0, 0, all);
    flow_store<CONFIG_T::n_second, CONFIG_T::c_second>(data1, n_first, all);
    flow_pick<res_T, CONFIG_T>(all, res, index);
}

// Sums and maxima over windows: the last rows are kept as packed words, one pixel comes in a step, absent ones around
// the image included; a position is written when its last tap is there. No map of sums is stored: the cell makes codes.
template <class data_T, class res_T, typename CONFIG_T>
void flow_slide(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    typedef flow_sizes<CONFIG_T> sizes;
    const int last_row = (CONFIG_T::o_rows - 1) * CONFIG_T::s_rows + sizes::span_rows;
    const int last_col = (CONFIG_T::o_cols - 1) * CONFIG_T::s_cols + sizes::span_cols;
    const int end_row = CONFIG_T::p_rows + CONFIG_T::n_rows, end_col = CONFIG_T::p_cols + CONFIG_T::n_cols;
    const int rows = last_row > end_row ? last_row : end_row, cols = last_col > end_col ? last_col : end_col;
    unsigned long long line[sizes::before_rows > 0 ? sizes::before_rows : 1][cols][sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=line complete dim=1
    #pragma HLS ARRAY_PARTITION variable=line complete dim=3
    unsigned long long window[sizes::span_rows][sizes::span_cols][sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=window complete dim=0
Row:
    for (int r = 0; r < rows; r++) {
    Col:
        for (int c = 0; c < cols; c++) {
            #pragma HLS PIPELINE II=CONFIG_T::interval
            unsigned long long pixel[sizes::pixel];
            #pragma HLS ARRAY_PARTITION variable=pixel complete
            flow_absent<CONFIG_T>(pixel);
            if (r >= CONFIG_T::p_rows && r < end_row && c >= CONFIG_T::p_cols && c < end_col) {
                data_T in = data.read();
                flow_pack<typename data_T::value_type, CONFIG_T>(in.data, 0, pixel);
            }
        Shift:
            for (int i = 0; i < sizes::span_rows; i++) {
                #pragma HLS UNROLL
            Word:
                for (int k = 0; k < sizes::pixel; k++) {
                    #pragma HLS UNROLL
                Left:
                    for (int j = 0; j + 1 < sizes::span_cols; j++) {
                        #pragma HLS UNROLL
                        window[i][j][k] = window[i][j + 1][k];
                    }
                    unsigned long long next = pixel[k];
                    if (i < sizes::before_rows) {
                        next = line[i][c][k];
                        line[i][c][k] = i + 1 < sizes::before_rows ? line[i + 1][c][k] : pixel[k];
                    }
                    window[i][sizes::span_cols - 1][k] = next;
                }
            }
            const int y = r - sizes::before_rows, x = c - (sizes::span_cols - 1);
            if (y >= 0 && x >= 0 && y % CONFIG_T::s_rows == 0 && x % CONFIG_T::s_cols == 0 && r < last_row &&
                c < last_col) {
                unsigned long long taps[sizes::taps * sizes::pixel];
                #pragma HLS ARRAY_PARTITION variable=taps complete
            Tap:
                for (int t = 0; t < sizes::taps; t++) {
                    #pragma HLS UNROLL
                Copy:
                    for (int k = 0; k < sizes::pixel; k++) {
                        #pragma HLS UNROLL
                        taps[t * sizes::pixel + k] =
                            window[t / CONFIG_T::k_cols * CONFIG_T::d_rows][t % CONFIG_T::k_cols * CONFIG_T::d_cols][k];
                    }
                }
                unsigned long long word[CONFIG_T::n_group * sizes::words];
                #pragma HLS ARRAY_PARTITION variable=word complete
                flow_collect<CONFIG_T>(taps, word);
                res_T out;
                CONFIG_T::cell(word, 0, CONFIG_T::border(y / CONFIG_T::s_rows, x / CONFIG_T::s_cols), out.data);
                res.write(out);
            }
        }
    }
}

} // namespace nnet

#endif
