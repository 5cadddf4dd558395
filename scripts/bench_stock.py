"""Stock hls4ml 1.3.0 beside bnnflow on the trained jet taggers of scripts/nairods.py: who computes Keras' outputs?

    python scripts/bench_stock.py FOLDER [--inputs 10000] [--networks N] [--environment DIR]

Stock hls4ml needs an older TensorFlow than bnnflow, so that the first run makes a virtualenv for it (2 GB, Python 3.10
or 3.11). Every network is converted, compiled and run there in a process of its own, from Keras' configuration and
weights. That process first checks that its Keras gives the same logits as ours.

Prints one row a network. "argmax" is the share of inputs with Keras' decision, which for a single output is a logit
above 0, and "exact" the share of outputs that are equal to Keras' logits; "1" is all of them. A share below 1 for
bnnflow is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

# 2.14.1 is the newest TensorFlow that hls4ml's QKeras extra takes. QKeras imports pyparsing but declares pyparser.
PINS = ("hls4ml[qkeras]==1.3.0", "tensorflow==2.14.1", "qkeras==0.9.0", "pyparsing==3.3.3")
OPTIONS: dict[str, dict[str, str]] = {"default fixed<16,6>": {}, "fixed<32,16>": {"default_precision": "fixed<32,16>"}}
Shares = tuple[float, float]  # of decisions equal, of outputs equal
SAID = ("name", "units", "use_bias", "activation", "kernel_quantizer", "bias_quantizer", "epsilon", "momentum")
CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL)


def interpreter() -> str:
    """A Python that TensorFlow 2.14.1 has wheels for."""
    from bnnflow import ToolError

    if sys.version_info < (3, 12):
        return sys.executable
    path = which("python3.11") or which("python3.10")
    if path is None:
        raise ToolError("stock hls4ml needs TensorFlow 2.14.1, and that needs Python 3.10 or 3.11: put one on PATH")
    return path


def environment(folder: Path) -> Path:
    """The Python of a virtualenv with PINS in `folder`, which is made where it is missing or has other pins."""
    from bnnflow import InputError, ToolError
    from bnnflow.toolchains.process import call

    python, made = folder / "bin" / "python", folder / "stock-pins.txt"
    if made.is_file() and made.read_text().split() == list(PINS):
        return python
    if folder.exists() and not made.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and was not made by this script: give another --environment")
    print(f"making {folder}: {' '.join(PINS)}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    made.write_text("")
    venv = [interpreter(), "-m", "venv", str(folder)]
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *PINS]
    try:
        call(venv, folder, folder / "venv.log", timeout=300)
        call(pip, folder, folder / "pip.log", timeout=3600)
    except ToolError as error:
        raise ToolError(f"no environment for stock hls4ml (python -m venv, pip install): {error}") from error
    made.write_text("\n".join(PINS) + "\n")
    return python


def reference(path: Path, codes: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """(Keras model, Keras' logits, bnnflow's logits) of a network."""
    import nairods

    import bnnflow as bf
    from bnnflow.frontends.keras.reference import keras_activations

    model = nairods.network(path)
    last = model.layers[-1].name
    graph = bf.lower(model, "fixed<16,6>")
    return model, keras_activations(model, [last], codes / 1024)[last], graph.decode(bf.run(graph, codes))


def hand_over(model: Any, scratch: Path, **arrays: np.ndarray) -> None:
    """Write a model and arrays for a process of the other environment: of each layer's configuration what matters,
    quantizers and functions by name, because another Keras knows no more.
    """
    layers = [{"class": type(layer).__name__,
               "config": {key: _named(value) for key, value in layer.get_config().items() if key in SAID}}
              for layer in model.layers[1:]]
    (scratch / "layers.json").write_text(json.dumps(layers))
    np.savez(scratch / "arrays.npz", *model.get_weights(), **arrays)


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return f"{value['class_name']}({', '.join(f'{key}={own!r}' for key, own in value['config'].items())})"
    known = value is None or isinstance(value, (bool, int, float, str))
    return value if known else getattr(value, "__name__", str(value))


def stock(python: Path, model: Any, codes: np.ndarray, logits: np.ndarray,
          scratch: Path) -> dict[str, np.ndarray | str]:
    """Stock hls4ml's outputs for each of OPTIONS, or the message of what it raised."""
    from bnnflow.toolchains.process import call

    hand_over(model, scratch, x=codes / 1024, logits=logits)
    code = call([str(python), "-I", str(Path(__file__).resolve()), "--worker", str(scratch)], scratch,
                python.parent.parent / "worker.log", timeout=1800, ok=(0, *CRASHES))
    found: dict[str, np.ndarray | str] = {}
    for k, option in enumerate(OPTIONS):
        if (scratch / f"outputs{k}.npy").exists():
            found[option] = np.load(scratch / f"outputs{k}.npy").reshape(logits.shape)
        elif (scratch / f"error{k}.txt").exists():
            found[option] = (scratch / f"error{k}.txt").read_text()
        else:
            found[option] = f"crashed: {signal.Signals(-code).name}"
    return found


