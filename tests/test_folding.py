"""Folding: which there are, what is refused, and that every kernel computes the graph with any of them, as C++."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from types import MappingProxyType

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import tensorflow as tf

from bnnflow.backends.hls.folding import Folding, folding_of, foldings
from bnnflow.backends.hls.fusion import MAX_STREAM, check, fusion_groups
from bnnflow.errors import InputError
from bnnflow.ir import BIPOLAR, Affine, Domain, Graph, Index, Node, Op, Table, Weights, Window
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains import gxx
from tests import random_cnns
from tests.conftest import union
from tests.random_graphs import all_foldings, random_codes, random_foldings, random_graph, random_steps
from tests.test_contracts import INPUT_TYPE, NETWORKS, inputs
from tests.test_hls import numbers
from tests.test_kernel_calls import levels_of

BIT, TERNARY, CODES, WIDE = Domain(0, 1), Domain(-1, 1), Domain(-8, 7, Fraction(1, 4)), Domain(-(2**19), 2**19 - 1)
ODD = Domain(0, 1, Fraction(3), Fraction(-1))  # an absent tap is no code of it: every class of borders has its own sums
STREAM, LOOPS = {"io_type": "io_stream"}, {"io_type": "io_parallel", "strategy": "Resource"}


@dataclass(frozen=True)
class Case:
    """A sum, or a maximum where there are no `levels`, with thresholds behind it.

    `window` is (kernel, strides, dilation, pads, groups), `outputs` are those of a group, `levels` a name in
    `test_kernel_calls`. `behind` says what stands behind the thresholds.
    """

    domain: Domain
    shape: tuple[int, ...]
    window: tuple | None
    outputs: int = 6
    levels: str = "signs"
    groups: int = 1
    behind: str = ""


def square(kernel: int, stride: int = 1, dilation: int = 1, pad: int = 0, groups: int = 1) -> tuple:
    return (kernel,) * 2, (stride,) * 2, (dilation,) * 2, ((pad, pad),) * 2, groups


CASES = {
    "same": Case(BIPOLAR, (5, 6, 8), square(3, pad=1)),
    "valid": Case(BIPOLAR, (5, 6, 8), square(3)),
    "stride_past_the_kernel": Case(BIPOLAR, (9, 11, 4), ((2, 2), (4, 5), (1, 1), ((0, 0), (0, 0)), 1)),
    "dilated": Case(BIPOLAR, (8, 9, 4), ((3, 3), (1, 2), (2, 3), ((2, 1), (3, 4)), 1)),
    "asymmetric": Case(ODD, (5, 4, 6), ((3, 2), (2, 1), (1, 1), ((0, 2), (3, 1)), 1), levels="masked_signs"),
    "pads_past_the_kernel": Case(ODD, (3, 4, 4), ((2, 2), (1, 2), (1, 1), ((3, 2), (4, 3)), 1)),
    "line": Case(BIPOLAR, (17, 6), ((5,), (2,), (2,), ((3, 1),), 1)),
    "line_of_classes": Case(ODD, (9, 4), ((4,), (1,), (1,), ((3, 2),), 1), levels="two"),
    "whole_image": Case(BIPOLAR, (4, 5, 6), ((4, 5), (1, 1), (1, 1), ((0, 0), (0, 0)), 1), 8),
    "one_pixel": Case(ODD, (1, 1, 12), square(3, pad=1)),
    "one_column": Case(BIPOLAR, (7, 1, 6), ((3, 1), (2, 1), (1, 1), ((1, 1), (0, 0)), 1)),
    "odd_channels": Case(BIPOLAR, (4, 4, 70), square(2), 4),
    "more_than_a_word": Case(BIPOLAR, (3, 4, 130), square(2), 4, "masked_signs"),
    "codes": Case(CODES, (5, 4, 6), square(3, pad=1), 6, "many"),
    "wide_codes": Case(WIDE, (4, 4, 5), square(2), 6, "three"),
    "ternary": Case(TERNARY, (5, 4, 26), square(2, stride=2, pad=1), 4),
    "two": Case(ODD, (5, 5, 6), square(3, pad=1), 6, "two"),
    "masked_two": Case(BIPOLAR, (5, 5, 6), square(3, stride=2, pad=1), 6, "masked_two"),
    "own": Case(ODD, (4, 5, 6), square(3, pad=1), 6, "own"),
    "many": Case(BIT, (4, 5, 6), square(2), 6, "many"),
    "codebook": Case(BIPOLAR, (5, 4, 4), square(3, pad=1), 32, "signs/5"),
    "groups": Case(BIPOLAR, (5, 4, 12), square(3, pad=1, groups=3), 4),
    "groups_of_codes": Case(CODES, (5, 4, 12), square(2, groups=2), 6, "many"),
    "own_groups": Case(ODD, (4, 4, 8), square(2, pad=1, groups=2), 4, "own"),
    "depthwise": Case(BIPOLAR, (5, 6, 6), square(3, pad=1, groups=6), 2),
    "depthwise_of_codes": Case(CODES, (5, 6, 6), square(3, stride=2, groups=6), 1, "two"),
    "groups_apart": Case(BIPOLAR, (3, 3, 8), square(2, groups=4), 3, "two", groups=2),
    "maxima": Case(BIPOLAR, (7, 6, 12), square(2, stride=2), levels=""),
    "padded_maxima": Case(CODES, (5, 4, 6), square(3, stride=2, pad=1), levels=""),
    "line_of_maxima": Case(TERNARY, (9, 8), ((3,), (2,), (1,), ((1, 0),), 1), levels=""),
    "dense": Case(BIPOLAR, (150,), None, 12),
    "dense_groups": Case(ODD, (24,), None, 4, "two", groups=3),
    "pixels": Case(CODES, (5, 9), None, 12, "many"),
    "dense_behind": Case(BIPOLAR, (4, 4, 6), square(3, pad=1), behind="dense"),
    "place_behind": Case(BIPOLAR, (4, 4, 6), square(3, pad=1), behind="argmax"),
    "table_behind": Case(BIPOLAR, (4, 4, 6), square(3, pad=1), behind="table"),
    "affine_behind": Case(BIPOLAR, (4, 4, 6), square(3, pad=1), behind="affine"),
    "channels_behind": Case(BIPOLAR, (4, 4, 6), square(2), behind="channels"),
}


def case(name: str) -> Graph:
    """The graph of a case."""
    c, rng = CASES[name], np.random.default_rng(len(name))
    nodes, taps, window = [Node("x", Op.INPUT, (), c.shape, c.domain)], 1, None
    places: tuple[int, ...] = c.shape[:-1]

    def add(name: str, op: Op, shape: tuple[int, ...], domain: Domain, params: object = None) -> Node:
        nodes.append(Node(name, op, (nodes[-1].name,), shape, domain, params))  # type: ignore[arg-type]
        return nodes[-1]

    def add_sum(name: str, levels: np.ndarray, mask: np.ndarray, groups: int) -> Node:
        weights, read = Weights(levels, mask, groups), nodes[-1]
        sums = dot_domain(read.domain, weights, window if read.name == "taps" else None)
        dot = add(f"{name}sum", Op.DOT, (*read.shape[:-1], levels.shape[1]), sums, weights)
        return add(f"{name}codes", Op.STEP, dot.shape, TERNARY, random_steps(rng, sums, dot.shape[-1], TERNARY))

    if c.window is not None:
        kernel, strides, dilation, pads, groups = c.window
        window = Window(kernel, strides, dilation, pads, groups if c.levels else c.shape[-1], c.shape[:-1])
        taps, places = window.taps, window.positions
        add("taps", Op.WINDOW, (*places, taps * c.shape[-1]), c.domain, window)
    if c.levels:
        groups = c.window[-1] if c.window is not None and c.groups == 1 else c.groups
        add_sum("", *levels_of(c.levels, (taps * c.shape[-1] // groups, c.outputs * groups), taps, len(name)), groups)
    else:
        add("most", Op.MAX, (*places, c.shape[-1]), c.domain)
    last = nodes[-1]
    if c.behind == "dense":
        add("flat", Op.GATHER, (last.size,), last.domain, Index(np.arange(last.size)))
        add_sum("next_", rng.integers(-1, 2, (last.size, 10)), np.ones((last.size, 10), bool), 1)
    elif c.behind == "argmax":
        add("place", Op.ARGMAX, (*last.shape[:-1], 1), Domain(0, last.shape[-1] - 1))
    elif c.behind == "channels":
        channel = rng.integers(0, last.shape[-1], 9)
        flat = (np.arange(last.size // last.shape[-1])[:, None] * last.shape[-1] + channel).ravel()
        add("channels", Op.GATHER, (*last.shape[:-1], 9), last.domain, Index(flat))
    elif c.behind == "table":
        add("table", Op.LUT, last.shape, CODES, Table(rng.integers(-8, 8, (last.shape[-1], 3))))
    elif c.behind == "affine":
        mul, bias = rng.integers(-99, 99, (2, last.shape[-1]))
        add("affine", Op.AFFINE, last.shape, Domain(-999, 999), Affine(mul, bias, 1))
    return Graph(tuple(nodes), (nodes[-1].name,))


def head(graph: Graph) -> tuple[Node, Node]:
    """The first sum or maximum of a graph, and what it reads."""
    node = next(node for node in graph if node.traits.taps)
    return node, graph[node.inputs[0]]


def three(made: list[Folding], turn: int = 0) -> list[Folding]:
    """The fastest folding, the slowest one, and one between."""
    inner = made[1:-1] or made
    return [made[0], inner[(turn * 7 + len(inner) // 2) % len(inner)], made[-1]]


def told(graph: Graph, io_type: str, which: int, turn: int = 0) -> dict[str, dict[str, int]]:
    """`layers` of a build: of every sum and maximum one of its `three` foldings."""
    chosen = {name: three(made, turn + k)[which] for k, (name, made) in enumerate(all_foldings(graph, io_type).items())}
    return {name: {"pe": f.pe, "simd": f.simd} for name, f in chosen.items()}


# --- which there are ------------------------------------------------------------------------------------------------


def legal(name: str, stream: bool) -> Iterator[tuple[int, int]]:
    """(pe, simd) by the definition, one by one."""
    node, source = head(case(name))
    p, window = node.params, source.params
    groups = node.shape[-1] if not isinstance(p, Weights) else p.groups
    if isinstance(p, Weights) and isinstance(window, Window) and window.groups != groups:
        groups = 1
    own, taps = node.shape[-1] // groups, source.shape[-1] // groups
    channels = taps // (window.taps if isinstance(window, Window) else 1)
    for pe, simd in product(range(1, node.shape[-1] + 1), range(1, taps + 1)):
        whole_groups = pe % own == 0 and node.shape[-1] % pe == 0 and simd == taps
        of_one = own % pe == 0 and channels % simd == 0 or (groups == 1 and own % pe == 0 and simd == taps)
        if whole_groups or (of_one and node.op is Op.DOT and (stream or groups == 1)):
            yield pe, simd


@pytest.mark.parametrize("name", CASES)
def test_every_folding_that_divides_is_there(name):
    node, source = head(case(name))
    for stream in (True, False):
        made = foldings(node, source, stream)
        assert sorted((f.pe, f.simd) for f in made) == sorted(legal(name, stream))
        folds = [f.folds for f in made]
        assert folds == sorted(folds) and folds[0] == 1
        assert all(f.folds == f.outputs // f.pe * (f.taps // f.simd) for f in made)
        assert made[-1].folds > 1


def config(layers: dict | None = None, **options: object) -> bf.BuildConfig:
    return bf.BuildConfig(layers=layers or {}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "options"), [  # in turns, the others for `make fuzz`
    pytest.param(name, options, id=f"{name}-{word}", marks=[pytest.mark.long] * ((k + of) % 2))
    for k, name in enumerate(CASES) for of, (word, options) in enumerate((("stream", STREAM), ("loops", LOOPS)))])
def test_others_are_refused_and_the_nearest_works(name, options):
    graph = case(name)
    node, source = head(graph)
    made = foldings(node, source, options is STREAM)
    whole, refused = made[0], 0
    lanes, widths = (range(1, most + 3) for most in (whole.outputs, whole.taps))
    for key, value in (*product(["pe"], lanes), *product(["simd"], widths)):
        choices = {getattr(f, key) for f in made}
        if value in choices:
            check(graph, config({node.name: {key: value}}, **options))
            continue
        with pytest.raises(InputError, match=f"node '{node.name}': {key}={value} does not divide") as error:
            check(graph, config({node.name: {key: value}}, **options))
        nearest = [int(n) for n in re.search(rf"for {key} use (\d+)(?: or (\d+))?,", str(error.value)).groups() if n]
        below, above = ([n for n in choices if n < value], [n for n in choices if n > value])
        assert nearest == [*([max(below)] if below else []), *([min(above)] if above else [])]
        for n in nearest:
            check(graph, config({node.name: {key: n}}, **options))
        refused += 1
    assert refused


@pytest.mark.parametrize("options", [STREAM, LOOPS], ids=["stream", "loops"])
@pytest.mark.parametrize("name", ["groups", "depthwise", "own_groups", "maxima"])
def test_pairs_of_groups_that_do_not_go_together(name, options):
    """Each of both divides, but lanes of several groups read all their taps."""
    graph = case(name)
    node, source = head(graph)
    made = {(f.pe, f.simd) for f in foldings(node, source, options is STREAM)}
    lanes, widths = ({f[k] for f in made} for k in (0, 1))
    for pe, simd in sorted(set(product(lanes, widths)) - made):
        with pytest.raises(InputError, match=f"pe={pe}, simd={simd} does not divide .* for simd use") as error:
            check(graph, config({node.name: {"pe": pe, "simd": simd}}, **options))
        for n in re.search(r"use (\d+)(?: or (\d+))?,", str(error.value)).groups():
            if n:
                check(graph, config({node.name: {"pe": pe, "simd": int(n)}}, **options))


REFUSED = {  # options and a node of "same" -> what is said of it, and what to do
    "thresholds": ({"io_type": "io_stream", "layers": {"codes": {"pe": 2}}},
                   "'codes'.* is computed by the kernel of 'sum'; name that node"),
    "thresholds_alone": ({"strategy": "Latency", "layers": {"codes": {"pe": 2, "simd": 1}}},
                         "node 'codes': pe and simd fold sums and maxima, and this node is neither; leave them out"),
    "unrolled": ({"strategy": "Latency", "layers": {"sum": {"pe": 2}}},
                 r"node 'sum': pe fold a loop; with layers=\{'sum': \{'pe': 2, 'strategy': 'Resource'\}\}, or "),
    "a_netlist": ({"io_type": "io_stream", "strategy": "distributed_arithmetic", "layers": {"sum": {"simd": 2}}},
                  r"node 'sum': simd fold a loop; with layers=\{'sum': \{'simd': 2, 'strategy': 'Resource'\}\}"),
    "its_own_netlist": ({"layers": {"sum": {"simd": 2, "strategy": "distributed_arithmetic"}}},
                        r"node 'sum': simd fold a loop; with layers=\{'sum': \{'simd': 2, 'strategy': 'Resource'\}\}, "
                        "there is one$"),
    "both": ({"strategy": "Resource", "layers": {"sum": {"pe": 5, "simd": 5}}},
             "node 'sum': pe=5, simd=5 does not divide its outputs and taps evenly; for pe use 3 or 6, of 1, 2, 3, 6"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fold_is_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        check(case("same"), bf.BuildConfig(**options))  # type: ignore[arg-type]


def test_remedies_of_what_does_not_fold_work():
    for options in ({"layers": {"sum": {"strategy": "Resource", "pe": 2}}}, STREAM | {"layers": {"sum": {"pe": 2}}}):
        check(case("same"), bf.BuildConfig(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
@pytest.mark.parametrize("key", ["pe", "simd"])
def test_foldings_are_whole_numbers(key, value):
    with pytest.raises(InputError, match=rf"layers\['sum'\]: {key}={value!r}: a whole number"):
        bf.BuildConfig(layers={"sum": {key: value}})


@pytest.mark.parametrize("name", CASES)
def test_a_reuse_factor_is_the_most_cycles(name):
    """Of a position in a stream, of all positions in a loop; of what is no slower, no folding takes more cycles."""
    node, source = head(case(name))
    for stream, options in ((True, STREAM), (False, LOOPS)):
        made = foldings(node, source, stream)
        positions = made[0].positions
        for reuse in {1, 2, 3, 5, 8, 13, 100, made[-1].folds, positions, 2 * positions + 1, positions * made[-1].folds}:
            folding = folding_of(node, source, config(reuse_factor=reuse, **options))
            most = [f for f in made if f.folds <= (reuse if stream else reuse // positions)]
            if stream or most:
                assert folding == next(f for f in most if f.folds == most[-1].folds)
            assert folding.turns * folding.at_once == positions
            assert (folding.folds if stream else folding.cycles) <= reuse


@pytest.mark.parametrize("name", CASES)
def test_a_reuse_factor_holds_beside_one_number_of_lanes(name):
    """With `pe` or `simd` told, a node still takes at most so many cycles, or as few as it can."""
    node, source = head(case(name))
    for options in (STREAM, LOOPS):
        made = foldings(node, source, options is STREAM)
        turns = 1 if options is STREAM else made[0].positions
        for lanes in ({key: getattr(f, key)} for f in three(made) for key in ("pe", "simd")):
            least = min(turns * f.folds for f in made if lanes.items() <= {"pe": f.pe, "simd": f.simd}.items())
            for reuse in (1, 7, 100, least, 3 * least + 1):
                folding = folding_of(node, source, config({node.name: lanes}, reuse_factor=reuse, **options))
                assert turns * folding.folds <= max(reuse, least)


@pytest.mark.parametrize("options", [STREAM, LOOPS], ids=["stream", "loops"])
def test_lanes_that_take_longer_than_the_node_s_own_reuse_factor(options):
    graph = case("same")
    node, source = head(graph)
    for lanes in ({"pe": 2, "simd": 4}, {"pe": 2}):
        slow = folding_of(node, source, config({"sum": lanes}, **options))
        cycles = slow.folds if options is STREAM else slow.cycles
        check(graph, config({"sum": lanes | {"reuse_factor": cycles}}, **options))
        check(graph, config({"sum": lanes}, reuse_factor=1, **options))  # that of the build says nothing of it
        row = lanes | {"reuse_factor": cycles - 1}
        with pytest.raises(InputError, match=f"'sum': pe=2.* takes {cycles} cycles.*, more than its reuse_factor"):
            check(graph, config({"sum": row}, **options))
        check(graph, config({"sum": {"reuse_factor": cycles - 1}}, **options))


def test_numbers_of_other_types_are_written_down(tmp_path):
    """NumPy's numbers, and mappings that are no dictionaries, do not go into JSON as they are."""
    row = {"pe": np.int64(2), "simd": np.int32(4), "strategy": np.str_("Resource")}
    reuse = {"reuse_factor": np.int8(9)}
    for layers in ({"sum": row}, MappingProxyType({"sum": MappingProxyType(row)}), {"sum": reuse}):
        options = bf.BuildConfig(output_dir=tmp_path / "prj", layers=layers, **STREAM)
        plain = {"sum": {key: value if key == "strategy" else int(value) for key, value in layers["sum"].items()}}
        assert options.layers == plain and type(options.layers["sum"]) is dict
        assert bf.build(case("same"), options).config.layers == plain


