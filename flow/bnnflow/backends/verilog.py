"""The netlist as Verilog-2001: a module a layer, combinational or pipelined, and a test bench that checks itself.

Text is deterministic, and only clean names of nodes and the project reach it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

from bnnflow.backends.backend import RTL, Backend, BuildConfig, option_of, unknown_nodes
from bnnflow.backends.hls.fusion import streamed_kernels
from bnnflow.backends.netlist.bdd import decision_diagram, function_name
from bnnflow.backends.netlist.gates import TRUE, Bit, Chain, Given, Lut, sources
from bnnflow.backends.netlist.lower import Logic, check, to_logic, with_goal
from bnnflow.backends.netlist.schedule import Schedule, fastest_clock
from bnnflow.backends.project import write_vectors
from bnnflow.devices.fabric import Fabric
from bnnflow.errors import InputError
from bnnflow.ir import Graph, Node
from bnnflow.ir.nodes import Int
from bnnflow.ir.vectors import default_vectors

__all__ = ["Rtl", "VERILOG", "to_verilog"]


@dataclass(frozen=True)
class Rtl:
    """Verilog of a graph: `files` by their paths in the project, `latency` in cycles (None: combinational)."""

    files: dict[str, str]
    latency: int | None

    @property
    def sources(self) -> list[str]:
        """The files of the design, without the test bench."""
        return [name for name in self.files if name.startswith("rtl/")]


def to_verilog(logic: Logic, top: str, clock_period: float | None = None) -> Rtl:
    """The Verilog of a netlist under the name `top`.

    With a `clock_period` (ns) it is pipelined: registers at the outputs and wherever the delays of LUTs and chains
    would exceed the period; a new input every cycle. Else combinational.
    """
    modules = _Modules(Schedule(logic, clock_period), top)
    texts = {f"rtl/{name}": _template(name) for name in _primitives(logic.net.fabric)}
    for layer in modules.layers:
        texts[f"rtl/{top}_layer_{layer}.v"] = modules.layer_module(layer)
    texts[f"rtl/{top}.v"] = modules.top_module()
    texts[f"tb/{top}_tb.v"] = _bench(logic.graph, top, modules.latency, clock_period)
    return Rtl(texts, modules.latency)


def _primitives(fabric: Fabric) -> list[str]:
    """The files of the modules that have a family's primitives in them."""
    return ["flow_add.v" if fabric.compresses else "flow_sum.v", f"flow_lut{fabric.inputs}.v"]


@lru_cache
def _template(name: str) -> str:
    return (files("bnnflow.hls_templates") / name).read_text()


# An instance of a module takes Verilator twice as long as the line that it stands for.
MACROS = """\
`ifndef FLOW_MACROS
`define FLOW_MACROS
`ifdef VERILATOR
{simulated}
`else
{synthesized}
`endif
`endif"""
LUT_MACRO = (
    "`define FLOW_LUT{inputs}(out, name, table, in) wire out = table >> in;",
    "`define FLOW_LUT{inputs}(out, name, table, in) wire out; flow_lut{inputs} #(table) name (.i(in), .o(out));")
# By whether chains compress.
CHAIN_MACROS = {
    True: ("""\
`define FLOW_ADD(out, name, width, x, y, z) wire [width:0] out = x + y + z;
`define FLOW_CARRY(out, name, width, x, y, z) wire [width:0] out = x + (x ^ y) + z;""", """\
`define FLOW_ADD(out, name, width, x, y, z) \\
    wire [width:0] out; flow_add #(width) name (.a(x), .b(y), .c(z), .s(out));
`define FLOW_CARRY(out, name, width, x, y, z) \\
    wire [width:0] out; flow_carry #(width) name (.a(x), .p(y), .c(z), .s(out));"""),
    False: ("""\
`define FLOW_SUM(out, name, width, nx, x, ny, y, z) wire [width:0] out = (x ^ nx) + (y ^ ny) + z;""", """\
`define FLOW_SUM(out, name, width, nx, x, ny, y, z) \\
    wire [width:0] out; flow_sum #(width, nx, ny) name (.a(x), .b(y), .c(z), .s(out));""")}


