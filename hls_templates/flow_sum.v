// The sum of two words and a carry, with the carry out on top; a bit of NA or NB says that the bit of `a` or `b` is
// inverted. Where FLOW_ECP5 or FLOW_ICE40 is defined, a chain of the family's primitives: a tool that infers it from `+`
// spends LUTs on inversions, and makes no chain of a short word.
module flow_sum #(parameter W = 4, parameter [W-1:0] NA = 0, parameter [W-1:0] NB = 0) (
    input wire [W-1:0] a,
    input wire [W-1:0] b,
    input wire c,
    output wire [W:0] s
);
`ifdef FLOW_ECP5
    localparam N = W / 2 + 1;  // two positions each; the one behind the word passes the carry out
    localparam [2*N-1:0] INVERT = NA, DIFFER = NA ^ NB;
    wire [2*N-1:0] x = a, y = b, sums;
    wire [N:0] carry;
    assign carry[0] = c;
    assign s = sums;
    genvar i;
    generate
        for (i = 0; i < N; i = i + 1) begin : pair
            // With C = 0 and D = 1, rows 8 to 11 are the sum of A and B, and rows 0 to 3 the carry where that is 0: A.
            CCU2C #(.INIT0({4'b0, DIFFER[2*i] ? 4'b1001 : 4'b0110, 4'b0, INVERT[2*i] ? 4'b0101 : 4'b1010}),
                    .INIT1({4'b0, DIFFER[2*i+1] ? 4'b1001 : 4'b0110, 4'b0, INVERT[2*i+1] ? 4'b0101 : 4'b1010}),
                    .INJECT1_0("NO"), .INJECT1_1("NO"))
                add (.CIN(carry[i]), .A0(x[2*i]), .B0(y[2*i]), .C0(1'b0), .D0(1'b1),
                     .A1(x[2*i+1]), .B1(y[2*i+1]), .C1(1'b0), .D1(1'b1),
                     .S0(sums[2*i]), .S1(sums[2*i+1]), .COUT(carry[i+1]));
        end
    endgenerate
`elsif FLOW_ICE40
    wire [W:0] x = a ^ NA, y = b ^ NB;
    wire [W+1:0] carry;
    assign carry[0] = c;
    genvar i;
    generate
        for (i = 0; i <= W; i = i + 1) begin : position
            SB_CARRY add (.I0(x[i]), .I1(y[i]), .CI(carry[i]), .CO(carry[i+1]));
            SB_LUT4 #(.LUT_INIT(16'hc33c)) sum (.I0(1'b0), .I1(x[i]), .I2(y[i]), .I3(carry[i]), .O(s[i]));
        end
    endgenerate
`else
    assign s = (a ^ NA) + (b ^ NB) + c;
`endif
endmodule
