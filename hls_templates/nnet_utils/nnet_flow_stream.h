#ifndef NNET_FLOW_STREAM_H_
#define NNET_FLOW_STREAM_H_

#include "hls_stream.h"
#include "nnet_common.h"
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
        #pragma HLS PIPELINE II=1
        data_T in = data.read();
        res_T out;
        PRAGMA_DATA_PACK(out)
        const flow_at at = {0, 0, 0, true};
        CONFIG_T::cell(in.data, at, out.data);
        res.write(out);
    }
}

// Pixels of two streams, side by side.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_pair(hls::stream<data0_T> &data0, hls::stream<data1_T> &data1, hls::stream<res_T> &res) {
Pixel:
    for (int p = 0; p < CONFIG_T::n_pixel; p++) {
        #pragma HLS PIPELINE II=1
        data0_T in0 = data0.read();
        data1_T in1 = data1.read();
        res_T out;
        PRAGMA_DATA_PACK(out)
        const flow_at at = {0, 0, 0, true};
        CONFIG_T::cell(in0.data, in1.data, at, out.data);
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
        PRAGMA_DATA_PACK(out1)
        PRAGMA_DATA_PACK(out2)
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

// A whole tensor of a stream -> all[first..], a code a cycle: a memory with one port takes it.
template <int n_pixel, int n_chan, class data_T, class code_T>
void flow_store(hls::stream<data_T> &data, int first, code_T all[]) {
    #pragma HLS INLINE
    code_T pixel[n_chan];
    #pragma HLS ARRAY_PARTITION variable=pixel complete
    int c = 0;
Store:
    for (int i = 0; i < n_pixel * n_chan; i++) {
        #pragma HLS PIPELINE II=1
        if (c == 0) {
            data_T in = data.read();
        Code:
            for (int k = 0; k < n_chan; k++) {
                #pragma HLS UNROLL
                flow_set(pixel[k], flow_code(in[k]));
            }
        }
        flow_set(all[first + i], flow_code(pixel[0]));
    Next:
        for (int k = 0; k + 1 < n_chan; k++) {
            #pragma HLS UNROLL
            flow_set(pixel[k], flow_code(pixel[k + 1]));
        }
        c = c == n_chan - 1 ? 0 : c + 1;
    }
}

// One or two whole tensors -> all.
template <class data_T, typename CONFIG_T, class code_T> void flow_stored(hls::stream<data_T> &data, code_T all[]) {
    flow_store<CONFIG_T::n_first, CONFIG_T::c_first>(data, 0, all);
}
template <class data0_T, class data1_T, typename CONFIG_T, class code_T>
void flow_stored_two(hls::stream<data0_T> &data0, hls::stream<data1_T> &data1, code_T all[]) {
    flow_store<CONFIG_T::n_first, CONFIG_T::c_first>(data0, 0, all);
    flow_store<CONFIG_T::n_second, CONFIG_T::c_second>(data1, CONFIG_T::n_first * CONFIG_T::c_first, all);
}

// Stored elements -> the pixels of a stream, a code a cycle.
template <class res_T, typename CONFIG_T, class code_T>
void flow_picked(const code_T all[], hls::stream<res_T> &res, const int index[1][CONFIG_T::n_pixel * CONFIG_T::n_chan]) {
    res_T out;
    PRAGMA_DATA_PACK(out)
    int c = 0;
Pick:
    for (int i = 0; i < CONFIG_T::n_pixel * CONFIG_T::n_chan; i++) {
        #pragma HLS PIPELINE II=1
    Earlier:
        for (int k = 0; k + 1 < CONFIG_T::n_chan; k++) {
            #pragma HLS UNROLL
            flow_set(out[k], flow_code(out[k + 1]));
        }
        flow_set(out[CONFIG_T::n_chan - 1], flow_code(all[index[0][i]]));
        if (c == CONFIG_T::n_chan - 1) {
            res.write(out);
        }
        c = c == CONFIG_T::n_chan - 1 ? 0 : c + 1;
    }
}

// Elements that move between pixels: the whole tensor is stored first, and while it is read the next one is stored in
// another memory.
template <class data_T, class res_T, typename CONFIG_T>
void flow_shuffle(hls::stream<data_T> &data, hls::stream<res_T> &res,
                  const int index[1][CONFIG_T::n_pixel * CONFIG_T::n_chan]) {
    #pragma HLS DATAFLOW
    typename res_T::value_type all[CONFIG_T::n_first * CONFIG_T::c_first];
    flow_stored<data_T, CONFIG_T>(data, all);
    flow_picked<res_T, CONFIG_T>(all, res, index);
}

// The same from two tensors, one after the other.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_shuffle_two(hls::stream<data0_T> &data0, hls::stream<data1_T> &data1, hls::stream<res_T> &res,
                      const int index[1][CONFIG_T::n_pixel * CONFIG_T::n_chan]) {
    #pragma HLS DATAFLOW
    typename res_T::value_type all[CONFIG_T::n_first * CONFIG_T::c_first + CONFIG_T::n_second * CONFIG_T::c_second];
    flow_stored_two<data0_T, data1_T, CONFIG_T>(data0, data1, all);
    flow_picked<res_T, CONFIG_T>(all, res, index);
}