def rate(python: Path, model: Any, x: np.ndarray, scratch: Path) -> float:
    """Samples a second of a model's C++ by stock hls4ml, compiled; x float32 (n, features)."""
    from bnnflow.toolchains.process import call

    hand_over(model, scratch, x=x)
    call([str(python), "-I", str(Path(__file__).resolve()), "--time", str(scratch)], scratch, scratch / "worker.log",
         timeout=1800)
    return float((scratch / "rate.txt").read_text())


def shares(outputs: np.ndarray, logits: np.ndarray) -> Shares:
    """The shares of equal decisions, and of equal outputs."""
    ours, theirs = ((a.argmax(axis=1) if a.shape[1] > 1 else a > 0) for a in (outputs, logits))
    return float(np.mean(ours == theirs)), float(np.mean(outputs == logits))


def cells(result: Shares | str) -> list[str]:
    """Two cells of the table: the shares, or the first line of an exception."""
    if isinstance(result, str):
        return [(result.splitlines() or [""])[0].replace("|", "\\|"), ""]
    return ["1" if share == 1 else f"{share:.5f}" for share in result]


def mean(results: list[Shares | str]) -> list[str]:
    """Two cells of the table: the means over the networks that ran."""
    ran = [result for result in results if not isinstance(result, str)]
    if not ran:
        return ["none ran", ""]
    argmax, exact = cells((float(np.mean([r[0] for r in ran])), float(np.mean([r[1] for r in ran]))))
    return [argmax + ("" if len(ran) == len(results) else f" ({len(ran)} of {len(results)})"), exact]


def compared(file: Path, codes: np.ndarray, python: Path) -> dict[str, Shares | str]:
    """The shares of a network by who computes it, or what was raised."""
    from bnnflow import ToolError

    model, logits, ours = reference(file, codes)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            outputs = {**stock(python, model, codes, logits, Path(scratch)), "bnnflow": ours}
        except ToolError as error:
            raise ToolError(f"{file}: the process of stock hls4ml failed: {error}") from error
    return {name: values if isinstance(values, str) else shares(values, logits) for name, values in outputs.items()}


def bench(files: list[Path], codes: np.ndarray, python: Path) -> None:
    """A row for every network, and the means."""
    from bnnflow import Mismatch

    columns: dict[str, list[Shares | str]] = {}
    heads = [f"{name}: {what}" for name in (*(f"stock, {option}" for option in OPTIONS), "bnnflow")
             for what in ("argmax", "exact")]
    print(f"| network | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}", flush=True)
    for file in files:
        row = []
        for name, result in compared(file, codes, python).items():
            columns.setdefault(name, []).append(result)
            row += cells(result)
        print(f"| {file.parent.name}/{file.name.split('__')[0]} | {' | '.join(row)} |", flush=True)
    print(f"| mean of {len(files)} | {' | '.join(cell for column in columns.values() for cell in mean(column))} |")
    if any(result != (1, 1) for result in columns["bnnflow"]):
        raise Mismatch("bnnflow differs from Keras")


