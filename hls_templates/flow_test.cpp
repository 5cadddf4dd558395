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

static const int N_IN = ${n_in};
static const int N_OUT = ${n_out};

int main() {
    std::ifstream inputs("tb_data/flow_inputs.dat");
    std::ifstream expected("tb_data/flow_expected.dat");
#ifdef RTL_SIM
    const std::string log_name = "tb_data/rtl_cosim_results.log";
#else
    const std::string log_name = "tb_data/csim_results.log";
#endif
    std::ofstream log(log_name.c_str());
    if (!inputs || !expected || !log) {
        std::cerr << "ERROR: cannot open tb_data/flow_inputs.dat, tb_data/flow_expected.dat or " << log_name << std::endl;
        return 1;
    }

    long long samples = 0, errors = 0;
    std::string in_line, expected_line;
    while (std::getline(inputs, in_line)) {
        if (!std::getline(expected, expected_line)) {
            std::cerr << "ERROR: flow_expected.dat ends at sample " << samples << std::endl;
            return 1;
        }
        std::istringstream in_values(in_line), expected_values(expected_line);
        ${input_t} in[N_IN];
        ${output_t} out[N_OUT];
        for (int i = 0; i < N_IN; i++) {
            long long code;
            if (!(in_values >> code)) {
                std::cerr << "ERROR: flow_inputs.dat: sample " << samples << " has fewer than " << N_IN << " codes" << std::endl;
                return 1;
            }
            nnet::flow_set(in[i], ap_int<64>(code));
        }
        ${top}(in, out);
        for (int j = 0; j < N_OUT; j++) {
            long long want;
            if (!(expected_values >> want)) {
                std::cerr << "ERROR: flow_expected.dat: sample " << samples << " has fewer than " << N_OUT << " codes" << std::endl;
                return 1;
            }
            const long long got = ap_int<64>(nnet::flow_code(out[j])).to_int64();
            log << got << (j + 1 < N_OUT ? ' ' : '\n');
            if (got != want) {
                if (errors == 0) {
                    std::cerr << "MISMATCH: sample " << samples << " output " << j << ": expected " << want << ", got "
                              << got << std::endl;
                }
                errors++;
            }
        }
        samples++;
    }
    log.close();
    std::cout << "INFO: " << samples << " samples, " << errors << " wrong outputs" << std::endl;
    if (samples == 0) {
        std::cerr << "ERROR: no samples" << std::endl;
    }
    return errors != 0 || samples == 0 || !log;
}
