"""A fixed sample of the random networks; `python -m tests.fuzz` runs any number from any seed."""

from __future__ import annotations

import pytest

from tests.fuzz import run


@pytest.mark.fuzz
@pytest.mark.hls
@pytest.mark.parametrize("seed", range(1000, 1040, 10))
def test_random_networks(seed, capsys):
    totals = run(10, 500, seed, csim=1)
    assert totals["codes"] > 50_000 and totals["csim_io_parallel"] > 0 and totals["csim_io_stream"] > 0
    assert totals["near"] >= 0.05 * totals["sums"]


@pytest.mark.fuzz
@pytest.mark.hls
@pytest.mark.parametrize("seed", range(5000, 5020, 10))
def test_random_convolutional_networks(seed):
    totals = run(10, 100, seed, csim=1, family="cnn")
    assert totals["codes"] > 50_000 and totals["csim_io_stream"] > 0 and totals["rational"] > 1_000
    assert totals["near"] >= 0.05 * totals["sums"]
