"""The netlist of every op, pass and random graph equals the graph, bit for bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.netlist.bit_heap import at_least, divided, signed_digits, total
from bnnflow.backends.netlist.counts import netlist_counts
from bnnflow.backends.netlist.gates import FALSE, TRUE, Bit, Chain, Lut
from bnnflow.backends.netlist.goals import GOALS
from bnnflow.backends.netlist.lower import EMIT_LOGIC, Logic, to_logic
from bnnflow.backends.netlist.lut_trees import not_less
from bnnflow.backends.netlist.netlist import Netlist, sum_table
from bnnflow.backends.netlist.subexpressions import UNBOUNDED, adder_graph
from bnnflow.devices.fabric import ECP5, ICE40, PS, ULTRASCALE
from bnnflow.ir import BIT, Domain, Graph, Node, Op, Steps, Sum, Weights
from bnnflow.ir.evaluate import EVAL
from bnnflow.ir.verify import dot_domain
from tests.random_graphs import outputs, random_codes, random_graph


def neurons(levels: np.ndarray, thresholds: np.ndarray, domain: Domain = BIT) -> Graph:
    """One layer: sums of codes and a threshold each."""
    levels = levels.astype(np.int64)
    inputs, count = levels.shape
    weights = Weights(levels, np.ones(levels.shape, bool))
    steps = Steps(np.zeros(count, np.int64), np.ones(count, np.int64), np.asarray(thresholds, np.int64)[:, None])
    return Graph((Node("x", Op.INPUT, (), (inputs,), domain),
                  Node("sum", Op.DOT, ("x",), (count,), dot_domain(domain, weights), weights),
                  Node("y", Op.STEP, ("sum",), (count,), BIT, steps)), ("y",))


def gates(net: Netlist, wanted: list[int], kind: type) -> int:
    read = net.reached(wanted)
    return sum(isinstance(gate, kind) and bool(used) for gate, used in zip(net.gates, read))


def given(net: Netlist, count: int) -> list[int]:
    return [net.given(0, k) for k in range(count)]


def every(count: int) -> tuple[np.ndarray, np.ndarray]:
    """All patterns of so many bits: (patterns, bits) and packed (bits, words)."""
    patterns = np.arange(1 << count)[:, None] >> np.arange(count) & 1
    packed = np.packbits(np.resize(patterns, (max(64, 1 << count), count)).astype(np.uint8).T, axis=1,
                         bitorder="little")
    return patterns, np.ascontiguousarray(packed).view(np.uint64)


def values(net: Netlist, wanted: list[int], count: int) -> np.ndarray:
    """The values of literals for all patterns: (patterns, wanted)."""
    packed = every(count)[1]
    words = net.evaluate([packed], packed.shape[1], wanted)
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").T[: 1 << count]


def test_every_op_has_logic():
    assert set(EMIT_LOGIC) == set(EVAL) == set(Op)


def test_equal_and_complementary_functions_are_one_node():
    net = Netlist()
    a, b, c = given(net, 3)
    both = net.lut([a, b], 0b1000)
    assert net.lut([b, a], 0b1000) == both and net.lut([a, b], 0b0111) == both ^ 1
    assert net.lut([a ^ 1, b ^ 1], 0b0001) == both, "and of a, b is nor of their complements"
    assert net.lut([a, b, c], 0b1000_1000) == both, "c does not matter"
    assert net.lut([a, a], 0b1000) == a and net.lut([a, TRUE], 0b1000) == a and net.lut([a, FALSE], 0b1000) == FALSE
    assert net.lut([a], 0b01) == a ^ 1 and net.lut([a, a ^ 1], 0b1000) == FALSE
    assert gates(net, [both], Lut) == 1 and len(net.gates) == 1 + 3 + 1


@pytest.mark.parametrize("seed", range(40))
def test_lut_and_function(seed):
    rng = np.random.default_rng(seed)
    net, count = Netlist(ECP5 if seed % 4 == 3 else ULTRASCALE), int(rng.integers(1, 9))
    inputs = given(net, count)
    picked = [int(rng.choice([FALSE, TRUE, *inputs])) ^ int(rng.integers(2)) for _ in range(int(rng.integers(0, 10)))]
    table = int.from_bytes(rng.bytes(128), "little") & ((1 << (1 << len(picked))) - 1)
    make = net.lut if len(picked) <= net.fabric.inputs and seed % 2 else net.function
    got = values(net, [make(picked, table)], count)[:, 0]
    bits = [np.full(1 << count, p) if p <= TRUE else every(count)[0][:, (p >> 1) - 1] ^ (p & 1) for p in picked]
    rows = sum((bit.astype(np.int64) << k for k, bit in enumerate(bits)), np.zeros(1 << count, np.int64))
    assert np.array_equal(got, [table >> int(row) & 1 for row in rows])


@pytest.mark.parametrize("seed", range(60))
def test_sums_and_comparisons(seed):
    rng = np.random.default_rng(seed)
    count, reach = int(rng.integers(1, 13)), int(rng.choice([2, 5, 40]))
    weights = rng.integers(-reach, reach + 1, count)
    net = Netlist(ECP5 if seed % 4 == 3 else ULTRASCALE)
    net.trees = seed % 2 == 1
    terms = [(literal ^ int(rng.integers(2)), int(w)) for literal, w in zip(given(net, count), weights)]
    terms += [(TRUE, 3), terms[0]]  # a constant, and a signal twice
    bits = [every(count)[0][:, (literal >> 1) - 1] ^ (literal & 1) if literal > TRUE else np.ones(1 << count, int)
            for literal, _ in terms]
    sums = sum(bit * weight for bit, (_, weight) in zip(bits, terms))
    width, constant = int(rng.integers(1, 11)), int(rng.integers(-99, 99))
    got = values(net, total(net, terms, constant, width), count)
    assert np.array_equal(got @ (1 << np.arange(width)), (sums + constant) % (1 << width))
    thresholds = rng.integers(sums.min() - 1, sums.max() + 2, 5)
    assert np.array_equal(values(net, [at_least(net, terms, int(threshold)) for threshold in thresholds], count),
                          sums[:, None] >= thresholds)
    assert all(len(gate.inputs) <= net.fabric.inputs for gate in net.gates if isinstance(gate, Lut))


def test_signed_digits():
    for weight in range(-300, 300):
        found = signed_digits(weight)
        assert sum(digit << k for k, digit in found) == weight
        assert all(b - a > 1 for (a, _), (b, _) in zip(found, found[1:])), "no two neighbours"


@pytest.mark.parametrize("divisor", [2, 3, 5, 19, 31, 33, 64, 100])
def test_long_division(divisor):
    net = Netlist()
    quotient, remainder = divided(net, given(net, 10), divisor)
    numbers = np.arange(1 << 10)
    for word, expected in ((quotient, numbers // divisor), (remainder, numbers % divisor)):
        assert np.array_equal(values(net, word, 10) @ (1 << np.arange(len(word))), expected)


@pytest.mark.parametrize("levels, domain", [((-1, 18), BIT), ((3, -4), Domain(-1, 1)), ((-7, 300), BIT),
                                            ((20, -1), Domain(0, 1, Fraction(2), Fraction(-1)))])
def test_a_common_part_is_divided_once(levels, domain, monkeypatch):
    rng = np.random.default_rng(7)
    columns = rng.choice(levels, (90, 24), p=[.8, .2])
    codes = rng.integers(domain.lo, domain.hi + 1, (3000, 90))
    scale, offset = domain.numerator
    sums = (scale * codes + offset) @ columns
    graph = neurons(columns, [rng.choice(sums[:, k]) + rng.integers(-1, 2) for k in range(24)], domain)
    logic = to_logic(graph)
    for made in (logic, to_logic(graph, goals="delay")):
        assert np.array_equal(made([codes])[0], graph(codes))
    monkeypatch.setattr("bnnflow.backends.netlist.lower.LEAST_CHANNELS", 25)
    assert cost(logic) < .8 * cost(to_logic(graph))


@pytest.mark.parametrize("seed", range(12))
def test_an_adder_graph_is_its_levels(seed):
    rng = np.random.default_rng(seed)
    values = [[-1, 1], [-1, 0, 1], [0, 1], [-3, 5], [2, 5], list(range(-9, 10)), [0]][seed % 7]
    levels = rng.choice(values, (int(rng.integers(1, 60)), int(rng.integers(1, 40))))
    levels[:, -1] = -levels[:, 0]
    for most in (UNBOUNDED, 1 + seed % 2, 0):
        found = adder_graph(levels.astype(np.int64), int(rng.integers(1, 5)), most)
        known, depth = [*np.eye(len(levels), dtype=np.int64)], [-1] * len(levels)
        for row in found.rows:
            known.append(sum((sign * known[source] for source, sign in row), np.zeros(len(levels), np.int64)))
            depth.append(max([depth[source] for source, _ in row]) + 1)
        assert max(depth) <= most, "common sums between an input and an output"
        again = [sum((m * known[found.inputs + row] for row, m in output), np.zeros(len(levels), np.int64))
                 for output in found.outputs]
        assert np.array_equal(np.array(again).T, levels)


@pytest.mark.parametrize("seed", range(40))
def test_random_graph(seed):
    graph = random_graph(seed)
    codes = random_codes(graph, seed)
    for share in (True, False) if seed < 10 else (True,):
        got = to_logic(graph, share)(codes)
        for ours, expected in zip(got, outputs(graph, codes), strict=True):
            assert np.array_equal(ours, expected), graph


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", [  # every other one, the rest for `make fuzz`
    pytest.param(seed, marks=[pytest.mark.long] * (seed % 2)) for seed in range(40, 300)])
def test_more_random_graphs(seed):
    graph = random_graph(seed)
    codes = random_codes(graph, seed)
    goal = (*GOALS, 2.0)[seed % 4]
    for ours, expected in zip(to_logic(graph, goals=goal)(codes), outputs(graph, codes), strict=True):
        assert np.array_equal(ours, expected), (goal, graph)


@pytest.mark.parametrize("seed", range(12))
def test_random_graph_by_every_goal(seed):
    graph = random_graph(seed)
    codes = random_codes(graph, seed)
    by_node = {node.name: [*GOALS, 1.0][k % 4] for k, node in enumerate(graph)}
    for goal, fabric in (("balanced", ULTRASCALE), ("delay", ULTRASCALE), (by_node, (ULTRASCALE, ICE40)[seed % 2]),
                         ("area", ECP5)):
        logic = to_logic(graph, goals=goal, fabric=fabric)
        for ours, expected in zip(logic(codes), outputs(graph, codes), strict=True):
            assert np.array_equal(ours, expected), (goal, fabric, graph)


def test_goals_are_met():
    """Each is at least as good as the others by its own measure; a number of ns is kept with the fewest LUTs."""
    levels = np.random.default_rng(2).choice([-1, 1], (64, 32))
    graph = neurons(levels, levels.sum(axis=0) // 2)
    luts, ns = {}, {}
    for goal in (*GOALS, 2.5):
        logic = to_logic(graph, goals=goal)
        counts = netlist_counts(logic)[0].values()
        luts[goal], ns[goal] = sum(count.lut for count in counts), max(count.ns for count in counts)
        assert luts[goal] == logic.net.luts(logic.wanted, 0)
        assert goal == "area" or ns[goal] == max(logic.net.when[k >> 1] for k in logic.wanted) / PS
    assert luts["area"] < luts["balanced"] < luts["delay"]
    assert ns["area"] > ns["balanced"] > ns["delay"]
    assert luts["balanced"] * ns["balanced"] < .5 * luts["area"] * ns["area"]
    assert ns[2.5] <= 2.5 and luts[2.5] <= luts["balanced"]


@pytest.mark.parametrize("fabric", [ECP5, ICE40], ids=lambda fabric: fabric.define)
def test_luts_of_four_inputs(fabric):
    """No function has more inputs, LUTs are those counted, and chains only add words: here the logits of two layers."""
    graph = neurons(np.random.default_rng(2).choice([-3, 1], (40, 12)), np.full(12, -20), Domain(0, 15))
    codes = np.random.default_rng(3).integers(0, 16, (500, 40))
    luts, ns = {}, {}
    for goal in (*GOALS, 9.0):
        logic = to_logic(graph, goals=goal, fabric=fabric)
        assert np.array_equal(logic([codes])[0], graph(codes))
        assert all(len(gate.inputs) <= 4 for gate in logic.net.gates if isinstance(gate, Lut))
        counts = netlist_counts(logic)[0].values()
        luts[goal], ns[goal] = sum(count.lut for count in counts), max(count.ns for count in counts)
        assert luts[goal] == logic.net.luts(logic.wanted, 0)
        assert ns[goal] == max(logic.net.when[k >> 1] for k in logic.wanted) / PS
    assert luts["area"] == min(luts.values()) and ns["delay"] == min(ns.values()) < ns["area"]
    assert luts["balanced"] * ns["balanced"] <= 1.001 * min(luts[goal] * ns[goal] for goal in luts)


def test_nodes_that_are_forgotten_leave_no_trace():
    net = Netlist()
    a, b, c = given(net, 3)
    first = net.lut([a, b], 0b1000)
    again = len(net.gates)
    second = net.lut([first, c], 0b1000), net.chain([a], [b], c)
    net.forget(again)
    assert (net.lut([first, c], 0b1000), net.chain([a], [b], c)) == second and net.lut([a, b], 0b1000) == first


@pytest.mark.parametrize("fabric", [ULTRASCALE, ECP5], ids=lambda fabric: fabric.define)
@pytest.mark.parametrize("width", [1, 2, 3, 5, 6])
def test_words_are_compared_by_a_tree(width, fabric):
    net = Netlist(fabric)
    bits = given(net, 2 * width)
    numbers = np.arange(1 << 2 * width)
    expected = numbers % (1 << width) >= numbers >> width
    assert np.array_equal(values(net, [not_less(net, bits[:width], bits[width:])], 2 * width)[:, 0], expected)


@pytest.mark.parametrize("count", [7, 12, 18, 24, 40])
def test_comparisons_of_counts_are_shallow(count):
    """ns of LUTs in a row: two rows for twelve bits at a threshold in the middle, five for forty."""
    net = Netlist()
    net.trees = True
    literal = at_least(net, [(bit, 1) for bit in given(net, count)], count // 2)
    rows = round(net.when[literal >> 1] / ULTRASCALE.level)
    assert rows <= {7: 2, 12: 2, 18: 3, 24: 4, 40: 5}[count] and gates(net, [literal], Lut) < count


@pytest.mark.parametrize("fabric", [ULTRASCALE, ECP5], ids=lambda fabric: fabric.define)
def test_a_constant_makes_no_word_wait(fabric):
    """No column waits for the carry of the one below: a constant costs a row of LUTs, and few of them."""
    found = []
    for constant in (0, -1020, 5461):
        net = Netlist(fabric)
        net.trees = True
        terms = [(bit, (1 << k % 10) * (-1) ** (k // 10)) for k, bit in enumerate(given(net, 120))]
        word = total(net, terms, constant, 16)
        found.append((max(net.when[bit >> 1] for bit in word), net.luts(word, 0)))
    assert max(found)[0] - min(found)[0] <= 2 * fabric.level and max(luts for _, luts in found) <= 1.15 * found[0][1]


@pytest.mark.parametrize("distances", [(1, 1), (8, 8), (7, 9), (9, 7), (1, 3), (3, 1), (6, 6), (64, 64), (63, 65),
                                       (15, 17)])
@pytest.mark.parametrize("first", [-70, -9, 0, 5, 30])
def test_evenly_spaced_thresholds_shift_round_and_clip(distances, first):
    """quantized_relu and quantized_bits: thresholds at equal distances, or 1 off at ties that go to even."""
    for domain in (Domain(-64, 63), Domain(0, 127), Domain(-5, 8)):
        for count in (3, 6, 7):
            thresholds = np.cumsum([first, *(distances[k % 2] for k in range(count - 1))])
            source = Node("x", Op.INPUT, (), (2,), domain)
            steps = Steps(np.array([0, 9]), np.array([1, -1]), np.array([thresholds, thresholds], np.int64))
            sums = Node("s", Op.ADD, ("x",), (2,), domain, Sum(np.array([1]), 0))
            graph = Graph((source, sums, Node("y", Op.STEP, ("s",), (2,), Domain(0, 9), steps)), ("y",))
            codes = np.repeat(np.arange(domain.lo, domain.hi + 1)[:, None], 2, axis=1)
            assert np.array_equal(to_logic(graph)([codes])[0], graph(codes))


def test_common_subexpressions_make_dense_layers_smaller():
    levels = np.random.default_rng(0).choice([-1, 1], (64, 32))
    graph = neurons(levels, levels.sum(axis=0) // 2)
    whole, single = (to_logic(graph, share) for share in (True, False))
    assert 1.9 * cost(whole) < cost(single)


def cost(logic: Logic) -> int:
    """LUTs that are not in a chain's own, and those of chains."""
    net, wanted = logic.net, logic.wanted
    read = net.reached(wanted)
    positions = sum(len(gate.a) for gate, used in zip(net.gates, read) if used and isinstance(gate, Chain))
    return positions + gates(net, wanted, Lut)


