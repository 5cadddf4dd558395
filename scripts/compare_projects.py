"""Does a change of the code change what it writes? Sixty graphs as projects of every backend, before and after.

    python scripts/compare_projects.py record BEFORE           # in a checkout of the commit before
    python scripts/compare_projects.py record AFTER [GRAPH...] # in this one; only graphs whose names begin so (layers
                                                               # of Keras models have the same names in whole runs only)
    python scripts/compare_projects.py diff BEFORE AFTER

`record` lowers models, makes random graphs, and writes each of them with every backend, `io_type` and strategy. It
keeps all files of every project, the digest and the estimates of every graph, and the message where a project is
refused. `diff` makes the intended renames (RENAMES) in what was before, and lists what is not the same byte for byte
then; its exit code is 1 where anything is left.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bnnflow as bf

import bnnflow.train  # isort: skip

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' graphs

from tests.contracts import shake
from tests.random_graphs import random_graph
from tests.test_contracts import INPUT_TYPE, NETWORKS
from tests.test_kernel_calls import GRAPHS

# (pattern in the text of a file before, what it is now): words that a commit has changed on purpose.
RENAMES: tuple[tuple[str, str], ...] = (
    (r"(flow_\w+_)cuts\b", r"\1thresholds"), (r"\bcuts\b", "thresholds"), (r"\bn_cut\b", "n_threshold"),
    (r"\bcut_t\b", "threshold_t"), (r"\bCut:", "Threshold:"), (r"\b([Nn]o|int|\+|<|;|the|a) cut\b", r"\1 threshold"),
    (r"\bcut(\+\+|\])", r"threshold\1"), (r"\blut_sites\b", "lut_positions"),
    (r"shown in (emission|lowering)\.", "proven by the call."),
)
# hls4ml's, random: hexadecimal digits, which YAML quotes where they could be a number.
STAMP = re.compile(rb"(Stamp: |LIB_STAMP=)'?[0-9a-f]+'?")
ROWS = (
    "kernel-ternary_auto_po2", "kernel-quantized_bits", "kernel-masked_alpha_beta", "kernel-multi_branch_4",
    "activation-quantized_relu", "activation-quantized_po2", "activation-quantized_hswish", "argument-binary_use_01",
    "layer-thermometer_image", "layer-batchnorm_permute", "layer-rescaling", "layer-conv1d_causal",
    "layer-conv2d_groups", "layer-conv2d_codebook", "layer-depthwise", "layer-separable2d", "layer-max_pooling2d",
    "layer-average_pooling2d_same", "layer-zero_padding_alone", "layer-upsampling2d", "layer-softmax",
    "model-concatenate_mixed", "model-add_mixed", "model-logic_or", "model-logic_and", "model-nested",
    "model-several",
)
RANDOM = range(30)
STRATEGIES = ("Latency", "Resource", "distributed_arithmetic")


def graphs() -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, how to make it) of every graph."""
    from bnnflow.models import digits, jets

    for name in ROWS:
        yield name, lambda name=name: bf.lower(NETWORKS[name](), INPUT_TYPE)
    for seed in RANDOM:
        yield f"random-{seed}", lambda seed=seed: random_graph(seed)
    yield "emissions", lambda: GRAPHS
    yield "digits", lambda: bf.lower(digits.build(), digits.INPUT_TYPE)
    yield "digits-class", lambda: bf.argmax(bf.lower(digits.build(width=16), digits.INPUT_TYPE))
    yield "jets", lambda: bf.lower(shake(jets.build()), jets.INPUT_TYPE)


