"""The engine: what it computes is what NumPy computes, and where it cannot be had the result is the same."""

from __future__ import annotations

import platform
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.engine import library
from bnnflow.errors import InputError, Note, ToolError
from bnnflow.files import cache_folder
from bnnflow.ir import (
    BIPOLAR,
    Affine,
    Domain,
    Graph,
    Index,
    Node,
    Op,
    Steps,
    Sum,
    Table,
    Weights,
    Window,
    evaluate,
    packed,
)
from bnnflow.ir.evaluate import given_codes, run_given
from bnnflow.ir.verify import dot_domain
from tests.conftest import ROOT, check_engine, plain_environment
from tests.random_graphs import outputs, random_codes, random_graph

pytestmark = pytest.mark.hls
QUICK = ("-std=c++17", "-O0", "-fwrapv", "-fPIC", "-shared", "-pthread")  # compiled in a second or two


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No engine in this process, and an empty cache; afterwards all is as it was."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packed, "_LOADED", {})
    monkeypatch.setattr(library, "FLAGS", QUICK)
    before = library._library
    monkeypatch.setattr(library, "_library", library.lru_cache(maxsize=1)(before.__wrapped__))


def chain(x: Node, *rows: tuple[Op, tuple[int, ...], Domain, object]) -> Graph:
    """A graph of nodes that read the one before each."""
    nodes = [x]
    for k, (op, shape, domain, params) in enumerate(rows):
        nodes.append(Node(f"n{k}", op, (nodes[-1].name,), shape, domain, params))
    return Graph(tuple(nodes), (nodes[-1].name,))


def summed(x: Domain, levels: np.ndarray, mask: np.ndarray | None = None, groups: int = 1, window: Window | None = None,
           shape: tuple[int, ...] | None = None) -> Graph:
    """One DOT, behind a window where there is one."""
    weights = Weights(levels.astype(np.int64), np.ones(levels.shape, bool) if mask is None else mask, groups)
    sums = dot_domain(x, weights, window)
    if window is None:
        shape = shape or (len(levels) * groups,)
        return chain(Node("x", Op.INPUT, (), shape, x), (Op.DOT, (*shape[:-1], levels.shape[1]), sums, weights))
    channels = len(levels) * groups // window.taps
    return chain(Node("x", Op.INPUT, (), (*window.size, channels), x),
                 (Op.WINDOW, (*window.positions, window.taps * channels), x, window),
                 (Op.DOT, (*window.positions, levels.shape[1]), sums, weights))


def test_random_graphs():
    for seed in range(120):
        graph = random_graph(seed)
        check_engine(graph, random_codes(graph, seed))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for another x86-64 than this one")
def test_random_graphs_without_wide_vectors(fresh, monkeypatch):
    monkeypatch.setattr(library, "FLAGS", (*QUICK, "-march=x86-64"))
    for seed in range(40):
        graph = random_graph(seed)
        check_engine(graph, random_codes(graph, seed))


@pytest.mark.parametrize("levels", [
    [-1, 1], [0, 1], [-1, 0, 1], [-7, 0, 5], [3], [0], [-2, -1, 0, 1], [-128, 5, 127], [2**20, -(2**20)], [0, 2**30]])
@pytest.mark.parametrize("domain", [BIPOLAR, Domain(-1, 1), Domain(0, 0), Domain(4, 9), Domain(-8, 7), Domain(0, 255),
                                    Domain(-(2**23), 2**23 - 1)])
def test_sums(levels, domain):
    rng = np.random.default_rng(len(levels))
    for inputs, outputs_, groups in ((1, 1, 1), (63, 5, 1), (64, 64, 1), (130, 33, 1), (16, 6, 3), (1, 2, 5)):
        form = (inputs, outputs_ * groups)
        graph = summed(domain, rng.choice(levels, form), rng.random(form) < 0.9, groups)
        check_engine(graph, random_codes(graph, 1, 37))


@pytest.mark.parametrize("groups", [1, 2, 24])
@pytest.mark.parametrize(("channels", "domain"), [
    (24, BIPOLAR), (48, BIPOLAR), (24, Domain(-1, 1)), (24, Domain(0, 9))])