def _macros(fabric: Fabric) -> str:
    """The macros of gates."""
    simulated, synthesized = ([text.format(inputs=fabric.inputs), chain]
                              for text, chain in zip(LUT_MACRO, CHAIN_MACROS[fabric.compresses]))
    return MACROS.format(simulated="\n".join(simulated), synthesized="\n".join(synthesized))


class _Modules:
    """The modules of a design, and the names under which they find signals.

    In the module of a layer its own nodes are n<node>, after k registers n<node>_k. Those of other layers come in buses
    from_<layer>, and bits from outside in x_<input>. In the top module (layer "") all come in such buses.
    """

    def __init__(self, schedule: Schedule, top: str):
        self.schedule, self.top = schedule, top
        self.logic, self.net, self.graph, self.latency = schedule.logic, schedule.net, schedule.graph, schedule.latency
        self.results = set(self.logic.wanted)

    @cached_property
    def layers(self) -> list[str]:
        """The nodes of the graph that have a module: those with gates, and inputs that are delayed."""
        return [node.name for node in self.graph if self.schedule.gates[node.name] and (
            not node.traits.outside or any(delay for _, delay in self.schedule.exports[node.name]))]

    # --- names ------------------------------------------------------------------------------------------------------

    def signal(self, literal: int, stage: int, layer: str) -> str:
        """The text of a literal where it is read in a stage: in a layer's module, or in the top module (layer "")."""
        if literal <= TRUE:
            return f"1'b{literal}"
        node, sign = literal >> 1, "~" if literal & 1 else ""
        delay, owner = stage - self.schedule.stage[node], self.schedule.owner[node]
        if owner == layer:
            return f"{sign}{_delayed(node, delay)}"
        gate = self.net.gates[node]
        if isinstance(gate, Given) and owner not in self.layers:
            return f"{sign}x_{owner}[{gate.position}]"
        return f"{sign}from_{owner}[{self.schedule.exports[owner][node, delay]}]"

    def reads(self, layer: str) -> list[str]:
        """The layers whose signals a layer reads."""
        owners = {self.schedule.owner[source] for node in self.schedule.gates[layer]
                  for source in sources(self.net.gates[node]) if source}
        return [node.name for node in self.graph if node.name in owners - {layer}]

    def clocked(self, layer: str) -> bool:
        """True where a layer has registers."""
        return any(node in self.schedule.delays for node in self.schedule.gates[layer])

    def is_kept(self, node: int) -> bool:
        """True for a function that is one LUT, whatever a tool thinks.

        It is made in a tree of LUTs, or reads as much as a LUT can, bits of other layers, and is read by others.
        An output that is the complement of a function with other readers would need a LUT of its own, which the tool
        takes into it.
        """
        gate, owner = self.net.gates[node], self.schedule.owner[node]
        if not isinstance(gate, Lut) or self.is_complement(node) and node in self.read:
            return False
        return node in self.net.kept or (
            len(gate.inputs) == self.net.fabric.inputs and not self.is_complement(node)
            and all(self.schedule.owner[source] != owner for source in gate.inputs)
            and any(export == node for export, _ in self.schedule.exports[owner]))

    def is_complement(self, node: int) -> bool:
        """True for a function whose complement is an output."""
        return 2 * node + 1 in self.results

    @cached_property
    def read(self) -> set[int]:
        """The nodes that gates read."""
        return {source for _, gate in self.schedule.needed() for source in sources(gate)}

    def bus(self, layer: str) -> tuple[str, int]:
        """(name, width) of the bus that carries a layer's signals, or an input of the design."""
        if layer in self.layers:
            return f"from_{layer}", len(self.schedule.exports[layer])
        return f"x_{layer}", _bits(self.graph[layer])

    # --- the module of a layer --------------------------------------------------------------------------------------

    def layer_module(self, layer: str) -> str:
        """The module of a layer: its functions, gates and registers, and the bus `y` of what others read."""
        node = self.graph[layer]
        functions: dict[str, str] = {}
        gates = [line for gate in self.schedule.gates[layer] for line in self._gate(gate, layer, functions)]
        exports = [f"    assign y[{place}] = {self.signal(2 * gate, self.schedule.stage[gate] + delay, layer)};"
                   for (gate, delay), place in self.schedule.exports[layer].items()]
        shape = "x".join(map(str, node.shape))
        return "\n".join([f"// {node.op.value}, {shape}", _macros(self.net.fabric),
                          f"module {self.top}_layer_{layer} (", _ports(self._layer_ports(node)), ");",
                          *functions.values(), *gates, *self._registers(layer), *exports, "endmodule", ""])

    def _layer_ports(self, node: Node) -> list[str]:
        ports = ["input wire clk"] if self.clocked(node.name) else []
        if node.traits.outside:
            ports.append(f"input wire [{_bits(node) - 1}:0] x_{node.name}")
        ports += [f"input wire [{width - 1}:0] {name}" for name, width in map(self.bus, self.reads(node.name))]
        return [*ports, f"output wire [{len(self.schedule.exports[node.name]) - 1}:0] y"]

    def _registers(self, layer: str) -> list[str]:
        """The registers behind a layer's gates: declarations, then one block that moves everything on."""
        late = [(gate, self.schedule.delays[gate]) for gate in self.schedule.gates[layer]
                if gate in self.schedule.delays]
        if not late:
            return []
        declared = [f"    reg {', '.join(_delayed(gate, k) for k in range(1, most + 1))};" for gate, most in late]
        moves = [f"        {_delayed(gate, k + 1)} <= {_delayed(gate, k)};" for gate, most in late for k in range(most)]
        return [*declared, "    always @(posedge clk) begin", *moves, "    end"]

    def _gate(self, node: int, layer: str, functions: dict[str, str]) -> list[str]:
        """The lines that make a node; `functions` collects, by name, those that it calls."""
        gate, stage = self.net.gates[node], self.schedule.stage[node]
        if isinstance(gate, Given):
            return [f"    wire n{node} = x_{layer}[{gate.position}];"]
        if isinstance(gate, Bit):
            return [f"    wire n{node} = n{gate.chain}[{gate.position}];"]
        if isinstance(gate, Lut):
            if self.latency is not None and node in self.schedule.inside:
                return []  # it is in the LUT of its chain's position
            if self.latency is not None or self.is_kept(node):
                return self._own_lut(node, gate, stage, layer)
            inputs = ", ".join(self.signal(2 * source, stage, layer) for source in reversed(gate.inputs))
            called, text = _function(gate.table, len(gate.inputs))
            functions[called] = text
            return [f"    wire n{node} = {called}({{{inputs}}});"]
        assert isinstance(gate, Chain)
        return self._chain(node, gate, layer)

    def _own_lut(self, node: int, gate: Lut, stage: int, layer: str) -> list[str]:
        """The lines of a function that is a LUT of its own; where an output is its complement, that is made."""
        if self.latency is not None or not self.is_complement(node):
            return self._lut(f"n{node}", gate.inputs, gate.table, stage, layer)
        name, ones = f"o{node}", (1 << (1 << len(gate.inputs))) - 1
        return [*self._lut(name, gate.inputs, gate.table ^ ones, stage, layer), f"    wire n{node} = ~{name};"]

    def _lut(self, name: str, inputs: Sequence[int], table: int, stage: int, layer: str) -> list[str]:
        """The lines that make the signal `name`, a LUT whatever a tool thinks."""
        signals = [self.signal(2 * source, stage, layer) for source in reversed(inputs)]
        most = self.net.fabric.inputs
        unused = [f"{most - len(inputs)}'b0"] if len(inputs) < most else []
        return [f"    `FLOW_LUT{most}({name}, lut_{name}, {1 << most}'h{table:0{(1 << most) // 4}x}, "
                f"{{{', '.join([*unused, *signals])}}})"]

    def _chain(self, node: int, chain: Chain, layer: str) -> list[str]:
        """The lines that make a carry chain, and in a pipelined design the LUTs of its positions."""
        stage, width = self.schedule.stage[node], len(chain.a)
        a, b = ([self.signal(literal, stage, layer) for literal in row] for row in (chain.a, chain.b))
        carry = self.signal(chain.carry, stage, layer)
        if not self.net.fabric.compresses:
            words = []
            for row in (chain.a, chain.b):
                inverted = sum((literal & 1) << k for k, literal in enumerate(row))
                plain = [self.signal(literal & ~1, stage, layer) for literal in reversed(row)]
                words.append(f"{width}'h{inverted:x}, {{{', '.join(plain)}}}")
            return [f"    `FLOW_SUM(n{node}, add{node}, {width}, {', '.join(words)}, {carry})"]
        macro, luts = "FLOW_ADD", list[str]()
        if self.latency is not None:
            macro = "FLOW_CARRY"
            for k, pair in enumerate(zip(chain.a, chain.b)):
                constant, literal = sorted(pair)
                if constant <= TRUE and literal >> 1 not in self.schedule.inside:
                    b[k] = self.signal(literal ^ constant, stage, layer)
                else:
                    b[k] = f"p{node}_{k}"
                    luts += self._lut(b[k], *self._select(*pair), stage, layer)
        rows = [f"{{{', '.join(reversed(row))}}}" for row in (a, b)]
        return [*luts, f"    `{macro}(n{node}, add{node}, {width}, {rows[0]}, {rows[1]}, {carry})"]

    def _select(self, a: int, b: int) -> tuple[list[int], int]:
        """(inputs, table) of a XOR b at a position of a chain, b being perhaps a function inside."""
        function = self.net.gates[b >> 1] if b >> 1 in self.schedule.inside else None
        known = function if isinstance(function, Lut) else Lut((b >> 1,), 0b10)
        inputs = list(dict.fromkeys([*known.inputs, *([a >> 1] if a > TRUE else [])]))
        own = (1 << len(known.inputs)) - 1  # the rows of b's function
        flip = (a ^ b) & 1
        table = 0
        for row in range(1 << len(inputs)):
            second = row >> inputs.index(a >> 1) & 1 if a > TRUE else 0
            table |= (known.table >> (row & own) & 1 ^ second ^ flip) << row
        return inputs, table

    # --- the top module ---------------------------------------------------------------------------------------------

    def top_module(self) -> str:
        """The module of the design: layers, their buses, and `valid` beside them."""
        buses = [f"    wire [{width - 1}:0] {name};" for name, width in map(self.bus, self.layers)]
        stages = ["// A stage may end in the middle of a layer: the bits of a bus are of several stages."]
        return "\n".join(["// Codes in two's complement, element 0 lowest.",
                          f"// Latency: {self.latency or 0} cycles, a new input every cycle.",
                          *(stages if self.latency else []),
                          f"module {self.top} (", _ports(self._top_ports()), ");", *buses,
                          *map(self._instance, self.layers), *self._results(), *self._valid(), "endmodule", ""])

    def _top_ports(self) -> list[str]:
        clock = ["input wire clk", "input wire rst"] if self.latency is not None else []
        outputs = [self.graph[name] for name in self.graph.outputs]
        return [*clock, "input wire valid_in",
                *(f"input wire [{_bits(node) - 1}:0] x_{node.name}" for node in self.graph.inputs),
                "output wire valid_out",
                *(f"output wire [{_bits(node) - 1}:0] y_{node.name}" for node in outputs)]

    def _instance(self, layer: str) -> str:
        """The instance of a layer's module."""
        pins = [".clk(clk)"] if self.clocked(layer) else []
        if self.graph[layer].traits.outside:
            pins.append(f".x_{layer}(x_{layer})")
        pins += [f".{name}({name})" for name, _ in map(self.bus, self.reads(layer))]
        return f"    {self.top}_layer_{layer} layer_{layer} ({', '.join([*pins, f'.y(from_{layer})'])});"

    def _results(self) -> list[str]:
        """The assignments of all outputs, bit by bit."""
        return [f"    assign y_{name}[{k}] = {self.signal(literal, self.latency or 0, '')};"
                for name, words in zip(self.graph.outputs, self.logic.outputs)
                for k, literal in enumerate([literal for word in words for literal in word])]

    def _valid(self) -> list[str]:
        """`valid_out`: `valid_in` after as many cycles as the codes take."""
        if self.latency is None:
            return ["    assign valid_out = valid_in;"]
        return [f"    reg [{self.latency - 1}:0] valid;", f"    assign valid_out = valid[{self.latency - 1}];",
                "    always @(posedge clk)", f"        valid <= rst ? {self.latency}'d0 : {{valid, valid_in}};"]


