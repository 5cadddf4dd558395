"""A backend and a toolchain are one object each in one table: here are two of our own, and everything knows them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bnnflow as bf
from bnnflow import cli
from bnnflow.backends import backend as backends
from bnnflow.backends.backend import BACKENDS, Backend, BuildConfig, Kernels
from bnnflow.backends.project import INPUTS, RESULTS, Project, write_vectors
from bnnflow.errors import InputError, Mismatch, choice
from bnnflow.facts.facts import Facts
from bnnflow.facts.kept import keep_facts, kept_facts, kept_simulations
from bnnflow.ir import Domain, Graph, Node, Op, Weights
from bnnflow.ir.nodes import Int
from bnnflow.ir.vectors import default_vectors
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains import process
from bnnflow.toolchains import toolchain as toolchains
from bnnflow.toolchains.process import Program, Say
from bnnflow.toolchains.toolchain import TOOLCHAINS, Option, Toolchain
from tests.conftest import ROOT
from tests.random_graphs import random_codes

LEVELS = np.random.default_rng(0).choice([-1, 0, 2], (5, 3))
WEIGHTS = Weights(LEVELS, LEVELS != 0)
X = Node("x", Op.INPUT, (), (5,), Domain(0, 15))
GRAPH = Graph((X, Node("sum", Op.DOT, ("x",), (3,), dot_domain(X.domain, WEIGHTS), WEIGHTS)), ("sum",))

# --- a backend that writes Python, for graphs of one sum ------------------------------------------------------------

SOURCE = """import sys
ROWS = {rows}
with open(sys.argv[2], "w") as results:
    for line in open(sys.argv[1]):
        x = [int(float(word)) for word in line.split()]
        print(*(sum(w * v for w, v in zip(row, x)) for row in ROWS), file=results)