def test_windows(groups, channels, domain):
    rng = np.random.default_rng(groups)
    for kernel, strides, dilation, pads in (
            ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), ((2, 3), (2, 1), (1, 2), ((0, 1), (3, 0))),
            ((1, 5), (1, 2), (1, 1), ((0, 0), (4, 4)))):
        window = Window(kernel, strides, dilation, pads, groups, (6, 7))
        levels = rng.choice([-1, 1], (window.taps * channels // groups, 2 * groups))
        graph = summed(domain, levels, None, groups, window)
        check_engine(graph, random_codes(graph, 1, 5))


@pytest.mark.parametrize("hi", [40, 5000, 2**23 - 1])
@pytest.mark.parametrize("count", [0, 1, 2, 16, 17, 300])
def test_thresholds(hi, count):
    """Compared, tabulated and searched; rising and falling; also past the domain."""
    rng, x = np.random.default_rng(count), Domain(-hi - 1, hi)
    thresholds = np.sort(rng.integers(-hi - 9, hi + 9, (70, count)), axis=1)
    sign = rng.choice([-1, 1], 70)
    steps = Steps(np.where(sign > 0, 0, count), sign, thresholds)
    tripled = (Op.ADD, (70,), Domain(7 - 3 * count, 7), Sum(np.array([-3]), 7))
    for more in ([], [tripled, (Op.ARGMAX, (1,), Domain(0, 69), None)]):
        graph = chain(Node("x", Op.INPUT, (), (70,), x), (Op.STEP, (70,), Domain(0, count), steps), *more)
        check_engine(graph, random_codes(graph, 2, 300))


def test_sums_of_bytes_that_int32_does_not_hold():
    x, form = Domain(-128, 127, 1, -3), (70_000, 2)
    graph = summed(x, np.full(form, 127) - np.random.default_rng(0).integers(0, 3, form))
    check_engine(graph, random_codes(graph, 0, 3))


def test_numbers_that_need_64_bits():
    x, wide = Node("x", Op.INPUT, (), (3, 5), Domain(-(2**23), 2**23 - 1)), 2**37
    table = Table(np.arange(16).reshape(1, 16) * 2**40 - 2**41)
    affine = Affine(np.array([1, -1, 2, 1, 0]), np.arange(5) - 2, 3)
    graph = chain(x, (Op.ADD, (3, 5), Domain(9 - 2**23 * wide, 9 + (2**23 - 1) * wide), Sum(np.array([wide]), 9)),
                  (Op.AFFINE, (3, 5), Domain(-(2**61), 2**61 - 1), affine))
    check_engine(graph, random_codes(graph, 3))
    graph = chain(Node("x", Op.INPUT, (), (3, 5), Domain(-7, 8)), (Op.LUT, (3, 5), Domain(-(2**41), 2**44), table))
    check_engine(graph, random_codes(graph, 3))


def test_inputs_of_every_kind_and_layout():
    graph = random_graph(next(s for s in range(99) if len(random_graph(s).inputs) == 1
                              and random_graph(s).input.domain == Domain(0, 1)))
    (codes,), size = random_codes(graph, 1, 50), graph.input.shape
    expected = outputs(graph, [codes])
    for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">i8", "?", "f2", "f4", "f8", ">f4", "g"):
        for given in (codes.astype(kind), np.asfortranarray(codes.astype(kind)),
                      np.repeat(codes.astype(kind), 2, axis=0)[::2]):
            for ours, theirs in zip(run_given(graph, given, engine="native"), expected, strict=True):
                assert np.array_equal(ours, theirs), kind
    none = run_given(graph, np.zeros((0, *size), np.int8), engine="native")
    assert [array.shape for array in none] == [(0, *graph[name].shape) for name in graph.outputs]


@pytest.mark.parametrize("domain", [BIPOLAR, Domain(-8, 7), Domain(0, 2**24 - 1, 2**-24)])
def test_bad_inputs_are_refused_in_the_same_words(domain, monkeypatch):
    monkeypatch.setattr(evaluate, "PART", 80)  # several parts: the index is that in the whole array
    graph = summed(domain, np.ones((7, 1)))
    good = random_codes(graph, 0, 90)[0]
    real = graph.decode(good) * 0 + float(domain.scale * domain.lo + domain.offset)
    for array, value in (
            (good, domain.hi + 1), (good, domain.lo - 1), (good.astype(np.uint64) * 0 + domain.hi, 2**64 - 1),
            (real, np.nan), (real, np.inf), (real, -np.inf), (real, 1e300), (real, float(domain.scale) / 3),
            (real.astype(np.float32), float(domain.lo - 1) * float(domain.scale) + float(domain.offset))):
        bad = array.copy()
        bad[71, 3] = value
        said = []
        for engine in ("numpy", "native"):
            with pytest.raises(InputError, match=r"at index \(71, 3\)") as error:
                run_given(graph, bad, engine=engine)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_parts_of_files_in_and_out(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "PART", 1000)
    graph = summed(Domain(0, 255), np.random.default_rng(0).choice([-1, 1], (16, 5)))
    codes = random_codes(graph, 0, 777)[0].astype(np.uint8)
    np.save(tmp_path / "x.npy", codes)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    for engine in ("numpy", "native"):
        out, done = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.int64, (777, 5)), []
        run_given(graph, x, [out], engine, done.append)
        del out
        assert np.array_equal(np.load(tmp_path / "y.npy"), graph(codes))
        assert done == [*range(47, 777, 47), 777]
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[:] = 0
    assert not np.array_equal(run_given(graph, x)[0], run_given(graph, private)[0]) and not private.any()


