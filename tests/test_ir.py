from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.errors import InputError
from bnnflow.ir import (
    BIPOLAR,
    BIT,
    TERNARY,
    Affine,
    Domain,
    Graph,
    Index,
    Node,
    Op,
    Steps,
    Sum,
    Weights,
    Window,
    clean_name,
    evaluate,
    fixed,
    nodes,
    passes,
    verify,
)
from bnnflow.ir.vectors import default_vectors, near_thresholds
from tests.conftest import ROOT
from tests.random_graphs import outputs, plain_run, random_codes, random_graph

SEEDS = range(150)


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


def test_each_meaning_is_a_table_over_all_ops():
    assert set(verify.RULES) == set(evaluate.EVAL) == set(nodes.PARAMS) == set(nodes.TRAITS) == set(Op)


@pytest.mark.parametrize("seed", range(40))
def test_traits_are_what_the_rules_and_values_show(seed):
    """RULES and EVAL on random nodes: what is read, which shapes come out, which codes are only moved."""
    graph = random_graph(seed)
    values = evaluate.trace(graph, random_codes(graph, seed, 3))
    for node in graph:
        traits, sources = node.traits, [graph[name] for name in node.inputs]
        assert traits.outside == (not sources) and (traits.joins or len(sources) <= 1)
        if traits.keeps_shape:
            assert all(source.shape == node.shape for source in sources)
        if traits.wires:
            read = np.concatenate([values[source.name].ravel() for source in sources])
            assert node.domain == sources[0].domain
            assert np.isin(values[node.name], np.append(read, node.domain.nearest_zero)).all()
        if traits.taps:
            assert node.shape[:-1] == sources[0].shape[:-1]
        if traits.ends:
            assert all(reader.op is Op.ARGMAX for reader in graph.readers(node.name))
        if traits.pixelwise and len(node.shape) > 1:
            mixed = [_first_position_only(values[source.name]) for source in sources]
            again = evaluate.EVAL[node.op](node, mixed, sources).reshape(3, -1, node.shape[-1])
            assert np.array_equal(again[:, 0], values[node.name].reshape(3, -1, node.shape[-1])[:, 0])


def _first_position_only(x: np.ndarray) -> np.ndarray:
    """Codes whose samples differ in their first position only: all others are those of the first sample."""
    mixed = x.reshape(len(x), -1, x.shape[-1]).copy()
    mixed[1:, 1:] = mixed[:1, 1:]
    return mixed.reshape(x.shape)


def test_traits_say_what_no_position_shows():
    """Traits that random nodes do not show, written a second time, and those that exclude each other."""
    assert {op for op in Op if nodes.TRAITS[op].taps} == {Op.DOT, Op.MAX}
    assert {op for op in Op if nodes.TRAITS[op].adds} == {Op.DOT, Op.ADD}
    assert {op for op in Op if nodes.TRAITS[op].quantizes} == {Op.STEP, Op.LUT}
    assert all(not (t.wires and t.pixelwise) and not (t.adds and t.quantizes) for t in nodes.TRAITS.values())


def test_specification_is_the_generated_one():
    assert (ROOT / "docs/ir.md").read_text() == verify.specification() + "\n", "run python scripts/make_docs.py"


@pytest.mark.parametrize(("domain", "bits", "unit", "numerator"), [
    (BIT, 1, 1, (1, 0)), (BIPOLAR, 1, 1, (2, -1)), (TERNARY, 2, 1, (1, 0)), (Domain(-1, 0), 1, 1, (1, 0)),
    (Domain(0, 0), 1, 1, (1, 0)), (Domain(-128, 127), 8, 1, (1, 0)), (Domain(-128, 128), 9, 1, (1, 0)),
    (Domain(0, 1, Fraction(3, 4), Fraction(-1, 2)), 1, Fraction(1, 4), (3, -2)), (Domain(5, 9), 4, 1, (1, 0)),
])
def test_domain(domain, bits, unit, numerator):
    assert (domain.bits, domain.unit, domain.numerator) == (bits, unit, numerator)


