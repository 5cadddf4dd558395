// Test bench of bnnflow: integer codes in, integer codes out, every bit compared.
// tb_data/flow_inputs.dat and flow_expected.dat hold one sample a line. Returns 0 only where all samples are equal.
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include "firmware/${top}.h"
#include "firmware/nnet_utils/nnet_flow_common.h"
#include "firmware/nnet_utils/nnet_helpers.h"

namespace nnet {
bool trace_enabled = false;
std::map<std::string, void *> *trace_outputs = NULL;
size_t trace_type_size = sizeof(double);
} // namespace nnet

static long long samples = 0, errors = 0;

template <class T> bool read_code(std::istream &line, T &value) {
    long long code;
    if (!(line >> code)) {
        return false;
    }
    nnet::flow_set(value, ap_int<64>(code));
    return true;
}

template <class T> bool check_code(std::istream &line, const T &value, const char *name, int i, std::ostream &log) {
    long long want;
    if (!(line >> want)) {
        return false;
    }
    const long long got = nnet::flow_signed(value);
    log << got << ' ';
    if (got != want && errors++ == 0) {
        std::cerr << "MISMATCH: sample " << samples << " " << name << "[" << i << "]: expected " << want << ", got " << got
                  << std::endl;
    }
    return true;
}

#if ${stream}
template <class T> bool read_codes(std::istream &line, hls::stream<T> &stream, int pixels) {
    for (int p = 0; p < pixels; p++) {
        T pixel;
        for (unsigned c = 0; c < T::size; c++) {
            if (!read_code(line, pixel[c])) {
                return false;
            }
        }
        stream.write(pixel);
    }
    return true;
}

// Every pixel is taken, and no more may be there: a kernel that writes too much or too little is an error.
template <class T>
bool check_codes(std::istream &line, hls::stream<T> &stream, int pixels, const char *name, std::ostream &log) {
    for (int p = 0; p < pixels; p++) {
        if (stream.empty()) {
            std::cerr << "ERROR: sample " << samples << " " << name << " ends after " << p << " pixels" << std::endl;
            return false;
        }
        T pixel = stream.read();
        for (unsigned c = 0; c < T::size; c++) {
            if (!check_code(line, pixel[c], name, p * T::size + c, log)) {
                return false;
            }
        }
    }
    if (!stream.empty()) {
        std::cerr << "ERROR: sample " << samples << " " << name << " has more than " << pixels << " pixels" << std::endl;
        return false;
    }
    return true;
}
#else
template <class T, int N> bool read_codes(std::istream &line, T (&values)[N], int) {
    for (int i = 0; i < N; i++) {
        if (!read_code(line, values[i])) {
            return false;
        }
    }
    return true;
}

template <class T, int N>
bool check_codes(std::istream &line, const T (&values)[N], int, const char *name, std::ostream &log) {
    for (int i = 0; i < N; i++) {
        if (!check_code(line, values[i], name, i, log)) {
            return false;
        }
    }
    return true;
}
#endif

int main() {
    std::ifstream bench_inputs("tb_data/flow_inputs.dat");
    std::ifstream bench_expected("tb_data/flow_expected.dat");
#ifdef RTL_SIM
    const std::string log_name = "tb_data/rtl_cosim_results.log";
#else
    const std::string log_name = "tb_data/csim_results.log";
#endif
    std::ofstream bench_log(log_name.c_str());
    if (!bench_inputs || !bench_expected || !bench_log) {
        std::cerr << "ERROR: cannot open tb_data/flow_inputs.dat, tb_data/flow_expected.dat or " << log_name << std::endl;
        return 1;
    }
    std::string in_text, expected_text;
    while (std::getline(bench_inputs, in_text)) {
        if (!std::getline(bench_expected, expected_text)) {
            std::cerr << "ERROR: flow_expected.dat ends at sample " << samples << std::endl;
            return 1;
        }
        std::istringstream bench_in(in_text), bench_out(expected_text);
${declarations}
        if (!(${reads})) {
            std::cerr << "ERROR: flow_inputs.dat: sample " << samples << " is too short" << std::endl;
            return 1;
        }
        ${top}(${arguments});
        if (!(${checks})) {
            std::cerr << "ERROR: flow_expected.dat or the outputs: sample " << samples << " is too short" << std::endl;
            return 1;
        }
        bench_log << '\n';
        samples++;
    }
    bench_log.close();
    std::cout << "INFO: " << samples << " samples, " << errors << " wrong outputs" << std::endl;
    if (samples == 0) {
        std::cerr << "ERROR: no samples" << std::endl;
    }
    return errors != 0 || samples == 0 || !bench_log;
}
