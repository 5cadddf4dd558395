"""The command line, one command a verb. Exit codes: 0 equal and done, 1 mismatch, 2 bad input, 3 tool trouble."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import bnnflow as bf
from bnnflow.backends.backend import AUTO, BACKENDS, BuildConfig
from bnnflow.backends.netlist.goals import GOALS
from bnnflow.errors import BnnflowError, InputError, Mismatch, Note, ToolError, as_given, choice, on_command_line
from bnnflow.facts.facts import CODE, Facts
from bnnflow.files import existing, whole_file
from bnnflow.ir import Graph, Weights, fixed
from bnnflow.ir.evaluate import ENGINE, ENGINES, given_codes, per_input, run_given
from bnnflow.ir.input_types import InputType, checked_type, model_file, narrowest_type
from bnnflow.recipe import config_of
from bnnflow.toolchains import process
from bnnflow.toolchains.toolchain import TOOLCHAINS, VIA, Option, Toolchain, programs, simulators, synthesizers

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Binary, ternary and sparse-binary networks from QKeras to FPGAs, bit for bit.")
# Tables that go into a file or a pipe are as wide as they are.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
err = Console(stderr=True)



def _clock(given: Any) -> float | str:
    """A clock period as it is given: AUTO, or a number."""
    return AUTO if given == AUTO else float(given)


Model = Annotated[Path, typer.Argument(help="a Keras model (.keras, .h5), the folder of a training run, or a graph "
                                            "(.npz of `bnnflow lower`)")]
InType = Annotated[str | None, typer.Option("--input-type", help="type of the inputs, hls4ml's notation; ufixed<8,0> "
                                                                 "for pixels/256. from:inputs.npy: the narrowest that "
                                                                 "holds these. By default that in the model's file")]
OutputType = Annotated[str | None, typer.Option(help="type of logits that need rounding; 24 bits by default")]
Argmax = Annotated[bool, typer.Option("--argmax", help="outputs are classes, the place of the largest logit")]
Backend = Annotated[str, typer.Option(help=choice(BACKENDS))]
Part = Annotated[str, typer.Option(help="FPGA part")]
Clock = Annotated[Any, typer.Option(parser=_clock, metavar="NS", help="clock period in ns; auto, for backend Verilog: "
                                                                      "the one with the fewest ns of latency")]
Encoder = Annotated[str, typer.Option(help="inside, or outside: the thermometer's planes are the project's input")]
Reuse = Annotated[int, typer.Option(help="Latency: initiation interval in cycles; else cycles that a sum may take")]
IoType = Annotated[str, typer.Option(help="io_parallel (arrays) or io_stream (pixel by pixel)")]
Strategy = Annotated[str, typer.Option(help="Latency (unrolled, one pipeline), Resource (loops, DATAFLOW) or "
                                                   "distributed_arithmetic (unrolled, a netlist: docs/logic.md)")]
Netlist = Annotated[str, typer.Option(help=f"what netlists are to be best at: {choice(GOALS)} (LUTs x ns), or ns that "
                                          "no layer's logic should take more of")]
Layers = Annotated[list[str] | None, typer.Option("--layer", help="NODE:reuse_factor=4,strategy=Resource for one node; "
                                                                  "repeat it for others")]
Interval = Annotated[int | None, typer.Option(help="fold every sum as far as it keeps up with an input every so many "
                                                   "cycles")]
Throughput = Annotated[float | None, typer.Option(help="the same for so many inputs a second at --clock-period")]
Fit = Annotated[bool, typer.Option("--fit", help="fold every sum so that the design is as fast as fits --part")]
Combinational = Annotated[bool, typer.Option("--combinational", help="without registers, for backend " + choice(
    name for name, backend in BACKENDS.items() if "pipelined" not in backend.fixed))]
NETWORKS = ("digits", "mnist", "mnist_lut", "mnist_sbnn", "jets", "cnv", "glt")  # of bnnflow.models


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="print the version and leave")] = False) -> None:
    if version:
        print(f"bnnflow {bf.__version__}")
        raise typer.Exit
    logger = logging.getLogger("bnnflow")
    if not logger.handlers:
        logger.addHandler(_Said())
        logger.setLevel(logging.INFO)


def _tools(able: Mapping[str, Toolchain]) -> str:
    """Which toolchains there are for projects in which language, as a help text."""
    languages = dict.fromkeys(toolchain.language for toolchain in able.values())
    names = {language: choice(name for name, t in able.items() if t.language == language) for language in languages}
    return "; ".join(f"{names[language]} for {language}" for language in languages) + "; by default that of the backend"


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Show what runs and for how long: a spinner on a terminal, else a line when it takes over two seconds."""
    start = time.monotonic()
    if err.is_terminal:
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err,
                      transient=True) as bar:
            bar.add_task(what, total=None)
            yield
    else:
        yield
    seconds = time.monotonic() - start
    if seconds > 2:
        err.print(f"{what}: {seconds:.1f} s", highlight=False)