@pytest.mark.parametrize(("text", "lo", "hi", "scale"), [
    ("ufixed<8,0>", 0, 255, Fraction(1, 256)), ("fixed<16,6>", -(2**15), 2**15 - 1, Fraction(1, 1024)),
    ("ap_fixed<4, 6>", -8, 7, Fraction(4)), ("ap_ufixed<1,1>", 0, 1, Fraction(1)),
    ("fixed<3,-2>", -4, 3, Fraction(1, 32)),
])
def test_fixed(text, lo, hi, scale):
    assert fixed(text) == Domain(lo, hi, scale)
    assert fixed(fixed(text).type_name) == fixed(text)


@pytest.mark.parametrize("text", ["", "float", "fixed<25,5>", "fixed<0,0>", "fixed<8>", "ufixed<8,0>;", "fixed<8,99>"])
def test_fixed_refuses(text):
    with pytest.raises(InputError, match="type"):
        fixed(text)


def test_clean_name():
    assert clean_name('a"; system("x")') == "a_system_x"
    assert clean_name("1st") == "n_1st" and clean_name("äöü") == "node"
    assert clean_name("A", {"a"}) == "A_2" and len(clean_name("x" * 300)) <= 64


@pytest.mark.parametrize("seed", SEEDS)
def test_evaluation_is_the_specification_in_python_integers(seed):
    g = random_graph(seed)
    codes = random_codes(g, seed, 6)
    got = outputs(g, codes)
    for k in range(6):
        assert [y[k].ravel().tolist() for y in got] == plain_run(g, [c[k] for c in codes])


@pytest.mark.parametrize("seed", SEEDS)
def test_passes_keep_the_meaning(seed):
    g = random_graph(seed)
    codes = random_codes(g, seed)
    for step in (*passes.PASSES, passes.optimise):
        assert equal(outputs(step(g), codes), outputs(g, codes)), step.__name__


@pytest.mark.parametrize("seed", SEEDS)
def test_values_stay_in_their_domains(seed):
    g = random_graph(seed)
    for name, values in bf.trace(g, random_codes(g, seed)).items():
        assert g[name].domain.lo <= values.min() and values.max() <= g[name].domain.hi


def test_batches_do_not_matter(monkeypatch):
    g = random_graph(3)
    codes = random_codes(g, 0, 50)
    whole = outputs(g, codes)
    monkeypatch.setattr(evaluate, "CHUNK", 7)
    assert equal(outputs(g, codes), whole)
    assert [len(y) for y in outputs(g, [c[:0] for c in codes])] == [0] * len(whole)


def test_large_sums_are_exact_past_float64():
    big = 2**40 + 1
    x = Node("x", Op.INPUT, (), (2,), Domain(-(2**20), 2**20 - 1))
    w = Weights(np.array([[big], [-big]]), np.ones((2, 1), bool))
    g = Graph((x, Node("y", Op.DOT, ("x",), (1,), verify.dot_domain(x.domain, w), w)), ("y",))
    assert g(np.array([[2**20 - 1, -(2**20)]])).item() == big * (2**21 - 1)


# --- passes, text in and text out -----------------------------------------------------------------------------------


def _thermometer(index: list[int], thresholds: list[int]) -> Graph:
    x = Node("x", Op.INPUT, (), (2,), Domain(0, 7))
    wires = Node("wires", Op.GATHER, ("x",), (len(index),), x.domain, Index(np.array(index)))
    n = len(thresholds)
    steps = Steps(np.zeros(n, np.int64), np.ones(n, np.int64), np.array(thresholds)[:, None])
    planes = Node("planes", Op.STEP, ("wires",), (n,), BIPOLAR, steps, "layer")
    return Graph((x, wires, planes), ("planes",))


