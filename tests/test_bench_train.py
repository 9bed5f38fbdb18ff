"""The training benchmark at tiny size, and the arithmetic of an all-reduce."""

import functools
import json

import jax
import numpy as np
import pytest

from configs import base
from tools import all_reduce, bench_train

TINY = ["--size", "tiny", "--batch", "2", "--rounds", "2"]


@pytest.mark.long
def test_over_devices_each_in_its_own_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(
        "JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir
    )
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    out = tmp_path / "new" / "tiny.json"
    options = ["--devices", "1,3", "--no_twin", "--json", str(out)]
    bench_train.main([*TINY, *options])
    result = json.loads(out.read_text())
    first, last = result["devices"]
    assert (first["devices"], first["batch"]) == (1, 2)
    assert (last["devices"], last["batch"]) == (3, 6)
    assert first["of_one_device"] == 1
    for row in result["devices"]:
        assert 0 <= row["input_share"] < 1 and row["wait_p50_ms"] < row["p50_ms"]
        rate = row["batch"] / row["p50_ms"] * 1e3
        assert row["examples_per_s"] == pytest.approx(rate)
    # The same work per device: each example costs the same operations.
    cost = [r["gflop_per_s"] / r["examples_per_s"] for r in result["devices"]]
    assert cost[0] == pytest.approx(cost[1])
    assert len(result["load_before"]) == 3 and result["twin"] == {}
    assert out.with_suffix(".png").stat().st_size > 5_000
    assert "batches/s" in capsys.readouterr().out


@pytest.mark.long
def test_against_the_twin(tmp_path, capsys):
    pytest.importorskip("torch", reason="the twin needs PyTorch ([torch] extra)")
    out = tmp_path / "tiny.json"
    options = ["--devices", "", "--eager_only", "--threads", "1", "--json", str(out)]
    bench_train.main([*TINY, *options])
    twin = json.loads(out.read_text())["twin"]
    assert {*twin["times"]} == {"JAX", "JAX unstacked", "PyTorch eager"}
    for row in twin["times"].values():
        assert len(row["all_ms"]) == 2
        share = twin["flop"] / (row["p50_ms"] / 1e3) / twin["peak"]
        assert row["peak_share"] == pytest.approx(share) and share < 1
    p50 = {name: row["p50_ms"] for name, row in twin["times"].items()}
    slower = p50.pop("PyTorch eager") / min(p50.values())
    assert twin["ratio"] == twin["ratio_eager"] == pytest.approx(slower)
    assert out.with_suffix(".png").stat().st_size > 5_000
    printed = capsys.readouterr().out
    assert "PyTorch eager" in printed and "of peak" in printed


def test_a_failing_process_says_why():
    with pytest.raises(SystemExit, match="on 0 devices"):
        bench_train.over_devices("tiny", 2, 1, [0])


def test_clips_are_batches_for_the_real_step():
    clip, *_ = clips = bench_train.clips_in_memory(12, count=5)
    assert len(clips) == 5 and clip.motion.shape == (74, 56)
    assert clip.tokens.shape == (37, 12)


RING = dict(size=3.2e8, bandwidth=5e10, latency=5e-6)


def test_a_ring_by_hand():
    """Two phases of n - 1 hops, each of a chunk of 1 / n."""
    for n in (1, 2, 8):
        hops = [RING["size"] / n / RING["bandwidth"] + RING["latency"]] * (2 * (n - 1))
        assert all_reduce.all_reduce_seconds(n, **RING) == pytest.approx(sum(hops))
    assert all_reduce.all_reduce_share(1, **RING, compute=1e-3) == 0
    twice = 2 * RING["size"] / RING["bandwidth"]
    many = all_reduce.all_reduce_seconds(10**6, **{**RING, "latency": 0})
    assert many == pytest.approx(twice, rel=1e-5)


def test_a_share_falls_with_work_and_grows_with_chips():
    shares = [
        [
            all_reduce.all_reduce_share(n, **RING, compute=compute)
            for n in all_reduce.CHIPS
        ]
        for compute in (1e-3, 1e-2, 1e-1)
    ]
    assert (np.diff(shares, axis=0) < 0).all() and (np.diff(shares, axis=1) > 0).all()
    rows = all_reduce.rows_for_share(0.1, 32, **RING, row_seconds=1e-4)
    below, above = (
        all_reduce.all_reduce_share(32, **RING, compute=count * 1e-4)
        for count in (rows, rows - 1)
    )
    assert below <= 0.1 < above


def test_the_page_counts_the_papers_model(capsys, monkeypatch):
    counted = functools.cache(all_reduce.paper_model)
    monkeypatch.setattr(all_reduce, "paper_model", counted)
    all_reduce.main(["--rows", "64", "--mfu", "0.5"])
    printed = capsys.readouterr().out
    assert all(len(line) <= 88 for line in printed.splitlines())
    parameters, flop = counted()
    assert parameters == 82_904_888 + 4_028_416  # velocity and style
    # Between two operations a parameter and row of the half rate, forward and backward,
    # and of the full rate.
    frames = all_reduce.FRAMES
    assert 3 * parameters * frames < flop < 6 * parameters * frames
    fabric = next(f for f in all_reduce.FABRICS if "v5p" in f.name)
    share = all_reduce.all_reduce_share(
        *(32, 4 * parameters, fabric.bandwidth, fabric.latency),
        64 * flop / fabric.peak / 0.5,
    )
    (line,) = [x for x in printed.splitlines() if "v5p" in x]
    assert line.split()[-4] == f"{share:.0%}"
    assert base.get_config().batch_size == 32  # the default of --rows