def test_neurons_of_six_inputs_are_one_lut_each():
    rng = np.random.default_rng(0)
    levels = np.zeros((40, 20), np.int64)
    for column in levels.T:
        column[rng.permutation(40)[:6]] = rng.choice([-1, 1], 6)
    logic = to_logic(neurons(levels, levels.sum(axis=0) // 2))
    assert gates(logic.net, logic.wanted, Lut) == 20 and gates(logic.net, logic.wanted, Chain) == 0


def test_equal_opposite_and_dead_neurons_cost_nothing():
    column = np.random.default_rng(0).choice([-1, 0, 1], (30, 1))
    one = to_logic(neurons(column, [2]))
    four = to_logic(neurons(np.hstack([column, -column, column, 0 * column]), [2, -1, 2, 1]))
    assert four.outputs[0][0] == four.outputs[0][2] and four.outputs[0][3] == [FALSE]
    x = np.random.default_rng(1).integers(0, 2, (1000, 30))
    assert np.array_equal(four([x])[0], four.graph(x))
    assert four.outputs[0][1] == [four.outputs[0][0][0] ^ 1], "-s >= -1 is not s >= 2"
    assert cost(four) < 1.5 * cost(one), "the sum once"


def test_names_of_count_functions():
    assert sum_table((1, 1, 1), 0, 0) == 0b10010110 and sum_table((1, 1, 1), 0, 1) == 0b11101000


def test_too_large_is_refused():
    levels = np.ones((2000, 1200), np.int64)
    with pytest.raises(bf.InputError, match=r"node 'sum' unrolls to 2,400,000 one-bit terms.*io_stream"):
        to_logic(neurons(levels, np.zeros(1200)))


def test_what_is_forgotten_is_not_kept_as_a_lut():
    """The next function of the same number is left to a tool, as one that is not of a tree of LUTs."""
    net = Netlist()
    a, b, c = given(net, 3)
    first, net.trees = len(net.gates), True
    net.lut([a, b, c], 0x80)
    assert net.kept == {first}
    net.forget(first)
    net.trees = False
    assert net.lut([a, b], 0x8) >> 1 == first and not net.kept


def test_chains_are_read_through_their_bits():
    net = Netlist()
    a, b, c = given(net, 3)
    bits = net.chain([a, b], [b, c], c)
    assert all(isinstance(net.gates[bit >> 1], Bit) for bit in bits) and len(bits) == 3
    patterns = every(3)[0]
    expected = patterns @ [1, 2, 0] + patterns @ [0, 1, 2] + patterns[:, 2]
    assert np.array_equal(values(net, bits, 3) @ [1, 2, 4], expected)


@pytest.mark.parametrize("levels", [[-3, -1, 1, 3], [-1, 1], [-8, -5, 2, 7]])
def test_neurons_of_few_inputs_are_one_lut_each(levels):
    rng = np.random.default_rng(1)
    weights = np.zeros((40, 24), np.int64)
    for column in weights.T:
        taps = rng.permutation(40)[: rng.integers(1, 7)]
        column[taps] = rng.choice(levels, len(taps))
    graph = neurons(weights, rng.integers(weights.clip(None, 0).sum(axis=0), weights.clip(0).sum(axis=0) + 2))
    logic = to_logic(graph)
    codes = rng.integers(0, 2, (2000, 40))
    assert np.array_equal(logic([codes])[0], graph(codes))
    assert gates(logic.net, logic.wanted, Lut) <= 24 and not gates(logic.net, logic.wanted, Chain)