def test_merge_planes_golden():
    g = _thermometer([0, 0, 0, 1, 1, 1], [2, 3, 3, 3, 5, 5])
    assert str(g) == (
        "x = input() 2 [0,7]*1\n"
        "wires = gather(x) 6 [0,7]*1 flat=[0,0,0,1,1,1]\n"
        "planes = step(wires) 6 [0,1]*2-1 start=[0,0,0,0,0,0] sign=[1,1,1,1,1,1] thresholds=[[2],[3],[3],[3],[5],[5]]\n"
        "return planes")
    merged = passes.drop_unread(passes.merge_planes(g))
    assert str(merged) == (
        "x = input() 2 [0,7]*1\n"
        "planes_in = gather(x) 4 [0,7]*1 flat=[0,0,1,1]\n"
        "planes_planes = step(planes_in) 4 [0,1]*2-1 start=[0,0,0,0] sign=[1,1,1,1] thresholds=[[2],[3],[3],[5]]\n"
        "planes = gather(planes_planes) 6 [0,1]*2-1 flat=[0,1,1,2,3,3]\n"
        "return planes")
    assert merged["planes"].origin == "layer"
    assert merged.notes == ("planes: 2 of 6 planes coincide with another and are merged",)
    assert str(passes.merge_planes(_thermometer([0, 1], [1, 1]))) == str(_thermometer([0, 1], [1, 1]))


def test_compose_gathers_golden():
    x = Node("x", Op.INPUT, (), (3,), BIT)
    g = Graph((
        x, Node("a", Op.GATHER, ("x",), (3,), BIT, Index(np.array([2, 1, 0]))),
        Node("b", Op.GATHER, ("a",), (3,), BIT, Index(np.array([2, 1, 0]))),
        Node("c", Op.GATHER, ("b",), (2, 2), BIT, Index(np.array([0, 1, 2, 2]))),
    ), ("c",))
    assert str(passes.drop_unread(passes.compose_gathers(g))) == (
        "x = input() 3 [0,1]*1\nc = gather(x) 2x2 [0,1]*1 flat=[0,1,2,2]\nreturn c")


def test_split_encoder():
    g = _thermometer([0, 0, 1], [2, 3, 5])
    weights = Weights(np.ones((3, 1), np.int64), np.ones((3, 1), bool))
    g = Graph((*g.nodes, Node("d", Op.DOT, ("planes",), (1,), verify.dot_domain(BIPOLAR, weights), weights)), ("d",))
    front, core = bf.split_encoder(g)
    assert [n.name for n in core] == ["planes", "d"] and [n.name for n in front] == ["x", "wires", "planes"]
    codes = np.random.default_rng(0).integers(0, 8, (50, 2))
    assert np.array_equal(core(front(codes)), g(codes))
    reads = Node("e", Op.ADD, ("x",), (2,), Domain(0, 7), Sum(np.array([1]), 0))
    for bad in (core, Graph((*g.nodes, reads), ("d", "e"))):
        with pytest.raises(InputError, match="encoder"):
            bf.split_encoder(bad)


def _scores(mul: list[int], shift: int) -> Graph:
    """Codes of three channels at two pixels, and their logits."""
    params = Affine(np.array(mul), np.zeros(3, np.int64), shift)
    x = Node("x", Op.INPUT, (), (2, 3), Domain(-8, 7))
    return Graph((x, Node("y", Op.AFFINE, ("x",), (2, 3), Domain(-64, 63), params)), ("y",))


def test_argmax():
    codes = np.random.default_rng(0).integers(-8, 8, (200, 2, 3))
    for mul, shift in (([1, 5, -3], 0), ([1, 2, 5], 2), ([-2, -2, -2], 0)):
        graph = bf.argmax(_scores(mul, shift))
        assert np.array_equal(graph(codes)[..., 0], _scores(mul, shift)(codes).argmax(axis=-1))
        assert graph.output.domain == Domain(0, 2) and ("rounded" in str(graph.notes)) == (shift > 0)
    same = bf.argmax(_scores([3, 3, 3], 3))  # compared before they are rounded
    assert np.array_equal(same(codes)[..., 0], codes.argmax(axis=-1)) and [n.name for n in same] == ["x", "y_class"]
    assert not np.array_equal(same(codes)[..., 0], _scores([3, 3, 3], 3)(codes).argmax(axis=-1))
    with pytest.raises(InputError, match="'y_class' has one channel"):
        bf.argmax(same)


