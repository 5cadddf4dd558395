"""Reports: no number that the JSON lacks, nothing executed or fetched, no complaint from a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.project import Project
from bnnflow.comparison import Comparison, NodeComparison
from bnnflow.errors import InputError
from bnnflow.facts.facts import Facts, save_facts
from bnnflow.ir import BIPOLAR, Graph, Index, Node, Op, fixed
from bnnflow.reports import document
from bnnflow.reports.document import _picture
from bnnflow.reports.drawings import _labels, dataflow, pareto
from bnnflow.reports.render import built, cycles, number
from bnnflow.train.run import Result
from tests.conftest import union
from tests.random_graphs import random_codes, random_graph
from tests.test_estimate import conv, dense
from tests.test_hls import net
from tests.test_rtl import needs_yosys

HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*7}}|`x`"
EVIL = ("<script>alert(1)</script>", "<img src=x", "onerror=alert(1)>")


def hostile(graph: Graph) -> Graph:
    """The graph with text that would run, were it not escaped."""
    nodes = tuple(replace(node, origin=HOSTILE) for node in graph)
    return Graph(nodes, graph.outputs, ("note </ul><script>alert(1)</script>", HOSTILE))


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three projects: arrays, streams, and one in which all text is hostile and that has facts of a tool."""
    folder = tmp_path_factory.mktemp("projects")
    config = bf.BuildConfig(part="xc7z020clg400-1")
    bf.build(net(), replace(config, output_dir=folder / "arrays"))
    bf.build(conv(8, 4), replace(config, output_dir=folder / "streams", io_type="io_stream"))
    evil = folder / HOSTILE.replace("/", "")
    bf.build(hostile(dense(40, 3)), replace(config, output_dir=evil, part="xc9nothing"))
    runs = Project.open(evil).runs
    (runs / "vitis").mkdir(parents=True)
    facts = Facts(HOSTILE, "routed", HOSTILE, "=1+1", HOSTILE, 1234567, 89, 5, 7, latency=(11, 13),
                  interval=(2, 2), clock_target=5.0, clock_estimated=4.321, notes=(HOSTILE,))
    save_facts([facts], runs / "vitis/facts-logic.json")
    return [folder / "arrays", folder / "streams", evil]


@pytest.fixture(scope="module")
def page(projects, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("report") / "report.html"
    bf.report(projects, target)
    return target


class Text(HTMLParser):
    """The text that a reader sees."""

    def __init__(self, page: str):
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag == "style"
        self.words += [value for key, value in attrs if key in ("alt", "aria-label", "title") and value]

    def handle_endtag(self, tag):
        self.hidden -= tag == "style"

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)


def numbers_of(data: object) -> tuple[set[float], str]:
    """All numbers in plain data, and all of its text."""
    if isinstance(data, dict):
        parts = [numbers_of(value) for pair in data.items() for value in pair]
    elif isinstance(data, list):
        parts = [numbers_of(value) for value in data]
    elif isinstance(data, str):
        return set(), f" {data} "
    else:
        return ({float(data)} if data is not None and not isinstance(data, bool) else set()), ""
    return set().union(*(p[0] for p in parts)), "".join(p[1] for p in parts)


def unknown(words: list[str], data: object) -> list[str]:
    """Numbers in a text that the data do not have, rounded as the text rounds them."""
    known, text = numbers_of(data)
    missing = []
    for word in words:
        word = re.sub(r"\b[0-9a-f]{64}\b", lambda digest: "" if digest[0] in text else digest[0], word)
        for found in re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", word):
            plain = found.replace(",", "").lstrip("-")
            digits = len(plain.partition(".")[2])
            near = any(abs(abs(value) - float(plain)) <= 0.5 * 10**-digits + 1e-9 for value in known)
            if not near and not re.search(rf"(?<![\w.]){re.escape(found)}(?!\w)", text):
                missing.append(found)
    return missing