def _say(line: str) -> None:
    """A line of a tool's output as it comes."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


class _Said(logging.Handler):
    """What the package logs (how long a tool has run, what will take minutes), as lines."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


def _import_keras() -> None:
    """Import TensorFlow without its banner; if that fails, the banner is shown."""
    # QKeras' initializers and serialisation make Keras warn of what no user can change.
    warnings.filterwarnings("ignore", category=UserWarning, module="tf_keras")
    with doing("loading TensorFlow"), tempfile.TemporaryFile() as banner:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(banner.fileno(), 2)
        try:
            import bnnflow.train  # noqa: F401, I001  (before TensorFlow, for which it chooses the legacy Keras)
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            banner.seek(0)
            os.write(saved, banner.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _graph(model: Path, input_type: str | None, output_type: str | None, argmax: bool = False) -> Graph:
    """A graph from either kind of file. What can be refused without TensorFlow is refused before it is loaded."""
    if model.suffix == ".npz":
        types = {name: value for name, value in (("input_type", input_type), ("output_type", output_type)) if value}
        if types:
            raise InputError(f"{as_given(**types)}: {model} is a graph, which has its types; leave it out, or lower "
                             "the Keras model again")
        graph = bf.load(model)
    else:
        existing(model_file(model), "model")
        known = None if input_type is None else _input_type(input_type)
        if output_type is not None:
            fixed(output_type)
        _import_keras()
        with doing(f"lowering {model.name}"):
            graph = bf.lower(model, known, output_type)
    return bf.argmax(graph) if argmax else graph


def _input_type(text: str) -> InputType:
    """What --input-type says: a type, or the file of the inputs that it is to hold."""
    kind, colon, file = text.partition("from:")
    if kind or not colon:
        return checked_type(text)
    found: InputType = narrowest_type(_arrays(Path(file)))
    said = found if isinstance(found, str) else ", ".join(f"{name} {one}" for name, one in found.items())
    err.print(f"input type {said}: the narrowest that holds {file}", markup=False, highlight=False, soft_wrap=True)
    return found


def _arrays(path: Path | None) -> Any:
    """The array of an .npy file, which stays on the disk, or those of an .npz file by name."""
    if path is None:
        return None
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except Exception as error:  # whatever a damaged file makes NumPy raise; the cause is kept
        raise InputError(f"{path}: not a readable .npy array: {error!r:.200}") from error


def _array(path: Path | None) -> Any:
    array = _arrays(path)
    if isinstance(array, dict):
        raise InputError(f"{path}: holds several arrays; save one with numpy.save")
    return array


def _layers(texts: list[str]) -> dict[str, dict[str, Any]]:
    """NODE:key=value,key=value -> {node: {key: value}}."""
    layers: dict[str, dict[str, Any]] = {}
    for text in texts:
        node, _, options = text.partition(":")
        pairs = [option.partition("=") for option in options.split(",")]
        if not all(key and value for key, _, value in pairs):
            raise InputError(f"--layer {text!r}: write NODE:reuse_factor=4 or NODE:strategy=Resource,reuse_factor=4")
        layers.setdefault(node, {}).update({key: _number(value) for key, _, value in pairs})
    return layers


def _number(text: str) -> float | str:
    """A number where the text is one that can be an option's, else the text."""
    if re.fullmatch(r"[0-9]{1,30}\.[0-9]{1,30}", text):
        return float(text)
    return int(text) if re.fullmatch("[0-9]{1,30}", text) else text


def _describe(graph: Graph) -> Table:
    table = Table("node", "op", "shape", "codes", "weights, non-zero", box=None, pad_edge=False)
    for node in graph:
        weights = node.params.effective if isinstance(node.params, Weights) else None
        table.add_row(node.name, node.op.value, "x".join(map(str, node.shape)), f"{node.domain.lo}..{node.domain.hi}",
                      "" if weights is None else f"{weights.size:,}, {int(np.count_nonzero(weights)):,}")
    return table


def _network(name: str) -> Any:
    """A network of ours by its name, or that of a Python file."""
    from importlib import import_module

    from bnnflow.train.run import Network, network_of_file

    if name in NETWORKS:
        return Network.of(import_module(f"bnnflow.models.{name}"), name, "")
    return network_of_file(name)


@app.command()
def train(network: Annotated[str, typer.Argument(help=f"{', '.join(NETWORKS)}, or the path of a Python file with "
                                                      "build() and data(): the file is run")],
          config: Annotated[Path | None, typer.Option(help="YAML file; docs/training.md has its keys")] = None,
          output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="folder of the run")] = Path("run"),
          resume: Annotated[bool, typer.Option("--resume", help="go on where the run in the folder was interrupted, "
                                                                "or start one where there is none")] = False,
          checkpoint_seconds: Annotated[float, typer.Option(help="most seconds between checkpoints")] = 60.0) -> None:
    """Train a network; resumable, with the accuracy of what ships."""
    if network not in NETWORKS:
        if not network.endswith(".py"):
            raise InputError(f"network {network!r}; use one of {', '.join(NETWORKS)}, or the path of a Python file "
                             "(.py)")
        existing(network, "Python")
    config_of(config, {})  # with what the network has of its own it is checked again, once TensorFlow is loaded
    _import_keras()
    from bnnflow.frontends.keras.reading import read_model
    from bnnflow.train.run import train as run

    found = _network(network)
    checked = config_of(config, found.defaults)
    teacher = read_model(checked.teacher) if checked.teacher else None
    with Progress(TextColumn("training {task.fields[name]}"), BarColumn(), TextColumn("{task.description}"),
                  TimeElapsedColumn(), console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None, name=escape(found.name))

        def report(step: int, steps: int, row: dict[str, Any] | None) -> None:
            bar.update(task, completed=step, total=steps)
            if row is not None:
                line = f"epoch {row['epoch']}/{checked.recipe.epochs}: " + ", ".join(
                    f"{name} {row[name]:.4f}" for name in ("loss", "accuracy", "val_accuracy", "zeros")
                    if row.get(name) is not None and (name != "zeros" or row[name]))
                bar.update(task, description=line)
                if bar.disable:
                    err.print(line, highlight=False)

        try:
            result = run(found, checked, output_dir, resume, teacher, checkpoint_seconds, report=report)
        except KeyboardInterrupt:
            err.print(f"{escape(str(output_dir))}: the same command with --resume goes on", highlight=False)
            raise
    out.print(f"test accuracy, hard-quantised: {result.accuracy:.4f} (weights of epoch {result.epoch} of "
              f"{checked.recipe.epochs})", highlight=False)
    unknown = "" if found.input_type else " --input-type from:inputs.npy"
    out.print(f"next: bnnflow build {escape(str(result.model))}{unknown} -o prj", highlight=False, soft_wrap=True)