def test_drop_unread_golden():
    g = _thermometer([0], [1])
    g = Graph((*g.nodes, Node("dead", Op.GATHER, ("x",), (1,), Domain(0, 7), Index(np.array([0])))), g.outputs)
    assert str(passes.drop_unread(g)) == str(_thermometer([0], [1]))


# --- rules ----------------------------------------------------------------------------------------------------------


def _broken() -> dict[str, tuple[Graph, int, dict[str, object], str]]:
    g = _thermometer([0, 1], [1, 2])
    steps = g["planes"].params
    assert isinstance(steps, Steps)
    unsorted = Steps(steps.start, steps.sign, np.array([[3, 1], [1, 2]]))
    return {
        "name": (g, 1, {"name": 'a"; rm'}, "name is a letter"),
        "taken": (g, 1, {"name": "X"}, "taken"),
        "undefined": (g, 1, {"inputs": ("nobody",)}, "not defined"),
        "shape": (g, 2, {"shape": (3,)}, "shape"),
        "huge": (g, 0, {"shape": (2**40,)}, "larger"),
        "index": (g, 1, {"params": Index(np.array([0, 2]))}, "outside"),
        "dtype": (g, 1, {"params": Index(np.array([0, 1], np.int32))}, "int64"),
        "unsorted": (g, 2, {"params": unsorted}, "ascend"),
        "sign": (g, 2, {"params": Steps(steps.start, steps.sign * 0, steps.thresholds)}, "sign"),
        "codes": (g, 2, {"params": Steps(steps.start + 1, steps.sign, steps.thresholds)}, "outside its domain"),
        "params": (g, 2, {"params": None}, "parameters"),
        "arity": (g, 2, {"inputs": ("x", "wires")}, "exactly one"),
        "domain": (g, 1, {"domain": BIT}, "the rule gives"),
    }


@pytest.mark.parametrize("case", _broken())
def test_rules_refuse(case):
    g, at, change, message = _broken()[case]
    nodes = list(g.nodes)
    nodes[at] = replace(nodes[at], **change)
    with pytest.raises(InputError, match=message):
        Graph(tuple(nodes), g.outputs)


def _image(**change: object) -> Graph:
    """A padded 3x3 window over 4x5x2 bipolar codes, and the largest of each channel."""
    x = Node("x", Op.INPUT, (), (4, 5, 2), BIPOLAR)
    parts = {"kernel": (3, 3), "strides": (1, 2), "dilation": (1, 1), "pads": ((1, 1), (1, 0)), "groups": 2,
             "size": (4, 5), **change}
    window = Window(**parts)  # type: ignore[arg-type]
    taps = Node("taps", Op.WINDOW, ("x",), (4, 2, 18), BIPOLAR, window)
    return Graph((x, taps, Node("y", Op.MAX, ("taps",), (4, 2, 2), BIPOLAR)), ("y",))


@pytest.mark.parametrize(("change", "message"), [
    ({"kernel": (3,)}, "one per spatial axis"), ({"kernel": (0, 3)}, "positive integers"),
    ({"strides": (1.0, 2)}, "positive integers"), ({"dilation": (True, 1)}, "positive integers"),
    ({"strides": [1, 2]}, "positive integers"), ({"kernel": (2**40, 1)}, "positive integers"),
    ({"pads": ((-1, 1), (1, 0))}, "pads must be"), ({"pads": ((1, 1),)}, "pads must be"),
    ({"pads": ((1, 1), (2**25, 2**25))}, "larger than 2"), ({"groups": 3}, "must divide"),
    ({"groups": 0}, "must divide"), ({"size": (5, 4)}, "size"), ({"kernel": (9, 3)}, "does not fit"),
    ({"groups": 1}, "one channel a group"), ({"strides": (1, 1)}, "declares shape"),
    ({"kernel": (1, 1), "pads": ((1, 1), (1, 0))}, "declares shape"),
])
def test_rules_refuse_windows(change, message):
    assert _image()["y"].shape == (4, 2, 2)
    with pytest.raises(InputError, match=message):
        _image(**change)