def _bits(node: Node) -> int:
    """The bits of all codes of a node."""
    return node.size * node.domain.bits


def _delayed(node: int, delay: int) -> str:
    """The name of a node's signal after so many registers."""
    return f"n{node}_{delay}" if delay else f"n{node}"


def _ports(ports: Sequence[str]) -> str:
    return ",\n".join(f"    {port}" for port in ports)


@lru_cache(maxsize=2**14)
def _function(table: int, inputs: int) -> tuple[str, str]:
    """(name, Verilog function) of a table: gates for synthesis, and a look-up for Verilator, which it compiles faster.

    yosys makes 2 % more LUTs of look-ups than of gates.
    """
    name = function_name(table, inputs)
    parts, result = decision_diagram(table, [f"a[{k}]" for k in range(inputs)], "~", ("1'b0", "1'b1"))
    return name, "\n".join([f"    function automatic {name};", f"        input [{inputs - 1}:0] a;",
                            "`ifdef VERILATOR", f"        {name} = {1 << inputs}'h{table:x} >> a;", "`else",
                            f"        reg {', '.join(f't{k}' for k in range(len(parts)))};",
                            "        begin", *(f"            t{k} = {part};" for k, part in enumerate(parts)),
                            f"            {name} = {result};", "        end", "`endif", "    endfunction"])


