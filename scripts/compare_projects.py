"""Does a change of the code change what it writes? Sixty graphs as projects of every backend, before and after.

    python scripts/compare_projects.py record BEFORE           # in a checkout of the commit before
    python scripts/compare_projects.py record AFTER [GRAPH...] # in this one; graphs whose names begin so
    python scripts/compare_projects.py diff BEFORE AFTER

`record` lowers models, makes random graphs, and writes each of them with every backend, `io_type` and strategy. It keeps
all files of every project, the digest and the estimates of every graph, and the message where a project is refused.
`diff` lists what is not the same byte for byte once the intended renames (RENAMES) are made in what was before; its
exit code is 1 where anything is left.
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
    (r"\bcut(\+\+|\])", r"threshold\1"),
)
STAMP = re.compile(rb"(Stamp: |LIB_STAMP=)[0-9a-f]+")  # hls4ml's, random
ROWS = (
    "kernel-ternary_auto_po2", "kernel-quantized_bits", "kernel-masked_alpha_beta", "kernel-multi_branch_4",
    "activation-quantized_relu", "activation-quantized_po2", "activation-quantized_hswish", "argument-binary_use_01",
    "layer-thermometer_image", "layer-batchnorm_permute", "layer-rescaling", "layer-conv1d_causal",
    "layer-conv2d_groups", "layer-conv2d_codebook", "layer-depthwise", "layer-separable2d", "layer-max_pooling2d",
    "layer-average_pooling2d_same", "layer-zero_padding_alone", "layer-upsampling2d", "layer-softmax",
    "model-concatenate_mixed", "model-add_mixed", "model-logic_or", "model-channel_select", "model-nested",
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
    seen: dict[tuple[str, str], list[str]] = {}
    count = files = 0
    for name in new:
        a, b = old.get(name, {}), new[name]
        for key in ("digest", "notes"):
            if renamed(json.dumps(a.get(key))) != json.dumps(b.get(key)):
                count += 1
                print(f"{name}: {key}: {a.get(key)} -> {b.get(key)}")
        for part in ("estimates", "projects"):
            for key in sorted({*a.get(part, {}), *b.get(part, {})}):
                one, other = a.get(part, {}).get(key), b.get(part, {}).get(key)
                if part == "estimates" or not (isinstance(one, dict) and isinstance(other, dict)):
                    if renamed(json.dumps(one)) != json.dumps(other):
                        count += 1
                        print(f"{name} {key}: {part}:\n  {one}\n  {other}")
                    continue
                one = {renamed(path): digest for path, digest in one.items()}
                for path in sorted({*one, *other}):
                    files += 1
                    pair = (one.get(path, ""), other.get(path, ""))
                    if pair[0] != pair[1]:
                        seen.setdefault(pair, []).append(f"{name} {key}: {path}")
    for (a_digest, b_digest), places in seen.items():
        texts = [text(before, a_digest), text(after, b_digest)]
        if renamed(texts[0]) != texts[1]:
            count += len(places)
            print(f"{len(places)} files, the first {places[0]}")
            lines = difflib.unified_diff(renamed(texts[0]).splitlines(), texts[1].splitlines(), lineterm="", n=0)
            print("\n".join(f"    {line[:200]}" for line in list(lines)[:12]))
    print(f"{len(new)} of {len(old)} graphs, {files} files, {count} differ")
    return count


def text(folder: Path, digest: str) -> str:
    """The text of a kept file; empty where there is none."""
    return (folder / "files" / digest).read_text(errors="replace") if digest else ""


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
