"""Pipelines: no path in a stage is longer than the clock, the fewest cycles and few registers, the fastest clock."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.netlist.arrivals import Cells
from bnnflow.backends.netlist.counts import netlist_counts
from bnnflow.backends.netlist.cuts import INFINITE, SINK, SOURCE, Network
from bnnflow.backends.netlist.gates import FALSE, TRUE, Chain, Lut
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.netlist.netlist import Netlist
from bnnflow.backends.netlist.registers import Pipeline, fastest_period
from bnnflow.devices.fabric import ECP5, PS, ULTRASCALE, Fabric
from bnnflow.ir import BIT, Graph, Node, Op, Steps, Weights
from bnnflow.ir.verify import dot_domain
from tests.random_graphs import random_graph


def layers(widths: tuple[int, ...], keep: tuple[float, ...], seed: int) -> Graph:
    """Dense layers of +-1, of which a part is kept, with a threshold in the middle of all sums but the last ones."""
    rng = np.random.default_rng(seed)
    nodes = [Node("x", Op.INPUT, (), (widths[0],), BIT)]
    for k, form in enumerate(zip(widths, widths[1:])):
        levels = (rng.choice([-1, 1], form) * (rng.random(form) < keep[k])).astype(np.int64)
        weights, source = Weights(levels, np.ones(form, bool)), nodes[-1]
        nodes.append(Node(f"s{k}", Op.DOT, (source.name,), form[1:], dot_domain(source.domain, weights), weights))
        if k < len(widths) - 2:
            steps = Steps(np.zeros(form[1], np.int64), np.ones(form[1], np.int64), levels.sum(axis=0)[:, None] // 2)
            nodes.append(Node(f"a{k}", Op.STEP, (f"s{k}",), form[1:], BIT, steps))
    return Graph(tuple(nodes), (nodes[-1].name,))


def random_netlist(seed: int, gates: int, fabric: Fabric = ULTRASCALE) -> Cells:
    """LUTs and chains of any literals, what nobody reads being an output."""
    rng = np.random.default_rng(seed)
    net = Netlist(fabric)
    literals = [net.given(0, k) for k in range(4)]

    def some(count: int, constants: float = 0.0) -> list[int]:
        picked = rng.choice(literals[-8:], count) ^ rng.integers(0, 2, count)
        return np.where(rng.random(count) < constants, rng.integers(0, 2, count), picked).tolist()

    for _ in range(gates):
        width = int(rng.integers(1, 5))
        if rng.random() < .5:
            literals.append(net.lut(some(width), int(rng.integers(1, 1 << (1 << width)))))
        else:
            literals += net.chain(some(width, .2), some(width, .2), some(1, .5)[0])
    read = {source for gate in net.gates if isinstance(gate, Lut | Chain) for source in _read_by(gate)}
    ends = [literal for literal in literals if literal > TRUE and literal >> 1 not in read]
    return Cells(net, ends)


def _read_by(gate: Lut | Chain) -> tuple[int, ...]:
    literals = () if isinstance(gate, Lut) else (*gate.a, *gate.b, gate.carry)
    return gate.inputs if isinstance(gate, Lut) else tuple(literal >> 1 for literal in literals)


def is_kept(pipeline: Pipeline, stage: list[int]) -> bool:
    """True where these stages are in order, and no path within one is longer than the clock; by paths, not by bits."""
    late = [0] * len(pipeline.readers)
    for index, cell in enumerate(pipeline.cells):
        makers = [pipeline.maker[net] for net in cell.reads if pipeline.maker[net] >= 0]
        if any(stage[maker] > stage[index] for maker in makers):
            return False
        begin = [late[net] if pipeline.maker[net] >= 0 and stage[pipeline.maker[net]] == stage[index] else 0
                 for net in range(len(late))]
        cell.leave(begin)
        if max(begin[net] for net in cell.nets) > pipeline.most[index]:
            return False
        for net in cell.nets:
            late[net] = begin[net]
    return True


def registers(pipeline: Pipeline, stage: tuple[int, ...]) -> int:
    """The registers for other stages of the same cells, and a LUT for every function that is parted from its chain."""
    before = pipeline.stage
    pipeline.stage = list(stage)
    parted = sum(pipeline.stage_of(net) < pipeline.last_read(net) for net in pipeline.inside)
    count = pipeline.registers + parted
    pipeline.stage = before
    return count


# --- stages ---------------------------------------------------------------------------------------------------------


def test_arrivals_of_a_chain():
    """Worked out by hand: a function inside takes no time of its own, a constant's position has no LUT."""
    net = Netlist()
    x = [net.given(0, k) for k in range(6)]
    function = net.lut(x[:3], 0b10010110)
    late = net.lut([net.lut(x[:2], 0b1000), x[2]], 0b0110)
    bits = net.chain([x[3], FALSE, late], [function, x[4], x[5]], x[0] ^ 1)
    cells = Cells(net, bits)
    assert cells.inside == {function >> 1}
    ready = Pipeline(cells, 10**6).ready()
    lut, enters = ULTRASCALE.level, ULTRASCALE.level + ULTRASCALE.net
    first = [enters, ULTRASCALE.net, 2 * lut + enters]  # when the positions' functions enter the chain
    carry, expected = enters, []
    for when in first:
        expected.append(max(carry, when) + ULTRASCALE.off)
        carry = max(carry + ULTRASCALE.along, when + ULTRASCALE.onto)
    expected.append(carry + ULTRASCALE.off)
    assert [ready[bit >> 1] for bit in bits] == expected


