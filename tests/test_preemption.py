"""Runs that are stopped, killed or damaged go on as if they had not been."""

import json
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from tests.test_hosts import finish, log_lines, start, wait_for_steps
from toktalk_jax.training import checkpoints, preemption

ENDLESS = (
    "--config.total_steps=100000",
    "--config.train.decay=constant",
    "--config.log_every=1",
)


def test_a_signal_is_answered_after_the_step_under_way():
    with preemption.notice() as asked:
        assert not asked(1)
        signal.raise_signal(signal.SIGTERM)
        until = time.monotonic() + 10
        while not asked(2) and time.monotonic() < until:
            time.sleep(0.01)
        assert asked(3)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.long
def test_sigterm_saves_and_exits_with_0_and_the_run_goes_on(tiny_dataset, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = start(tiny_dataset, run, *ENDLESS, "--config.save_every=100000")
    wait_for_steps(run, 2, process)
    process.send_signal(signal.SIGTERM)
    (text,) = finish([process], 150)  # promised: 30 s
    assert "SIGTERM: saving after this step" in text
    step = checkpoints.load(run).meta["step"]
    assert step == json.loads(log_lines(run)[-1])["step"] >= 2
    assert not (run / "bundle").exists()
    end = f"--config.total_steps={step + 2}"
    finish([start(tiny_dataset, run, *ENDLESS, end)])
    finish([start(tiny_dataset, whole, *ENDLESS, end)])
    assert same(run, whole)


def same(run, whole):
    """Bitwise the same weights, and the same losses in the log."""
    a, b = (checkpoints.load(path / "bundle").meta["hash"] for path in (run, whole))
    losses = [
        [(r["step"], r["loss"]) for r in map(json.loads, log_lines(p)) if "loss" in r]
        for p in (run, whole)
    ]
    return a == b and losses[0] == losses[1]


def test_no_step_in_time_gives_up_with_the_last_checkpoint(tmp_path):
    """A process that is stuck outside Python, as in a compilation, exits with 0."""
    import subprocess
    import sys

    script = (
        "import os, signal, threading, ctypes\n"
        "from toktalk_jax.training import preemption\n"
        "with preemption.notice(grace_s=0.5):\n"
        # Another thread is interrupted by the signal: this one sleeps on.
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        "    ctypes.CDLL(None).sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "the last whole checkpoint stands" in done.stderr


@pytest.mark.long
def test_kill_9_at_twenty_moments_changes_nothing(tiny_dataset, tmp_path):
    """In data, steps, scoring and saving alike: most of the time is the last two."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = (*ENDLESS, "--config.save_every=4")
    moments = random.Random(0)
    for _ in range(20):
        before = len(log_lines(run))
        process = start(tiny_dataset, run, *settings)
        wait_for_steps(run, before + moments.randrange(1, 12), process)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
    step = checkpoints.load(run).meta["step"]
    end = f"--config.total_steps={step + 3}"
    finish([start(tiny_dataset, run, *settings, end)])
    finish([start(tiny_dataset, whole, *settings, end)])
    assert same(run, whole)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


DAMAGE = {
    "a byte of the weights flipped": lambda d: flip_a_byte(largest(d / "params")),
    "a byte of Adam's state flipped": lambda d: flip_a_byte(largest(d / "opt")),
    "a file cut short": lambda d: cut(largest(d / "ema")),
    "a folder lost": lambda d: shutil.rmtree(d / "opt"),
    "a number torn": lambda d: next((d / "step").iterdir()).write_text("{"),
}


def largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def whole_run(tiny_dataset, tmp_path_factory):
    """The workdir of a smoke training that scores nothing on its way."""
    from configs import small
    from toktalk_jax.train import train

    config = small.get_config("smoke")
    config.dataset = str(tiny_dataset)
    config.validation.clips, config.keep.best = 0, 0
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config, run)
    return run


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside(damage, whole_run, tmp_path, capsys):
    """And the one before is used, which the rerun then equals the whole run from."""
    from toktalk_jax.train import train

    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    shutil.rmtree(run / "bundle")
    newest = max(int(path.name) for path in (run / "checkpoints").iterdir())
    DAMAGE[damage](run / "checkpoints" / str(newest))
    train(read_config(run), run)
    told = capsys.readouterr()
    assert (
        f"checkpoint {newest} is damaged" in told.err and "step 3 is used" in told.err
    )
    assert "resumed at step 3" in told.out
    assert (run / "corrupt" / str(newest)).is_dir()
    a, b = (checkpoints.load(path / "bundle").meta["hash"] for path in (run, whole_run))
    assert a == b


def read_config(run):
    from ml_collections import ConfigDict

    return ConfigDict(json.loads((run / "config.json").read_text()))


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path):
    import optax

    from toktalk_jax.training import parallel, steps
    from toktalk_jax.training.checkpointer import Checkpointer

    def state_at(step):
        params = {"velocity": {"w": np.full(3, step, np.float32)}}
        state = steps.init_state(params, optax.sgd(1.0))
        return parallel.replicate(state.replace(step=np.int32(step)))

    def open_it():
        return Checkpointer(tmp_path, last=2, best=1, metric="loss")

    keeper = open_it()
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 1.5), (5, 4.0)):
        keeper.save(state_at(step), 0, {"loss": loss, "other": -loss})
    keeper.save(state_at(6), 0)  # a run that was stopped: not scored
    assert keeper.best() == 2
    keeper.close()
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert kept == {2, 5, 6}
    keeper = open_it()
    assert keeper.best() == 2 and keeper.latest() == 6
    state, _ = keeper.read(state_at(0), 2)
    np.testing.assert_array_equal(jax.device_get(state.params["velocity"]["w"]), 2)
    keeper.close()


def test_a_checkpoint_of_another_model_is_refused_and_stays(tmp_path):
    import optax

    from toktalk_jax.training import parallel, steps
    from toktalk_jax.training.checkpointer import Checkpointer

    def state_of(width):
        params = {"velocity": {"w": np.zeros(width, np.float32)}}
        return parallel.replicate(steps.init_state(params, optax.sgd(1.0)))

    keeper = Checkpointer(tmp_path)
    keeper.save(state_of(3), 0)
    keeper.close()
    keeper = Checkpointer(tmp_path)
    with pytest.raises(ValueError, match=r"velocity/w is \(3,\), expected \(4,\)"):
        keeper.restore(state_of(4))
    assert keeper.latest() == 0
    keeper.close()