def test_a_folding_is_what_is_written():
    """Members of the kernels of a project in both forms, and that the fastest is chosen where one number is told."""
    graph = case("groups")
    for options, kernel in ((STREAM, "flow_fold"), (LOOPS, "flow_turns")):
        layers = {"sum": {"pe": 4, "simd": 36} if options is LOOPS else {"pe": 2, "simd": 2}}
        (group,) = (g for g in fusion_groups(graph, config(layers, **options)) if g.calls)
        members = group.calls[0].fused[0].call.members
        assert group.calls[0].kernel == kernel and [node.name for node in group.nodes] == ["sum", "codes"]
        assert {key: members[key] for key in ("pe", "simd")} == layers["sum"]
        assert group.calls[0].fused[1].call.members["n_row"] == 12 // members["pe"]
    node, source = head(case("same"))
    for key, value in (("pe", 2), ("simd", 4)):
        one = folding_of(node, source, config({"sum": {key: value}}, **STREAM))
        assert one.folds == min(f.folds for f in foldings(node, source) if getattr(f, key) == value)


# --- as C++ ---------------------------------------------------------------------------------------------------------


def together(names: list[str], io_type: str, foldings_of_all: bool = True) -> tuple[Graph, dict, list[np.ndarray]]:
    """Cases in one graph, each with three foldings: (graph, `layers`, two images and a random one of each)."""
    graphs = {f"{name}_{k}": case(name) for name in names for k in range(3 if foldings_of_all else 1)}
    graph, layers = union(graphs), {}
    for turn, key in enumerate(graphs):
        layers |= told(union({key: graphs[key]}), io_type, int(key[-1]), turn)
    codes = [c for key, g in graphs.items() for c in random_codes(g, len(key), 3)]
    return graph, layers, codes