def configs(name: str, graph: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, options) of every project of a graph."""
    for backend in ("Vitis", "Vivado"):
        for io_type in ("io_parallel", "io_stream"):
            for strategy in STRATEGIES:
                yield f"{backend}-{io_type}-{strategy}", {"backend": backend, "io_type": io_type, "strategy": strategy}
    yield "Verilog-pipelined", {"backend": "Verilog", "clock_period": 2.0}
    yield "Verilog-combinational", {"backend": "Verilog", "pipelined": False}
    if name == "digits":
        yield "Vitis-outside", {"encoder": "outside"}
        yield "Verilog-outside", {"backend": "Verilog", "encoder": "outside"}


def record(folder: Path, wanted: tuple[str, ...] = ()) -> None:
    """Write all projects, or those of the graphs wanted, and keep their files by digest under `folder`."""
    store = folder / "files"
    store.mkdir(parents=True, exist_ok=True)
    project = folder / "project"
    known: dict[str, Any] = {}
    for name, make in graphs():
        if wanted and not name.startswith(wanted):
            continue
        graph = make()
        row: dict[str, Any] = {"digest": graph.digest, "notes": list(graph.notes), "projects": {}, "estimates": {}}
        for key, options in configs(name, graph):
            config = bf.BuildConfig(output_dir=project, **options)
            row["estimates"][key] = _estimate(graph, config)
            row["projects"][key] = _files(graph, config, project, store)
        known[name] = row
        print(name, len(row["projects"]), flush=True)
    (folder / "record.json").write_text(json.dumps(known, indent=1))


def _estimate(graph: Any, config: Any) -> Any:
    try:
        return bf.estimate(graph, config).as_dict()
    except bf.InputError as error:
        return str(error)


def _files(graph: Any, config: Any, project: Path, store: Path) -> Any:
    """{path: digest of the file}, or why the project is refused."""
    try:
        bf.build(graph, config)
    except bf.InputError as error:
        return str(error)
    found = {}
    for file in sorted(project.rglob("*")):
        if file.is_file() and file.suffix != ".npz":  # the graph has a digest of its own
            data = STAMP.sub(rb"\1", file.read_bytes().replace(str(project).encode(), b"PROJECT"))
            digest = hashlib.sha256(data).hexdigest()
            found[file.relative_to(project).as_posix()] = digest
            if not (store / digest).exists():
                (store / digest).write_bytes(data)
    shutil.rmtree(project)
    return found


def diff(before: Path, after: Path) -> int:
    """Print what differs; the number of things that do."""
    old, new = (json.loads((folder / "record.json").read_text()) for folder in (before, after))
    pairs: dict[tuple[str, str], list[str]] = {}  # (digest before, digest after): the files that have them
    count = files = 0
    for name in new:
        found = list(_differences(old.get(name, {}), new[name]))
        print(*(f"{name} {what}" for what in found), sep="\n", end="\n" if found else "")
        count += len(found)
        for where, before_it, after_it in _file_pairs(old.get(name, {}), new[name]):
            files += 1
            if before_it != after_it:
                pairs.setdefault((before_it, after_it), []).append(f"{name} {where}")
    count += sum(_print_difference(before, after, *pair, places) for pair, places in pairs.items())
    print(f"{len(new)} of {len(old)} graphs, {files} files, {count} differ")
    return count


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What differs between the records of a graph, but for the files of projects that are written in both."""
    for key in ("digest", "notes"):
        if _renamed_json(old.get(key)) != json.dumps(new.get(key)):
            yield f"{key}: {old.get(key)} -> {new.get(key)}"
    for part in ("estimates", "projects"):
        one, other = old.get(part, {}), new.get(part, {})
        for key in sorted({*one, *other}):
            written = part == "projects" and isinstance(one.get(key), dict) and isinstance(other.get(key), dict)
            if not written and _renamed_json(one.get(key)) != json.dumps(other.get(key)):
                yield f"{key}: {part}:\n  {one.get(key)}\n  {other.get(key)}"


def _file_pairs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(project and path, digest before and after, or "") of the files of projects that are written in both."""
    for key, other in sorted(new["projects"].items()):
        one = old.get("projects", {}).get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            one = {renamed(path): digest for path, digest in one.items()}
            for path in sorted({*one, *other}):
                yield f"{key}: {path}", one.get(path, ""), other.get(path, "")


def _print_difference(before: Path, after: Path, digest: str, new_digest: str, places: list[str]) -> int:
    """Print the lines that differ between two kept files, for all places that have them; how many places differ."""
    was, now = renamed(text(before, digest)), text(after, new_digest)
    if was == now:
        return 0
    print(f"{len(places)} files, the first {places[0]}")
    lines = difflib.unified_diff(was.splitlines(), now.splitlines(), lineterm="", n=0)
    print("\n".join(f"    {line[:200]}" for line in list(lines)[:12]))
    return len(places)


def _renamed_json(value: Any) -> str:
    return renamed(json.dumps(value))


def text(folder: Path, digest: str) -> str:
    """The text of a kept file; empty where there is none."""
    return STAMP.sub(rb"\1", (folder / "files" / digest).read_bytes()).decode(errors="replace") if digest else ""


def renamed(text: str) -> str:
    """A text of before with the words of now."""
    for pattern, word in RENAMES:
        text = re.sub(pattern, word, text)
    return text


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"] and len(sys.argv) > 2:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        record(Path(sys.argv[2]).absolute(), tuple(sys.argv[3:]))
    elif sys.argv[1:2] == ["diff"] and len(sys.argv) == 4:
        raise SystemExit(diff(Path(sys.argv[2]), Path(sys.argv[3])) > 0)
    else:
        raise SystemExit(__doc__)
