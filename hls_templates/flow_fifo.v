// A FIFO whose first word is to be seen while it is not empty; it is reset where `reset` is 0.
module flow_fifo #(parameter DEPTH = 2) (
    input clock, input reset,
    input [63:0] din, input write, output full_n,
    output [63:0] dout, input read, output empty_n);
    reg [63:0] words [0:DEPTH-1];
    integer first, last, count;
    assign full_n = count < DEPTH;
    assign empty_n = count > 0;
    assign dout = words[first];
    wire in = write && full_n, out = read && empty_n;
    always @(posedge clock) begin
        if (!reset) begin
            first <= 0;
            last <= 0;
            count <= 0;
        end else begin
            if (in) begin
                words[last] <= din;
                last <= last == DEPTH - 1 ? 0 : last + 1;
            end
            if (out) first <= first == DEPTH - 1 ? 0 : first + 1;
            count <= count + in - out;
        end
    end
endmodule