def test_absent_taps_are_read_by_sums_and_maxima_only():
    g = _image()
    wire = Node("z", Op.GATHER, ("taps",), (4, 2, 18), BIPOLAR, Index(np.arange(144)))
    with pytest.raises(InputError, match="absent taps; only dot and max"):
        Graph((*g.nodes, wire), ("y", "z"))
    with pytest.raises(InputError, match="cannot be an output"):
        Graph(g.nodes, ("y", "taps"))
    x = Node("x", Op.INPUT, (), (2, 1), BIT)
    outside = Window((1,), (1,), (1,), ((1, 0),), 1, (2,))
    nodes = (x, Node("w", Op.WINDOW, ("x",), (3, 1), BIT, outside), Node("y", Op.MAX, ("w",), (3, 1), BIT))
    with pytest.raises(InputError, match="no tap inside"):
        Graph(nodes, ("y",))


@pytest.mark.parametrize("groups", [0, 2, True, 1.0])
def test_rules_refuse_groups(groups):
    x = Node("x", Op.INPUT, (), (3,), BIT)
    weights = Weights(np.ones((3, 2), np.int64), np.ones((3, 2), bool), groups)
    with pytest.raises(InputError, match="groups .* must divide"):
        Graph((x, Node("y", Op.DOT, ("x",), (2,), Domain(0, 3), weights)), ("y",))