@app.command()
def lower(model: Model,
          output: Annotated[Path, typer.Option("--output", "-o", help="graph file to write")] = Path("net.npz"),
          input_type: InType = None, output_type: OutputType = None, argmax: Argmax = False) -> None:
    """Turn a Keras model into the integer graph that computes the same codes."""
    graph = _graph(model, input_type, output_type, argmax)
    bf.save(graph, output)
    out.print(_describe(graph))
    for note in graph.notes:
        out.print(f"note: {escape(note)}", highlight=False)
    out.print(f"{output}: digest {graph.digest[:16]}", highlight=False)


@app.command()
def quantize(model: Annotated[Path, typer.Argument(help="a trained Keras model (.keras, .h5) with float kernels")],
             output: Annotated[Path, typer.Option("--output", "-o", help="model to write")] = Path("quantized.keras"),
             domain: Annotated[str, typer.Option(help="alpha-beta: two values a layer")] = "alpha-beta",
             zeros: Annotated[float | None, typer.Option(help="share of each layer's weights at alpha, 0 to 1; by "
                                                              "default the one with the least error")] = None,
             keep: Annotated[list[str] | None, typer.Option(help="layer to leave as it is; repeat it")] = None,
             bits: Annotated[int, typer.Option(help="alpha and beta are integers to 2^bits times a power of two")] = 5
             ) -> None:
    """Turn float kernels into the nearest two-valued ones, in closed form and without training."""
    if domain != "alpha-beta":
        raise InputError(f"--domain {domain!r}; use alpha-beta")
    if output.suffix not in (".keras", ".h5"):
        raise InputError(f"{output}: write a .keras or .h5 file")
    existing(model, "model")
    _import_keras()
    from bnnflow.frontends.keras.reading import read_model
    from bnnflow.train.alphabeta import two_valued
    from bnnflow.train.saving import input_type_of

    with doing(f"quantizing {model.name}"):
        source = read_model(model)
        copy, found = two_valued(source, zeros, keep or (), bits)
        with whole_file(output) as path:
            copy.save(path)
    table = Table("layer", "weights", "at beta", "alpha", "beta", "error, share of sum w^2", box=None, pad_edge=False)
    for name, values in found.items():
        power = float(np.sum(source.get_layer(name).kernel.numpy().astype(np.float64) ** 2)) or 1.0
        table.add_row(escape(name), f"{values.ones.size:,}", f"{values.ones.mean():.2%}", f"{values.alpha:.6g}",
                      f"{values.beta:.6g}", f"{values.error / power:.4f}")
    out.print(table)
    unknown = " --input-type from:inputs.npy" if input_type_of(copy) is None else ""
    out.print(f"{output}: train it on, or `bnnflow build {output}{unknown}`", highlight=False, soft_wrap=True)


