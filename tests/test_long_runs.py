"""Slow properties: a ten-minute stream, the quickstart in a fresh clone."""

import json
import subprocess

import numpy as np
import pytest

from tests.conftest import ROOT
from toktalk_jax.page import read_page
from tools import bench_stream

SMALL = ROOT / "toktalk_jax" / "checkpoints" / "small"


def test_a_minute_of_stream_compiles_nothing_and_stays_finite(tiny_run, tmp_path):
    bench_stream.main(
        [
            *("--checkpoint", str(tiny_run), "--minutes", "1"),
            *("--json", str(tmp_path / "b.json")),
        ]
    )
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["compiles_after_warm_up"] == 0 and result["finite"]
    assert len(result["minutes"]) == 1


@pytest.mark.long
@pytest.mark.skipif(not SMALL.is_dir(), reason="no checkpoint named small ships yet")
def test_a_ten_minute_stream_of_the_shipped_model_is_flat():
    result = bench_stream.bench("small", 10, num_steps=20)
    assert result["compiles_after_warm_up"] == 0 and result["finite"]
    assert result["resident_growth_mb"] < 50
    medians = [line["p50_ms"] for line in result["minutes"]]
    # A cost that grew with the stream would be tenfold by the end; noise is not.
    assert np.median(medians[5:]) < 2 * np.median(medians[:5])


@pytest.mark.long
@pytest.mark.skipif(not SMALL.is_dir(), reason="no checkpoint named small ships yet")
def test_the_quickstart_in_a_fresh_clone(tmp_path):
    clone, out = tmp_path / "clone", tmp_path / "out"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    done = subprocess.run(
        ["bash", str(clone / "launch/quickstart.sh"), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=1800,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for word in ("lve_mm", "chunk_ms_p95", "real_time_factor"):
        assert word in done.stdout
    report = json.loads((out / "report.json").read_text())
    names = {row["name"] for row in report["evaluation"]["rows"]}
    assert names == {"flow stream", "static"}
    with np.load(out / "motion.npz") as file:
        motion = file["motion"]
    assert motion[:, 50].std() > 0.005  # the jaw speaks
    page = read_page(out / "watch.html")
    assert len(page["arrays"]["motion_0"]) == len(motion)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wav"], "--wav needs a value"),
        (["--wav", "nowhere.wav"], "no sound file"),
        (["--speed", "2"], "unknown argument --speed"),
        (["--wav", "a", "--text", "b"], "not both"),
    ],
    ids=str,
)
def test_quickstart_mistakes_end_before_any_work(arguments, message, tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "launch/quickstart.sh"), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_scripts_have_help(script):
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / script), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and script.split(".")[0] in done.stdout