def test_arrivals_of_a_chain_that_only_adds():
    """Worked out by hand: a carry takes a position to get in and one to get out, and functions stay outside."""
    net = Netlist(ECP5)
    x = [net.given(0, k) for k in range(4)]
    function, f = net.lut(x[:3], 0b10010110), ECP5
    bits = net.chain([x[3], x[0]], [function, x[1]], x[2])
    cells = Cells(net, bits)
    assert not cells.inside
    late = f.level + f.net
    first, second = max(f.net + f.onto + f.along, late + f.onto), f.net + f.onto + 2 * f.along
    expected = [late + f.off, first + f.off, max(first, second) + 2 * f.along + f.off]
    ready = Pipeline(cells, 10**6).ready()
    assert [ready[bit >> 1] for bit in bits] == [net.when[bit >> 1] for bit in bits] == expected
    assert net.luts(bits, 0) == 1 + 4 and net.luts(bits[:2], 0) == 1 + 4, "two positions, and one or two for carries"


@pytest.mark.parametrize(("period", "fabric"), [
    (700, ULTRASCALE), (1100, ULTRASCALE), (1700, ULTRASCALE), (2500, ULTRASCALE), (4500, ECP5)])
def test_stages_keep_the_clock(period, fabric):
    """Of random netlists and graphs; moving borders adds no stage and no register."""
    nets = [random_netlist(seed, 60, fabric) for seed in range(20)]
    logics = [to_logic(random_graph(seed), fabric=fabric) for seed in (8, 11, 20, 25, 54)]
    for cells in [*nets, *(Cells(logic.net, logic.wanted) for logic in logics)]:
        pipeline = Pipeline(cells, period)
        stages, before = pipeline.stages, registers(pipeline, tuple(pipeline.stage))
        assert is_kept(pipeline, pipeline.stage)
        pipeline.move_borders()
        assert is_kept(pipeline, pipeline.stage) and pipeline.stages == stages
        assert max(pipeline.stage, default=0) < stages and registers(pipeline, tuple(pipeline.stage)) <= before
        assert max(pipeline.ready()) <= max([period - fabric.register, *cells.alone])


def test_fewest_cycles_and_few_registers():
    """Against all stages that seven cells can be in: never more cycles, and mostly the fewest registers."""
    fewest = 0
    for seed in range(40):
        cells = random_netlist(seed, 7)
        pipeline = Pipeline(cells, int(np.random.default_rng(seed).integers(900, 2400)))
        pipeline.move_borders()
        count = len(cells.cells)
        last = max((pipeline.stage_of(net) for net in cells.wanted), default=0)
        assert pipeline.stages == last + 1
        if last:
            assert not any(is_kept(pipeline, list(stage)) for stage in product(range(last), repeat=count))
        kept = [registers(pipeline, stage) for stage in product(range(last + 1), repeat=count)
                if last < 3 and is_kept(pipeline, list(stage))]
        fewest += not kept or registers(pipeline, tuple(pipeline.stage)) == min(kept)
    assert fewest >= 36