@app.command()
def build(model: Model,
          output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="project folder")] = Path("prj"),
          input_type: InType = None, output_type: OutputType = None, argmax: Argmax = False,
          backend: Backend = BuildConfig.backend, part: Part = BuildConfig.part,
          clock_period: Clock = BuildConfig.clock_period, reuse_factor: Reuse = BuildConfig.reuse_factor,
          io_type: IoType = BuildConfig.io_type, strategy: Strategy = BuildConfig.strategy, layer: Layers = None,
          netlist: Netlist = str(BuildConfig.netlist),
          encoder: Encoder = BuildConfig.encoder, combinational: Combinational = False,
          interval: Interval = None, throughput: Throughput = None, fit: Fit = False,
          vectors: Annotated[Path | None, typer.Option(help=".npy of inputs (floats) or codes (integers) for the test "
                                                            "bench")] = None) -> None:
    """Write the HLS or Verilog project of a model or graph."""
    from bnnflow.estimates.balance import check_goal

    config = BuildConfig(output_dir=output_dir, backend=backend, part=part, clock_period=clock_period,
                         io_type=io_type, reuse_factor=reuse_factor, strategy=strategy, encoder=encoder,
                         pipelined=not combinational, netlist=_number(netlist), layers=_layers(layer or []))
    check_goal(interval, throughput, fit)
    arrays = _arrays(vectors)
    config.target.ready()
    graph = _graph(model, input_type, output_type, argmax)
    codes = None if arrays is None else given_codes(graph, arrays)
    with doing(f"writing {output_dir}"):
        project = bf.build(graph, config, codes, interval=interval, throughput=throughput, fit=fit)
    for note in graph.notes:
        out.print(f"note: {escape(note)}", highlight=False)
    if interval or throughput or fit:
        out.print(f"folding: {escape(_foldings(project.config))}", highlight=False, soft_wrap=True)
    out.print(f"{project.path}: {backend} project, graph {project.graph_digest[:16]}", highlight=False)
    if cycles := project.cycles:
        period = project.config.period
        out.print(f"latency: {cycles:,} cycles of {period:g} ns, {round(cycles * period, 6):g} ns", highlight=False)


def _foldings(config: BuildConfig) -> str:
    """What `layers` says, in the words of --layer."""
    return ", ".join(f"{name}:{','.join(f'{key}={value}' for key, value in row.items())}"
                     for name, row in config.layers.items())


def _kind_of_outputs(graph: Graph, output: Path | None) -> str:
    """The suffix of the file of a graph's outputs; InputError where that of `output` is another."""
    kind = ".npy" if len(graph.outputs) == 1 else ".npz"
    if output is not None and output.suffix != kind:
        raise InputError(f"{output}: write an {kind} file, of {len(graph.outputs)} output(s)")
    return kind


