"""The netlist as Verilog-2001: a module a layer, combinational or pipelined, and a test bench that checks itself.

Text is deterministic, and only clean names of nodes and the project reach it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil
from pathlib import Path

from bnnflow.backends.backend import RTL, Backend, BuildConfig
from bnnflow.backends.hls.fusion import streamed_kernels
from bnnflow.backends.netlist.bdd import decision_diagram, function_name
from bnnflow.backends.netlist.lower import Logic, check, to_logic
from bnnflow.backends.netlist.netlist import INPUTS, TRUE, Bit, Chain, Gate, Given, Lut, sources
from bnnflow.backends.project import write_vectors
from bnnflow.devices.timing import ALONG, CLOCK_TO_Q, LUT, NET, OFF, ONTO, SETUP, carry_position
from bnnflow.errors import InputError
from bnnflow.ir import Graph, Op
from bnnflow.ir.nodes import Int
from bnnflow.ir.vectors import default_vectors

__all__ = ["Count", "Rtl", "VERILOG", "netlist_counts", "to_verilog"]

# Where registers go: ns of a LUT and of a carry chain behind its LUTs, each with the nets to it, and of a register.
# Nets are as before placement (bnnflow.devices.timing): timing closes in the vendor's tools, not here.
LUT_DELAY, CHAIN_DELAY, REGISTER_DELAY = NET + LUT, NET + LUT + NET + ONTO + OFF, CLOCK_TO_Q + NET + SETUP
SHIFTED = 3  # registers in a row without another reader that tools put into a LUT, which holds 32
SUMS = (Op.DOT, Op.ADD, Op.GATHER, Op.WINDOW)  # what makes no codes of a layer


@dataclass(frozen=True)
class Rtl:
    """Verilog of a graph: `files` by their paths in the project, `latency` in cycles (None: combinational)."""

    files: dict[str, str]
    latency: int | None

    @property
    def sources(self) -> list[str]:
        """The files of the design, without the test bench."""
        return [name for name in self.files if name.startswith("rtl/")]


@dataclass(frozen=True)
class Count:
    """What a layer's Verilog is for a device with LUTs of six inputs: LUTs, those that hold shift registers too, and
    flip-flops; the pipeline `stage` in which its last bit is there, and the longest path to one of its gates in `ns`.
    """

    lut: int = 0
    ff: int = 0
    stage: int = 0
    ns: float = 0.0


ADD = """// a + b + c with the carry out on top. Where FLOW_XILINX is defined, a chain of the vendor's primitive: a tool
// that infers the chain from `+` may take the operand that needs a LUT of its own for the carry multiplexer.
module flow_add #(parameter W = 3) (
    input wire [W-1:0] a,  // plain signals
    input wire [W-1:0] b,  // functions of up to five signals
    input wire c,
    output wire [W:0] s
);
`ifdef FLOW_XILINX
    localparam N = W / 4 + 1;
    wire [4*N-1:0] p = a ^ b;
    wire [4*N-1:0] g = a;
    wire [4*N-1:0] o;
    wire [4*N-1:0] co;
    assign s = o;
    CARRY4 first (.CI(1'b0), .CYINIT(c), .DI(g[3:0]), .S(p[3:0]), .O(o[3:0]), .CO(co[3:0]));
    genvar i;
    generate
        for (i = 1; i < N; i = i + 1) begin : more
            CARRY4 next (.CI(co[4*i-1]), .CYINIT(1'b0), .DI(g[4*i +: 4]), .S(p[4*i +: 4]), .O(o[4*i +: 4]),
                         .CO(co[4*i +: 4]));
        end
    endgenerate
`else
    assign s = a + b + c;