@pytest.mark.hls
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("options", [STREAM, LOOPS], ids=["stream", "loops"])
def test_every_case_in_c(options, half, tmp_path):
    """Three images, the lowest codes, the highest and any: what one leaves behind would show in the next."""
    graph, layers, codes = together(list(CASES)[half::2], options["io_type"])
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", layers=layers, **options), codes)
    bf.simulate(tmp_path / "prj")
    if options is STREAM and half == 0:
        top = (tmp_path / "prj/firmware/myproject.cpp").read_text()
        assert min(top.count("nnet::flow_fold<"), top.count("nnet::flow_slide<")) > 15


@pytest.mark.hls
def test_what_is_synthesised_counts_the_same_bits(tmp_path, monkeypatch):
    """g++ counts with the machine's own instruction; with FLOW_SLOW it compiles the trees of adders that ship."""
    names = ["same", "asymmetric", "more_than_a_word", "codes", "two", "own", "many", "codebook", "own_groups",
             "maxima"]
    graph, _, codes = together(names, "io_parallel", False)
    folded = union({name: case(name) for name in names})
    loops = {name: f | {"strategy": "Resource"} for name, f in random_foldings(folded, "io_parallel", 1).items()}
    monkeypatch.setattr(gxx, "FLAGS", (*gxx.FLAGS, "-DFLOW_SLOW"))
    whole = union({"unrolled": graph, "folded": folded})
    layers = {f"folded__{name}": f for name, f in loops.items()}
    bf.build(whole, bf.BuildConfig(output_dir=tmp_path / "prj", layers=layers),
             [*codes, *(c for name in names for c in random_codes(case(name), 1, 3))])
    bf.simulate(tmp_path / "prj")
    assert "nnet::flow_turns<" in (tmp_path / "prj/firmware/myproject.cpp").read_text()


