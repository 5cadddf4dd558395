// The bit of INIT that the inputs say. Where FLOW_ECP5 or FLOW_ICE40 is defined, the family's primitive: a tool that maps
// functions anew may need several LUTs for one.
module flow_lut4 #(parameter [15:0] INIT = 16'd0) (
    input wire [3:0] i,
    output wire o
);
`ifdef FLOW_ECP5
    LUT4 #(.INIT(INIT)) lut (.Z(o), .A(i[0]), .B(i[1]), .C(i[2]), .D(i[3]));
`elsif FLOW_ICE40
    SB_LUT4 #(.LUT_INIT(INIT)) lut (.O(o), .I0(i[0]), .I1(i[1]), .I2(i[2]), .I3(i[3]));
`else
    assign o = INIT[i];
`endif
endmodule
