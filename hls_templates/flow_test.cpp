// Test bench of bnnflow: integer codes in, integer codes out, every bit compared.
// tb_data/flow_inputs.dat and flow_expected.dat hold one sample a line. Returns 0 only where all samples are equal.
// With arguments "FIRST COUNT FILE" it takes COUNT samples from sample FIRST on, and writes their outputs to FILE.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream> // for nnet_helpers.h
#include <string>

#include "firmware/${top}.h"
#include "firmware/nnet_utils/nnet_flow_common.h"
#include "firmware/nnet_utils/nnet_helpers.h"

namespace nnet {
bool trace_enabled = false;
std::map<std::string, void *> *trace_outputs = NULL;
size_t trace_type_size = sizeof(double);
} // namespace nnet

static long long sample = 0, errors = 0;

// The next number of a line.
static bool next_code(const char *&line, long long &code) {
    while (*line == ' ') {
        line++;
    }
    const bool negative = *line == '-';
    line += negative;
    if (*line < '0' || *line > '9') {
        return false;
    }
    for (code = 0; *line >= '0' && *line <= '9'; line++) {
        code = 10 * code + (*line - '0');
    }
    code = negative ? -code : code;
    return true;
}

template <class T> bool read_code(const char *&line, T &value) {
    long long code;
    if (!next_code(line, code)) {
        return false;
    }
    nnet::flow_set(value, ap_int<64>(code));
    return true;
}

template <class T> bool check_code(const char *&line, const T &value, const char *name, int i, std::ostream &log) {
    long long want;
    if (!next_code(line, want)) {
        return false;
    }
    const long long got = nnet::flow_signed(value);
    log << got << ' ';
    if (got != want && errors++ == 0) {
        std::cerr << "MISMATCH: sample " << sample << " " << name << "[" << i << "]: expected " << want << ", got " << got
                  << std::endl;
    }
    return true;
}

#if ${stream}
template <class T> bool read_codes(const char *&line, hls::stream<T> &stream, int pixels) {
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
bool check_codes(const char *&line, hls::stream<T> &stream, int pixels, const char *name, std::ostream &log) {
    for (int p = 0; p < pixels; p++) {
        if (stream.empty()) {
            std::cerr << "ERROR: sample " << sample << " " << name << " ends after " << p << " pixels" << std::endl;
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
        std::cerr << "ERROR: sample " << sample << " " << name << " has more than " << pixels << " pixels" << std::endl;
        return false;
    }
    return true;
}
#else
template <class T, int N> bool read_codes(const char *&line, T (&values)[N], int) {
    for (int i = 0; i < N; i++) {
        if (!read_code(line, values[i])) {
            return false;
        }
    }
    return true;
}

template <class T, int N>
bool check_codes(const char *&line, const T (&values)[N], int, const char *name, std::ostream &log) {
    for (int i = 0; i < N; i++) {
        if (!check_code(line, values[i], name, i, log)) {
            return false;
        }
    }
    return true;
}
#endif

int main(int argc, char **argv) {
    std::ifstream bench_inputs("tb_data/flow_inputs.dat");
    std::ifstream bench_expected("tb_data/flow_expected.dat");
#ifdef RTL_SIM
    const std::string all_log = "tb_data/rtl_cosim_results.log";
#else
    const std::string all_log = "tb_data/csim_results.log";
#endif
    const bool some = argc == 4;
    const long long first = some ? std::atoll(argv[1]) : 0, count = some ? std::atoll(argv[2]) : -1;
    const std::string log_name = some ? argv[3] : all_log;
    std::ofstream bench_log(log_name.c_str());
    if (!bench_inputs || !bench_expected || !bench_log) {
        std::cerr << "ERROR: cannot open tb_data/flow_inputs.dat, tb_data/flow_expected.dat or " << log_name << std::endl;
        return 1;
    }
    std::string in_text, expected_text;
    for (; (count < 0 || sample < first + count) && std::getline(bench_inputs, in_text); sample++) {
        if (!std::getline(bench_expected, expected_text)) {
            std::cerr << "ERROR: flow_expected.dat ends at sample " << sample << std::endl;
            return 1;
        }
        if (sample < first) {
            continue;
        }
        const char *bench_in = in_text.c_str(), *bench_out = expected_text.c_str();
${declarations}
        if (!(${reads})) {
            std::cerr << "ERROR: flow_inputs.dat: sample " << sample << " is too short" << std::endl;
            return 1;
        }
        ${top}(${arguments});
        if (!(${checks})) {
            std::cerr << "ERROR: flow_expected.dat or the outputs: sample " << sample << " is too short" << std::endl;
            return 1;
        }
        bench_log << '\n';
    }
    bench_log.close();
    const long long samples = sample - first;
    std::cout << "INFO: " << samples << " samples, " << errors << " wrong outputs" << std::endl;
    if (samples <= 0) {
        std::cerr << "ERROR: no samples" << std::endl;
    }
    return errors != 0 || samples <= 0 || !bench_log;
}