@pytest.mark.hls
def test_trees_of_adders_count_as_the_machine(tmp_path):
    """Of 1 to 64 taps in a word, and of more in several, over random words, signs and masks."""
    bf.build(case("dense"), bf.BuildConfig(output_dir=tmp_path / "prj"))
    widths = [*range(1, 65), 65, 100, 128, 129, 190]
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2**64, (40, 3), np.uint64, endpoint=False) for name in ("word", "sign", "mask")}
    declared = [f"static const unsigned long long {name}[40][3] = {{"
                + ", ".join("{" + ", ".join(f"{int(w):#x}ULL" for w in row) + "}" for row in rows) + "};"
                for name, rows in arrays.items()]
    declared += ["template <int N> int total() { int all = 0; for (int k = 0; k < 40; k++)",
                 "all = (all * 7 + nnet::flow_tree<64, N>::of(word[k], 0, sign[k], mask[k])) % 1000003; return all; }"]
    agree = ~(arrays["word"] ^ arrays["sign"]) & arrays["mask"]
    bits = np.unpackbits(agree.view(np.uint8), axis=1, bitorder="little").astype(int)
    expected = []
    for n in widths:
        every = 0
        for ones in bits[:, :n].sum(axis=1).tolist():
            every = (every * 7 + ones) % 1000003
        expected.append(every)
    assert numbers(tmp_path / "prj", [f"total<{n}>()" for n in widths], "\n".join(declared)) == expected


