// The bit of INIT that the inputs say. Where FLOW_XILINX is defined, the vendor's primitive: a tool that maps
// functions anew may need several LUTs for one.
module flow_lut6 #(parameter [63:0] INIT = 64'd0) (
    input wire [5:0] i,
    output wire o
);
`ifdef FLOW_XILINX
    LUT6 #(.INIT(INIT)) lut (.O(o), .I0(i[0]), .I1(i[1]), .I2(i[2]), .I3(i[3]), .I4(i[4]), .I5(i[5]));
`else
    assign o = INIT[i];
`endif
endmodule