// Sums and maxima over windows. The last rows are kept as packed words, and the window in registers; one pixel comes in a
// step, absent ones around the image included. A position is computed when its last tap is there, in `folds` cycles, and
// then written. No map of sums is stored: the cell makes codes.
template <class data_T, class res_T, typename CONFIG_T>
void flow_slide(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    typedef flow_sizes<CONFIG_T> sizes;
    const int lanes = res_T::size / sizes::passes; // behind a sum of one pass others may follow than its outputs
    typename sizes::data_t line[sizes::before_rows > 0 ? sizes::before_rows : 1][sizes::width][sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=line complete dim=1
    #pragma HLS ARRAY_RESHAPE variable=line complete dim=3
    typename sizes::data_t window[sizes::span_rows][sizes::span_cols][sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=window complete dim=0
    typename sizes::data_t word[sizes::all_words];
    #pragma HLS ARRAY_PARTITION variable=word complete
    typename CONFIG_T::acc_t acc[CONFIG_T::n_acc];
    #pragma HLS ARRAY_PARTITION variable=acc complete
    res_T out;
    PRAGMA_DATA_PACK(out)
    int row = 0, col = 0;                                           // of the step
    int o_row = 0, o_col = 0;                                       // of the next position,
    int end_row = sizes::before_rows, end_col = sizes::before_cols; // and of its last tap
    int chunk = 0;
    flow_at at = {0, 0, 0, true};
Step:
    for (int t = 0; t < sizes::height * sizes::width + sizes::positions * (sizes::folds - 1); t++) {
        #pragma HLS PIPELINE II=1
        const bool whole = row == end_row && row < sizes::reach_rows && col == end_col && col < sizes::reach_cols;
        if (at.fold == 0) {
            typename sizes::data_t pixel[sizes::pixel];
            #pragma HLS ARRAY_PARTITION variable=pixel complete
            flow_absent<CONFIG_T>(pixel);
            if (row >= CONFIG_T::p_rows && row < sizes::end_rows && col >= CONFIG_T::p_cols && col < sizes::end_cols) {
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
                    typename sizes::data_t next = pixel[k];
                    if (i < sizes::before_rows) {
                        next = line[i][col][k];
                        line[i][col][k] = i + 1 < sizes::before_rows ? line[i + 1][col][k] : pixel[k];
                    }
                    window[i][sizes::span_cols - 1][k] = next;
                }
            }
            typename sizes::data_t taps[sizes::taps * sizes::pixel];
            #pragma HLS ARRAY_PARTITION variable=taps complete
        Tap:
            for (int i = 0; i < sizes::taps; i++) {
                #pragma HLS UNROLL
            Copy:
                for (int k = 0; k < sizes::pixel; k++) {
                    #pragma HLS UNROLL
                    taps[i * sizes::pixel + k] =
                        window[i / CONFIG_T::k_cols * CONFIG_T::d_rows][i % CONFIG_T::k_cols * CONFIG_T::d_cols][k];
                }
            }
            flow_collect<CONFIG_T>(taps, word);
        }
        const bool last = chunk == sizes::chunks - 1, done = !whole || at.fold == sizes::folds - 1;
        if (whole) {
            at.border = CONFIG_T::border(o_row, o_col);
            at.first = chunk == 0;
            typename res_T::value_type lane[lanes];
            #pragma HLS ARRAY_PARTITION variable=lane complete
            // What is not folded is said to be at row 0, so that a compiler knows all constants at once.
            const flow_at now = {sizes::folds == 1 ? 0 : at.fold, sizes::passes == 1 ? 0 : at.pass, at.border,
                                 sizes::chunks == 1 || at.first};
            CONFIG_T::cell(word, now, acc, lane);
            flow_rotate<CONFIG_T>(word);
            if (last) {
                flow_append<lanes, res_T::size>(lane, out.data);
            }
            if (done) {
                res.write(out);
            }
            at.fold = done ? 0 : at.fold + 1;
            at.pass = done ? 0 : at.pass + last;
            chunk = last ? 0 : chunk + 1;
        }
        if (done) { // on to the next pixel
            const bool line_end = col == sizes::width - 1, in_row = row == end_row, in_col = col == end_col;
            o_row += line_end && in_row ? 1 : 0;
            end_row += line_end && in_row ? CONFIG_T::s_rows : 0;
            o_col = line_end ? 0 : in_col ? o_col + 1 : o_col;
            end_col = line_end ? sizes::before_cols : in_col ? end_col + CONFIG_T::s_cols : end_col;
            row += line_end ? 1 : 0;
            col = line_end ? 0 : col + 1;
        }
    }
}

// Codes of a pixel -> its chunks.
template <class data_T, typename CONFIG_T>
void flow_chunks(const data_T data[], unsigned long long pixel[][flow_sizes<CONFIG_T>::words]) {
    #pragma HLS INLINE
Pack:
    for (int c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        flow_put<CONFIG_T>(pixel[c / CONFIG_T::simd], 0, c % CONFIG_T::simd, flow_code(data[c]).to_uint64());
    }
}

// A counter that begins again at N.
template <int N> int flow_wrap(int count) {
    #pragma HLS INLINE
    return count >= N ? count - N : count;
}

// Sums over windows, folded. The last rows are kept in a memory of chunks, `simd` channels wide, of which one is read in a
// cycle. Pixels come in, a chunk a cycle, until the last tap of the next position is there; then this is computed, in
// `folds` cycles. A row of the memory is used again when no position reads it any longer. No tap is read from another
// place than that of a counter: columns and rows of the memory are counted in chunks.
template <class data_T, class res_T, typename CONFIG_T>
void flow_fold(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    typedef flow_sizes<CONFIG_T> sizes;
    const int parts = CONFIG_T::n_chan / CONFIG_T::simd; // chunks of a pixel,
    const int share = sizes::share / CONFIG_T::simd;     // of a group of its channels,
    const int line = CONFIG_T::n_cols * parts;           // of a row,
    const int all = sizes::span_rows * line;             // of the memory
    const int lanes = res_T::size / sizes::passes;       // as in flow_slide
    typename CONFIG_T::chunk_t image[all][sizes::words];
    #pragma HLS ARRAY_RESHAPE variable=image complete dim=2
    unsigned long long pixel[parts][sizes::words];
    #pragma HLS ARRAY_PARTITION variable=pixel complete dim=0
    typename CONFIG_T::acc_t acc[CONFIG_T::n_acc];
    #pragma HLS ARRAY_PARTITION variable=acc complete
    res_T out;
    PRAGMA_DATA_PACK(out)
    int in_row = 0, in_col = 0, in_part = 0, in_place = 0; // the pixel and chunk that come in, and where to
    int o_row = 0, o_col = 0;                              // the next position,
    int row = -CONFIG_T::p_rows, col = -CONFIG_T::p_cols;  // its first tap,
    int slot = (sizes::span_rows - CONFIG_T::p_rows % sizes::span_rows) % sizes::span_rows * line; // where its row is,
    int x = -CONFIG_T::p_cols * parts;                                                             // and where in the row
    int k_row = 0, k_col = 0, part = 0; // the tap and the chunk of it that are read,
    int y = row, k_slot = slot, k_x = x; // and where
    int group = 0, in_group = 0;         // the first chunk of the group of channels, and the pass of it
    flow_at at = {0, 0, 0, true};
Cycle:
    for (int t = 0; t < CONFIG_T::n_rows * line + sizes::positions * sizes::folds; t++) {
        #pragma HLS PIPELINE II=1
        // The last pixel of the position that is in the image.
        const int end_row = row + sizes::before_rows < CONFIG_T::n_rows ? row + sizes::before_rows : CONFIG_T::n_rows - 1;
        const int end_col = col + sizes::before_cols < CONFIG_T::n_cols ? col + sizes::before_cols : CONFIG_T::n_cols - 1;
        const bool there = in_row > end_row || (in_row == end_row && in_col > end_col);
        if (o_row < CONFIG_T::o_rows && there) {
            const bool inside = y >= 0 && y < CONFIG_T::n_rows && k_x >= 0 && k_x < line;
            const int place = inside ? k_slot + k_x + group + part : 0;
            unsigned long long word[sizes::words];
            #pragma HLS ARRAY_PARTITION variable=word complete
        Read:
            for (int k = 0; k < sizes::words; k++) {
                #pragma HLS UNROLL
                const unsigned long long chunk = image[place][k];
                word[k] = inside ? chunk : 0;
            }
            const bool tap_end = part == share - 1, line_end = tap_end && k_col == CONFIG_T::k_cols - 1;
            const bool last = line_end && k_row == CONFIG_T::k_rows - 1, done = last && at.pass == sizes::passes - 1;
            at.border = CONFIG_T::border(o_row, o_col);
            at.first = part == 0 && k_col == 0 && k_row == 0;
            typename res_T::value_type lane[lanes];
            #pragma HLS ARRAY_PARTITION variable=lane complete
            CONFIG_T::cell(word, at, acc, lane);
            if (last) {
                flow_append<lanes, res_T::size>(lane, out.data);
            }
            if (done) { // on to the next position
                res.write(out);
                const bool made = o_col == CONFIG_T::o_cols - 1;
                o_row += made ? 1 : 0;
                row += made ? CONFIG_T::s_rows : 0;
                slot = made ? flow_wrap<all>(slot + CONFIG_T::s_rows % sizes::span_rows * line) : slot;
                o_col = made ? 0 : o_col + 1;
                col = made ? -CONFIG_T::p_cols : col + CONFIG_T::s_cols;
                x = made ? -CONFIG_T::p_cols * parts : x + CONFIG_T::s_cols * parts;
            }
            at.fold = done ? 0 : at.fold + 1;
            at.pass = done ? 0 : last ? at.pass + 1 : at.pass;
            const bool group_end = in_group == sizes::per_group / CONFIG_T::pe - 1;
            group = done ? 0 : last && group_end ? group + share : group;
            in_group = done || (last && group_end) ? 0 : last ? in_group + 1 : in_group;
            part = tap_end ? 0 : part + 1;
            k_col = line_end ? 0 : tap_end ? k_col + 1 : k_col;
            k_x = line_end ? x : tap_end ? k_x + CONFIG_T::d_cols * parts : k_x;
            k_row = last ? 0 : line_end ? k_row + 1 : k_row;
            y = last ? row : line_end ? y + CONFIG_T::d_rows : y;
            k_slot = last ? slot : line_end ? flow_wrap<all>(k_slot + CONFIG_T::d_rows % sizes::span_rows * line) : k_slot;
        } else {
            if (in_part == 0) {
                data_T in = data.read();
                flow_chunks<typename data_T::value_type, CONFIG_T>(in.data, pixel);
            }
        Write:
            for (int k = 0; k < sizes::words; k++) {
                #pragma HLS UNROLL
                image[in_place][k] = pixel[0][k];
            }
        Next:
            for (int p = 0; p + 1 < parts; p++) {
                #pragma HLS UNROLL
            Word:
                for (int k = 0; k < sizes::words; k++) {
                    #pragma HLS UNROLL
                    pixel[p][k] = pixel[p + 1][k];
                }
            }
            const bool pixel_end = in_part == parts - 1, line_end = pixel_end && in_col == CONFIG_T::n_cols - 1;
            in_place = in_place == all - 1 ? 0 : in_place + 1;
            in_part = pixel_end ? 0 : in_part + 1;
            in_col = line_end ? 0 : pixel_end ? in_col + 1 : in_col;
            in_row += line_end ? 1 : 0;
        }
    }
}

} // namespace nnet

#endif