def test_html_has_no_number_that_json_lacks(projects, page):
    data = json.loads(json.dumps(bf.report(projects)))
    text = Text(page.read_text())
    assert len(re.findall(r"\d+", " ".join(text.words))) > 300
    # Words of the page that hold numbers and are no facts: the unit of a block.
    words = [word.replace("18 Kbit", "") for word in text.words]
    assert unknown(words, data) == []
    evil = data["projects"][2]
    for place in (evil["facts"][1], evil["summary"]["size"], evil["summary"]["speed"], data["pareto"]["points"][2]):
        place["lut"] = 1
    assert set(unknown(words, data)) == {"1,234,567"}  # and it would be seen


def test_html_with_labels_and_kernels(projects, tmp_path, monkeypatch):
    """The confusion matrix and what logic synthesis said of kernels are there, and in the JSON."""
    codes = random_codes(net(), 0, 20)[0]
    shutil.copytree(projects[0], tmp_path / "copy")
    runs = Project.open(tmp_path / "copy").runs
    (runs / "kernels").mkdir(parents=True)
    kernel = Facts("act", "kernel synthesis", "bnnflow and yosys", "pyosys 9.9", lut=4321, notes=("2 of 7 outputs",))
    save_facts([replace(kernel, name="all", modules=(kernel,))], runs / "kernels/facts-synthesis.json")
    data = bf.report(tmp_path / "copy", tmp_path / "page.html", codes, np.arange(20) % 5)
    words = [word.replace("18 Kbit", "") for word in Text((tmp_path / "page.html").read_text()).words]
    assert unknown(words, json.loads(json.dumps(data))) == []
    text = " ".join(" ".join(words).split())
    assert "Confusion" in text and "kernel synthesis; 2 of 7 outputs" in text and "4,321 LUT" in text
    assert data["projects"][0]["summary"]["size"]["source"] == "kernel synthesis" and "left out" not in text
    monkeypatch.setattr(document, "CLASSES", 4)
    assert bf.report(tmp_path / "copy", tmp_path / "page.html", codes, np.arange(20) % 5
                       )["projects"][0]["accuracy"]["confusion"] is None
    assert "The matrix of so many classes is left out" in (tmp_path / "page.html").read_text()
    bf.report(tmp_path / "copy", tmp_path / "page.csv")
    assert "kernel synthesis,bnnflow and yosys,pyosys 9.9,,act,4321" in (tmp_path / "page.csv").read_text()
    bf.report(tmp_path / "copy", tmp_path / "page.md")
    assert "kernel synthesis; 2 of 7 outputs" in (tmp_path / "page.md").read_text()


