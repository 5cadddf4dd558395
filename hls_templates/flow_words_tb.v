`timescale 1ns/1ps
// Drives a design that is started and says when it is done. Its words are read from words.txt in hexadecimal, and those of
// its outputs written to results.txt, each sample a line.
module @{top}_tb;
    localparam SAMPLES = @{samples};
    localparam LIMIT = @{limit};  // cycles of a sample
    reg clock = 0;
    reg reset = 0;  // the design is reset where it is 0
    reg start_port = 0;
    wire done_port;
    integer words, results, found, k, cycles, least = LIMIT, most = 0;
@{declarations}
    @{top} dut (@{pins});

    always #5 clock = !clock;
    always @@(posedge clock) begin
@{takes}
    end

    initial begin
        words = $fopen("words.txt", "r");
        results = $fopen("results.txt", "w");
        repeat (4) @@(negedge clock);
        reset = 1;
        repeat (2) @@(negedge clock);
        for (k = 0; k < SAMPLES; k = k + 1) begin
@{gives}
            start_port = 1;
            cycles = 1;
            #1;
            while (!done_port && cycles < LIMIT) begin
                @@(negedge clock);
                start_port = 0;
                cycles = cycles + 1;
                #1;
            end
            if (cycles < least) least = cycles;
            if (cycles > most) most = cycles;
            @@(negedge clock);
            start_port = 0;
        end
        for (k = 0; k < SAMPLES; k = k + 1) begin
@{says}
            $fwrite(results, "\n");
        end
        if (most < LIMIT) $display("cycles %0d %0d", least, most);
        $fclose(results);
        $finish;
    end
endmodule
