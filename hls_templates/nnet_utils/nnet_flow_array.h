#ifndef NNET_FLOW_ARRAY_H_
#define NNET_FLOW_ARRAY_H_

#include "nnet_flow_window.h"

// io_parallel: a tensor is an array, each of its elements a register.

namespace nnet {

struct flow_array_config : flow_config {
    static const int n_in1 = 1; // elements of a second input
    static const int n_out = 1;
};

// All elements at once.
template <class data_T, class res_T, typename CONFIG_T>
void flow_all(const data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_out]) {
    #pragma HLS PIPELINE II=CONFIG_T::interval
    const flow_at at = {0, 0, 0, true};
    CONFIG_T::cell(data, at, res);
}

// The same of two arrays.
template <class data0_T, class data1_T, class res_T, typename CONFIG_T>
void flow_all_two(const data0_T data0[CONFIG_T::n_in], const data1_T data1[CONFIG_T::n_in1], res_T res[CONFIG_T::n_out]) {
    #pragma HLS PIPELINE II=CONFIG_T::interval
    const flow_at at = {0, 0, 0, true};
    CONFIG_T::cell(data0, data1, at, res);
}

// One array for each of two readers: DATAFLOW wants one consumer an array.
template <class data_T, class res_T, typename CONFIG_T>
void flow_fork(const data_T data[CONFIG_T::n_in], res_T res1[CONFIG_T::n_in], res_T res2[CONFIG_T::n_in]) {
    #pragma HLS PIPELINE
Wire:
    for (int i = 0; i < CONFIG_T::n_in; i++) {
        #pragma HLS UNROLL
        flow_set(res1[i], flow_code(data[i]));
        flow_set(res2[i], flow_code(data[i]));
    }
}

// An array -> the packed pixels of the image, absent ones around it included.
template <class data_T, typename CONFIG_T>
void flow_image(const data_T data[CONFIG_T::n_rows * CONFIG_T::n_cols * CONFIG_T::n_chan],
                typename flow_sizes<CONFIG_T>::data_t image[flow_sizes<CONFIG_T>::height * flow_sizes<CONFIG_T>::width]
                                        [flow_sizes<CONFIG_T>::pixel]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
Pixel:
    for (int p = 0; p < sizes::height * sizes::width; p++) {
        #pragma HLS UNROLL
        const int y = p / sizes::width - CONFIG_T::p_rows, x = p % sizes::width - CONFIG_T::p_cols;
        if (y >= 0 && y < CONFIG_T::n_rows && x >= 0 && x < CONFIG_T::n_cols) {
            flow_pack<data_T, CONFIG_T>(data, (y * CONFIG_T::n_cols + x) * CONFIG_T::n_chan, image[p]);
        } else {
            flow_absent<CONFIG_T>(image[p]);
        }
    }
}

