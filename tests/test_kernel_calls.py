"""Which kernel counts codes of one bit, and that each computes the graph: levels, masks, codebooks, windows, groups."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls.cpp import config_text, rom_text
from bnnflow.backends.hls.fusion import fusion_groups
from bnnflow.backends.hls.types import AP_TYPES, Dialect
from bnnflow.errors import Mismatch
from bnnflow.ir import BIPOLAR, Domain, Graph, Node, Op, Weights, Window
from bnnflow.ir.verify import dot_domain
from tests.conftest import union
from tests.random_graphs import codebook_levels, outputs, plain_run, random_codes

BIT = Domain(0, 1)
ODD = Domain(0, 1, Fraction(3), Fraction(-1))
TERNARY = Domain(-1, 1)
# kernel, strides, dilation, pads, groups
PLAIN = ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1)
VALID = ((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), 1)
STRIDED = ((3, 2), (2, 1), (1, 2), ((1, 0), (2, 2)), 2)
LINE = ((5,), (2,), (1,), ((2, 1),), 1)


def levels_of(kind: str, form: tuple[int, int], taps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(levels, mask) of `form` (inputs of a group, outputs), those of a window ordered (tap, channel)."""
    rng, whole = np.random.default_rng(seed), np.ones(form, bool)
    name, _, patterns = kind.partition("/")
    pair = {"signs": [-3, 3], "two": [-2, 7], "rare": [-1, 8], "same_sign": [3, 5], "three": [-5, 1, 2],
            "many": [-7, -2, 0, 3], "positive": [0, 1, 5, 6, 9], "own": [-1, 1]}[name.removeprefix("masked_")]
    levels = rng.choice(pair, form, p=[0.9, 0.1] if name == "rare" else None)
    if patterns:
        levels = codebook_levels(rng, form, taps, int(patterns), pair)
    if name == "own":  # every output its own two levels, the second output one level only
        levels = levels * rng.integers(1, 4, form[1]) + rng.integers(-2, 3, form[1])
        levels[:, 1] = 4
    mask = rng.random(form) < 0.6 if name.startswith("masked") else whole
    return levels.astype(np.int64), mask


# domain, image, window, outputs of a group, weights (a codebook's size behind /), kernel and its values or patterns
CASES = {
    "signs": (BIPOLAR, (5, 4, 3), PLAIN, 6, "signs", ("flow_count", None)),
    "masked_signs": (BIPOLAR, (5, 4, 3), PLAIN, 6, "masked_signs", ("flow_count", None)),
    "two": (BIPOLAR, (5, 4, 3), PLAIN, 6, "two", ("flow_values", 1)),
    "two_of_bits": (BIT, (5, 4, 3), PLAIN, 6, "two", ("flow_values", 1)),
    "rare": (ODD, (4, 4, 30), VALID, 3, "rare", ("flow_values", 1)),
    "same_sign": (BIPOLAR, (7,), None, 5, "same_sign", ("flow_values", 1)),
    "wide": (BIPOLAR, (130,), None, 4, "two", ("flow_values", 1)),
    "masked": (BIPOLAR, (5, 4, 3), PLAIN, 4, "masked_two", ("flow_values", 2)),
    "masked_groups": (ODD, (6, 5, 4), STRIDED, 3, "masked_two", ("flow_values", 2)),
    "three": (BIPOLAR, (9, 3), LINE, 4, "three", ("flow_values", 2)),
    "own": (BIPOLAR, (6, 5, 4), STRIDED, 3, "own", ("flow_values", 1)),
    "many": (BIPOLAR, (5, 4, 3), PLAIN, 6, "many", ("flow_values", 4)),
    "many_positive": (ODD, (5, 4, 3), PLAIN, 6, "positive", ("flow_values", 4)),
    "two_of_ternary": (TERNARY, (5, 4, 3), PLAIN, 6, "two", ("flow_mac", None)),
    "book": (BIPOLAR, (5, 4, 3), PLAIN, 30, "signs/5", ("flow_shared", 5)),
    "book_of_one": (BIPOLAR, (4, 4, 2), PLAIN, 8, "signs/1", ("flow_shared", 1)),
    "book_strided": (ODD, (6, 5, 4), STRIDED, 24, "signs/3", ("flow_shared", 3)),
    "book_of_two": (BIPOLAR, (9, 70), LINE, 40, "two/4", ("flow_shared", 4)),
    "book_own": (BIT, (8, 6, 2), ((5, 5), (1, 2), (1, 1), ((2, 2), (2, 2)), 1), 32, "own/7", ("flow_shared", None)),
    "book_valid": (BIPOLAR, (4, 4, 65), VALID, 40, "signs/16", ("flow_shared", 16)),
    "book_too_large": (BIPOLAR, (5, 4, 3), PLAIN, 16, "signs/16", ("flow_count", None)),
    "book_masked": (BIPOLAR, (5, 4, 3), PLAIN, 30, "masked_signs/5", ("flow_count", None)),
}