def test_markdown_has_no_number_that_json_lacks(projects, tmp_path):
    data = bf.report(projects, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text().replace("18 Kbit", "")
    assert unknown([text], json.loads(json.dumps(data))) == []
    assert "<img" not in text.replace("\\<", "") and "not simulated yet" in text


def test_csv_and_json(projects, tmp_path):
    data = bf.report(projects, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(data))
    bf.report(projects, tmp_path / "report.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert {row["project"] for row in rows} == {p.name for p in projects}
    routed = next(row for row in rows if row["source"] == "routed")
    assert (routed["lut"], routed["latency"], routed["version"]) == ("1234567", "13", "'=1+1")  # no formula
    totals = [int(row["lut"]) for row in rows if row["project"] == "arrays" and row["source"] == "table estimate"
              and not row["tool"].endswith("kernels")]
    assert totals[0] == sum(totals[1:])


def test_nothing_is_executed_or_fetched(page):
    text = page.read_text()
    assert not any(evil in text for evil in EVIL) and "{{7*7}}" in text and "49*" not in text
    tags = Text(text).tags
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in tags}
    for tag, attributes in tags:
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in ("href", "action", "xlink:href"), (tag, key)
            assert key != "src" or value.startswith("data:image/png;base64,")
    assert "default-src 'none'" in text and "url(" not in text and "@import" not in text


def test_what_the_report_says(projects, page):
    text = " ".join(" ".join(Text(page.read_text()).words).split())
    for words in ("Side by side", "fits", "unknown part", "not simulated yet", "Dataflow", "Kernels", "tone curve",
                  "Where the numbers come from", "not yet measured with vendor tools", "thresholds",
                  "C synthesis as Vitis HLS 2023.1"):
        assert words in text, words
    assert "Vitis, io_stream, strategy Latency, reuse_factor 1, clock 5 ns" in text and "encoder" not in text
    data = bf.report(projects)
    evil = data["projects"][2]
    assert evil["summary"]["size"]["source"] == "routed" and evil["summary"]["speed"]["latency_ns"] == 65
    assert data["projects"][1]["facts"][0]["buffer_bits"] > 0
    assert [point["best"] for point in data["pareto"]["points"]].count(True) >= 1


@pytest.mark.parametrize(("options", "words"), [
    ({}, "Vitis, io_parallel, strategy Latency, reuse_factor 1, clock 5 ns"),
    ({"backend": "Verilog", "clock_period": 2.5}, "Verilog, pipelined, clock 2.5 ns"),
    ({"backend": "Verilog", "pipelined": False, "encoder": "outside"},
     "Verilog, combinational, clock 5 ns, encoder outside"),
])
def test_only_options_that_apply_are_said(options, words, tmp_path):
    """The document has all options, and which of them apply to the backend."""
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj", **options))
    (project,) = bf.report(tmp_path / "prj")["projects"]
    assert built(project) == words
    assert set(project["applies"]) == set(project["options"]) - set(bf.BuildConfig(**options).target.fixed)


def test_options_are_told_apart(tmp_path):
    """Options of single nodes are said, and an older manifest may lack options."""
    own = {"NULL": {"reuse_factor": 5, "strategy": "Resource"}}
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj", layers=own, encoder="outside"))
    data = bf.report(tmp_path / "prj", tmp_path / "report.md")
    assert data["projects"][0]["options"]["layers"] == own
    words = "clock 5 ns, encoder outside; NULL: reuse\\_factor 5, strategy Resource"
    assert words in (tmp_path / "report.md").read_text()
    manifest = tmp_path / "prj/flow.json"
    text = json.loads(manifest.read_text())
    del text["options"]["encoder"], text["options"]["pipelined"], text["options"]["layers"]
    manifest.write_text(json.dumps(text))
    assert bf.report(tmp_path / "prj", tmp_path / "report.html")["projects"][0]["options"]["pipelined"] is True


def test_folders_of_one_name_are_told_apart(tmp_path):
    for folder in ("a/prj", "b/prj"):
        bf.build(net(), bf.BuildConfig(output_dir=tmp_path / folder))
    found = bf.report([tmp_path / "a/prj", tmp_path / "b/prj", tmp_path / "b/prj"])
    assert [p["name"] for p in found["projects"]] == ["a/prj", "b/prj", "b/prj"]
    long = [{"name": f"{'x' * 30}/{k}", "lut": 1, "other": 1, "best": True} for k in "ab"]
    assert all(f"…{'x' * 21}/{k}</text>" in pareto({"points": long, "against": ""}) for k in "ab")
    assert bf.report(tmp_path / "a/prj")["projects"][0]["name"] == "prj"


def test_ends_of_the_plot(projects, page):
    """The least and the most of both axes are named, and a long name does not run into its op."""
    text = page.read_text()
    points = bf.report(projects)["pareto"]["points"]
    for key in ("lut", "other"):
        for end in (min, max):
            assert f">{number(end(point[key] for point in points))}</text>" in text
    row = [{"name": f"n{k}", "op": "input", "inputs": [], "shape": [1], "bits": 1} for k in range(15)]
    assert "max-width:3592px;min-width:2155px" in dataflow(row)  # it scrolls and can be read
    assert dataflow([{"name": "a" * 30, "op": "argmax", "inputs": [], "shape": [1], "bits": 4}]).count('y="26.0"') == 1


def test_names_in_the_plot_lie_side_by_side():
    """The names of points at one place stand one above the other."""
    xs, ys = [40.0, 45.0, 50.0, 600.0, 599.0], [100.0, 100.0, 104.0, 100.0, 100.0]
    places = _labels(xs, ys, 640)
    assert [end for _, end in places] == [False, False, False, True, True]
    heights = [y + up for y, (up, _) in zip(ys, places)]
    assert min(abs(a - b) for a, b in combinations(heights[:3], 2)) >= 12 <= abs(heights[3] - heights[4])


def test_projects_that_are_as_accurate_are_compared_by_latency(projects, tmp_path):
    x, y = random_codes(net(), 0, 20)[0], np.zeros(20, int)
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "slow", clock_period=50.0))
    pareto = bf.report([projects[0], tmp_path / "slow"], data=x, labels=y)["pareto"]
    assert pareto["against"] == "latency in ns" and [p["best"] for p in pareto["points"]][0]