def test_a_damaged_window_in_a_file_is_refused(tmp_path):
    bf.save(_image(), tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz") as data:
        arrays = dict(data)
    for field, value in (("kernel", [[3, 3]]), ("kernel", "33"), ("pads", 7), ("groups", "2"), ("size", None),
                         ("strides", [1, 1e9])):
        header = json.loads(bytes(arrays["header"]))
        header["nodes"][1]["scalars"][field] = value
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(InputError):
            bf.load(tmp_path / "bad.npz")


def test_rules_refuse_overflow():
    x = Node("x", Op.INPUT, (), (4,), Domain(0, 2**23))
    w = Weights(np.full((4, 1), 2**40), np.ones((4, 1), bool))
    with pytest.raises(InputError, match="beyond 2\\^62"):
        Graph((x, Node("y", Op.DOT, ("x",), (1,), verify.dot_domain(x.domain, w), w)), ("y",))


# --- store ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_save_and_load(seed, tmp_path):
    g = random_graph(seed)
    bf.save(g, tmp_path / "g.npz")
    again = bf.load(tmp_path / "g.npz")
    assert str(again) == str(g) and again.digest == g.digest and again.notes == g.notes
    codes = random_codes(g, seed)
    assert equal(outputs(again, codes), outputs(g, codes))


def test_a_file_of_format_2_is_read():
    """tests/data/format2.npz was written by the last version of format 2, with its digest."""
    path = ROOT / "tests/data/format2.npz"
    with np.load(path) as data:
        header, names = json.loads(bytes(data["header"])), set(data.files)
    assert header["bnnflow_graph"] == 2 and {"bits.cuts", "bits.slack", "signs.cuts"} <= names
    g = bf.load(path)
    assert g.digest == header["digest"] == "c35645431b3efff38ddf8b20b4d5bfe3441fafa826cb02fc8f9ced22a3d529f9"
    assert str(g) == (
        "x = input() 2 [-8,7]*1/4\n"
        "bits = step(x) 2 [0,1]*3/2-1/2 start=[0,1] sign=[1,-1] thresholds=[[3],[-1]]\n"
        "sums = dot(bits) 3 [-3,4]*1/2 levels=[[1,-1,2],[1,1,-1]] mask=[[1,1,0],[1,1,1]]\n"
        "signs = step(sums) 3 [0,1]*2-1 start=[0,0,1] sign=[1,1,-1] thresholds=[[0],[1],[-1]]\n"
        "return signs")
    bits, signs = g["bits"].params, g["signs"].params
    assert isinstance(bits, Steps) and isinstance(signs, Steps)
    assert bits.margin is not None and bits.margin.tolist() == [[[1, 0]], [[0, 2]]] and signs.margin is None
    assert g.notes == ("written by format 2",) and g["signs"].origin == "act2"
    codes = np.array([[-8, 7], [2, -2], [3, 0], [7, -8]])
    assert g(codes).tolist() == [[0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 1]]
    assert evaluate.ambiguous(g, codes).tolist() == [False, True, True, False]


def test_digest_sees_every_parameter():
    g = _thermometer([0, 1], [1, 2])
    assert g.digest == _thermometer([0, 1], [1, 2]).digest
    assert len({g.digest, _thermometer([0, 1], [1, 3]).digest, _thermometer([1, 1], [1, 2]).digest}) == 3


def test_load_refuses_damage(tmp_path):
    g, path = _thermometer([0, 1], [1, 2]), tmp_path / "g.npz"
    bf.save(g, path)
    with np.load(path) as data:
        arrays = dict(data)
    header = json.loads(bytes(arrays["header"]))

    def refused(message: str, **changes: np.ndarray) -> None:
        np.savez(tmp_path / "bad.npz", **{**arrays, **changes})
        with pytest.raises(InputError, match=message):
            bf.load(tmp_path / "bad.npz")

    refused("digest", **{"planes.thresholds": np.array([[0], [1]])})
    refused("damaged graph", header=np.frombuffer(json.dumps({**header, "nodes": [{}]}).encode(), np.uint8))
    refused("not a bnnflow graph", header=np.frombuffer(b"{}", np.uint8))
    refused("not a bnnflow graph", header=np.frombuffer(b"\xff", np.uint8))
    refused("not a bnnflow graph", header=np.array([object()], dtype=object))
    for field, value in (("scale", "1e300000000"), ("offset", "1/0"), ("lo", float("inf")), ("hi", True), ("lo", "0")):
        node = json.loads(json.dumps(header["nodes"][1]))
        node["domain"][("lo", "hi", "scale", "offset").index(field)] = value
        text = json.dumps({**header, "nodes": [header["nodes"][0], node, *header["nodes"][2:]]})
        refused("damaged graph", header=np.frombuffer(text.encode(), np.uint8))
    refused("not a bnnflow graph", header=np.frombuffer(b"[" * 100000, np.uint8))
    flipped = bytearray(path.read_bytes())
    for at in range(0, len(flipped), 97):
        flipped[at] ^= 0xFF
        (tmp_path / "flip.npz").write_bytes(flipped)
        with pytest.raises(InputError):
            bf.load(tmp_path / "flip.npz")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:100])
    for name, message in (("cut.npz", "not a bnnflow graph"), ("absent.npz", "no graph file")):
        with pytest.raises(InputError, match=message):
            bf.load(tmp_path / name)
    with pytest.raises(InputError, match="cannot write"):
        bf.save(g, tmp_path / "no" / "folder.npz")


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_encode_and_decode():
    g = _thermometer([0, 1], [1, 2])
    x = np.array([[0.0, 7.0], [3.0, 4.0]])
    assert np.array_equal(g.encode(x), [[0, 7], [3, 4]])
    assert np.array_equal(g.encode(x + 0.25, round=True)[1], [3, 4])
    assert np.array_equal(g.decode(np.array([[0, 1]])), [[-1.0, 1.0]])
    for bad, message in (
        (x + [[0, 0], [0.5, 0]], r"value 3.5 at index \(1, 0\) is not a multiple of 1"),
        (x + [[0, 1], [0, 0]], r"value 8.0 at index \(0, 1\) is outside ufixed<3,3>, which holds 0.0 to 7.0"),
        (x * np.nan, r"value nan at index \(0, 0\) is not finite"),
        (x[0], r"got shape \(2,\), expected \(n, 2\)"), (x.astype(str), "expected numbers"),
    ):
        with pytest.raises(InputError, match=message):
            g.encode(bad)
    for bad, message in (
        (np.array([[0, 8]]), r"value 8 at index \(0, 1\) is outside 0..7"), (x, "codes must be integers"),
        (np.array([0, 1]), "expected"),
    ):
        with pytest.raises(InputError, match=message):
            g(bad)