def rebuilt(layers: list[dict[str, Any]], arrays: Any) -> Any:
    """The Keras model of QKeras layers in a row, under the worker's TensorFlow."""
    import qkeras
    from tensorflow import keras

    known = {**vars(keras.layers), **vars(qkeras)}
    inputs = outputs = keras.Input(arrays["x"].shape[1:], name="features")
    for layer in layers:
        outputs = known[layer["class"]].from_config(layer["config"])(outputs)
    model = keras.Model(inputs, outputs)
    model.set_weights([arrays[f"arr_{k}"] for k in range(len(model.weights))])
    return model


def taken_over(folder: Path) -> tuple[Any, Any]:
    """(The model, the arrays) that `hand_over` has written."""
    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # wanted by bnnflow's TensorFlow only
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    arrays = np.load(folder / "arrays.npz")
    return rebuilt(json.loads((folder / "layers.json").read_text()), arrays), arrays


def compiled(model: Any, project: Path, options: dict[str, str]) -> Any:
    """The model of stock hls4ml, its C++ compiled."""
    import hls4ml

    config = hls4ml.utils.config_from_keras_model(model, granularity="name", backend="Vitis", **options)
    found = hls4ml.converters.convert_from_keras_model(model, hls_config=config, output_dir=str(project),
                                                       backend="Vitis", io_type="io_parallel")
    found.compile()
    return found


def worker(folder: Path) -> None:
    """In the environment of stock hls4ml: outputs of each of OPTIONS, or what it raised, into files of `folder`."""
    model, arrays = taken_over(folder)
    differ = int(np.sum(model.predict(arrays["x"], batch_size=1024, verbose=0) != arrays["logits"]))
    if differ:
        sys.exit(f"error: Keras of this environment gives other logits: {differ} of {arrays['logits'].size} differ")
    for k, options in enumerate(OPTIONS.values()):
        try:
            np.save(folder / f"outputs{k}.npy", compiled(model, folder / f"project{k}", options).predict(arrays["x"]))
        except Exception as error:
            (folder / f"error{k}.txt").write_text(f"{type(error).__name__}: {error}")


def timed(folder: Path) -> None:
    """In the environment of stock hls4ml: samples a second of its C++, into rate.txt."""
    network, arrays = taken_over(folder)
    model = compiled(network, folder / "project", {})
    x = np.ascontiguousarray(arrays["x"])
    model.predict(x[:10])
    start = time.perf_counter()
    model.predict(x)
    (folder / "rate.txt").write_text(repr(len(x) / (time.perf_counter() - start)))


def main() -> None:
    if sys.argv[1:2] == ["--time"]:
        timed(Path(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
        return
    from nairods import inputs

    from bnnflow import BnnflowError, InputError
    from bnnflow.toolchains.process import GXX, need

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the .weights.h5 files")
    parser.add_argument("--inputs", type=int, default=10000)
    parser.add_argument("--networks", type=int, help="only the first N")
    parser.add_argument("--environment", type=Path, default=Path("~/.cache/bnnflow/stock-hls4ml"),
                        help="folder of stock hls4ml's virtualenv, made where it is missing")
    args = parser.parse_args()
    try:
        files = sorted(args.folder.rglob("*.weights.h5"))[: args.networks]
        if not files or args.inputs < 1 or (args.networks or 1) < 1:
            raise InputError(f"nothing to run: no .weights.h5 file in {args.folder}, or --networks or --inputs below 1")
        need(GXX)
        bench(files, inputs(args.inputs), environment(args.environment.expanduser().resolve()))
    except BnnflowError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
