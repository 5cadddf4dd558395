"""Random networks against Keras and the C simulation, any number from any seed:

    python -m tests.fuzz --networks 300 --inputs 1000 --seed 0 --csim 20
    python -m tests.fuzz --family cnn --networks 500 --inputs 300

Every difference raises, with the seed of its network. Prints how often each option occurred and how many sums lie
within 1 of a threshold.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import bnnflow as bf
from bnnflow.backends.backend import STRATEGIES
from bnnflow.errors import BnnflowError, InputError, LoweringError
from bnnflow.ir import Graph, Op
from bnnflow.ir.evaluate import ambiguous, trace
from bnnflow.ir.vectors import near_thresholds

from tests import random_cnns, random_networks, rational  # isort: skip
from tests.conftest import check_engine  # isort: skip
from tests.random_networks import Case  # isort: skip
from bnnflow.frontends.keras.calls import model_calls  # isort: skip
from bnnflow.frontends.keras.reference import check_equal, keras_activations  # isort: skip


IO_TYPES = ("io_parallel", "io_stream")
FAMILIES = {"dense": random_networks.network, "cnn": random_cnns.network}
RATIONAL = {"dense": 60, "cnn": 12}  # samples a network, in rational arithmetic, which is slow


def check_head(case: Case, graph: Graph, x: np.ndarray) -> None:
    """Outputs that were rounded lie within the stated bound of Keras, plus float32 noise of its own sums."""
    calls = model_calls(case.model).calls
    dropped = any("softmax dropped" in note for note in graph.notes)
    key = calls[-2 if dropped else -1].key
    theirs = keras_activations(case.model, [key], x)[key].astype(np.float64)
    ours = graph.decode(bf.run(graph, graph.encode(x)))
    exact = graph.output.op not in (Op.AFFINE, Op.LUT) or not any("rounded" in note for note in graph.notes)
    noise = 0.0 if exact else np.abs(theirs).max(initial=1.0) * 2.0**-19
    bound = 0.0 if exact else float(graph.output.domain.scale) * 0.51
    worst = np.abs(ours - theirs).max(initial=0)
    if worst > bound + noise:
        raise BnnflowError(f"output differs from Keras by {worst}, bound {bound} + {noise}")


def check_rational(case: Case, graph: Graph, codes: np.ndarray) -> int:
    """A real-scaled network's codes equal exact rational arithmetic, at every sample; returns how many."""
    exact = rational.evaluate(case.model, codes.astype(object) * case.domain.scale, case.texts)
    ours, count = trace(graph, codes), 0
    for node in graph:
        if node.origin:
            wanted = (exact[node.origin] - node.domain.offset) / node.domain.scale
            if not np.array_equal(wanted, ours[node.name].astype(object)):
                raise BnnflowError(f"node {node.name!r} differs from rational arithmetic")
            count += wanted.size
    return count


def check_network(seed: int, inputs: int, csim: bool, family: str = "dense") -> tuple[Case, Counter[str]]:
    """One network through everything; returns counts of codes compared and of sums near a threshold."""
    case, counts = FAMILIES[family](seed), Counter[str]()
    rng = np.random.default_rng(seed)
    graph = bf.lower(case.model, case.input_type)
    codes = case.inputs(rng, inputs)
    x = codes * float(case.domain.scale)
    sure = ~ambiguous(graph, codes)
    for size, count in ((max(inputs, 1), inputs), (17, 170), (1, 20)):
        if sure[:count].any():  # else there is rational arithmetic only
            counts["codes"] += sum(check_equal(graph, case.model, x[:count], size).values())
    if case.real:
        counts["rational"] += check_rational(case, graph, codes[:RATIONAL[family]])
    if case.real:
        counts["real_samples"] += len(codes)
        counts["ambiguous"] += int((~sure).sum())
    if sure.any():
        check_head(case, graph, x[sure])
    for near in near_thresholds(graph, codes).values():
        counts["sums"] += near.size
        counts["near"] += int(near.sum())
    check_engine(graph, codes)
    counts["files"] += check_file(case, graph, seed)
    for io_type in IO_TYPES if csim else ():
        counts[f"csim_{io_type}"] += check_csim(graph, codes, seed, io_type)
    return case, counts


def check_file(case: Case, graph: Graph, seed: int) -> int:
    """1 where the network, saved and read, is the same graph; 0 where QKeras cannot read what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("net.keras" if seed % 2 else "net.h5")
        case.model.save(file)
        try:
            read = bf.lower(file, case.input_type)
        except InputError as error:
            if "quantized_hswish" in str(error):
                return 0
            raise
    if read.digest != graph.digest:
        raise BnnflowError(f"{file.name}: read, it is another graph")
    return 1


def check_csim(graph: Graph, codes: np.ndarray, seed: int, io_type: str) -> int:
    """Number of outputs of the C simulation, all equal; 0 where arrays or pixels are too large for the tools."""
    with tempfile.TemporaryDirectory() as folder:
        config = bf.BuildConfig(output_dir=Path(folder) / "prj", backend=("Vitis", "Vivado")[seed % 2],
                                  strategy=STRATEGIES[seed // 2 % 3], io_type=io_type)
        try:
            bf.build(graph, config, codes[:1])
        except InputError as error:
            if "at most 4096" in str(error) or "a vendor's compiler takes" in str(error):
                return 0
            raise
        return int(bf.simulate(config.output_dir, codes).size)


def run(networks: int, inputs: int, seed: int, csim: int, report: object = print,
        family: str = "dense") -> Counter[str]:
    """`networks` networks from `seed` on, the first `csim` of them also in C simulation; returns the totals."""
    totals, histogram, start = Counter[str](), Counter[str](), time.monotonic()
    refused = Counter[str]()
    for k in range(networks):
        try:
            case, counts = check_network(seed + k, inputs, k < csim, family)
        except LoweringError as error:
            refused[error.problems[0].split(": ", 1)[1][:60]] += 1
            continue
        except BnnflowError as error:
            raise type(error)(f"network of seed {seed + k}: {error}") from error
        totals += counts
        histogram.update(case.options)
        histogram.update(io_type for io_type in IO_TYPES if counts[f"csim_{io_type}"])
        if (k + 1) % 20 == 0:
            report(f"{k + 1} networks, {time.monotonic() - start:.0f} s, {totals['codes']:,} codes, 0 differ")
    for reason, count in refused.most_common():
        report(f"refused {count}: {reason}...")
    if sum(refused.values()) > networks // 5:
        raise BnnflowError(f"{sum(refused.values())} of {networks} networks were refused; the generator asks for too "
                           "much")
    for option, count in sorted(histogram.items()):
        report(f"  {option:32} {count}")
    share = totals["near"] / max(totals["sums"], 1)
    report(f"{networks - sum(refused.values())} networks x {inputs} inputs from seed {seed}: "
           f"{totals['codes']:,} codes, 0 differ from Keras; {totals['files']} read from files, the same; "
           + "".join(f"C simulation of {histogram[io_type]} in {io_type}: {totals[f'csim_{io_type}']:,} outputs, "
                     "0 differ; " for io_type in IO_TYPES) +
           f"{share:.1%} of the sums lie within 1 of a threshold; {histogram['class=real']} networks real-scaled: "
           f"{totals['rational']:,} codes, 0 differ from rational arithmetic, and Keras only at flagged samples "
           f"({totals['ambiguous']:,} of {totals['real_samples']:,} flagged)")
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="dense")
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csim", type=int, default=20)
    args = parser.parse_args()
    run(args.networks, args.inputs, args.seed, args.csim, lambda text: print(text, flush=True), args.family)


if __name__ == "__main__":
    main()