def test_default_vectors_repeat_and_reach_the_edges():
    g = random_graph(4)
    vectors = default_vectors(g)
    assert equal(vectors, default_vectors(g))
    for node, codes in zip(g.inputs, vectors):
        assert len(codes) == 256 and (codes == node.domain.lo).all(axis=tuple(range(1, codes.ndim))).any()
        assert node.domain.lo <= codes.min() and codes.max() <= node.domain.hi


def test_several_inputs_and_outputs():
    x, y = Node("x", Op.INPUT, (), (2,), BIT), Node("y", Op.INPUT, (), (2,), BIT)
    total = Node("s", Op.ADD, ("x", "y"), (2,), Domain(-1, 1), Sum(np.array([1, -1]), 0))
    both = Node("c", Op.GATHER, ("x", "y"), (4,), BIT, Index(np.arange(4)))
    g = Graph((x, y, total, both), ("s", "c"))
    a, b = np.array([[0, 1]]), np.array([[1, 1]])
    for codes in ([a, b], (a, b), {"y": b, "x": a}, g.encode([a, b])):
        got = g(codes)
        assert [v.tolist() for v in got] == [[[-1, 0]], [[0, 1, 1, 1]]]
    assert [v.tolist() for v in g.decode(g([a, b]))] == [[[-1.0, 0.0]], [[0.0, 1.0, 1.0, 1.0]]]
    for bad, message in ((a, "give a list of that many"), ({"x": a}, "inputs are x, y; got x"), ([a, b[:0]], "numbers"),
                         ([a], "give a list"), ([a, b[:, :1]], "input 'y': got shape")):
        with pytest.raises(InputError, match=message):
            g(bad)


@pytest.mark.parametrize(("channels", "count", "span"), [(1, 3, 9), (5, 40, 60), (5, 40, 2**40), (3, 300, 2**61)])
def test_thresholds_reached_are_counted_as_one_by_one(channels, count, span):
    """Few are compared, others counted in a table, in a binary search of all rows, or of each."""
    rng = np.random.default_rng(0)
    thresholds = np.sort(rng.integers(-span, span, (channels, count)), axis=1)
    steps = Steps(np.zeros(channels, np.int64), np.ones(channels, np.int64), thresholds)
    ends = np.array([[-2 * span] * channels, [2 * span] * channels])
    x = np.concatenate([rng.integers(-span, span, (50, channels)), (thresholds + rng.integers(-1, 2)).T, ends])
    slow = (x[..., None] >= thresholds).sum(axis=-1)
    assert np.array_equal(steps.reached(x), slow)
    assert np.array_equal(steps.reached(x[:, :1]), (x[:, :1, None] >= thresholds).sum(axis=-1))


def test_near_thresholds_are_those_within_one():
    thresholds = np.sort(np.random.default_rng(0).integers(-200, 200, (3, 30)), axis=1)
    x, steps = Node("x", Op.INPUT, (), (3,), Domain(-256, 255)), Steps(np.zeros(3, int), np.ones(3, int), thresholds)
    graph = Graph((x, Node("s", Op.STEP, ("x",), (3,), Domain(0, 30), steps)), ("s",))
    codes = np.random.default_rng(1).integers(-256, 256, (500, 3))
    want = (abs(codes[..., None] - thresholds) <= 1).any(axis=-1)
    assert np.array_equal(near_thresholds(graph, codes)["s"], want)


def test_a_very_large_graph_gets_less_vectors(monkeypatch):
    """Their time is bounded: a graph of n elements is evaluated for the outputs of at most EVALUATED / n samples."""
    g = Graph((Node("x", Op.INPUT, (), (1000,), Domain(0, 3)),), ("x",))
    assert default_vectors(g)[0].shape == (256, 1000)
    monkeypatch.setattr("bnnflow.ir.vectors.EVALUATED", 100_000)
    assert default_vectors(g)[0].shape == (100, 1000)
    monkeypatch.setattr("bnnflow.ir.vectors.EVALUATED", 1000)
    assert default_vectors(g)[0].shape == (32, 1000)
