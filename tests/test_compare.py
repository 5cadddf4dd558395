from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.project import Project

import bnnflow.train  # isort: skip
import qkeras

from bnnflow.facts.kept import kept_simulations
from bnnflow.generation import keras
from bnnflow.ir import evaluate
from bnnflow.simulation import trace_project
from tests.contracts import conv, dense, several, shake

pytestmark = [pytest.mark.hls, pytest.mark.filterwarnings("ignore::UserWarning")]


def model() -> keras.Model:
    x = keras.Input((6,))
    h = keras.layers.BatchNormalization(name="bn")(dense(7, name="d1")(x))
    h = qkeras.QActivation("binary(alpha=1)", name="a1")(h)
    return shake(keras.Model(x, dense(3, name="d2")(h)))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A model, its project and inputs."""
    net, folder = model(), tmp_path_factory.mktemp("compare") / "prj"
    bf.build(bf.lower(net, "ufixed<4,0>"), bf.BuildConfig(output_dir=folder))
    return net, folder, np.random.default_rng(0).integers(0, 16, (50, 6)) / 16


def test_equal(built):
    net, project, x = built
    result = bf.compare(net, project, x)
    assert result.equal and str(result) == "equal" and not result.notes
    rows = {row.node: row for row in result.rows}
    assert rows["a1"].keras_differ == 0 and rows["a1"].codes == 350 and rows["d1"].keras_differ is None


def test_parts_are_compared_as_the_whole(built, monkeypatch):
    net, project, x = built
    other = model()
    other.get_layer("bn").beta.assign(np.full(7, 100.0))
    whole = [bf.compare(n, project, x[17:]) for n in (net, other)]
    monkeypatch.setattr(evaluate, "PART", 250)
    parts = [bf.compare(n, project, x[17:]) for n in (net, other)]
    assert parts[0] == whole[0] and parts[1].rows == whole[1].rows
    assert parts[1].first.split(";")[0] == whole[1].first.split(";")[0]
    codes = Project.open(project).graph().encode(x)
    assert np.array_equal(bf.simulate(project, x), bf.simulate(project, codes))
    (record,) = kept_simulations(Project.open(project))
    assert record.samples == 50 and record.vectors == hashlib.sha256(codes.tobytes()).hexdigest()
    x[40] += 1 / 32
    for verb in (lambda: bf.compare(net, project, x), lambda: bf.simulate(project, x)):
        with pytest.raises(bf.InputError, match=r"at index \(40, 0\) is not a multiple"):
            verb()
    x[40] -= 1 / 32


def test_trace_is_every_node(built):
    _, project, x = built
    graph = Project.open(project).graph()
    ours, theirs = bf.trace(graph, graph.encode(x)), trace_project(project, graph.encode(x))
    assert set(ours) == set(theirs) and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_several_inputs_and_outputs(tmp_path, cli):
    net = shake(several())
    bf.build(bf.lower(net, "ufixed<4,0>"), bf.BuildConfig(output_dir=tmp_path / "prj"))
    x = [np.random.default_rng(k).integers(0, 16, (20, n)) / 16 for k, n in enumerate((4, 6))]
    assert bf.compare(net, tmp_path / "prj", x).equal
    net.save(tmp_path / "net.h5")
    np.savez(tmp_path / "x.npz", a=x[1], b=x[0])
    done = cli("compare", "net.h5", "prj", "x.npz")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("equal"), done.stderr


def test_first_divergence_is_named(built, tmp_path):
    net, project, x = built
    other = model()
    other.get_layer("bn").beta.assign(np.full(7, 100.0))
    result = bf.compare(other, project, x)
    assert not result.equal and "Keras and graph differ first at node 'a1' (layer 'a1'): sample " in result.first
    copy = tmp_path / "prj"
    bf.build(bf.lower(net, "ufixed<4,0>"), bf.BuildConfig(output_dir=copy))
    rom = copy / "firmware/weights/flow_d1.h"
    rom.write_text(rom.read_text().replace("offset[1][7] = {{0", "offset[1][7] = {{1"))
    assert "C simulation and graph differ first at node 'd1'" in bf.compare(net, copy, x).first
    x2 = keras.Input((6,))
    with pytest.raises(bf.InputError, match="not the one"):
        bf.compare(keras.Model(x2, dense(3)(x2)), project, x)


@pytest.mark.hls
def test_a_top_function_of_other_words_is_traced_and_another_is_refused(built, tmp_path):
    """Of a project that another version wrote, or somebody's hand has changed, the first divergence is found, too."""
    net, _, x = built
    project = tmp_path / "prj"
    bf.build(bf.lower(net, "ufixed<4,0>"), bf.BuildConfig(output_dir=project))
    top, parameters = project / "firmware/myproject.cpp", project / "firmware/parameters.h"
    for file in (top, parameters):  # as another version might call them
        file.write_text(re.sub(r"\bconfig(?=\d)", "settings", file.read_text()))
    assert "settings3_0>" in top.read_text() and bf.compare(net, project, x).equal
    for file in (top, parameters):
        file.write_text(re.sub(r"\bsettings(?=\d)", "config", file.read_text()))
    call = next(line for line in top.read_text().splitlines() if line.endswith("// a1_op"))
    array = re.search(r"(\w+)\);", call)[1]
    top.write_text(top.read_text().replace(call, f"{call}\n    // mine\n    nnet::flow_set({array}[0], ap_int<2>(0));"))
    assert "C simulation and graph differ first at node" in bf.compare(net, project, x).first
    text = top.read_text().replace(f"    nnet::flow_set({array}[0], ap_int<2>(0));\n", "")
    last = [line for line in text.splitlines() if "nnet::flow_" in line][-1]
    top.write_text(text.replace(last, f"{last}\n    nnet::flow_set(layer4_out[0], ap_int<2>(0));"))
    assert "C simulation and graph differ first at node 'd2'" in bf.compare(net, project, x).first
    for text in ("int other;\n", None):
        top.write_text(text) if text else top.unlink()
        with pytest.raises(bf.InputError, match=r"myproject.cpp is not the top function of the project's graph; build"):
            bf.compare(net, project, x)


