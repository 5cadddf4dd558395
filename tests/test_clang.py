"""What is left for an HLS compiler to schedule, by clang: pragmas, counts, and that the counted code is the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import hls4ml
import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls import code_size
from bnnflow.backends.project import Project
from bnnflow.errors import Mismatch, ToolError
from bnnflow.facts.kept import kept_facts
from bnnflow.ir import BIPOLAR, BIT, Graph, Node, Op, Steps, Weights, Window
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains import clang, process
from bnnflow.toolchains.clang import CLANG, SOURCE, design_sizes
from bnnflow.toolchains.code_size import CodeSize
from bnnflow.toolchains.llvm import source_name
from bnnflow.toolchains.process import GXX
from tests.conftest import union
from tests.random_graphs import random_graph

needs_clang = pytest.mark.skipif(process.find(CLANG) is None, reason=f"no clang: {CLANG.remedy}")
pytestmark = [pytest.mark.hls, needs_clang]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nothing is known from other runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


# --- sources of a few lines -----------------------------------------------------------------------------------------

Sizes = Callable[..., dict[str, CodeSize]]


@pytest.fixture
def sizes(tmp_path: Path) -> Sizes:
    """The sizes of all functions that are left of a top function with this body, and what stands before it."""
    def measure(body: str, before: str = "") -> dict[str, CodeSize]:
        (tmp_path / "firmware").mkdir(exist_ok=True)
        (tmp_path / "firmware/top.cpp").write_text(f"{before}\nvoid top(const int *x, int *y) {{\n{body}\n}}\n")
        return {size.name: size for size in design_sizes(Project(tmp_path, "top", "Vitis", "", {}))}

    return measure


def pragma(words: str) -> str:
    return f"\n    #pragma HLS {words}\n"


def loop(inside: str, count: int = 8, index: str = "i") -> str:
    return f"for (int {index} = 0; {index} < {count}; {index}++) {{ {inside} }}"


PIPELINE, UNROLL = pragma("PIPELINE II=1"), pragma("UNROLL")
ONE = loop("y[i] = x[i] * 3;")
TWO = loop("y[k] += x[i] * x[k];")
EACH = f"static void each(const int *x, int *y) {{ {ONE} }}"


@pytest.mark.parametrize(("body", "before", "left"), [
    (ONE, "", 1), (loop(UNROLL + "y[i] = x[i];"), "", 0), (loop(pragma("UNROLL off") + "y[i] = x[i];"), "", 1),
    (loop("\n    // #pragma HLS UNROLL\n y[i] = x[i];"), "", 1),
    (loop(pragma("pipeline off") + TWO, 4, "k"), "", 2),
    (loop(PIPELINE + TWO, 4, "k"), "", 1),  # all loops inside a pipelined one, not itself
    (loop(UNROLL + TWO, 4, "k"), "", 4),  # copies of the loop inside
    (loop(f"if (x[k]) {{ {PIPELINE} y[k] = 0; }} {TWO}", 4, "k"), "", 1),  # the innermost loop around a pragma
    (PIPELINE + loop(TWO, 4, "k"), "", 0),
    ("each(x, y);", EACH, 1), (PIPELINE + "each(x, y);", EACH, 0),
    ("each(x, y);", EACH.replace("{", "{" + PIPELINE, 1), 0),
    ("each(x, y);" + loop(PIPELINE + "each(x + k, y + k);", 9, "k"), EACH, 2),  # in one place only below a pipeline
    (f"int i = 0; do {{ {UNROLL} y[i] = x[i]; }} while (++i < 5);", "", 0),
    ("y[0] = at(x);", f"static int at(const int *x) {{ {PIPELINE} {loop('if (x[i]) { return i; }')} return -1; }}", 0),
])
def test_loops_are_unrolled_where_they_are_asked_to_be(sizes, body, before, left):
    assert sum(size.loops for size in sizes(body, before).values()) == left


def test_unrolled_by_a_factor(sizes):
    config = "template <int n> struct config { static const int factor = n; };"
    unroll = pragma("UNROLL factor = config<4>::factor skip_exit_check")
    (size,) = sizes(loop(unroll + "y[i] = x[i] / y[i];"), config).values()
    assert (size.loops, size.divisions) == (1, 4)


def test_functions_are_inlined(sizes):
    """All but those of INLINE off and the processes of DATAFLOW; one of them below a PIPELINE is unrolled, too."""
    assert list(sizes("each(x, y);", EACH)) == ["top"]
    apart = EACH.replace("{", "{" + pragma("INLINE off"), 1)
    found = sizes("each(x, y);", apart)
    assert list(found) == ["top", "each"] and found["each"].loops == 1
    assert sizes(PIPELINE + "each(x, y);", apart)["each"].loops == 0
    inner = "namespace n { template <class T> void each(const T *x, T *y) { ::each(x, y); } }"
    found = sizes(pragma("DATAFLOW") + "int z[8]; n::each<int>(x, z); each(z, y);", EACH + inner)
    assert list(found) == ["top", "n::each", "each"] and found["top"].arrays == ("z",)


def test_names_of_the_source():
    names = {"@_Z9myprojectP9ap_ufixedILi1ELi1EL9ap_q_mode5ELi0EE": "myproject", "@_ZL11flow_n_sign": "flow_n_sign",
             "@_ZN4nnet9positionsI9ap_ufixedILi1EL9ap_q_mode5EELS2_3E9config2_0EEvPKT_": "nnet::positions<config2_0>",
             "@_ZN4nnet7logic_s5part0EPKyPy": "nnet::logic_s::part0", "@_ZZN4nnet3fooEvE5table": "table",
             "@_ZN4nnet3FooI1aE3barEv": "nnet::Foo::bar<a>", "@_Z1fI3AbcEvT_.below": "f<Abc>", "%taps.i.i": "taps",
             "@main": "main"}
    assert {name: source_name(name) for name in names} == names


# --- what is hard to make of gates ----------------------------------------------------------------------------------

FILL, LOOK_UP = loop(UNROLL + "z[i] = x[i];", 16), loop(PIPELINE + "y[i] = z[i * i & 15];")
ROM = "int z[16] = {3, 1, 4, 1, 5, 9, 2, 6};"
CUBE = loop(UNROLL + "z[i & 1][i][i & 1] = x[i];", 9) + loop("y[i] = z[1][i * i & 7][0];")
GIVEN = f"static void each(int *y, const int rom[16]) {{ {pragma('INLINE off')} %s {LOOK_UP.replace('z', 'rom')} }}"


@pytest.mark.parametrize(("kind", "body", "before"), [
    ("memories", f"int z[16]; {FILL} {LOOK_UP}", ""),
    ("registers", f"int z[16]; {pragma('ARRAY_PARTITION variable=z complete')} {FILL} {LOOK_UP}", ""),
    ("registers", f"int z[16]; {pragma('array_reshape variable=z dim=0 // as a word')} {FILL} {LOOK_UP}", ""),
    ("memories", f"int z[16]; {pragma('ARRAY_PARTITION variable=z cyclic factor=4')} {FILL} {LOOK_UP}", ""),
    ("memories", f"int z[16]; {pragma('ARRAY_PARTITION variable=z type=block factor=4')} {FILL} {LOOK_UP}", ""),
    ("roms", LOOK_UP, "static const " + ROM), ("roms", LOOK_UP, ROM),  # nothing writes to it
    ("registers", pragma("ARRAY_PARTITION variable=z type=complete") + LOOK_UP, ROM),
    # two of three dimensions, so that the third is a memory's; all three
    ("memories", f"int z[2][9][2]; {pragma('ARRAY_PARTITION variable=z dim=1')} "
                 f"{pragma('ARRAY_PARTITION variable=z complete dim=3')} {CUBE}", ""),
    ("registers", f"int z[2][9][2]; {pragma('ARRAY_PARTITION variable=z complete dim=0')} {CUBE}", ""),
    # what a function reads is what it is given, and what it divides, too
    ("roms", "each(y, z);", "static const " + ROM + GIVEN % ""),
    ("registers", "each(y, z);", ROM + GIVEN % pragma("ARRAY_PARTITION variable=rom complete")),
    ("registers", pragma("ARRAY_PARTITION variable=z complete") + "each(y, z);", ROM + GIVEN % ""),
])
def test_reads_at_an_index_that_only_the_run_tells(sizes, kind, body, before):
    last = [*sizes(body, before).values()][-1]
    assert {name: dict(getattr(last, name)) for name in ("roms", "registers", "memories")} == {
        "roms": {}, "registers": {}, "memories": {}, kind: {"z": 1}}
    assert last.variable_reads == 1


def test_arrays_of_any_width_are_taken_apart(sizes):
    """LLVM by itself leaves arrays of integers that are no bytes in memory."""
    (size,) = sizes(PIPELINE + "ap_int<11> z[64]; " + loop("z[i] = x[i];", 64) + loop("y[i] = z[63 - i] + 1;", 64),
                    '#include "ap_int.h"').values()
    assert size.arrays == () and size.instructions < 64 * 8


# --- our headers in the place of the vendors' -----------------------------------------------------------------------

# Each is put together with the one behind it. Left out is where the headers that come with hls4ml are at odds with the
# vendors' own words: signs mixed in divisions and in comparisons of more than 64 bits, an integer += a fixed-point
# number, and integers of negative numbers below 1.
TYPES = ("ap_int<1>", "ap_uint<1>", "ap_int<5>", "ap_uint<7>", "ap_int<70>", "ap_uint<66>", "ap_ufixed<1,1>",
         "ap_fixed<1,1>", "ap_fixed<8,3>", "ap_ufixed<9,12>", "ap_ufixed<6,-2>", "ap_ufixed<4,0>",
         "ap_fixed<7,2,AP_RND,AP_SAT>", "ap_ufixed<5,3,AP_RND_CONV,AP_SAT>", "ap_fixed<6,4,AP_TRN_ZERO,AP_SAT_SYM>")
PROGRAM = """
#include "ap_fixed.h"
#include <cstdio>
static long long state = 1;
static long long next() { state = state * 6364136223846793005LL + 1442695040888963407LL; return state >> 20; }
template <class T> static void say(const T &value) {
    ap_uint<256> code = 0;
    code.range(T::width - 1, 0) = value.range(T::width - 1, 0);
    std::printf(" %d:%llx", T::width, (unsigned long long)ap_uint<256>(code ^ (code >> 61)).to_uint64());
}
template <class T> static T any() { T value; value.range(T::width - 1, 0) = ap_uint<T::width>(next()); return value; }
template <bool same> struct integers { template <class A, class B> static void both(const A &, const B &) {} };
template <> struct integers<true> {
    template <class A, class B> static void both(const A &a, const B &b) {
        if (b != 0 && a >= 0 && b >= 0) { say(a % b); say(a / b); }
        say(a & b); say(a | b); say(a ^ b); say(~a);
    }
};
typedef ap_fixed<200, 100> any_t;
template <class A, class B, bool both_integers> static void pair() {
    for (int k = 0; k < 20; k++) {
        const A a = any<A>();
        const B b = any<B>();
        A c = a;
        c += A(b);
        say(a + b); say(a - b); say(a * b); say(any_t(-a)); say(B(a)); say(c); say(a + 3); say(7u - a); say(a * -5LL);
        say(a >> (k % A::width)); say(a << (k % A::width));
        std::printf(" %d%d%d%d%d%d%d", a == b, a != b, a < b, a <= b, a > b, a >= b, a > 1);
        std::printf(" %d", a.to_int());
        integers<both_integers>::both(a, b);
    }
    std::puts("");
}
int main() {
    ROWS
    ap_uint<12> bits = 0;
    bits[3] = 1; bits(7, 5) = 5; bits.range(11, 9) = ap_uint<3>(6);
    const ap_uint<12> kept = bits;
    say(bits); std::printf(" %d %d %d", (int)kept[3], (int)kept(7, 4), (int)bits.range(11, 10));
    ap_int<4> count = 6;
    count++; ++count; count -= 3; count *= 2;
    std::printf(" %d %d %g %g", count.to_int(), (int)(count > -9), ap_fixed<9, 4>(-1.40625).to_double(),
                ap_fixed<6, 4, AP_RND>(1.3).to_double());
    const int table[] = {3, 1, 4}; const ap_uint<2> index = 2;
    std::printf(" %d %d\\n", table[index], index ? 1 : 0);
}
"""


def test_headers_mean_the_same_as_the_vendors(tmp_path):
    """Every operation on pairs of types, on the same random numbers; every type stands on both sides."""
    pairs = list(zip(TYPES, (*TYPES[1:], TYPES[0])))
    rows = [f"pair<{a}, {b}, {str('fixed' not in a + b).lower()}>();" for a, b in pairs]
    (tmp_path / "both.cpp").write_text(PROGRAM.replace("ROWS", "\n    ".join(rows)))
    vendors = Path(hls4ml.__file__).parent / "templates/vivado/ap_types"
    ours = Path(str(files("bnnflow.toolchains") / "native"))
    said = {}
    for name, command in (("vendors", [process.need(GXX), "-std=c++11", "-w", f"-I{vendors}"]),
                          ("ours", [*process.command(CLANG), *SOURCE, f"-I{ours}", "-fPIC"])):
        process.call([*command, "-c", "both.cpp", "-o", f"{name}.o"], tmp_path, tmp_path / "log", 300)
        process.call([process.need(GXX), f"{name}.o", "-o", name], tmp_path, tmp_path / "log", 300)
        process.call([str(tmp_path / name)], tmp_path, tmp_path / "said", 60)
        said[name] = (tmp_path / "said").read_text().splitlines()
    assert len(said["ours"]) == len(pairs) + 1
    for types, vendor, our in zip([*pairs, "the rest"], said["vendors"], said["ours"]):
        assert our == vendor, types


# --- designs --------------------------------------------------------------------------------------------------------


def sums(form: tuple[int, int], values: Sequence[int] = (-1, 1), image: tuple[int, int] | None = None) -> Graph:
    """Sums of codes of one bit with a threshold each; of an image (rows, channels) by filters of 3x3."""
    levels = np.random.default_rng(0).choice(values, form)
    nodes = [Node("x", Op.INPUT, (), form[:1] if image is None else (image[0], *image), BIPOLAR)]
    if image is not None:
        window = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1, (image[0], image[0]))
        nodes.append(Node("w", Op.WINDOW, ("x",), (*window.positions, len(levels)), BIPOLAR, window))
    weights, shape = Weights(levels, levels != 0), (*nodes[-1].shape[:-1], form[1])
    nodes.append(Node("sum", Op.DOT, (nodes[-1].name,), shape, dot_domain(BIPOLAR, weights), weights))
    zeros = np.zeros(form[1], np.int64)
    nodes.append(Node("y", Op.STEP, ("sum",), shape, BIT, Steps(zeros, zeros + 1, zeros[:, None])))
    return Graph(tuple(nodes), ("y",))


DESIGNS: dict[str, Callable[[], Graph]] = {
    "binary": lambda: sums((64, 16)), "ternary": lambda: sums((64, 16), (-1, 0, 1)), "square": lambda: sums((32, 32)),
    "image": lambda: sums((36, 8), image=(5, 4)),
}
FOLDED = {"strategy": "Resource", "reuse_factor": 4}
STREAM: dict[str, Any] = {"io_type": "io_stream"}
NETLIST: dict[str, Any] = {"strategy": "distributed_arithmetic"}


class Bound(NamedTuple):
    """The most of everything that a design may leave: instructions in all and of one function, ..."""

    design: str
    options: dict[str, Any]
    instructions: int
    largest: int
    loops: int
    divisions: int
    multiplexers: int  # of arrays in registers


# What the kernels leave today, and some more; tighten it where they get better.
BOUNDS = (
    Bound("binary", {}, 1_250, 1_250, 0, 0, 0), Bound("ternary", {}, 1_250, 1_250, 0, 0, 0),
    Bound("square", {}, 950, 950, 0, 0, 0),
    Bound("binary", FOLDED, 1_650, 1_650, 1, 0, 0), Bound("ternary", FOLDED, 1_650, 1_650, 1, 0, 0),
    Bound("binary", STREAM, 3_500, 3_500, 0, 0, 0), Bound("image", STREAM, 1_100, 1_100, 1, 0, 0),
    Bound("image", STREAM | {"reuse_factor": 36}, 320, 320, 1, 0, 0),
    Bound("binary", NETLIST, 3_700, 3_400, 0, 0, 0),
    Bound("image", FOLDED | {"reuse_factor": 50}, 2_200, 2_200, 1, 0, 0),
)


@pytest.mark.skipif(" 16." not in process.version(CLANG), reason="counts are those of clang 16")
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: "-".join([bound.design, *map(str, bound.options.values())]))
def test_what_kernels_leave(bound, tmp_path):
    project = bf.build(DESIGNS[bound.design](), bf.BuildConfig(output_dir=tmp_path / "prj", **bound.options))
    found = design_sizes(project)
    instructions = [size.instructions for size in found]
    left = (sum(instructions), max(instructions), sum(size.loops for size in found),
            sum(size.divisions for size in found), sum(sum(size.registers.values()) for size in found))
    assert all(has <= may for has, may in zip(left, bound[2:])), left


@pytest.mark.parametrize(("options", "count"), [
    ({}, 3), (FOLDED, 3), (STREAM, 3), (STREAM | {"reuse_factor": 6}, 3), (NETLIST, 1)])
def test_what_is_counted_computes_the_graph(options, count, tmp_path):
    """Random graphs of all ops: the very code that is counted is run."""
    graph = union({f"g{seed}": random_graph(seed) for seed in range(count)})
    bf.simulate(bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", **options)), tool="clang")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return bf.build(sums((8, 4)), bf.BuildConfig(output_dir=tmp_path_factory.mktemp("clang") / "prj", **FOLDED))


def test_faults_are_found(project, tmp_path):
    """A kernel that computes something else, and one that divides."""
    path = project.copied(tmp_path / "prj")
    header = path / "firmware/nnet_utils/nnet_flow_step.h"
    text = header.read_text()
    assert "x >= thresholds" in text and not any(size.divisions for size in design_sizes(project))
    header.write_text(text.replace("x >= thresholds", "x * x % 7 + x >= thresholds"))
    planted = replace(project, path=path)
    assert [(size.name, size.divisions) for size in design_sizes(planted) if size.divisions] == [
        ("nnet::flow_turns<config2_0>", 1)]
    with pytest.raises(Mismatch, match=r"C simulation \(clang\) and graph differ"):
        bf.simulate(planted, tool="clang")


def test_synth_says_what_is_too_much(project, monkeypatch, cli):
    """Facts function by function, kept with the project, and notes on what an HLS compiler has trouble with."""
    facts = bf.synthesize(project, "clang")
    assert facts.instructions == sum(module.instructions for module in facts.modules) > 100
    assert (facts.source, facts.loops, facts.divisions, facts.lut) == ("HLS front end", 1, 0, None)
    assert [module.name for module in facts.modules] == ["myproject", "nnet::flow_turns<config2_0>"]
    assert kept_facts(project) == [facts] and facts.variable_reads == sum(m.variable_reads for m in facts.modules)
    assert not any("more than" in note or "multiplexers" in note for note in facts.notes)
    said = cli("synth", project.path, "--tool", "clang")
    assert said.returncode == 0 and "nnet::flow_turns<config2_0>" in said.stdout and "lut" not in said.stdout
    monkeypatch.setattr(code_size, "LIMITS", {"function": 50, "design": 100})
    notes = bf.synthesize(project, "clang").notes
    assert any("instructions, more than 100: HLS compilers stop unrolling" in note for note in notes)
    assert any("flow_turns<config2_0> has" in note and "more than 50: " in note for note in notes)


def test_without_clang(project, monkeypatch, tmp_path):
    monkeypatch.setattr(clang, "CLANG", replace(CLANG, commands=("no-clang",), package="no_zig/zig"))
    with pytest.raises(ToolError, match=r"no-clang not found .*pip install 'bnnflow\[clang\]'"):
        bf.synthesize(project, "clang")
    monkeypatch.undo()
    path = project.copied(tmp_path / "prj")
    source = path / "firmware/myproject.cpp"
    source.write_text(source.read_text().replace("myproject(", "other("))
    with pytest.raises(ToolError, match="0 functions 'myproject'; build the project again"):
        design_sizes(replace(project, path=path))