// The words of a position, whose first tap is pixel `first` of the image.
template <typename CONFIG_T>
void flow_position(const typename flow_sizes<CONFIG_T>::data_t image[][flow_sizes<CONFIG_T>::pixel], int first,
                   typename flow_sizes<CONFIG_T>::data_t word[flow_sizes<CONFIG_T>::all_words]) {
    #pragma HLS INLINE
    typedef flow_sizes<CONFIG_T> sizes;
    typename sizes::data_t taps[sizes::taps * sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=taps complete
Tap:
    for (int t = 0; t < sizes::taps; t++) {
        #pragma HLS UNROLL
        const int row = t / CONFIG_T::k_cols * CONFIG_T::d_rows, col = t % CONFIG_T::k_cols * CONFIG_T::d_cols;
    Copy:
        for (int k = 0; k < sizes::pixel; k++) {
            #pragma HLS UNROLL
            taps[t * sizes::pixel + k] = image[first + row * sizes::width + col][k];
        }
    }
    flow_collect<CONFIG_T>(taps, word);
}

// One pass of a position as a function of its own: of all that is unrolled, as much as a compiler takes.
template <class res_T, typename CONFIG_T, int pass>
void flow_one_pass(const typename flow_sizes<CONFIG_T>::data_t word[flow_sizes<CONFIG_T>::ready], int border,
                res_T lane[CONFIG_T::pe]) {
    #pragma HLS INLINE off
    #pragma HLS PIPELINE II=CONFIG_T::interval
    typename CONFIG_T::acc_t acc[CONFIG_T::n_acc];
    #pragma HLS ARRAY_PARTITION variable=acc complete
    const flow_at at = {pass, pass, border, true};
    CONFIG_T::cell(word, at, acc, lane);
}

// Passes up to `pass` of a position.
template <class res_T, typename CONFIG_T, int pass> struct flow_passes {
    static void of(const typename flow_sizes<CONFIG_T>::data_t word[flow_sizes<CONFIG_T>::all_words], int border,
                   res_T res[]) {
        #pragma HLS INLINE
        typedef flow_sizes<CONFIG_T> sizes;
        flow_passes<res_T, CONFIG_T, pass - 1>::of(word, border, res);
        typename sizes::data_t own[sizes::ready]; // the words of the pass: all, or those of its groups of channels
        #pragma HLS ARRAY_PARTITION variable=own complete
    Word:
        for (int k = 0; k < sizes::ready; k++) {
            #pragma HLS UNROLL
            own[k] = word[(CONFIG_T::n_group == 1 ? 0 : pass * sizes::ready) + k];
        }
        res_T lane[CONFIG_T::pe];
        #pragma HLS ARRAY_PARTITION variable=lane complete
        flow_one_pass<res_T, CONFIG_T, pass>(own, border, lane);
    Lane:
        for (int n = 0; n < CONFIG_T::pe; n++) {
            #pragma HLS UNROLL
            flow_set(res[pass * CONFIG_T::pe + n], flow_code(lane[n]));
        }
    }
};
template <class res_T, typename CONFIG_T> struct flow_passes<res_T, CONFIG_T, -1> {
    static void of(const typename flow_sizes<CONFIG_T>::data_t word[], int border, res_T res[]) {
        #pragma HLS INLINE
    }
};

// All positions at once, nothing folded.
template <class data_T, class res_T, typename CONFIG_T>
void flow_positions(const data_T data[CONFIG_T::n_rows * CONFIG_T::n_cols * CONFIG_T::n_chan],
                    res_T res[flow_sizes<CONFIG_T>::positions * CONFIG_T::n_out]) {
    #pragma HLS PIPELINE II=CONFIG_T::interval
    typedef flow_sizes<CONFIG_T> sizes;
    typename sizes::data_t image[sizes::height * sizes::width][sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=image complete dim=0
    flow_image<data_T, CONFIG_T>(data, image);
Position:
    for (int p = 0; p < sizes::positions; p++) {
        #pragma HLS UNROLL
        const int row = p / CONFIG_T::o_cols, col = p % CONFIG_T::o_cols;
        typename sizes::data_t word[sizes::all_words];
        #pragma HLS ARRAY_PARTITION variable=word complete
        flow_position<CONFIG_T>(image, row * CONFIG_T::s_rows * sizes::width + col * CONFIG_T::s_cols, word);
        const int border = CONFIG_T::border(row, col);
        if (CONFIG_T::apart) {
            flow_passes<res_T, CONFIG_T, CONFIG_T::apart ? sizes::passes - 1 : -1>::of(word, border, res + p * CONFIG_T::n_out);
        } else {
            typename CONFIG_T::acc_t acc[CONFIG_T::n_acc];
            #pragma HLS ARRAY_PARTITION variable=acc complete
            const flow_at at = {0, 0, border, true};
            CONFIG_T::cell(word, at, acc, res + p * CONFIG_T::n_out);
        }
    }
}

// Some positions at once, each in passes over the outputs and chunks of taps. The hardware stays where it is: what it
// reads is moved past it, the image by the pixels between two turns, and its results are moved away.
template <class data_T, class res_T, typename CONFIG_T>
void flow_turns(const data_T data[CONFIG_T::n_rows * CONFIG_T::n_cols * CONFIG_T::n_chan],
                res_T res[flow_sizes<CONFIG_T>::positions * CONFIG_T::n_out]) {
    typedef flow_sizes<CONFIG_T> sizes;
    const int pixels = sizes::height * sizes::width, made = CONFIG_T::at_once * CONFIG_T::n_out;
    const int across = CONFIG_T::at_once < CONFIG_T::o_cols ? CONFIG_T::at_once : CONFIG_T::o_cols; // positions of a row
    const int down = CONFIG_T::at_once / across;                                                    // rows of positions
    const int next = across * CONFIG_T::s_cols; // pixels to the next turn in a row, and to the next row
    const int next_row = down * CONFIG_T::s_rows * sizes::width - (CONFIG_T::o_cols / across - 1) * next;
    typename sizes::data_t image[pixels][sizes::pixel];
    #pragma HLS ARRAY_PARTITION variable=image complete dim=0
    typename sizes::data_t word[CONFIG_T::at_once][sizes::all_words];
    #pragma HLS ARRAY_PARTITION variable=word complete dim=0
    typename CONFIG_T::acc_t acc[CONFIG_T::at_once][CONFIG_T::n_acc];
    #pragma HLS ARRAY_PARTITION variable=acc complete dim=0
    res_T out[CONFIG_T::at_once][CONFIG_T::n_out];
    #pragma HLS ARRAY_PARTITION variable=out complete dim=0
    res_T all[sizes::positions * CONFIG_T::n_out];
    #pragma HLS ARRAY_PARTITION variable=all complete
    flow_image<data_T, CONFIG_T>(data, image);
    int row = 0, col = 0, chunk = 0;
    flow_at at = {0, 0, 0, true};
Cycle:
    for (int t = 0; t < sizes::turns * sizes::folds; t++) {
        #pragma HLS PIPELINE II=1
        const bool last = chunk == sizes::chunks - 1, whole = at.fold == sizes::folds - 1;
        const bool row_end = col == CONFIG_T::o_cols - across;
        at.first = chunk == 0;
    Position:
        for (int b = 0; b < CONFIG_T::at_once; b++) {
            #pragma HLS UNROLL
            if (at.fold == 0) {
                const int first = b / across * CONFIG_T::s_rows * sizes::width + b % across * CONFIG_T::s_cols;
                flow_position<CONFIG_T>(image, first, word[b]);
            }
            at.border = CONFIG_T::border(row + b / across, col + b % across);
            res_T lane[CONFIG_T::pe];
            #pragma HLS ARRAY_PARTITION variable=lane complete
            // What is not folded is said to be at row 0, so that a compiler knows all constants at once.
            const flow_at now = {sizes::folds == 1 ? 0 : at.fold, sizes::passes == 1 ? 0 : at.pass, at.border,
                                 sizes::chunks == 1 || at.first};
            CONFIG_T::cell(word[b], now, acc[b], lane);
            flow_rotate<CONFIG_T>(word[b]);
            if (last) {
                flow_append<CONFIG_T::pe, CONFIG_T::n_out>(lane, out[b]);
            }
        }
        if (whole) {
        Earlier:
            for (int i = 0; i + made < sizes::positions * CONFIG_T::n_out; i++) {
                #pragma HLS UNROLL
                flow_set(all[i], flow_code(all[i + made]));
            }
        Made:
            for (int i = 0; i < made; i++) {
                #pragma HLS UNROLL
                flow_set(all[(sizes::turns - 1) * made + i], flow_code(out[i / CONFIG_T::n_out][i % CONFIG_T::n_out]));
            }
        Move:
            for (int p = 0; p < pixels; p++) {
                #pragma HLS UNROLL
            Word:
                for (int k = 0; k < sizes::pixel; k++) {
                    #pragma HLS UNROLL
                    const typename sizes::data_t beside = p + next < pixels ? image[p + next][k] : typename sizes::data_t(0);
                    const typename sizes::data_t below = p + next_row < pixels ? image[p + next_row][k] : typename sizes::data_t(0);
                    image[p][k] = row_end ? below : beside;
                }
            }
            row += row_end ? down : 0;
            col = row_end ? 0 : col + across;
        }
        at.fold = whole ? 0 : at.fold + 1;
        at.pass = whole ? 0 : at.pass + last;
        chunk = last ? 0 : chunk + 1;
    }
Result:
    for (int i = 0; i < sizes::positions * CONFIG_T::n_out; i++) {
        #pragma HLS UNROLL
        flow_set(res[i], flow_code(all[i]));
    }
}

} // namespace nnet

#endif