"""


def check(graph: Graph, config: BuildConfig) -> None:
    if [node.op for node in graph] != [Op.INPUT, Op.DOT]:
        raise InputError("backend Python writes one sum, and nothing else")


def write(graph: Graph, config: BuildConfig, codes: Sequence[Int] | None, target: Path) -> dict[str, str]:
    check(graph, config)
    folder = Path(config.output_dir)
    folder.mkdir()
    rows = graph.output.params.effective.T.tolist()
    (folder / f"{config.project_name}.py").write_text(SOURCE.format(rows=rows))
    write_vectors(folder, graph, default_vectors(graph) if codes is None else codes)
    return {}


def kernels(graph: Graph, config: BuildConfig) -> Kernels:
    return [((graph.output,), list(graph.output.inputs))]


PYTHON = Backend("Python", "Python", "a run of Python", "python3", "python3", check, write, kernels, sources=("*.py",),
                 fixed={"io_type": ("io_parallel", "Python has no streams")})

# --- a toolchain that runs it ---------------------------------------------------------------------------------------

PROGRAM = Program("python3", (sys.executable,), "BNNFLOW_PYTHON", "runs of Python projects", "install Python")


def simulate(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    results = run / RESULTS
    process.call([*process.command(PROGRAM), str(project.path / f"{project.top}.py"), str(run / INPUTS), str(results)],
                 run, run / "log", 60)
    return results, False


def synthesize(project: Project, per_line: int = 2, say: Say | None = None) -> Facts:
    lines = (project.path / f"{project.top}.py").read_text().count("\n")
    facts = Facts(project.top, "logic synthesis", "python3", process.version(PROGRAM), lut=per_line * lines)
    return keep_facts(project, "python3", "lines", facts)


RUNNER = Toolchain(PROGRAM, "Python", ("Python 3.11",), simulate=simulate, synthesize=synthesize,
                   options=(Option("per_line", 2, "LUTs of a line"),))


@pytest.fixture
def registered() -> Iterator[None]:
    backends.register(PYTHON)
    toolchains.register(RUNNER)
    yield
    del BACKENDS["Python"], TOOLCHAINS["python3"]


# --- the tests ------------------------------------------------------------------------------------------------------


def test_build_and_simulate(registered, tmp_path):
    project = bf.build(GRAPH, BuildConfig(output_dir=tmp_path / "prj", backend="Python"))
    codes = random_codes(GRAPH, 0, 20)[0]
    assert np.array_equal(bf.simulate(project, codes), GRAPH(codes))
    bf.simulate(project, tool="python3")
    (record,) = kept_simulations(project)
    assert (record.tool, record.differ) == ("python3", 0) and record.version.startswith("Python 3")
    assert bf.synthesize(project, per_line=3).lut == 18 and [facts.lut for facts in kept_facts(project)] == [18]
    assert bf.estimate(project).lut is not None
    assert len(bf.report(project)["projects"][0]["exact"]) == 1
    source = tmp_path / "prj/myproject.py"
    source.write_text(source.read_text().replace("sum(", "1 + sum("))
    assert not kept_facts(project), "facts are those of the very sources"
    with pytest.raises(Mismatch, match=r"a run of Python \(python3\) and graph differ: sample 0"):
        bf.simulate(project)


def test_messages_and_options_know_them(registered, tmp_path):
    for config, message in (({"backend": "Lisp"}, "use Vitis, Vivado, Verilog or Python"),
                            ({"backend": "Python", "io_type": "io_stream"}, "Python has no streams")):
        with pytest.raises(InputError, match=message):
            BuildConfig(**config)
    with pytest.raises(InputError, match="writes one sum"):
        bf.build(bf.argmax(GRAPH), BuildConfig(output_dir=tmp_path / "prj", backend="Python"))
    python = bf.build(GRAPH, BuildConfig(output_dir=tmp_path / "prj", backend="Python"))
    verilog = bf.build(GRAPH, BuildConfig(output_dir=tmp_path / "rtl", backend="Verilog"))
    for call, message in (
            (lambda: bf.simulate(python, tool="ghdl"),
             "use one of gxx, verilator, clang, bambu, vitis, vivado, python3"),
            (lambda: bf.synthesize(python, "ghdl"), "use one of yosys, nextpnr, clang, bambu, vitis, vivado, python3"),
            (lambda: bf.simulate(python, tool="gxx"),
             "is a Python project; build it with backend Vitis or Vivado, or use tool python3"),
            (lambda: bf.synthesize(verilog, "python3"),
             "is a Verilog project; build it with backend Python, or use tool yosys or nextpnr"),
            (lambda: bf.simulate(python, via="ssh x"), "python3 runs here; a prefix is for vitis or vivado"),
            (lambda: bf.synthesize(python, family="xc7"), "python3 has no option family; use some of say, per_line"),
            (lambda: bf.simulation.trace_project(python, np.zeros((1, 5), int)), "layers are compared in C")):
        with pytest.raises(InputError, match=message.replace("+", r"\+")):
            call()


def test_doctor_and_help_know_them(registered, capsys, monkeypatch):
    cli.doctor()
    said = capsys.readouterr().out
    assert "python3" in said and "runs of Python projects" in said and "Python 3.11" in said
    assert cli._tools(TOOLCHAINS).endswith("yosys or nextpnr for Verilog; python3 for Python; by default that of "
                                            "the backend")
    help_text = cli._with_options(lambda **options: None).__annotations__["per_line"].__metadata__[0].help
    assert help_text == "python3: LUTs of a line"


@pytest.mark.parametrize(("table", "row"), [(backends, PYTHON), (toolchains, RUNNER)])
def test_a_name_is_given_once(table, row, registered):
    assert table.register(row) is row, "again does nothing"
    with pytest.raises(InputError, match="is registered already"):
        table.register(replace(row, language="C++"))


def test_what_a_table_names_is_there():
    for backend in BACKENDS.values():
        assert TOOLCHAINS[backend.simulator].simulate and TOOLCHAINS[backend.synthesizer].synthesize
        for name in (backend.simulator, backend.synthesizer):
            assert TOOLCHAINS[name].language == backend.language
    assert {t.language for t in TOOLCHAINS.values()} == {b.language for b in BACKENDS.values()}


def test_languages_are_named_in_the_tables_only():
    """Elsewhere one asks the backend; a vendor's report has the word in it."""
    allowed = {"backends/verilog.py", "backends/backend.py", "facts/readers.py"}
    package = ROOT / "flow/bnnflow"
    found = {file.relative_to(package).as_posix() for file in package.rglob("*.py")
             if '"Verilog"' in file.read_text()}
    assert found <= allowed, found - allowed


def test_choice():
    assert [choice(""), choice("a"), choice("ab"), choice("abc")] == ["none", "a", "a or b", "a, b or c"]


def test_a_language_without_tools_or_backends(registered, tmp_path):
    """One half of a language is registered: messages name only what there is."""
    project = bf.build(GRAPH, BuildConfig(output_dir=tmp_path / "prj", backend="Python"))
    del TOOLCHAINS["python3"]
    with pytest.raises(InputError, match="is a Python project; build it with .*, or register a toolchain of Py"):
        bf.simulate(project, tool="gxx")
    toolchains.register(RUNNER)
    verilog = bf.build(GRAPH, BuildConfig(output_dir=tmp_path / "rtl", backend="Verilog"))
    del BACKENDS["Python"]
    with pytest.raises(InputError, match=r"is a Verilog project; use tool verilator$"):
        bf.simulate(verilog, tool="python3")
    backends.register(PYTHON)
    with pytest.raises(InputError, match=r"only C\+\+ is compiled for a trace"):
        replace(PYTHON, traced=lambda graph, config, folder: None)


def test_a_damaged_record_of_a_simulation(registered, tmp_path):
    project = bf.build(GRAPH, BuildConfig(output_dir=tmp_path / "prj", backend="Python"))
    bf.simulate(project)
    file = next(project.runs.glob("sim-*.json"))
    row = json.loads(file.read_text())
    for text in ("{", "[]", "3", json.dumps({**row, "more": 1}), json.dumps({**row, "samples": -1}),
                 json.dumps({**row, "differ": True})):
        file.write_text(text)
        with pytest.raises(InputError, match="damaged record of a simulation: .*; remove it, or simulate again"):
            kept_simulations(project)