@app.command()
def run(model: Model,
        data: Annotated[Path, typer.Argument(help=".npy of inputs (floats) or codes (integers), of any size; .npz of "
                                                  "several")],
        output: Annotated[Path, typer.Option("--output", "-o", help="output codes to write (.npy, or .npz where there "
                                                                    "are several)")] = Path("outputs.npy"),
        input_type: InType = None, output_type: OutputType = None, argmax: Argmax = False,
        engine: Annotated[str | None, typer.Option(help=f"{choice(ENGINES)}: C++, NumPy, or what suits; by default "
                                                        f"what {ENGINE} says, or auto")] = None) -> None:
    """Run a model's or graph's integers on samples: the output codes."""
    x = _arrays(data)
    graph = _graph(model, input_type, output_type, argmax)
    kind = _kind_of_outputs(graph, output)
    samples, start = len(per_input(graph, x)[0]), time.monotonic()
    with whole_file(output) as path, Progress(TextColumn("running"), BarColumn(), TaskProgressColumn(
            show_speed=True), TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=samples)
        done = run_given(graph, x, _on_disk(graph, path, samples) if kind == ".npy" else None, engine,
                         lambda count: bar.update(task, completed=count))
        if kind == ".npz":
            with path.open("wb") as file:
                arrays: dict[str, Any] = dict(zip(graph.outputs, done))
                np.savez(file, **arrays)
    seconds = time.monotonic() - start
    out.print(f"{output}: {samples:,} samples, {sum(array.size for array in done):,} outputs; {seconds:.1f} s, "
              f"{samples / seconds:,.0f} a second", highlight=False, soft_wrap=True)


def _on_disk(graph: Graph, path: Path, samples: int) -> list[Any]:
    """The file of a graph's only output, as an array to write to."""
    shape = (samples, *graph.output.shape)
    if not samples:  # no map is of no bytes
        np.save(path, np.empty(shape, np.int64))
        return [np.load(path)]
    return [np.lib.format.open_memmap(path, "w+", np.int64, shape)]


@app.command()
def sim(project: Annotated[Path, typer.Argument(help="project folder of `bnnflow build`")],
        tool: Annotated[str | None, typer.Option(help=_tools(simulators()))] = None,
        data: Annotated[Path | None, typer.Option(help=".npy of inputs (floats) or codes (integers); by default the "
                                                       "project's own vectors")] = None,
        output: Annotated[Path | None, typer.Option("--output", "-o", help="write the output codes (.npy, or .npz "
                                                                           "where there are several)")] = None,
        via: Annotated[str, typer.Option(help=VIA.help)] = "") -> None:
    """Run the project's C++ or Verilog and compare every output bit with its graph."""
    from bnnflow.backends.project import Project

    opened = Project.open(project)
    graph, tool = opened.graph(), tool or opened.target.simulator
    kind = _kind_of_outputs(graph, output)
    with doing(f"simulation ({tool})"):
        got = bf.simulate(project, _arrays(data), tool, via, _say)
    arrays = [got] if kind == ".npy" else got
    if output is not None:
        with whole_file(output) as path, path.open("wb") as file:
            np.save(file, got) if kind == ".npy" else np.savez(file, **dict(zip(graph.outputs, arrays)))
    out.print(f"equal: {len(arrays[0]):,} samples, {sum(array.size for array in arrays):,} outputs, 0 differ ({tool} "
              f"against graph {graph.digest[:16]})", highlight=False)


def _given(context: typer.Context) -> list[str]:
    """Names of the options and arguments that are on the command line."""
    # By name: which of Click's copies Typer brings along is its own affair.
    return [name for name in context.params
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]


def _refuse_all_but(context: typer.Context, allowed: Iterable[str], why: str) -> None:
    """Raises InputError for what is on the command line and would be ignored without a word."""
    ignored = [f"--{name.replace('_', '-')}" for name in _given(context) if name not in allowed]
    if ignored:
        raise InputError(f"{', '.join(ignored)}: {why}")