# --- contract rows, random networks ---------------------------------------------------------------------------------

PARTS = 14


@cache
def rows(part: int) -> tuple[dict[str, Graph], list[np.ndarray]]:
    """Every fourteenth row of the contracts: (graphs, a few inputs of each)."""
    graphs, codes = {}, []
    for name in list(NETWORKS)[part::PARTS]:
        model = NETWORKS[name]()
        graphs[name] = bf.lower(model, INPUT_TYPE)
        codes += tf.nest.flatten(graphs[name].encode(inputs(model, 30)))
    return graphs, codes


def check_rows(part: int, options: dict, which: int, folder: object) -> None:
    """Rows at the fastest folding (0), one between (1) or the slowest one (2): the C simulation is the graph."""
    graphs, codes = rows(part)
    graph = union(graphs)
    layers = told(graph, options["io_type"], which, part)
    bf.build(graph, bf.BuildConfig(output_dir=folder, layers=layers, **options), codes)  # type: ignore[arg-type]
    bf.simulate(folder)


SAMPLE = [(0, STREAM, 1), (1, STREAM, 2), (3, LOOPS, 1), (4, LOOPS, 2)]  # streams at the fastest: test_contracts


@pytest.mark.hls
@pytest.mark.parametrize(("part", "options", "which"), SAMPLE)
def test_contract_rows_in_c(part, options, which, tmp_path):
    check_rows(part, options, which, tmp_path / "prj")


