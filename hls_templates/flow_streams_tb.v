`timescale 1ns/1ps
// Drives blocks behind FIFOs: words of words.txt in hexadecimal go in as fast as they are read, and those that come out are
// written to results.txt, each sample a line.
module @{top}_tb;
    localparam SAMPLES = @{samples};
    localparam LIMIT = @{limit};  // cycles in which something must move
    reg clock = 0;
    reg reset = 0;  // the blocks are reset where it is 0
    integer results, k, sample, cycle = 0, idle = 0, begun = -1, ended = 0, latency = 0, least = LIMIT, most = 0, done = 0;
    reg [63:0] words [0:@{words}-1];
@{declarations}
@{connections}

    always #5 clock = !clock;
    always @@(posedge clock) begin
        if (reset) begin
            cycle = cycle + 1;
            idle = idle + 1;
@{gives}
@{takes}
            if (done < SAMPLES && @{whole}) begin
                if (done == 0) latency = cycle - begun + 1;
                else begin
                    if (cycle - ended < least) least = cycle - ended;
                    if (cycle - ended > most) most = cycle - ended;
                end
                ended = cycle;
                done = done + 1;
            end
        end
    end

    initial begin
        $readmemh("words.txt", words);
        results = $fopen("results.txt", "w");
        repeat (4) @@(negedge clock);
        reset = 1;
        while (done < SAMPLES && idle < LIMIT) @@(negedge clock);
        for (sample = 0; sample < SAMPLES; sample = sample + 1) begin
@{says}
            $fwrite(results, "\n");
        end
        if (most == 0) begin
            least = latency;
            most = latency;
        end
        if (done == SAMPLES) $display("cycles %0d %0d %0d %0d", latency, latency, least, most);
        $fclose(results);
        $finish;
    end
endmodule
