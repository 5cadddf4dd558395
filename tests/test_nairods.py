"""Trained QKeras networks of others: a sample of the set; scripts/nairods.py runs all."""

from __future__ import annotations

import importlib.util

import pytest

from tests.conftest import ROOT


@pytest.mark.hls
@pytest.mark.parametrize("name", [
    "200-epochs/multiclass_qkeras_binary_64_32_32", "20-epochs/topqg_qkeras_ternary_128_32"])
def test_trained_networks(name, shared, tmp_path):
    spec = importlib.util.spec_from_file_location("nairods", ROOT / "scripts/nairods.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = shared(f"models/nairods/{name}__seed42.weights.h5")
    counts = script.check(path, script.inputs(1000), tmp_path / "prj")
    assert counts["codes"] >= 128_000 and counts["csim"] == counts["logits"] > 0