def test_weights_as_a_picture(projects):
    """Its pixels are the levels: blue above zero, orange below, nothing where there is no connection."""
    import base64

    from matplotlib import image

    data = bf.report(projects[0])
    node = next(n for n in data["projects"][0]["nodes"] if n["weights"])
    pixels = image.imread(io.BytesIO(base64.b64decode(node["weights"]["picture"].split(",")[1])))
    levels = net()["NULL"].params.effective
    assert pixels.shape == (*levels.shape, 4)
    assert np.array_equal(pixels[..., 3] > 0.5, levels != 0)
    assert np.array_equal((pixels[..., 2] > pixels[..., 0])[levels != 0], (levels > 0)[levels != 0])
    # Where a pixel is four weights: half of them are there, one in two of which is above zero.
    many = np.kron(np.ones((96, 96), int), [[1, -1], [0, 0]])
    small = image.imread(io.BytesIO(base64.b64decode(_picture(many).split(",")[1])))
    assert small.shape == (96, 96, 4) and np.abs(small * 255 - [125, 104, 97.5, 127.5]).max() <= 0.6
    assert node["weights"]["nonzero"] == np.count_nonzero(levels) and len(node["weights"]["levels"]) == 3


def test_accuracy(projects):
    graph = net()
    x = random_codes(graph, 0, 50)[0]
    chosen = graph.decode(graph(x)).argmax(axis=1)
    labels = chosen.copy()
    labels[:10] = (labels[:10] + 1) % 5
    found = bf.report(projects[0], data=x, labels=labels)["projects"][0]["accuracy"]
    assert (found["samples"], found["right"], found["percent"]) == (50, 40, 80.0)
    assert np.trace(found["confusion"]) == 40 and np.sum(found["confusion"]) == 50
    one_hot = np.eye(5, dtype=int)[labels]
    assert bf.report(projects[0], data=x.astype(float), labels=one_hot)["projects"][0]["accuracy"] == found
    for bad, message in ((labels[:5], "5 for 50 samples"), (labels + 1, "whole numbers from 0 to 4"),
                         (labels + 0.5, "whole numbers")):
        with pytest.raises(InputError, match=message):
            bf.report(projects[0], data=x, labels=bad)
    for half in ({"labels": labels}, {"data": x}):
        with pytest.raises(InputError, match=f"{next(iter(half))} without .*: give both, or neither"):
            bf.report(projects[0], **half)
    with pytest.raises(InputError, match="data: no samples"):
        bf.report(projects[0], data=x[:0], labels=labels[:0])
    with pytest.raises(InputError, match=r"streams: input 'x': got shape \(50, 6\)"):  # which of several
        bf.report(projects[:2], data=x, labels=labels)
    with pytest.raises(InputError):
        bf.report(projects[0], data=x + 99, labels=labels)


def test_accuracy_of_classes(projects, tmp_path):
    """A graph that gives classes is as accurate as the one whose logits are compared here."""
    x, labels = random_codes(net(), 0, 50)[0], np.arange(50) % 5
    logits = bf.report(projects[0], data=x, labels=labels)["projects"][0]["accuracy"]
    bf.build(bf.argmax(net()), bf.BuildConfig(output_dir=tmp_path / "prj"))
    assert bf.report(tmp_path / "prj", data=x, labels=labels)["projects"][0]["accuracy"] == logits
    with pytest.raises(InputError, match="whole numbers from 0 to 4"):
        bf.report(tmp_path / "prj", data=x, labels=labels + 1)
    bf.build(bf.argmax(conv(8, 4)), bf.BuildConfig(output_dir=tmp_path / "image", io_type="io_stream"))
    with pytest.raises(InputError, match="decides 64 positions of a sample"):
        bf.report(tmp_path / "image", data=random_codes(conv(8, 4), 0, 5)[0], labels=labels[:5])


