"""The tokenizer template: what it writes runs, and passes its own test."""

import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from toktalk_jax import motion as mo
from toktalk_jax.live import ears
from tools import new_tokenizer


@pytest.fixture
def house(tmp_path):
    """A copy of what the template touches and its test imports."""
    package = tmp_path / "toktalk_jax"
    shutil.copytree(ROOT / "toktalk_jax/tokenizers", package / "tokenizers")
    for name in ("__init__.py", "motion.py"):
        shutil.copy(ROOT / "toktalk_jax" / name, package)
    (tmp_path / "tests").mkdir()
    return tmp_path


def run_tests(house):
    """The house's own tests, in a process that imports the house."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("name", "rate_hz", "dim"), [("moshi_two", 12.5, 512), ("fast", 50.0, 7)]
)
def test_what_it_writes_passes_its_own_test(
    house, monkeypatch, capsys, name, rate_hz, dim
):
    monkeypatch.setattr(new_tokenizer, "ROOT", house)
    new_tokenizer.main([name, "--rate_hz", str(rate_hz), "--dim", str(dim)])
    assert f"test_tokenizer_{name}.py" in capsys.readouterr().out
    done = run_tests(house)
    assert done.returncode == 0 and "7 passed" in done.stdout, done.stdout
    ruff = [sys.executable, "-m", "ruff", "check", "--config"]
    checks = [*ruff, str(ROOT / "tools/ruff.toml"), "."]
    assert subprocess.run(checks, cwd=house).returncode == 0


@pytest.mark.parametrize("rate_hz", [12.5, 31.25, 50.0, 80.0])
def test_its_tokens_reach_the_face_however_the_sound_is_split(
    house, monkeypatch, rate_hz
):
    """One token per cell, a base token of several: none is lost between messages."""
    monkeypatch.setattr(new_tokenizer, "ROOT", house)
    new_tokenizer.main(["fast", "--rate_hz", str(rate_hz), "--dim", "3"])
    made = runpy.run_path(str(house / "toktalk_jax/tokenizers/fast.py"))
    rng = np.random.default_rng(0)
    analysis = 0.05 * rng.standard_normal((2 * made["SAMPLES"], 3))
    np.savez(house / "fast.npz", analysis=analysis.astype(np.float32))
    tokenizer = made["Fast"](house)
    wave = (0.1 * rng.standard_normal(16_000)).astype(np.float32)
    wanted = mo.to_token_rate(tokenizer.embed(wave), rate_hz)
    assert len(wanted) in (12, 13)
    for size in (160, 320, 5_328, 6_400):
        ear = ears.Ear(tokenizer, mo.SAMPLE_RATE)
        pieces = [
            ear.hear(wave[i : i + size], i + size >= len(wave))
            for i in range(0, len(wave), size)
        ]
        np.testing.assert_allclose(np.concatenate(pieces), wanted, atol=1e-5)


def test_a_leak_in_it_fails_its_test(house, monkeypatch):
    """Its test is no decoration: a network that reads ahead is found out."""
    monkeypatch.setattr(new_tokenizer, "ROOT", house)
    new_tokenizer.main(["leaky"])
    made = house / "toktalk_jax/tokenizers/leaky.py"
    text = made.read_text()
    whole = "        stream = self.stream()\n"
    assert text.count(whole) == 1
    made.write_text(text.replace(whole, f"        wave = wave - wave.mean()\n{whole}"))
    done = run_tests(house)
    assert done.returncode == 1 and "test_later_sound" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["Moshi"], "lower-case letters"),
        (["import"], "lower-case letters"),
        (["none"], "lower-case letters"),
        (["lyra"], "named 'lyra' already"),
        (["a", "--rate_hz", "5"], "at least 12.5"),
        (["a", "--rate_hz", "30"], "a divisor of 16000"),
        (["a", "--dim", "0"], "--dim is 0"),
    ],
)
def test_bad_names_and_sizes(house, monkeypatch, args, message):
    monkeypatch.setattr(new_tokenizer, "ROOT", house)
    with pytest.raises(SystemExit, match=message):
        new_tokenizer.main(args)
    assert not [*(house / "tests").iterdir()]


def test_nothing_is_overwritten(house, monkeypatch):
    monkeypatch.setattr(new_tokenizer, "ROOT", house)
    (house / "tests/test_tokenizer_mine.py").write_text("mine")
    with pytest.raises(SystemExit, match="is there already"):
        new_tokenizer.main(["mine"])
    assert not (house / "toktalk_jax/tokenizers/mine.py").exists()