@app.command()
def estimate(context: typer.Context,
             design: Annotated[Path, typer.Argument(help="a project folder, a graph (.npz) or a Keras model")],
             input_type: InType = None, output_type: OutputType = None, argmax: Argmax = False,
             backend: Backend = BuildConfig.backend, part: Part = BuildConfig.part,
             clock_period: Clock = BuildConfig.clock_period, reuse_factor: Reuse = BuildConfig.reuse_factor,
             io_type: IoType = BuildConfig.io_type, strategy: Strategy = BuildConfig.strategy, layer: Layers = None,
             netlist: Netlist = str(BuildConfig.netlist),
             encoder: Encoder = BuildConfig.encoder, combinational: Combinational = False,
             interval: Interval = None, throughput: Throughput = None, fit: Fit = False,
             front: Annotated[bool, typer.Option("--front", help="LUTs and ns of the Verilog by each goal of --netlist")
                              ] = False,
             synth: Annotated[bool, typer.Option("--synth", help="by logic synthesis of every kernel (yosys) instead "
                                                                 "of the table; kept with a project, for its report")
                              ] = False) -> None:
    """Estimate resources and latency, without any vendor's tool. A project has its own options."""
    from bnnflow.backends.project import GRAPH, Project
    from bnnflow.estimates.balance import check_goal, fitting
    from bnnflow.estimates.estimate import estimate as table_estimate

    if design.is_dir():
        project = Project.open(design)
        _refuse_all_but(context, ("design", "synth"),
                        f"a project has its own options; for others estimate {design / GRAPH}")
        graph, config = project.graph(), project.config
        with doing("estimating"):
            facts = bf.estimate(design, synthesize=synth)
    else:
        config = BuildConfig(backend=backend, part=part, clock_period=clock_period, io_type=io_type,
                             reuse_factor=reuse_factor, strategy=strategy, encoder=encoder,
                             pipelined=not combinational, netlist=_number(netlist), layers=_layers(layer or []))
        check_goal(interval, throughput, fit)
        graph = _graph(design, input_type, output_type, argmax)
        if front:
            out.print(_front(graph, config))
            return
        with doing("estimating"):
            facts = bf.estimate(graph, config, synthesize=synth, interval=interval, throughput=throughput, fit=fit)
        graph = bf.split_encoder(graph)[1] if encoder == "outside" else graph
    out.print(_parts(facts))
    out.print(f"{facts.part}: {_share(facts)}; clock {facts.period:g} ns, latency {facts.latency_ns:g} ns, "
              f"{facts.throughput:,.0f} inputs a second", highlight=False)
    for note in facts.notes:
        out.print(f"note: {escape(note)}", highlight=False)
    if facts.fits is False:
        options, devices = fitting(graph, config.clocked(graph))
        for options_that_fit in options:
            flags = f"--io-type {options_that_fit.io_type} --strategy {options_that_fit.strategy} --fit"
            flags += " without --layer" if layer else ""
            interval_then = table_estimate(graph, options_that_fit).interval
            every = f"an input every {interval_then[1]:,} cycles" if interval_then else ""
            out.print(f"fits with: {flags} ({every})", highlight=False)
        out.print(f"fits as it is: {', '.join(devices) or 'none of the parts known'}", highlight=False)


def _front(graph: Graph, config: BuildConfig) -> Table:
    """LUTs and ns of the netlists of a graph, by what they are best at."""
    from bnnflow.estimates.netlists import front

    if not config.target.one_netlist:
        raise InputError(f"--front: a {config.target.name} project is no netlist as a whole; use "
                         f"{as_given(backend='Verilog')}")
    table = Table("netlist", "LUT", "cycles", "ns, longest path", "LUT x ns", box=None, pad_edge=False)
    for goal, (luts, cycles, ns) in front(graph, config).items():
        table.add_row(goal, f"{luts:,.0f}", f"{cycles}", f"{ns:.2f}", f"{luts * ns:,.0f}")
    return table


def _share(facts: Facts) -> str:
    if facts.fits is None:
        return "its totals are not known"
    used = ", ".join(f"{name} {share:.1f} %" for name, share in facts.used.items())
    return f"{'fits' if facts.fits else 'does not fit'} ({used})"