def test_smallest_cuts():
    """Against all cuts of networks of six nodes."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        network, edges = Network(), []
        nodes = [SOURCE, SINK, *(network.node() for _ in range(6))]
        for _ in range(20):
            tail, head = rng.choice(nodes, 2, replace=False).tolist()
            edges.append((tail, head, INFINITE if rng.random() < .2 and (tail, head) != (SOURCE, SINK) else
                          int(rng.integers(1, 4))))
            network.edge(*edges[-1])
        sides = [(True, False, *rest) for rest in product((False, True), repeat=6)]
        costs = [sum(room for tail, head, room in edges if side[tail] and not side[head]) for side in sides]
        if min(costs) < INFINITE:
            assert costs[sides.index(tuple(network.source_side()))] == min(costs)


# --- the fastest clock ----------------------------------------------------------------------------------------------


def test_the_fastest_clock_is_the_fastest_of_all():
    for seed in range(12):
        cells = random_netlist(seed, 25)
        most = 2500
        least = max(cells.alone) + ULTRASCALE.register
        latency = {period: Pipeline(cells, period).stages * period for period in range(10, most + 1, 10)
                   if period >= least}
        found = fastest_period(cells, most)
        assert latency[found] == min(latency.values())


def test_the_fastest_clock_of_wires_and_of_a_long_chain():
    net = Netlist()
    x = [net.given(0, k) for k in range(80)]
    assert fastest_period(Cells(net, x), 5000) == -(-ULTRASCALE.register // 10) * 10
    chain = Cells(net, net.chain(x[:40], x[40:], x[0]))
    assert fastest_period(chain, 500) == -(-(chain.alone[0] + ULTRASCALE.register) // 10) * 10


def test_auto_is_found_and_written_down(tmp_path):
    graph = layers((24, 12, 4), (1, 1), 3)
    config = bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", clock_period="auto")
    project = bf.build(graph, config)
    period = project.config.clock_period
    assert isinstance(period, float) and period <= 5.0
    facts = bf.estimate(graph, config)
    assert facts == bf.estimate(project) and facts.clock_target == period and facts.clock_estimated is None
    assert facts.latency_ns == pytest.approx(project.cycles * period)
    for other in (1.5, 2.0, 3.0, 4.0, 5.0):
        rival = bf.estimate(graph, bf.BuildConfig(backend="Verilog", clock_period=other))
        assert rival.latency_ns >= facts.latency_ns
    for options in ({"backend": "Vitis"}, {"backend": "Verilog", "pipelined": False}):
        with pytest.raises(bf.InputError, match="clock_period='auto': only a pipelined project of backend Verilog has"):
            bf.BuildConfig(clock_period="auto", **options)
    with pytest.raises(bf.InputError, match="clock_period='fast': a number of ns from 0.1 to 1000, or \"auto\""):
        bf.BuildConfig(clock_period="fast", backend="Verilog")
    with pytest.raises(bf.InputError, match="clock_period='auto': not known without a graph"):
        _ = config.period


# --- networks -------------------------------------------------------------------------------------------------------

# (cycles, LUTs, FFs) with a register behind all codes of a layer, and inside it as soon as a gate took too long.
BEFORE = {
    ((96, 32, 32, 10), (1, .5, 1), 0): {1.2: (29, 2075, 2903), 2.0: (16, 1539, 2079), 3.0: (11, 1451, 1376)},
    ((64, 32, 10), (1, 1), 1): {1.2: (20, 1274, 1849), 2.0: (10, 955, 1261), 3.0: (7, 920, 867)},
    ((160, 64, 10), (.25, .5), 2): {1.2: (20, 3045, 3357), 2.0: (10, 2170, 2769), 3.0: (7, 2018, 1796)},
}


@pytest.mark.parametrize("network", BEFORE)
def test_no_more_cycles_luts_and_registers_than_with_a_register_behind_every_layer(network):
    logic = to_logic(layers(*network))
    for period, (cycles, luts, ffs) in BEFORE[network].items():
        counts, now = netlist_counts(logic, period)
        size = [sum(getattr(count, kind) for count in counts.values()) for kind in ("lut", "ff")]
        assert now <= cycles and size[0] <= luts and size[1] <= ffs
        slowest = max(count.ns for count in counts.values())
        assert slowest + ULTRASCALE.register / PS <= period + 1e-9


def test_a_stage_ends_in_one_layer_and_begins_in_another():
    """With a long period there are only the registers at the outputs."""
    logic = to_logic(layers((24, 12, 4), (1, 1), 3))
    counts, cycles = netlist_counts(logic, 100.0)
    assert cycles == 1 and all(count.stage == 0 for count in counts.values())
    assert sum(count.ff for count in counts.values()) <= len(logic.wanted) + 1