def case(name: str) -> Graph:
    """An input of one bit a code, its window if there is one, and the sum."""
    domain, shape, window, share, kind, _ = CASES[name]
    nodes, groups, taps = [Node("x", Op.INPUT, (), shape, domain)], 1, 1
    sizes: tuple[int, ...] = ()
    params = None
    if window is not None:
        *parts, groups = window
        params = Window(*parts, groups, shape[:-1])
        taps, sizes = params.taps, params.positions
        nodes.append(Node("taps", Op.WINDOW, ("x",), (*sizes, taps * shape[-1]), domain, params))
    levels, mask = levels_of(kind, (taps * shape[-1] // groups, share * groups), taps, len(name))
    weights = Weights(levels, mask, groups)
    sums = dot_domain(domain, weights, params)
    nodes.append(Node("sum", Op.DOT, (nodes[-1].name,), (*sizes, share * groups), sums, weights))
    return Graph(tuple(nodes), ("sum",))


def kernel(name: str) -> tuple[str, dict[str, int]]:
    """The kernel of a case, and its members."""
    graph = case(name)
    (group,) = (group for group in fusion_groups(graph, bf.BuildConfig()) if group.calls)
    call = group.calls[0].fused[0].call
    return call.kernel, call.members


GRAPHS = union({name: case(name) for name in CASES})


@pytest.mark.parametrize("name", CASES)
def test_the_choice(name):
    wanted, count = CASES[name][-1]
    chosen, members = kernel(name)
    assert chosen == wanted
    assert count is None or members["n_value" if wanted == "flow_values" else "n_pattern"] == count


def test_the_cases_have_what_they_are_for():
    members = {name: kernel(name)[1] for name in CASES}
    assert members["own"]["n_gain"] == 6 and members["book_own"]["n_gain"] == 32
    assert members["two"]["n_gain"] == members["book_of_two"]["n_gain"] == 1
    assert members["book_of_two"]["index_words"] == 3  # indices do not cross words
    assert GRAPHS["book_strided__taps"].params.padded and len(GRAPHS["book__taps"].params.borders) == 9


def test_types_and_pragmas_are_the_dialects():
    """The same calls in the words of another family of compilers, and nothing of this one."""
    other = Dialect(("ac_int<{bits}, false>", "ac_int<{bits}, true>"),
                    ("ac_fixed<{bits}, {before}, false>", "ac_fixed<{bits}, {before}, true>"),
                    *(f"#pragma hls_{word}" for word in ("inline", "design", "pipeline", "unroll", "keep {variable}",
                                                         "copies {variable}")))
    for strategy in ("Latency", "distributed_arithmetic"):
        for group in fusion_groups(GRAPHS, bf.BuildConfig(io_type="io_stream", strategy=strategy)):
            name = group.result.name
            texts = {dialect: "\n".join([*(config_text(call, "config", dialect) for call in group.calls),
                                         rom_text(name, group.calls, dialect)]) for dialect in (AP_TYPES, other)}
            assert not re.search(r"\bap_|#pragma HLS", texts[other])
            assert not group.calls or re.search("#pragma hls_inline", texts[other])
            assert re.sub(r"#pragma.*|ac_\w+<[^>]*>", "", texts[other]) == re.sub(
                r"#pragma.*|ap_\w+<[^>]*>", "", texts[AP_TYPES])


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_the_specification(name):
    graph = case(name)
    samples = random_codes(graph, 0, 4)
    for k, want in enumerate(outputs(graph, samples)[0]):
        assert plain_run(graph, [x[k] for x in samples]) == [want.ravel().tolist()]


@pytest.mark.hls
def test_every_case_in_c_as_streams(tmp_path):
    """The written project calls the kernel that was chosen, and computes the graph."""
    bf.build(GRAPHS, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))
    bf.simulate(tmp_path / "prj", random_codes(GRAPHS, 0, 40))
    written = (tmp_path / "prj/firmware/parameters.h").read_text()
    for name, (*_, (wanted, _)) in CASES.items():
        assert re.search(rf"nnet::{wanted}<[^;]*flow_{name}__sum_", written), name


@pytest.mark.hls
@pytest.mark.parametrize("shared", ["positions", "outputs"])
def test_every_case_in_c_in_loops(shared, tmp_path):
    """Passes over positions, where outputs look up common counts; and over outputs, where they count for themselves."""
    layers = {}
    for node in GRAPHS:
        if node.op is Op.DOT:
            groups = node.params.groups
            fold = next((n for n in (2, 3, 5) if node.shape[-1] // groups % n == 0), 1) if groups == 1 else groups
            layers[node.name] = ({"reuse_factor": int(np.prod(node.shape[:-1]))} if shared == "positions" else
                                 {"pe": node.shape[-1] // fold})
    config = bf.BuildConfig(output_dir=tmp_path / "prj", strategy="Resource", layers=layers)
    bf.build(GRAPHS, config)
    bf.simulate(tmp_path / "prj", random_codes(GRAPHS, 1, 40))


@pytest.mark.hls
@pytest.mark.parametrize("rom", ["two__sum_mask", "book__sum_pattern", "book__sum_index"])
def test_a_changed_rom_is_a_mismatch(rom, tmp_path):
    """The lowest bit of the first word of a ROM: the one that ships is the one that runs."""
    name = rom.partition("__")[0]
    bf.build(union({name: case(name)}), bf.BuildConfig(output_dir=tmp_path / "prj"))
    path = tmp_path / f"prj/firmware/weights/flow_{rom.rpartition('_')[0]}.h"
    text, name = path.read_text(), f"flow_{rom}"
    head, word = re.search(rf"({name}\[1\]\[\d+\] = {{{{)(0x[0-9a-f]+ULL|-?\d+LL)", text).groups()  # type: ignore[union-attr]
    value = int(word.rstrip("UL"), 0) ^ 1
    path.write_text(text.replace(head + word, f"{head}{value}{'ULL' if word.startswith('0x') else 'LL'}", 1))
    with pytest.raises(Mismatch, match=rf"node '{rom.rpartition('_')[0]}'"):
        bf.simulate(tmp_path / "prj")
