`timescale 1ns/1ps
module @{top}_tb;
    localparam LATENCY = @{latency};
    reg clk = 0;
    reg rst = 1;
    reg valid_in = 0;
    wire valid_out;
    reg [LATENCY:0] sent = 0;  // which of the last cycles brought a sample
    reg [15:0] gaps = 16'hace1;
    integer inputs, expected, results, found, k, errors = 0, samples = 0, given = 0, idle = 0;
    reg signed [63:0] code;
@{declarations}
    @{top} dut (@{pins});

    task check;
    begin
@{checks}
        $fwrite(results, "\n");
        samples = samples + 1;
    end
    endtask

    task feed;  // a sample, or a gap in the pipeline
    begin
        gaps = {gaps[14:0], gaps[15] ^ gaps[13] ^ gaps[12] ^ gaps[10]};
        valid_in = @{valid_in};
        if (valid_in) begin
            found = 1;
@{feeds}
            valid_in = found;
            if (found) given = given + 1;
            else idle = idle + 1;
        end
    end
    endtask

    initial begin
        inputs = $fopen("tb_data/flow_inputs.dat", "r");
        expected = $fopen("tb_data/flow_expected.dat", "r");
        results = $fopen("tb_data/csim_results.log", "w");
@{cycles}
        if (samples != given || samples == 0) errors = errors + 1;
        $display("samples %0d, errors %0d", samples, errors);
        $fclose(results);
        $finish;
    end
endmodule