@pytest.mark.hls
@pytest.mark.long
@pytest.mark.parametrize("options", [STREAM, LOOPS], ids=["stream", "loops"])
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("which", range(3), ids=["fastest", "between", "slowest"])
def test_all_contract_rows_in_c(part, which, options, tmp_path):
    if (part, options, which) not in SAMPLE:
        check_rows(part, options, which, tmp_path / "prj")


LARGE = 700  # elements of a tensor: networks with larger ones are compiled as streams only


def check_images(seeds: list[int], options: dict, folder: object) -> None:
    """Random convolutional networks at random foldings."""
    graphs, codes = {}, []
    for seed in seeds:
        network = random_cnns.network(seed)
        try:
            graph = bf.lower(network.model, network.input_type)
            check(graph, config(**options))
        except (bf.LoweringError, InputError) as error:
            assert re.search("most 4096|real-scaled|stop unrolling", str(error))
            continue
        if options is STREAM or max(node.size for node in graph) < LARGE:
            graphs[f"seed{seed}"] = graph
            codes.append(network.inputs(np.random.default_rng(seed), 3))
    graph = union(graphs)
    layers = random_foldings(graph, options["io_type"], seeds[0])
    bf.build(graph, bf.BuildConfig(output_dir=folder, layers=layers, **options), codes)  # type: ignore[arg-type]
    bf.simulate(folder)


