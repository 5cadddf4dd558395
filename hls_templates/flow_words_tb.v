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
    integer words, results, found, k, took, cycle = 0, started = 0, done = 0, ended = 0;
    integer least = LIMIT, most = 0, shortest = LIMIT, longest = 0;  // cycles of a sample, and to the next
    integer begun [0:SAMPLES-1];
@{declarations}
    @{top} dut (@{pins});

    always #5 clock = !clock;
    always @@(posedge clock) begin
        cycle = cycle + 1;
        if (start_port) begin
            begun[started] = cycle;
            started = started + 1;
        end
@{takes}
        if (done_port && done < started) begin
            took = cycle - begun[done] + 1;
            if (took < least) least = took;
            if (took > most) most = took;
            took = cycle - ended;
            if (done > 0 && took < shortest) shortest = took;
            if (done > 0 && took > longest) longest = took;
            ended = cycle;
            done = done + 1;
        end
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
            @@(negedge clock);
            if (!@{every_cycle}) begin
                start_port = 0;
                while (done <= k && cycle - begun[k] < LIMIT) @@(negedge clock);
            end
        end
        start_port = 0;
        while (done < SAMPLES && cycle - begun[done] < LIMIT) @@(negedge clock);
        if (longest == 0) begin  // of a single sample
            shortest = least;
            longest = most;
        end
        for (k = 0; k < SAMPLES; k = k + 1) begin
@{says}
            $fwrite(results, "\n");
        end
        if (done == SAMPLES) $display("cycles %0d %0d %0d %0d", least, most, shortest, longest);
        $fclose(results);
        $finish;
    end
endmodule