def test_plain_predict_that_differs_is_explained(tmp_path):
    """XLA flips exact ties of a batch norm; the layers one by one do not."""
    net = model()
    x = keras.Input((6,))
    bn = keras.layers.BatchNormalization(name="bn")
    net = keras.Model(x, bn(dense(64, name="d")(x)))
    bn.set_weights([np.full(64, 1 / 3), np.full(64, 0.1), np.linspace(-3, 3, 64), np.linspace(0.1, 2, 64)])
    net.compile(jit_compile=True)
    bf.build(bf.lower(net, "ufixed<4,0>"), bf.BuildConfig(output_dir=tmp_path / "prj"))
    data = np.random.default_rng(0).integers(0, 16, (500, 6)) / 16
    result = bf.compare(net, tmp_path / "prj", data)
    assert result.equal and "XLA is on (jit_compile=True)" in " ".join(result.notes)


def test_command(built, cli, tmp_path):
    net, project, x = built
    net.save(tmp_path / "net.h5")
    np.save(tmp_path / "x.npy", x)
    done = cli("compare", "net.h5", project, "x.npy")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("equal"), done.stderr
    net2 = model()
    net2.get_layer("bn").beta.assign(np.full(7, 100.0))
    net2.save(tmp_path / "other.h5")
    done = cli("compare", "other.h5", project, "x.npy")
    assert done.returncode == 1 and "differ first at node 'a1'" in done.stderr


def test_a_convolution_as_streams(tmp_path):
    """What a kernel computes on the way to another node is not compared with the C simulation; the codes are."""
    x = keras.Input((5, 6, 2))
    h = qkeras.QActivation("binary(alpha=1)", name="a1")(conv(4, 3, padding="same", name="c1")(x))
    h = keras.layers.MaxPooling2D(2, name="pool")(h)
    net = shake(keras.Model(x, dense(3, name="d")(keras.layers.Flatten()(h))))
    graph = bf.lower(net, "ufixed<4,0>")
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))
    result = bf.compare(net, tmp_path / "prj", np.random.default_rng(0).integers(0, 16, (20, 5, 6, 2)) / 16)
    rows = {row.node: row for row in result.rows}
    assert result.equal and rows["c1"].csim_differ is None and rows["a1"].csim_differ == 0
    assert rows["pool"].csim_differ == rows["pool"].keras_differ == 0
