// a + b + c with the carry out on top.
module flow_add #(parameter W = 3) (
    input wire [W-1:0] a,  // plain signals
    input wire [W-1:0] b,  // functions of up to five signals
    input wire c,
    output wire [W:0] s
);
    flow_carry #(W) carry (.a(a), .p(a ^ b), .c(c), .s(s));
endmodule

// a + (a ^ p) + c with the carry out on top. Where FLOW_XILINX is defined, a chain of the vendor's primitive: a tool
// that infers the chain from `+` may take the operand that needs a LUT of its own for the carry multiplexer.
module flow_carry #(parameter W = 3) (
    input wire [W-1:0] a,  // plain signals, which feed the carry multiplexers
    input wire [W-1:0] p,  // functions of up to six signals
    input wire c,
    output wire [W:0] s
);
`ifdef FLOW_XILINX
    localparam N = W / 4 + 1;
    wire [4*N-1:0] select = p;
    wire [4*N-1:0] data = a;
    wire [4*N-1:0] o;
    wire [4*N-1:0] co;
    assign s = o;
    CARRY4 first (.CI(1'b0), .CYINIT(c), .DI(data[3:0]), .S(select[3:0]), .O(o[3:0]), .CO(co[3:0]));
    genvar i;
    generate
        for (i = 1; i < N; i = i + 1) begin : more
            CARRY4 next (.CI(co[4*i-1]), .CYINIT(1'b0), .DI(data[4*i +: 4]), .S(select[4*i +: 4]), .O(o[4*i +: 4]),
                         .CO(co[4*i +: 4]));
        end
    endgenerate
`else
    assign s = a + (a ^ p) + c;
`endif
endmodule