@pytest.mark.hls
@pytest.mark.parametrize(("seeds", "options"), [([2, 33], STREAM), ([3, 35], LOOPS)], ids=["stream", "loops"])
def test_random_convolutional_networks_in_c(seeds, options, tmp_path):
    check_images(seeds, options, tmp_path / "prj")


@pytest.mark.hls
@pytest.mark.long
@pytest.mark.parametrize("options", [STREAM, LOOPS], ids=["stream", "loops"])
@pytest.mark.parametrize("first", range(0, 44, 11))
def test_forty_random_convolutional_networks_in_c(first, options, tmp_path):
    check_images(list(range(first, first + 11)), options, tmp_path / "prj")


@pytest.mark.hls
@pytest.mark.long
@pytest.mark.parametrize("options", [STREAM, LOOPS], ids=["stream", "loops"])
@pytest.mark.parametrize("first", range(300, 500, 20))
def test_random_graphs_in_c(first, options, tmp_path):
    graphs = {f"seed{seed}": random_graph(seed) for seed in range(first, first + 20)}
    graphs = {key: g for key, g in graphs.items() if all(n.shape[-1] * n.domain.bits <= MAX_STREAM for n in g)}
    graph = union(graphs)
    layers = random_foldings(graph, options["io_type"], first)
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", layers=layers, **options))
    bf.simulate(tmp_path / "prj", [c for g in graphs.values() for c in random_codes(g, first)])


@pytest.mark.hls
def test_wide_nodes_as_functions_of_their_own(tmp_path, monkeypatch):
    """What is unrolled and too much for one function computes the graph, too; here nearly nothing is too little."""
    monkeypatch.setattr("bnnflow.backends.hls.folding.WHOLE", 8)
    monkeypatch.setattr("bnnflow.backends.hls.folding.PART", 16)
    graphs = {f"seed{seed}": random_graph(seed) for seed in range(300, 312)}
    graph = union(graphs)
    calls = [inner for group in fusion_groups(graph, bf.BuildConfig()) for call in group.calls for inner in call.calls]
    assert sum(call.members.get("apart", 0) for call in calls) > 5
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj"))
    bf.simulate(tmp_path / "prj", [codes for each in graphs.values() for codes in random_codes(each, 0)])