@app.command()
def report(projects: Annotated[list[Path], typer.Argument(help="project folders of `bnnflow build`")],
           output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .html, .md, .csv or .json")
                             ] = Path("report.html"),
           data: Annotated[Path | None, typer.Option(help=".npy of inputs (floats) or codes (integers), for the "
                                                          "accuracy")] = None,
           labels: Annotated[Path | None, typer.Option(help=".npy of the classes of --data")] = None) -> None:
    """Write a report on one project or several side by side: one self-contained file."""
    with doing(f"writing {output}"):
        bf.report(projects, output, _arrays(data), _array(labels))
    out.print(f"{escape(str(output))}: {len(projects)} project{'s' if len(projects) > 1 else ''}", highlight=False,
              soft_wrap=True)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that toolchains take for a synthesis, in the place of its `**options`."""
    takers: dict[str, list[tuple[str, Option]]] = {}
    for toolchain in synthesizers().values():
        for option in toolchain.options:
            takers.setdefault(option.name, []).append((toolchain.name, option))
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, options in takers.items():
        default = options[0][1].default
        # With a name of its own it is a switch, without "--no-layers" beside "--layers".
        flag = typer.Option(f"--{name.replace('_', '-')}", help=_option_help(options))
        own.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default,
                                     annotation=Annotated[type(default), flag]))
    command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own}
    return command


def _option_help(options: Iterable[tuple[str, Option]]) -> str:
    """The help of an option with the names of the toolchains that take it in front."""
    takers: dict[str, list[str]] = {}
    for tool, option in options:
        takers.setdefault(option.help, []).append(tool)
    return "; ".join(f"{', '.join(tools)}: {text}" for text, tools in takers.items())


@app.command()
@_with_options
def synth(context: typer.Context,
          project: Annotated[Path, typer.Argument(help="project folder of `bnnflow build`")],
          tool: Annotated[str | None, typer.Option(help=_tools(synthesizers()))] = None, **options: Any) -> None:
    """Synthesise a project: resources, latency, clock. Goes on where a run stopped; the same again costs nothing."""
    from bnnflow.backends.project import Project
    from bnnflow.synthesis import synthesizer

    toolchain = synthesizer(Project.open(project), tool)
    taken = [option.name for option in toolchain.options]
    _refuse_all_but(context, ("project", "tool", *taken),
                    f"not of this tool and project, which take --{', --'.join(taken)}")
    given = {name: options[name] for name in _given(context) if name in taken}
    facts = bf.synthesize(project, toolchain.name, say=_say, **given)
    if facts.modules:
        out.print(_parts(facts))
    out.print(_facts(facts))
    for note in facts.notes:
        out.print(f"note: {escape(note)}", highlight=False)


def _parts(facts: Facts) -> Table:
    """The modules of a design, a row each, with what is known of any."""
    rows = (*facts.modules, facts)
    columns = [name for name in ("lut", "lut_packed", "lut_positions", "carry", "muxf", "ff", "dsp", "bram", "uram",
                                 "weight_bits", "buffer_bits", "depth", "pe", "simd", "cycles", "latency",
                                 "latency_ns", "interval", *CODE)
               if any(getattr(row, name) for row in rows)]
    table = Table("", *columns, box=None, pad_edge=False)
    for row in rows:
        values = [getattr(row, name) for name in columns]
        table.add_row("total" if row is facts else escape(row.name), *(
            "" if v is None else str(v[1]) if isinstance(v, tuple) else f"{v:,}" for v in values))
    return table


def _facts(facts: Facts) -> Table:
    table = Table("", "", title=f"{facts.name}: {facts.source}, {facts.tool} {facts.version}", box=None, pad_edge=False,
                  show_header=False)
    said = ("modules", "notes", "available", "used", "source", "tool", "version")
    for name, value in facts.as_dict().items():
        if value not in (None, "", [], {}) and name not in said:
            share = facts.used.get(name)
            table.add_row(name, escape(f"{value:,}" if isinstance(value, int) else str(value)),
                          "" if share is None else f"{share:.1f} % of {facts.available[name]:,}")
    return table


@app.command()
def compare(model: Annotated[Path, typer.Argument(help="the Keras model (.keras, .h5) the project was made from")],
            project: Annotated[Path, typer.Argument(help="project folder of `bnnflow build`")],
            data: Annotated[Path, typer.Argument(help=".npy of real inputs (n, *shape); .npz of several")]) -> None:
    """Compare Keras, graph and C simulation layer by layer: the first divergence, or "equal"."""
    from bnnflow.backends.project import Project

    x, graph = _arrays(data), Project.open(project).graph()
    if isinstance(x, dict):
        x = per_input(graph, x)
    existing(model_file(model), "model")
    _import_keras()
    with doing("comparing"):
        result = bf.compare(model, project, x)
    table = Table("node", "Keras layer", "codes", "Keras differs", "C-sim differs", box=None, pad_edge=False)
    for row in result.rows:
        differ = ["" if n is None else f"{n:,}" for n in (row.keras_differ, row.csim_differ)]
        table.add_row(row.node, escape(row.layer), f"{row.codes:,}", *differ)
    out.print(table)
    for note in result.notes:
        out.print(f"note: {escape(note)}", highlight=False)
    if not result.equal:
        raise Mismatch(result.first)
    out.print(str(result), highlight=False)


@app.command()
def demo(output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="project folder")] = Path("demo"),
         backend: Backend = BuildConfig.backend) -> None:
    """Train the digits network, convert it, simulate its C++, and compare Keras, graph and C simulation."""
    config = BuildConfig(output_dir=output_dir, backend=backend)
    config.target.ready()
    _import_keras()
    from bnnflow.frontends.keras.reference import check_equal
    from bnnflow.models import digits
    from bnnflow.train.fit import accuracy, fit

    arrays = digits.data()
    model = digits.build()
    with Progress(TextColumn("training digits"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
                  console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=digits.TRAINING["epochs"])

        def report(epoch: int, epochs: int, logs: dict[str, float]) -> None:
            bar.update(task, completed=epoch, description=f"accuracy {logs['accuracy']:.3f}")

        start = time.monotonic()
        keras_accuracy = fit(model, arrays, report=report, **digits.TRAINING)
    err.print(f"training digits: {time.monotonic() - start:.1f} s", highlight=False)
    graph = bf.lower(model)
    codes = graph.encode(arrays[2])
    compared = check_equal(graph, model, arrays[2])
    with doing(f"writing {output_dir}"):
        bf.build(graph, config, codes)
    what = config.target.simulation
    with doing(what):
        simulated = bf.simulate(output_dir, codes)

    out.print(_describe(graph))
    result = Table("", "accuracy", "compared with", "codes", "differ", box=None, pad_edge=False)
    result.add_row("Keras", f"{keras_accuracy:.4f}", "", "", "")
    ours = graph.decode(bf.run(graph, codes))
    result.add_row("graph", f"{accuracy(ours, arrays[3]):.4f}", "Keras, every activation",
                   f"{sum(compared.values()):,}", "0")
    result.add_row(what, f"{accuracy(graph.decode(simulated), arrays[3]):.4f}", "graph, every output",
                   f"{simulated.size:,}", "0")
    out.print()
    out.print(result)
    bits = sum(int(np.count_nonzero(node.params.effective)) for node in graph if isinstance(node.params, Weights))
    out.print(f"\n{len(codes)} test images; {bits:,} one-bit weights; project in {output_dir}", highlight=False)
    for note in graph.notes:
        out.print(f"note: {escape(note)}", highlight=False)


@app.command()
def ops() -> None:
    """Print what the integer graph can express (docs/ir.md)."""
    from bnnflow.ir.verify import specification

    print(specification())


# Python packages, what each enables, and the extra that installs it; of two generations one is enough.
PACKAGES = {"numpy": ("everything", ""), "hls4ml": ("writing HLS C++", "hls"),
            "tensorflow": ("lowering and training", "keras"), "qkeras-v3 or qkeras": ("lowering and training", "keras"),
            "keras or tf-keras": ("lowering and training", "keras"), "scikit-learn": ("the demo's data", "keras"),
            "matplotlib": ("plots of a training", "keras")}


@app.command()
def doctor() -> None:
    """Print the tools and packages found, and what each enables."""
    table = Table("", "found", "enables", box=None, pad_edge=False)
    missing = []
    rows = [*((program.name, program.enables, *_program(program)) for program in programs()),
            *((name, enables, *_package(name.split(" or "), extra)) for name, (enables, extra) in PACKAGES.items())]
    for name, enables, found, trouble in rows:
        table.add_row(name, escape(found or "not found"), enables)
        if not found:
            missing.append(f"{name}: {trouble}")
    out.print(table)
    for line in missing:
        out.print(f"missing {escape(line)}", highlight=False)
    out.print(f"Tools that this version has been run with: {_versions(vendor=False)}.", highlight=False)
    out.print(f"Vendor tools that this version has been run with: {_versions(vendor=True)}.", highlight=False)


def _versions(vendor: bool) -> str:
    return ", ".join(version for toolchain in TOOLCHAINS.values() if toolchain.vendor == vendor
                     for version in toolchain.versions) or "none yet"


def _program(program: process.Program) -> tuple[str, str]:
    """(Where a program is and its version, "") or ("", what to do about it)."""
    try:
        path = process.find(program)
    except ToolError as error:  # a variable that names no program
        return "", str(error)
    return (f"{path} ({process.version(program)})", "") if path else ("", program.remedy)


def _package(names: Iterable[str], extra: str) -> tuple[str, str]:
    """(Which of some Python packages are installed, in which version, "") or ("", what to do about it)."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found), f"pip install 'bnnflow[{extra}]'"


def _show_notes() -> None:
    """Warnings that are notes of ours are shown as notes, others as Python shows them."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, Note):
            err.print(f"note: {escape(str(message))}", highlight=False, soft_wrap=True)
        else:
            shown(message, category, *place, **more)

    warnings.showwarning = show


def main() -> None:
    """Entry point: errors as one message on stderr and the exit code of the error."""
    _show_notes()
    try:
        with on_command_line():
            app()
    except BnnflowError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except ImportError as error:  # of a package that is there, but not whole or not of a version that fits
        err.print(f"[bold red]error:[/] {escape(f'{type(error).__name__}: {error}')}", highlight=False, soft_wrap=True)
        raise SystemExit(ToolError.exit_code) from None
    except (OSError, MemoryError, RecursionError) as error:
        err.print(f"[bold red]error:[/] {escape(f'{type(error).__name__}: {error}')}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        err.print("interrupted", highlight=False)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