# --- test bench -----------------------------------------------------------------------------------------------------


class _Text(string.Template):
    """A template whose fields are @{name}: in Verilog `$` begins the names of system tasks."""

    delimiter = "@"


FEED = _Text("""\
            for (k = 0; k < @{size}; k = k + 1) begin
                found = found & ($fscanf(inputs, "%d", code) == 1);
                if (found) x_@{name}[k*@{width} +: @{width}] = code[@{top}:0];
            end""")
CHECK = _Text("""\
        for (k = 0; k < @{size}; k = k + 1) begin
            got_@{name} = y_@{name}[k*@{width} +: @{width}];
            $fwrite(results, "%0d ", got_@{name});
            if ($fscanf(expected, "%d", code) != 1 || code[@{top}:0] !== got_@{name}) begin
                if (errors < 10)
                    $display("sample %0d, @{name}[%0d]: %0d, expected %0d", samples, k, got_@{name}, code);
                errors = errors + 1;
            end
        end""")
COMBINATIONAL = """\
        while (idle == 0) begin
            feed;
            #1;
            if (valid_out) check;
        end"""
PIPELINED = _Text("""\
        repeat (2) begin #@{half} clk = 1; #@{half} clk = 0; end
        rst = 0;
        while (idle <= LATENCY) begin
            feed;
            sent = {sent, valid_in};
            #@{half} clk = 1;
            #@{half} clk = 0;
            if (valid_out !== sent[LATENCY-1]) begin
                if (errors < 10) $display("sample %0d: valid in the wrong cycle", samples);
                errors = errors + 1;
            end
            if (valid_out) check;
        end""")