def test_which_engine(monkeypatch):
    graph, used = summed(BIPOLAR, np.ones((70, 1))), []
    monkeypatch.setattr(evaluate, "program", lambda graph: used.append(graph) or packed.program(graph))
    codes = random_codes(graph, 0)[0]
    bf.run(graph, codes)
    assert not used, "so little is not worth the start"
    monkeypatch.setattr(evaluate, "WORTH", 0)
    bf.run(graph, codes)
    assert len(used) == 1
    monkeypatch.setenv("BNNFLOW_ENGINE", "numpy")
    graph(codes)
    assert len(used) == 1
    bf.run(graph, codes, engine="native")
    assert len(used) == 2
    with pytest.raises(InputError, match="engine='fast': use auto, native or numpy"):
        bf.run(graph, codes, engine="fast")
    monkeypatch.setenv("BNNFLOW_ENGINE", "fast")
    with pytest.raises(InputError, match="BNNFLOW_ENGINE=fast: use auto, native or numpy"):
        bf.run(graph, codes)


FAILS = "#!/bin/sh\nexit 1\n"


@pytest.mark.parametrize(("path", "gxx", "words"), [
    (False, "", r"g\+\+ not found .*apt-get install g\+\+"), (True, "/nowhere/g++", "is not an executable file"),
    (True, FAILS, "failed with exit code 1"), (True, "no program", "must be a program that this system starts")])
def test_without_a_compiler_numpy_computes_and_says_so_once(path, gxx, words, fresh, monkeypatch, tmp_path):
    if not path:
        monkeypatch.setenv("PATH", str(tmp_path))
    if gxx:
        broken = tmp_path / "gxx"
        broken.write_text(gxx)
        broken.chmod(0o755)
        monkeypatch.setenv("BNNFLOW_GXX", gxx if gxx.startswith("/") else str(broken))
    monkeypatch.setattr(evaluate, "WORTH", 0)
    graph = random_graph(3)
    codes = random_codes(graph, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", Note)
        for _ in range(3):
            found = outputs(graph, codes)
    assert len(caught) == 1 and issubclass(caught[0].category, Note) and "NumPy computes" in str(caught[0].message)
    assert all(np.array_equal(a, b) for a, b in zip(found, run_given(graph, codes, engine="numpy"), strict=True))
    with pytest.raises(ToolError, match=words):
        bf.run(graph, codes, engine="native")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1000], lambda data: b"\x7fELF" + data[5:],
                                    lambda data: b"\0" * len(data)])
def test_a_damaged_library_in_the_cache_is_made_again(damage, fresh, monkeypatch, tmp_path):
    whole = b"a library"
    made = []
    monkeypatch.setattr(library, "_identity", lambda folder: "digest")
    monkeypatch.setattr(library, "_compile", lambda source, target, folder: made.append(target.write_bytes(
        whole + library.hashlib.sha256(whole).digest())))
    monkeypatch.setattr(library.ctypes, "CDLL", lambda path: Path(path).read_bytes())
    monkeypatch.setattr(library, "_declared", lambda found: found)
    cached = cache_folder() / "engine-digest"
    assert all(library._loaded(tmp_path).startswith(whole) for _ in range(2)) and len(made) == 1
    cached.write_bytes(damage(cached.read_bytes()))
    assert library._loaded(tmp_path).startswith(whole) and len(made) == 2


def test_processes_at_once_and_a_cache_that_cannot_be_written(tmp_path):
    """Two that find an empty cache both compile, one library stays; a third has no cache at all."""
    code = f"""
import numpy as np
from bnnflow.engine import library
library.FLAGS = {QUICK!r}
from tests.conftest import check_engine
from tests.random_graphs import random_codes, random_graph
check_engine(random_graph(1), random_codes(random_graph(1), 0))
"""
    caches = (str(tmp_path), str(tmp_path), "/proc")
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT,
                                env={**plain_environment(), "XDG_CACHE_HOME": cache}) for cache in caches]
    assert [process.wait(300) for process in running] == [0, 0, 0]
    assert len(list((tmp_path / "bnnflow").iterdir())) == 1


def test_given_codes_are_numbered_from_the_first():
    graph = summed(BIPOLAR, np.ones((2, 1)))
    with pytest.raises(InputError, match=r"index \(9, 1\)"):
        given_codes(graph, np.array([[0, 2]]), first=9)


def test_gathers_of_runs_and_of_single_elements():
    for flat in (np.r_[np.arange(70, 140), np.arange(70)], np.arange(140)[::-1].copy(), np.arange(0, 140, 3)):
        for domain in (BIPOLAR, Domain(-1, 1), Domain(0, 99)):
            gather = (Op.GATHER, (len(flat),), domain, Index(flat))
            check_engine(chain(Node("x", Op.INPUT, (), (140,), domain), gather),
                         np.random.default_rng(0).integers(domain.lo, domain.hi + 1, (9, 140)))
