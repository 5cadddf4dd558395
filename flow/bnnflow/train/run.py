"""A training run in a folder: a checked config, checkpoints that a killed run is resumed from, and what comes out.

DIR/run.yaml says what is trained, checkpoint.npz how far it is, history.csv and history.svg how it went, model.h5,
result.yaml and, of a network with thermometers, tone_curves.svg are the result. Every file is written beside its place
and moved there, so none is ever half written.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import inspect
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import yaml

from bnnflow.errors import BnnflowError, InputError
from bnnflow.files import existing, whole_file
from bnnflow.generation import kept_generators, keras
from bnnflow.ir.input_types import InputType, checked_type
from bnnflow.recipe import Config, read_yaml
from bnnflow.tables import html_table
from bnnflow.train.fit import Arrays, Row, Training
from bnnflow.train.plots import plot_history, plot_tone_curves, thermometers_of
from bnnflow.train.saving import with_input_type

__all__ = ["Network", "Result", "network_of_file", "train"]


@dataclass(frozen=True)
class Network:
    """What is trained: `build(**arguments)` gives a Keras model, `data(**arguments)` the four arrays.

    `defaults` are values of the config, `source` identifies the code (it is part of the run's digest), `input_type` is
    that of the inputs, None where it is not known.
    """

    name: str
    build: Callable[..., Any]
    data: Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    input_type: InputType | None = None

    @classmethod
    def of(cls, module: Any, name: str, source: str) -> Network:
        """From a module with `build` and `data`, and perhaps `TRAINING` and `INPUT_TYPE`.

        Raises InputError where it lacks one.
        """
        for function in ("build", "data"):
            if not callable(getattr(module, function, None)):
                raise InputError(f"{name}: has no function {function}(); a network needs build() -> Keras model and "
                                 "data() -> x_train, y_train, x_test, y_test")
        input_type = getattr(module, "INPUT_TYPE", None)
        return cls(name, module.build, module.data, dict(getattr(module, "TRAINING", {})), source,
                   None if input_type is None else checked_type(input_type))


@dataclass(frozen=True)
class Result:
    """The result of a run: test accuracy (0..1) of the hard network, the epoch (from 1) of its weights, the file."""

    accuracy: float
    epoch: int
    model: Path

    def _repr_html_(self) -> str:
        rows = [("test accuracy, hard-quantised", f"{self.accuracy:.4f}"), ("epoch", self.epoch), ("model", self.model)]
        return html_table("Training", ("", ""), rows)


def network_of_file(path: str | os.PathLike[str]) -> Network:
    """The network of a Python file, which is executed; raises InputError where that fails."""
    source = existing(path, "Python")
    spec = importlib.util.spec_from_file_location(f"bnnflow_network_{source.stem}", source)
    if spec is None or spec.loader is None:
        raise InputError(f"{source}: expected a Python file (.py) with build() and data()")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _blamed(str(source)):
        spec.loader.exec_module(module)
    return Network.of(module, str(source), hashlib.sha256(source.read_bytes()).hexdigest())


def train(network: Network, config: Config, output_dir: str | os.PathLike[str], resume: bool = False,
          teacher: keras.Model | None = None, checkpoint_seconds: float = 60.0, checkpoint_steps: int = 0,
          report: Callable[[int, int, Row | None], None] = lambda *_: None) -> Result:
    """Train a network in a folder, or go on where its run was interrupted.

    A resumed run ends in the same weights, bit for bit, as one that was not (CPU, one version of TensorFlow). SIGINT
    and SIGTERM end it with a checkpoint after the step, as KeyboardInterrupt; otherwise there is one every
    `checkpoint_seconds`, every `checkpoint_steps` if not 0, and at the end of every epoch. `report(step, steps, row)`
    is called after every step, with the row of the history at the end of an epoch.

    Seeds Python, NumPy and TensorFlow and makes TensorFlow's operations deterministic, for the whole process. Raises
    InputError for a folder that holds something else, another config, or a network whose steps cannot be repeated.
    """
    folder = Path(output_dir)
    stored = _stored_run(folder, resume)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.recipe.seed)
    arrays: Arrays = _call(network, "data", config.data)
    training = Training(_built(network, config), arrays, config.recipe, teacher)
    unseen = list(training.hidden(teacher))
    if unseen:
        raise InputError(f"{network.name}: a resumed run would differ, because a step depends on {'; '.join(unseen)}. "
                         "Use Keras' own Dropout and noise layers, and quantizers that are not stochastic")
    _claim(folder, _description(network, config, arrays), stored)
    checkpoint = folder / "checkpoint.npz"
    if checkpoint.exists():
        _restore(training, checkpoint)
    _loop(training, folder, checkpoint_seconds, checkpoint_steps, report)
    if network.input_type is not None:
        with_input_type(training.model, network.input_type)
    return _finished(training, folder)


def _loop(training: Training, folder: Path, seconds: float, steps: int,
          report: Callable[[int, int, Row | None], None]) -> None:
    last = time.monotonic()
    with _signals() as caught:
        while not training.done:
            row = training.advance()
            late = time.monotonic() - last >= seconds or (steps and training.step % steps == 0)
            if row is not None or late or caught:
                _save(training, folder / "checkpoint.npz")
                last = time.monotonic()
            if row is not None:
                _write_history(training.rows, folder / "history.csv")
            report(training.step, training.steps, row)
            if caught:
                raise KeyboardInterrupt


def _finished(training: Training, folder: Path) -> Result:
    """Write the files of the result."""
    accuracy = training.finish()
    epoch = training.best[0] if training.best else training.recipe.epochs
    result = Result(accuracy, epoch, folder / "model.h5")
    with whole_file(folder / "history.svg") as path:
        plot_history(training.rows, path)
    if thermometers_of(training.model):
        with whole_file(folder / "tone_curves.svg") as path:
            plot_tone_curves(training.model, path)
    with whole_file(result.model) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras prefers .keras, which cannot hold every QActivation
        training.model.save(path, include_optimizer=False)
    _write_yaml({"test_accuracy": accuracy, "test_samples": len(training.test[0]), "epoch": epoch},
                folder / "result.yaml")
    return result


def _built(network: Network, config: Config) -> Any:
    """The model; its dropout and noise draw from generators whose state is a variable, so that it can be saved."""
    arguments = dict(config.build)
    if "seed" in inspect.signature(network.build).parameters:
        arguments.setdefault("seed", config.recipe.seed)
    with kept_generators():
        return _call(network, "build", arguments)


def _call(network: Network, name: str, arguments: Mapping[str, Any]) -> Any:
    """`build` or `data` of a network with arguments of the config; raises InputError where it does not take them."""
    function = getattr(network, name)
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"{network.name}: {name}{signature} cannot be called with {dict(arguments)}: {error}") \
            from error
    with _blamed(f"{network.name}: {name}()"):
        return function(**arguments)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into an InputError that names the code and the line."""
    try:
        yield
    except BnnflowError:
        raise
    except Exception as error:  # the user's own code can raise anything; the cause is kept
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(f"{what} failed: {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})") \
            from error


def _description(network: Network, config: Config, arrays: Arrays) -> dict[str, Any]:
    """What run.yaml says; the digest covers the network's code, the config, the data and the teacher."""
    digest = hashlib.sha256(json.dumps([network.name if not network.source else network.source, config.text],
                                       sort_keys=True, default=str).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    if config.teacher:
        digest.update(existing(config.teacher, "teacher").read_bytes())
    return {"network": network.name, "input_type": network.input_type, "tensorflow": tf.__version__,
            "digest": digest.hexdigest(), "config": json.loads(json.dumps(config.text, default=str))}


def _stored_run(folder: Path, resume: bool) -> dict[str, Any] | None:
    """What run.yaml of a folder says, None for a new one; raises InputError where the folder cannot be used."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    if not (folder / "run.yaml").exists():
        if folder.exists() and any(not part.name.startswith(".") for part in folder.iterdir()):
            raise InputError(f"{folder} is not empty and holds no training run; name another folder")
        return None
    if not resume:
        raise InputError(f"{folder} holds a training run; --resume continues it, or name another folder")
    stored = read_yaml(folder / "run.yaml")
    if not isinstance(stored, dict) or "digest" not in stored:
        raise InputError(f"{folder / 'run.yaml'} is damaged; remove the folder and start anew")
    return stored


def _claim(folder: Path, described: dict[str, Any], stored: dict[str, Any] | None) -> None:
    """Write run.yaml, or raise InputError where the stored one is of another run."""
    if stored is None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_yaml(described, folder / "run.yaml")
    elif stored["digest"] != described["digest"]:
        old, new = ({"network": run.get("network"), **dict(run.get("config") or {})} for run in (stored, described))
        other = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        raise InputError(f"{folder}: its run is another one: {', '.join(other) or 'code, data or teacher'} differ; "
                         "resume with what it was started with, or name another folder")


def _save(training: Training, path: Path) -> None:
    best = training.best[0] if training.best else None
    meta = json.dumps({"rows": training.rows, "best_epoch": best})
    arrays: dict[str, Any] = {"meta": np.array(meta), **training.state()}
    with whole_file(path) as part:
        np.savez(part, **arrays)


def _restore(training: Training, path: Path) -> None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            state = {name: stored[name] for name in stored.files}
        meta = json.loads(str(state.pop("meta")))
        training.restore(state, meta["rows"], meta["best_epoch"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # whatever a damaged file makes the readers raise; the cause is kept
        raise InputError(f"{path}: damaged ({error!r:.200}); remove the folder and start anew") from error


def _write_yaml(values: dict[str, Any], path: Path) -> None:
    with whole_file(path) as part:
        part.write_text(yaml.safe_dump(values, sort_keys=False))


def _write_history(rows: list[Row], path: Path) -> None:
    with whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the step under way can end; a second signal interrupts at once.

    Outside the main thread, where Python does not allow it, nothing is collected.
    """
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where no signal arrives anyway
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