def test_accuracy_of_several_inputs(tmp_path):
    """Arrays of other shapes and kinds: codes of one input, real values of the other."""
    both = union({"a": dense(6, 4), "b": dense(3, 2, fixed("ufixed<8,0>"))})
    wires = Node("y", Op.GATHER, both.outputs, (6,), BIPOLAR, Index(np.arange(6)))
    graph = Graph((*both, wires), ("y",))
    project = bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))
    codes = random_codes(graph, 0, 30)
    labels = graph(codes).argmax(axis=1)
    mixed = [codes[0], codes[1] * float(graph["b__x"].domain.scale)]
    for data in (codes, mixed, {"a__x": mixed[0], "b__x": mixed[1]}):
        assert bf.report(project, data=data, labels=labels)["projects"][0]["accuracy"]["right"] == 30
    with pytest.raises(InputError, match=r"2 inputs \(a__x, b__x\); give a list"):
        bf.report(project, data=codes[0], labels=labels)


def test_any_network_and_options(tmp_path):
    for seed in range(6):
        for io_type in ("io_parallel", "io_stream"):
            path = tmp_path / f"{seed}{io_type}"
            bf.build(random_graph(seed), bf.BuildConfig(output_dir=path, io_type=io_type, part="ice40hx1k"))
            bf.report(path, tmp_path / "report.html")
    assert "does not fit" in (tmp_path / "report.html").read_text() or seed


def test_bad_input(projects, tmp_path):
    with pytest.raises(InputError, match=r"\.pdf: use one of \.html, \.md, \.csv, \.json"):
        bf.report(projects, tmp_path / "report.pdf")
    with pytest.raises(InputError, match="not a bnnflow project"):
        bf.report(tmp_path)
    with pytest.raises(InputError, match="no project"):
        bf.report([])
    with pytest.raises(InputError, match="cannot write"):
        bf.report(projects[0], tmp_path / "no/report.html")
    copy = tmp_path / "copy"
    shutil.copytree(projects[0], copy)
    runs = Project.open(copy).runs
    runs.mkdir(parents=True)
    record = '{"tool": "x", "version": "", "samples": %s, "outputs": 0, "differ": 0, "vectors": ""}'
    for text in ("{", "[]", '{"tool": 1}', record % -1.5, record % -1):
        (runs / "sim-gxx.json").write_text(text)
        with pytest.raises(InputError, match="damaged record of a simulation.*; remove it, or simulate again"):
            bf.report(copy)
    (runs / "sim-gxx.json").unlink()
    (runs / "vitis").mkdir()
    for text in ("{", "[]", '{"bnnflow_facts": 1, "facts": []}', '{"bnnflow_facts": 1, "facts": [{}]}'):
        (runs / "vitis/facts-csynth.json").write_text(text)
        for verb in (bf.report, bf.synthesize):
            with pytest.raises(InputError, match=r"^\S*/facts-csynth.json: [^/]*; remove the file, and run again what"):
                verb(copy)
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.hls
def test_simulations_are_reported(tmp_path, cli):
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj"))
    bf.simulate(tmp_path / "prj")
    (found,) = bf.report(tmp_path / "prj")["projects"][0]["exact"]
    assert (found["tool"], found["samples"], found["outputs"], found["differ"]) == ("gxx", 256, 1280, 0)
    done = cli("report", "prj", "-o", "a.html")
    assert done.returncode == 0 and "0 differ" in (tmp_path / "a.html").read_text()
    # One bit of a ROM flipped by hand: other sources, of which nothing is known until they are simulated.
    rom = tmp_path / "prj/firmware/weights/flow_NULL.h"
    text = rom.read_text()
    rom.write_text(re.sub(r"(flow_NULL_offset\[1\]\[5\] = \{\{)(-?\d+)", lambda m: f"{m[1]}{int(m[2]) + 2}", text))
    assert bf.report(tmp_path / "prj")["projects"][0]["exact"] == []
    with pytest.raises(bf.Mismatch):
        bf.simulate(tmp_path / "prj")
    assert bf.report(tmp_path / "prj")["projects"][0]["exact"][0]["differ"] > 0
    for arguments in (["report", "."], ["report", "prj", "-o", "x.pdf"], ["report", "prj", "--labels", "no.npy"]):
        assert cli(*arguments).returncode == 2