`endif
endmodule
"""

LUT6 = """// The bit of INIT that the inputs say. Where FLOW_XILINX is defined, the vendor's primitive: a tool that maps
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
"""


def to_verilog(logic: Logic, top: str, clock_period: float | None = None) -> Rtl:
    """The Verilog of a netlist under the name `top`.

    With a `clock_period` (ns) it is pipelined: registers behind every layer's codes and at the outputs, and inside a
    layer where the delays of LUTs and chains would exceed the period; a new input every cycle. Else combinational.
    """
    design = _Design(logic, top, clock_period)
    files = {"rtl/flow_add.v": ADD, "rtl/flow_lut6.v": LUT6}
    for layer in design.layers:
        files[f"rtl/{top}_layer_{layer}.v"] = design.module(layer)
    files[f"rtl/{top}.v"] = design.top_module()
    files[f"tb/{top}_tb.v"] = _bench(logic.graph, top, design.latency, clock_period)
    return Rtl(files, design.latency)


def netlist_counts(logic: Logic, clock_period: float | None = None) -> tuple[dict[str, Count], int]:
    """(counts by node, cycles from input to output) of the Verilog that `to_verilog` writes.

    Registers are the very ones that yosys finds there; LUTs were within 1 % of yosys' where there are registers, and
    up to 7 % off where there are none, as it maps functions anew (docs/reports.md).
    """
    design = _Design(logic, "", clock_period)
    return design.counts(), design.latency or 0


class _Design:
    """A netlist with a stage for every gate, and where its signals are found."""

    def __init__(self, logic: Logic, top: str, clock_period: float | None):
        self.logic, self.net, self.graph, self.top = logic, logic.net, logic.graph, top
        self.used = self.net.reached(logic.wanted)
        self.used[0] = False
        self.stage, self.time = self._stages(clock_period)
        self.latency, self.results = None, set(logic.wanted)
        if clock_period is not None:
            self.latency = 1 + max((self.stage[literal >> 1] for literal in logic.wanted), default=0)
        self.gates: dict[str, list[int]] = {node.name: [] for node in self.graph}
        for name, _ in self._there():
            self.gates[self.net.owner[name]].append(name)
        # (gate, cycles of delay) that other layers read, by the layer that makes it, in the order of its output port
        self.exports: dict[str, dict[tuple[int, int], int]] = {node.name: {} for node in self.graph}
        self.taps: dict[int, set[int]] = {}  # the delays with which a gate is read
        for name, gate in self._there():
            for source in sources(gate):
                self._read(source, self.stage[name], self.net.owner[name])
        for literal in logic.wanted:
            if literal > 1:
                self._read(literal >> 1, self.latency or 0, "")
        self.delays = {source: max(taps) for source, taps in self.taps.items() if max(taps)}

    def _there(self) -> Iterator[tuple[int, Gate]]:
        """The gates that an output needs, in order of evaluation."""
        return ((name, gate) for name, gate in enumerate(self.net.gates) if self.used[name])

    def _read(self, source: int, stage: int, reader: str) -> None:
        delay, owner = stage - self.stage[source], self.net.owner[source]
        if not source:
            return
        self.taps.setdefault(source, set()).add(delay)
        if owner != reader:
            self.exports[owner].setdefault((source, delay), len(self.exports[owner]))

    def _stages(self, clock_period: float | None) -> tuple[list[int], list[float]]:
        """The pipeline stage of every gate: its sources' latest, or one more; and when it is there in that, in ns."""
        net, stage, time = self.net, [0] * len(self.net.gates), [0.0] * len(self.net.gates)
        if clock_period is None:
            return stage, time
        behind = {node.name for node in self.graph if node.op not in SUMS and node.op is not Op.INPUT}
        for name, gate in self._there():
            if isinstance(gate, Given):
                continue
            if isinstance(gate, Bit):  # of a chain, and there with it, however long it takes
                stage[name], time[name] = stage[gate.chain], time[gate.chain]
                continue
            delay = LUT_DELAY if isinstance(gate, Lut) else 0.0
            if isinstance(gate, Chain):
                delay = CHAIN_DELAY + ALONG * len(gate.a)
            first, begin = 0, 0.0
            for source in sources(gate):
                crosses = net.owner[source] != net.owner[name] and net.owner[source] in behind
                at, when = stage[source] + crosses, 0.0 if crosses else time[source]
                # The function of a chain's operand is in the chain's own LUT.
                if isinstance(gate, Chain) and isinstance(net.gates[source], Lut) and 2 * source not in gate.a:
                    when = max(0.0, when - LUT_DELAY)
                if (at, when) > (first, begin):
                    first, begin = at, when
            if begin + delay > clock_period - REGISTER_DELAY and begin > 0:
                first, begin = first + 1, 0.0
            stage[name], time[name] = first, begin + delay
        return stage, time

    # --- counts -----------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, Count]:
        """LUTs, flip-flops and times by the node that has them."""
        luts, registers, owner = Counter[str](), Counter[str](), self.net.owner
        for name, gate in self._there():
            if isinstance(gate, Lut):
                luts[owner[name]] += name not in self.inside
            elif isinstance(gate, Chain):
                luts[owner[name]] += sum(_has_lut(a, b, self.inside) for a, b in zip(gate.a, gate.b))
        for name, taps in self.taps.items():
            for row in map(int.__sub__, sorted(taps), [0, *sorted(taps)]):
                held = luts if row >= SHIFTED else registers
                held[owner[name]] += ceil(row / 32) if row >= SHIFTED else row
        registers[self.graph.outputs[0]] += self.latency or 0  # `valid`
        time = self._arrivals() if self.latency is None else self.time
        return {layer: Count(luts[layer], registers[layer], max((self.stage[name] for name in names), default=0),
                             max((time[name] for name in names), default=0.0)) for layer, names in self.gates.items()}

    @cached_property
    def inside(self) -> set[int]:
        """Functions in a chain's own LUTs: its operands, which nothing else, and no later stage, reads."""
        reads = Counter(source for _, gate in self._there() for source in set(sources(gate)))
        plain = {a >> 1 for _, gate in self._there() if isinstance(gate, Chain) for a in gate.a}
        once = {name for name, gate in self._there() if isinstance(gate, Lut) and reads[name] == 1
                and self.taps[name] == {0}} - plain - {literal >> 1 for literal in self.results}
        return {b >> 1 for _, gate in self._there() if isinstance(gate, Chain) for b in gate.b} & once

    def _arrivals(self) -> list[float]:
        """When every gate of a combinational netlist is there, in ns, each bit of a chain by itself."""
        when = [0.0] * len(self.net.gates)
        sums: dict[int, list[float]] = {}
        for name, gate in self._there():
            if isinstance(gate, Lut):
                when[name] = max(when[source] for source in gate.inputs) + LUT_DELAY
            elif isinstance(gate, Bit):
                when[name] = sums[gate.chain][gate.position]
            elif isinstance(gate, Chain):
                sums[name] = []
                carry = when[gate.carry >> 1] + NET * (gate.carry > TRUE)
                for a, b in zip(gate.a, gate.b):
                    own = LUT_DELAY if _has_lut(a, b, self.inside) else 0.0
                    operand = when[b >> 1] - (LUT_DELAY if b >> 1 in self.inside else 0.0)
                    total, carry = carry_position(carry, max(when[a >> 1], operand) + own + NET)
                    sums[name].append(total)
                sums[name].append(carry + OFF)
        return when

    @cached_property
    def layers(self) -> list[str]:
        """The nodes that have a module: those with gates, and inputs that are delayed."""
        return [node.name for node in self.graph if self.gates[node.name] and (
            node.op is not Op.INPUT or any(delay for _, delay in self.exports[node.name]))]

    # --- names ------------------------------------------------------------------------------------------------------

    def signal(self, literal: int, stage: int, layer: str) -> str:
        """The text of a literal where it is read: in a layer's module, or in the top module (layer "")."""
        if literal <= 1:
            return f"1'b{literal}"
        name, sign = literal >> 1, "~" if literal & 1 else ""
        delay, owner = stage - self.stage[name], self.net.owner[name]
        if owner == layer:
            return f"{sign}n{name}" + (f"_{delay}" if delay else "")
        gate = self.net.gates[name]
        if isinstance(gate, Given) and owner not in self.layers:
            return f"{sign}x_{owner}[{gate.position}]"
        return f"{sign}from_{owner}[{self.exports[owner][name, delay]}]"

    def reads(self, layer: str) -> list[str]:
        """The layers whose signals a layer reads."""
        owners = {self.net.owner[s] for name in self.gates[layer] for s in sources(self.net.gates[name]) if s}
        return [node.name for node in self.graph if node.name in owners - {layer}]

    def clocked(self, layer: str) -> bool:
        """True where a layer has registers."""
        return any(name in self.delays for name in self.gates[layer])

    def neuron(self, name: int) -> bool:
        """True for a function of six bits of other layers that others read: it is one LUT, whatever a tool thinks.

        An output that is the function's complement would need a LUT of its own, which the tool takes into the function.
        """
        gate, owner = self.net.gates[name], self.net.owner[name]
        return (isinstance(gate, Lut) and len(gate.inputs) == INPUTS
                and all(self.net.owner[source] != owner for source in gate.inputs)
                and 2 * name + 1 not in self.results and any(export == name for export, _ in self.exports[owner]))

    def port(self, owner: str) -> tuple[str, int]:
        """(name, width) of the bus that carries a layer's signals, or an input of the design."""
        if owner in self.layers:
            return f"from_{owner}", len(self.exports[owner])
        node = self.graph[owner]
        return f"x_{owner}", node.size * node.domain.bits

    # --- modules ----------------------------------------------------------------------------------------------------

    def module(self, layer: str) -> str:
        """The module of a layer."""
        node = self.graph[layer]
        ports = ["input wire clk"] if self.clocked(layer) else []
        if node.op is Op.INPUT:
            ports.append(f"input wire [{node.size * node.domain.bits - 1}:0] x_{layer}")
        ports += [f"input wire [{width - 1}:0] {name}" for name, width in map(self.port, self.reads(layer))]
        ports.append(f"output wire [{len(self.exports[layer]) - 1}:0] y")
        functions: dict[str, str] = {}
        body = [line for name in self.gates[layer] for line in self._gate(name, layer, functions)]
        late = [(name, self.delays[name]) for name in self.gates[layer] if name in self.delays]
        body += [f"    reg {', '.join(f'n{name}_{k + 1}' for k in range(count))};" for name, count in late]
        if late:
            moves = [(f"n{name}_{k + 1}", f"n{name}" + (f"_{k}" if k else ""))
                     for name, count in late for k in range(count)]
            body += ["    always @(posedge clk) begin", *(f"        {to} <= {of};" for to, of in moves), "    end"]
        body += [f"    assign y[{place}] = {self.signal(2 * name, self.stage[name] + delay, layer)};"
                 for (name, delay), place in self.exports[layer].items()]
        shape = "x".join(map(str, node.shape))
        return "\n".join([f"// {node.op.value}, {shape}", f"module {self.top}_layer_{layer} (", _ports(ports), ");",
                          *functions.values(), *body, "endmodule", ""])

    def _gate(self, name: int, layer: str, functions: dict[str, str]) -> list[str]:
        gate, stage = self.net.gates[name], self.stage[name]
        if isinstance(gate, Given):
            return [f"    wire n{name} = x_{layer}[{gate.position}];"]
        if isinstance(gate, Bit):
            return [f"    wire n{name} = n{gate.chain}[{gate.position}];"]
        if isinstance(gate, Lut):
            inputs = ", ".join(self.signal(2 * source, stage, layer) for source in reversed(gate.inputs))
            if self.neuron(name):
                return [f"    wire n{name};",
                        f"    flow_lut6 #(64'h{gate.table:016x}) lut{name} (.i({{{inputs}}}), .o(n{name}));"]
            called, text = _function(gate.table, len(gate.inputs))
            functions[called] = text
            return [f"    wire n{name} = {called}({{{inputs}}});"]
        assert isinstance(gate, Chain)
        a, b = ("{" + ", ".join(self.signal(literal, stage, layer) for literal in reversed(row)) + "}"
                for row in (gate.a, gate.b))
        carry = self.signal(gate.carry, stage, layer)
        return [f"    wire [{len(gate.a)}:0] n{name};",
                f"    flow_add #({len(gate.a)}) add{name} (.a({a}), .b({b}), .c({carry}), .s(n{name}));"]

    def top_module(self) -> str:
        """The module of the design: layers, their buses, and `valid` beside them."""
        ports = ["input wire clk", "input wire rst"] if self.latency is not None else []
        ports.append("input wire valid_in")
        ports += [f"input wire [{node.size * node.domain.bits - 1}:0] x_{node.name}" for node in self.graph.inputs]
        ports.append("output wire valid_out")
        ports += [f"output wire [{self.graph[name].size * self.graph[name].domain.bits - 1}:0] y_{name}"
                  for name in self.graph.outputs]
        lines = ["// Codes in two's complement, element 0 lowest.",
                 f"// Latency: {self.latency or 0} cycles, a new input every cycle.",
                 f"module {self.top} (", _ports(ports), ");"]
        for layer in self.layers:
            bus, width = self.port(layer)
            lines.append(f"    wire [{width - 1}:0] {bus};")
        for layer in self.layers:
            pins = [".clk(clk)"] if self.clocked(layer) else []
            if self.graph[layer].op is Op.INPUT:
                pins.append(f".x_{layer}(x_{layer})")
            pins += [f".{name}({name})" for name, _ in map(self.port, self.reads(layer))]
            lines.append(f"    {self.top}_layer_{layer} layer_{layer} ({', '.join([*pins, f'.y(from_{layer})'])});")
        for name, words in zip(self.graph.outputs, self.logic.outputs):
            literals = [literal for word in words for literal in word]
            lines += [f"    assign y_{name}[{k}] = {self.signal(literal, self.latency or 0, '')};"
                      for k, literal in enumerate(literals)]
        if self.latency is None:
            lines.append("    assign valid_out = valid_in;")
        else:
            lines += [f"    reg [{self.latency - 1}:0] valid;", f"    assign valid_out = valid[{self.latency - 1}];",
                      "    always @(posedge clk)",
                      f"        valid <= rst ? {self.latency}'d0 : {{valid, valid_in}};"]
        return "\n".join([*lines, "endmodule", ""])


def _has_lut(a: int, b: int, inside: Container[int]) -> bool:
    """True where a chain's position needs a LUT for a XOR b, or for the function `inside` it; else it is a wire."""
    constant, literal = sorted((a, b))
    if constant > TRUE:
        return True
    return literal > TRUE and ((literal ^ constant) & 1 == 1 or literal >> 1 in inside)


def _ports(ports: Sequence[str]) -> str:
    return ",\n".join(f"    {port}" for port in ports)


@lru_cache(maxsize=2**14)
def _function(table: int, inputs: int) -> tuple[str, str]:
    """(name, Verilog function) of a table."""
    name = function_name(table, inputs)
    parts, result = decision_diagram(table, [f"a[{k}]" for k in range(inputs)], "~", ("1'b0", "1'b1"))
    return name, "\n".join([f"    function automatic {name};", f"        input [{inputs - 1}:0] a;",
                            f"        reg {', '.join(f't{k}' for k in range(len(parts)))};",
                            "        begin", *(f"            t{k} = {part};" for k, part in enumerate(parts)),
                            f"            {name} = {result};", "        end", "    endfunction"])


# --- test bench -----------------------------------------------------------------------------------------------------


def _bench(graph: Graph, top: str, latency: int | None, clock_period: float | None) -> str:
    """A test bench for any simulator: feeds tb_data/flow_inputs.dat, with gaps between samples, compares each output
    with tb_data/flow_expected.dat and the cycle in which it appears, and writes tb_data/csim_results.log.
    """
    half = (clock_period or 10.0) / 2
    clocked = latency is not None
    lines = ["`timescale 1ns/1ps", f"module {top}_tb;",
             f"    localparam LATENCY = {latency or 0};",
             "    reg clk = 0;", "    reg rst = 1;", "    reg valid_in = 0;", "    wire valid_out;",
             "    reg [LATENCY:0] sent = 0;  // which of the last cycles brought a sample",
             "    reg [15:0] gaps = 16'hace1;",
             "    integer inputs, expected, results, found, k, errors = 0, samples = 0, given = 0, idle = 0;",
             "    reg signed [63:0] code;"]
    pins = [".clk(clk)", ".rst(rst)"] if clocked else []
    pins += [".valid_in(valid_in)", ".valid_out(valid_out)"]
    feed, check = [], []
    for node in graph.inputs:
        width = node.domain.bits
        lines.append(f"    reg [{node.size * width - 1}:0] x_{node.name} = 0;")
        pins.append(f".x_{node.name}(x_{node.name})")
        feed += [f"                for (k = 0; k < {node.size}; k = k + 1) begin",
                 '                    found = found & ($fscanf(inputs, "%d", code) == 1);',
                 f"                    if (found) x_{node.name}[k*{width} +: {width}] = code[{width - 1}:0];",
                 "                end"]
    for name in graph.outputs:
        node, width = graph[name], graph[name].domain.bits
        sign = "signed " if node.domain.signed else ""
        lines += [f"    wire [{node.size * width - 1}:0] y_{name};", f"    reg {sign}[{width - 1}:0] got_{name};"]
        pins.append(f".y_{name}(y_{name})")
        check += [f"        for (k = 0; k < {node.size}; k = k + 1) begin",
                  f"            got_{name} = y_{name}[k*{width} +: {width}];",
                  f'            $fwrite(results, "%0d ", got_{name});',
                  f'            if ($fscanf(expected, "%d", code) != 1 || code[{width - 1}:0] !== got_{name}) begin',
                  '                if (errors < 10)',
                  f'                    $display("sample %0d, {name}[%0d]: %0d, expected %0d", samples, k, got_{name}, '
                  'code);',
                  "                errors = errors + 1;", "            end", "        end"]
    lines += [f"    {top} dut ({', '.join(pins)});", "", "    task check;", "    begin", *check,
              '        $fwrite(results, "\\n");', "        samples = samples + 1;", "    end", "    endtask", "",
              "    task feed;  // a sample, or a gap in the pipeline", "    begin",
              "        gaps = {gaps[14:0], gaps[15] ^ gaps[13] ^ gaps[12] ^ gaps[10]};",
              f"        valid_in = {'gaps[1:0] != 0' if clocked else '1'};", "        if (valid_in) begin",
              "            found = 1;", *[line[4:] for line in feed],
              "            valid_in = found;", "            if (found) given = given + 1;",
              "            else idle = idle + 1;", "        end", "    end", "    endtask", ""]
    lines += ["    initial begin",
              '        inputs = $fopen("tb_data/flow_inputs.dat", "r");',
              '        expected = $fopen("tb_data/flow_expected.dat", "r");',
              '        results = $fopen("tb_data/csim_results.log", "w");']
    if clocked:
        lines += [f"        repeat (2) begin #{half} clk = 1; #{half} clk = 0; end", "        rst = 0;",
                  "        while (idle <= LATENCY) begin", "            feed;", "            sent = {sent, valid_in};",
                  f"            #{half} clk = 1;", f"            #{half} clk = 0;",
                  "            if (valid_out !== sent[LATENCY-1]) begin",
                  '                if (errors < 10) $display("sample %0d: valid in the wrong cycle", samples);',
                  "                errors = errors + 1;", "            end",
                  "            if (valid_out) check;", "        end"]
    else:
        lines += ["        while (idle == 0) begin", "            feed;", "            #1;",
                  "            if (valid_out) check;", "        end"]
    lines += ["        if (samples != given || samples == 0) errors = errors + 1;",
              '        $display("samples %0d, errors %0d", samples, errors);', "        $fclose(results);",
              "        $finish;", "    end", "endmodule", ""]
    return "\n".join(lines)


