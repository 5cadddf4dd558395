"""A fixed sample of the random networks; `python -m tests.fuzz` runs any number from any seed."""

from __future__ import annotations

import pytest

from tests.fuzz import run

LONG = pytest.mark.long


@pytest.mark.fuzz
@pytest.mark.hls
@pytest.mark.parametrize("seed", [1020, *(pytest.param(seed, marks=LONG) for seed in (1000, 1010, 1030))])
def test_random_networks(seed, capsys):
    totals = run(10, 500, seed, csim=1)
    assert totals["codes"] > 50_000 and totals["csim_io_parallel"] > 0 and totals["csim_io_stream"] > 0
    assert totals["near"] >= 0.05 * totals["sums"]


@pytest.mark.fuzz
@pytest.mark.hls
@pytest.mark.parametrize("seed", [5000, pytest.param(5010, marks=LONG)])
def test_random_convolutional_networks(seed):
    totals = run(6, 100, seed, csim=1, family="cnn")
    assert totals["codes"] > 50_000 and totals["csim_io_stream"] > 0 and totals["rational"] > 1_000
    assert totals["near"] >= 0.05 * totals["sums"]