def _bench(graph: Graph, top: str, latency: int | None, clock_period: float | None) -> str:
    """A test bench for any simulator, which writes all outputs to tb_data/csim_results.log.

    It feeds tb_data/flow_inputs.dat, with gaps between samples, and compares each output with
    tb_data/flow_expected.dat and the cycle in which it appears.
    """
    clocked = latency is not None
    pins = [*(["clk", "rst"] if clocked else []), "valid_in", "valid_out",
            *(f"x_{node.name}" for node in graph.inputs), *(f"y_{name}" for name in graph.outputs)]
    return _Text(_template("flow_tb.v")).substitute(
        top=top, latency=latency or 0, declarations="\n".join(_declarations(graph)),
        pins=", ".join(f".{name}({name})" for name in pins),
        checks=_for_each(CHECK, [graph[name] for name in graph.outputs]), feeds=_for_each(FEED, graph.inputs),
        valid_in="gaps[1:0] != 0" if clocked else "1",
        cycles=PIPELINED.substitute(half=(clock_period or 10.0) / 2) if clocked else COMBINATIONAL)


def _declarations(graph: Graph) -> list[str]:
    """What the test bench drives and reads: all codes of inputs and outputs, and one code of every output."""
    lines = [f"    reg [{_bits(node) - 1}:0] x_{node.name} = 0;" for node in graph.inputs]
    for node in (graph[name] for name in graph.outputs):
        sign = "signed " if node.domain.signed else ""
        lines += [f"    wire [{_bits(node) - 1}:0] y_{node.name};",
                  f"    reg {sign}[{node.domain.bits - 1}:0] got_{node.name};"]
    return lines


