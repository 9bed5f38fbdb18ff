"""Mistakes in a training's config and files end in one line that names the offender."""

import json
import shutil
import subprocess
import sys

import pytest

from configs import small
from tests.conftest import ROOT
from toktalk_jax import command_line, train
from toktalk_jax.training import checkpointer, checkpoints


def config_of(dataset, changes):
    config = small.get_config("smoke")
    config.dataset = str(dataset)
    config.update_from_flattened_dict(changes)
    return config


SETTINGS = {  # key: (value, what the line says)
    "dataset": ("", "config.dataset is empty"),
    "method": ("toktok", "config.method is 'toktok'"),
    "batch_size": (3, "config.batch_size is 3, which does not divide over 2 devices"),
    "train.accumulation": (3, r"2 devices times config.train.accumulation 3"),
    "train.dtype": ("float16", "config.train.dtype is 'float16'"),
    "train.objective": ("flw", "config.train.objective is 'flw'"),
    "train.window_frames": ((21,), "config.train.window_frames holds 21"),
    "train.style_reference": ("self", "style_reference is 'self'"),
    "train.style_frames": ((30, 10), r"style_frames is \(30, 10\)"),
    "train.decay": ("linear", "decay is 'linear'"),
    "train.learning_rate": (0.0, "config.train.learning_rate is 0.0"),
    "train.ema_decay": (1.0, "config.train.ema_decay is 1.0"),
    "train.warmup_steps": (-1, "config.train.warmup_steps is -1"),
    "log_every": (0, "config.log_every is 0"),
    "keep.last": (0, "config.keep.last is 0"),
    "keep.metric": ("lve", "config.keep.metric is 'lve'; expected one of"),
    "validation.clips": (0, "config.keep.best is 1, which wants"),
    "tokenizer": ("mimi", "tokenizer 'mel_rvq', but 'mimi' is asked for"),
}


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_that_cannot_train_is_named(key, tiny_dataset, tmp_path):
    value, message = SETTINGS[key]
    config = config_of(tiny_dataset, {key: value})
    with pytest.raises(ValueError, match=message):
        train.train(config, tmp_path / "run")


def test_a_missing_dataset_names_its_path(tmp_path):
    config = config_of(tmp_path / "nowhere", {})
    with pytest.raises(FileNotFoundError, match="no finished dataset in .*nowhere"):
        train.train(config, tmp_path / "run")


def test_a_workdir_that_is_a_file_is_named(tiny_dataset, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"):
        train.train(config_of(tiny_dataset, {}), tmp_path / "run")


def test_no_permission_names_the_path(tiny_dataset, tmp_path, monkeypatch):
    """Root is refused by no folder, and tests may run as root: the answer is played."""
    refusal = PermissionError(13, "Permission denied", str(tmp_path / "run"))

    def refuse(*arguments, **options):
        raise refusal

    monkeypatch.setattr(checkpoints.pathlib.Path, "mkdir", refuse)
    with pytest.raises(SystemExit, match=r"train: .*Permission denied: '.*run'"):
        with command_line.one_line_errors("train"):
            train.train(config_of(tiny_dataset, {}), tmp_path / "run")


def test_a_full_disk_says_what_to_do(tiny_dataset, tmp_path, monkeypatch):
    def full(*arguments):
        raise ValueError("RESOURCE_EXHAUSTED: write: No space left on device")

    monkeypatch.setattr(checkpointer.Checkpointer, "save", full)
    with pytest.raises(SystemExit, match="the disk is full; free some space"):
        with command_line.one_line_errors("train"):
            train.train(config_of(tiny_dataset, {}), tmp_path / "run")


def test_another_config_in_the_workdir_names_the_key(tiny_run, tiny_dataset):
    config = config_of(tiny_dataset, {"train.accumulation": 2})
    with pytest.raises(ValueError, match="train.accumulation was 1, now 2"):
        train.train(config, tiny_run)


def test_a_checkpoint_of_another_model_names_the_array(
    tiny_run, tiny_dataset, tmp_path
):
    """As when a config.json was edited by hand."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    kept = json.loads((run / "config.json").read_text())
    kept["model"]["mid_blocks"] = 3
    (run / "config.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="a checkpoint of another model: velocity/mid"):
        train.train(config_of(tiny_dataset, {"model.mid_blocks": 3}), run)


MISTYPED = {  # what the one line must hold: arguments
    "learning_rate": ["--config.train.learning_rat=1"],
    "config.batch_size": ["--config.batch_size=many"],
    "'smok'": ["--config=configs/small.py:smok"],
    "give one hardware": ["--config=configs/base.py:l40s,h100"],
    "smal.py": ["--config=configs/smal.py", "--dry_run"],
    "profile_steps": ["--profile_stesp=1:2"],
    "give --workdir DIR": ["--workdir="],
    "no finished dataset in nowhere": ["--config.dataset=nowhere", "--dry_run"],
}
EACH_IN_A_CHILD = """
import json, os, runpy, sys, toktalk_jax.train
for arguments in json.loads(sys.argv[1]):
    if not os.fork():
        sys.argv = ["train.py", "--config=configs/small.py:smoke", *arguments]
        runpy.run_module("toktalk_jax.train", run_name="__main__")
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(f"exit code {code} @@", file=sys.stderr, flush=True)
"""


def test_what_is_mistyped_is_told_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-c", EACH_IN_A_CHILD, json.dumps(list(MISTYPED.values()))],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    for text, told in zip(MISTYPED, done.stderr.split("@@")[:-1], strict=True):
        assert text in told and "Traceback" not in told, told
        assert told.strip().endswith("exit code 1"), told


@pytest.mark.parametrize("text", ["10", "20:10", "0:5", "a:b"])
def test_steps_to_profile_are_first_and_last(text, tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match="--profile_steps is"):
        train.train(config_of(tiny_dataset, {}), tmp_path, profile=text)


def test_a_run_of_nothing_but_nan_stops_and_keeps_the_batch(
    tiny_dataset, tmp_path, monkeypatch
):
    import numpy as np

    from toktalk_jax.data import pipeline

    batches = pipeline.batches

    def broken(*arguments, **options):
        for count, batch in enumerate(batches(*arguments, **options)):
            yield batch | {"motion": batch["motion"] * np.nan} if count > 1 else batch

    monkeypatch.setattr(pipeline, "batches", broken)
    changes = {"stop_after_skips": 3, "save_every": 2}
    changes |= {"validation.clips": 0, "keep.best": 0}
    run = tmp_path / "run"
    with pytest.raises(FloatingPointError, match="in 3 steps in a row, up to step 5"):
        train.train(config_of(tiny_dataset, changes), run)
    with np.load(run / "bad_batch_5_0.npz") as kept:
        assert np.isnan(kept["motion"]).all() and np.isfinite(kept["tokens"]).all()
    assert checkpoints.load(run).meta["step"] in (2, 4)