# --- backend --------------------------------------------------------------------------------------------------------


def write(graph: Graph, config: BuildConfig, codes: Sequence[Int] | None, target: Path) -> dict[str, str]:
    """Write the Verilog of a project, and its vectors; there are no arrays of nodes."""
    folder = Path(config.output_dir)
    rtl = to_verilog(to_logic(graph), config.project_name, config.clock_period if config.pipelined else None)
    for name, text in rtl.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    write_vectors(folder, graph, default_vectors(graph) if codes is None else codes)
    return {}


def stated_cycles(folder: Path, top: str) -> int:
    """The latency that the top module of a written project states; raises InputError where it states none."""
    file = folder / "rtl" / f"{top}.v"
    text = file.read_text(errors="replace") if file.exists() else ""
    found = re.search(r"^// Latency: (\d+) cycles", text, re.MULTILINE)
    if not found:
        raise InputError(f"{file} does not state its latency; build the project again")
    return int(found[1])


def _unrolled(value: object) -> tuple[object, str]:
    return value, f"Verilog is fully unrolled; leave it at {value!r}"


VERILOG = Backend(
    "Verilog", RTL, "RTL simulation", "verilator", "yosys", lambda graph, config: check(graph), write, streamed_kernels,
    sources=("rtl/*.v", "tb/*.v"), one_netlist=True, cycles=stated_cycles,
    fixed={"io_type": _unrolled("io_parallel"), "strategy": _unrolled("Latency"), "reuse_factor": _unrolled(1),
           "layers": _unrolled({})})