def _for_each(text: _Text, nodes: Sequence[Node]) -> str:
    """The text of a node's codes for every node."""
    return "\n".join(text.substitute(name=node.name, size=node.size, width=node.domain.bits, top=node.domain.bits - 1)
                     for node in nodes)


# --- backend --------------------------------------------------------------------------------------------------------


def write(graph: Graph, config: BuildConfig, codes: Sequence[Int] | None, target: Path) -> dict[str, str]:
    """Write the Verilog of a project, and its vectors; there are no arrays of nodes."""
    _check(graph, config)
    folder = Path(config.output_dir)
    rtl = to_verilog(_logic(graph, config), config.project_name, config.period if config.pipelined else None)
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


def _check(graph: Graph, config: BuildConfig) -> None:
    """Raise InputError for a graph that is too large, or options of nodes that have none."""
    check(graph)
    for problem in unknown_nodes(graph, config):
        raise InputError(problem)
    for name in config.layers:
        own = with_goal(graph, graph[name])
        if own != name:
            raise InputError(f"{option_of(name)} names {name!r}, which is made with {own!r}; name that node")


def _logic(graph: Graph, config: BuildConfig) -> Logic:
    return to_logic(graph, goals={node.name: config.netlist_of(node.name) for node in graph}, fabric=config.fabric)


def _unrolled(value: object) -> tuple[object, str]:
    return value, "Verilog is fully unrolled; leave it out"


VERILOG = Backend(
    "Verilog", RTL, "RTL simulation", "verilator", "yosys", _check, write, streamed_kernels,
    sources=("rtl/*.v", "tb/*.v"), one_netlist=True,
    fastest=lambda graph, config: fastest_clock(_logic(graph, config)), cycles=stated_cycles,
    fixed={"io_type": _unrolled("io_parallel"), "strategy": _unrolled("Latency"), "reuse_factor": _unrolled(1),
           "pe": _unrolled(None), "simd": _unrolled(None)})