@pytest.mark.rtl
@needs_yosys
def test_synthesis_is_reported(tmp_path):
    """What yosys says of a Verilog project is the most certain size there is, on the project's part."""
    config = bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", part="xc7a15t-cpg236-1")
    bf.build(dense(16, 4), config)
    facts = bf.synthesize(tmp_path / "prj", family="xc7")
    found = bf.report(tmp_path / "prj", tmp_path / "report.html")["projects"][0]
    size = found["summary"]["size"]
    assert (size["lut"], size["source"], size["tool"]) == (facts.lut, "logic synthesis", "yosys")
    assert found["summary"]["fits"] is True and size["available"]["lut"] == 10400
    speed = found["summary"]["speed"]  # cycles as the Verilog has them, at the clock asked for
    assert (speed["source"], speed["latency"]) == ("logic synthesis", list(facts.latency)) and facts.latency[0] > 0
    bf.synthesize(tmp_path / "prj", family="ecp5")  # another family than the part's: no totals
    found = bf.report(tmp_path / "prj")["projects"][0]
    assert [f["fits"] for f in found["facts"]][1:3] == [None, True]
    assert (found["summary"]["size"]["part"], found["summary"]["size"]["lut"]) == ("xc7", facts.lut)


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read(theme, page):
    """WCAG's contrast of text on what is behind it, in both themes."""
    root = re.findall(r":root \{(.*?)\}", page.read_text(), re.S)[theme]
    colours = {}
    for name, text in re.findall(r"--(\w+): #(\w+);", root):
        digits = text if len(text) == 6 else "".join(c + c for c in text)
        colours[name] = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    # The fullest cell of a confusion matrix.
    colours["heat"] = [0.45 * mark + 0.55 * page for mark, page in zip(colours["mark"], colours["page"])]
    pairs = [(text, behind) for text in ("ink", "soft") for behind in ("page", "card", "box", "sum", "step")]
    for text, behind in [*pairs, ("ink", "heat"), ("good", "card"), ("bad", "card")]:
        light, dark = sorted((luminance(colours[text]), luminance(colours[behind])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, behind)


def test_numbers_for_people():
    assert [number(v) for v in (None, 0, 1234, 0.5, 1234.5678, 0.00001, 2.0, "x")] == [
        "–", "0", "1,234", "0.5", "1,234.568", "1e-05", "2", "x"]
    assert cycles([1, 1]) == "1" and cycles([3, 1200]) == "3 to 1,200" and cycles(None) == "–"


def test_notebooks_show_text_as_text(projects):
    graph = hostile(dense(8, 2))
    shown = [graph, Facts(HOSTILE, "routed", notes=(HOSTILE,)), Project.open(projects[2]),
             Comparison((NodeComparison("a", HOSTILE, 3, 0, None),), "", (HOSTILE,)), Result(0.5, 3, Path(HOSTILE))]
    for value in shown:
        html = value._repr_html_()
        assert html.startswith("<table>") and not any(evil in html for evil in EVIL)
    assert graph.digest[:16] in graph._repr_html_() and "equal" in shown[3]._repr_html_()


# --- in a browser ---------------------------------------------------------------------------------------------------


def browse(page: Path, folder: Path) -> tuple[list[str], list[str]]:
    """(messages of the console, addresses asked for) of a page in headless Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on PATH; Debian: apt-get install chromium")
    log = folder / "net.json"
    done = subprocess.run([
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr", f"--log-net-log={log}", f"--screenshot={folder / 'page.png'}",
        "--window-size=1200,2000", page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert (folder / "page.png").stat().st_size > 1000
    # The browser asks for things of its own; those have no page as their initiator.
    asked = [line for line in log.read_text().splitlines()
             if re.search(r'"url":"(https?|wss?|ftp):', line) and '"initiator":"not an origin"' not in line
             and '"initiator"' in line]
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


@pytest.mark.browser
def test_in_a_browser(page, tmp_path):
    assert browse(page, tmp_path) == ([], [])


@pytest.mark.browser
def test_the_browser_would_tell(tmp_path):
    """A page with an error, and with an image from elsewhere, is found."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('oh'); nothing()</script>")
    messages, asked = browse(bad, tmp_path)
    assert any("oh" in message for message in messages) and any("nothing" in message for message in messages)
    assert any(":9/x.png" in address for address in asked)
