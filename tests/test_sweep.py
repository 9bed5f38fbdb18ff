"""Sweeps: cells and their commands; mistakes end in one line."""

import functools
import importlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import pytest

from launch import sweep, sweep_cells
from tests.conftest import ROOT
from tests.tiny_sweep import write_sweep


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Writes a config file with the body of a generator `sweep_it`."""
    monkeypatch.chdir(ROOT)
    return functools.partial(write_sweep, tmp_path / "own.py")


# Cells ------------------------------------------------------------------------------


def every_sweep():
    for path in sorted((ROOT / "configs").glob("*.py")):
        for name in sweep_cells.generators(str(path)):
            yield f"configs/{path.name}:{name}"


@pytest.mark.parametrize("spec", list(every_sweep()))
def test_every_sweep_leads_to_its_points_through_its_commands(spec, monkeypatch):
    """The config behind a cell's flags is the config with the point put in."""
    monkeypatch.chdir(ROOT)
    file, _, generator = sweep_cells.split_spec(spec)
    module = importlib.import_module(f"configs.{pathlib.Path(file).stem}")
    made = sweep_cells.read_sweep(spec, ["--config.seed=7"], out="out")
    points = list(getattr(module, generator)())
    assert len(made.cells) == len(points)
    for cell, point in zip(made.cells, points, strict=True):
        config = module.get_config()
        config.update_from_flattened_dict({"seed": 7, **point})
        assert cell.config == config.to_dict()
        assert re.fullmatch(r"[\w.+=,-]+", cell.name) and len(cell.name) < 200
        flags = [f for f in cell.command if f.startswith("--config")]
        assert sweep_cells.read_config(flags) == cell.config
        assert shlex.split(shlex.join(cell.command)) == list(cell.command)


def test_a_point_keeps_tuples_and_odd_text(sweep_file):
    spec = sweep_file(
        'yield {"model.channels": (32, 32), "head": "a b/ü.pkl", "train.style_drop": 1}'
    )
    cell = sweep_cells.read_sweep(spec, out="out").cells[0]
    assert cell.config["model"]["channels"] == (32, 32)
    assert cell.config["head"] == "a b/ü.pkl"
    assert cell.config["train"]["style_drop"] == 1.0
    assert re.fullmatch(r"[\w.+=,-]+", cell.name, re.ASCII)
    assert "model.channels=32x32" in cell.name


def test_names_are_stable_and_tell_points_apart():
    name = sweep_cells.cell_name
    assert name({"b": 1e-4, "a.c": (60, 100)}) == "a.c=60x100,b=0.0001"
    assert name({"a": 1, "b": 2}) == name({"b": 2, "a": 1})
    assert name({}) == "as_configured"
    odd = [name({"head": text}) for text in ("a b", "a_b", "a/b", "x" * 300, "x" * 301)]
    assert len({*odd}) == 5 and all("/" not in n and len(n) < 200 for n in odd)


def test_dry_run_prints_commands_that_a_shell_reads_back(sweep_file, capsys):
    spec = sweep_file('yield {"seed": 1}; yield {"train.window_frames": (20, 30)}')
    code = sweep.main([spec, "--dry_run", "--config.dataset", "my data", "--out=o"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and len(lines) == 2
    python, dash, module, *flags = shlex.split(lines[1])
    assert (python, dash, module) == ("python", "-m", "toktalk_jax.train")
    config = sweep_cells.read_config([f for f in flags if f.startswith("--config")])
    assert config["train"]["window_frames"] == (20, 30)
    assert config["dataset"] == "my data"
    assert flags[-1] == "--workdir=o/train.window_frames=20x30"


def test_an_adapter_sweep_runs_adapt_before_its_base(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = "configs/adapter.py:tokens=whisper,smoke:sweep_depth"
    assert sweep.main([spec, "--dry_run", "--base=runs/b"]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert "-m toktalk_jax.adapt --config=configs/adapter.py:tokens=whisper" in line
        assert "--base=runs/b" in line


def test_a_sweep_of_sampling_trains_once_and_scores_each(sweep_file, monkeypatch):
    spec = sweep_file('yield {"sample.num_steps": 1}; yield {"sample.num_steps": 4}')
    made = sweep_cells.read_sweep(spec, ["--config.seed=3"], out="out")
    (model,) = made.before
    assert model.command[0] == "toktalk_jax.train"
    assert not any("sample." in flag for flag in model.command)
    for cell in made.cells:
        assert cell.command[0] == "toktalk_jax.evaluate"
        assert "--workdir=out/model" in cell.command
        assert "--split=validation" in cell.command
    given = sweep_cells.read_sweep(spec, out="out", model="small")
    assert not given.before and "--workdir=small" in given.cells[0].command
    # A point that changes anything else is a training, with its own sampling.
    spec = sweep_file('yield {"sample.num_steps": 1}; yield {"seed": 4}')
    made = sweep_cells.read_sweep(spec, out="out")
    assert not made.before
    assert {cell.command[0] for cell in made.cells} == {"toktalk_jax.train"}


def test_scores_are_made_again_when_the_model_or_the_command_changed(tmp_path):
    model, out = tmp_path / "model", tmp_path / "cell"
    (model / "bundle").mkdir(parents=True)
    meta = model / "bundle/meta.json"
    meta.write_text("{}")
    command = (sweep_cells.EVALUATE, f"--workdir={model}")
    cell = sweep_cells.Cell("cell", {}, {}, command, out, {})
    assert not sweep_cells.finished(cell)
    sweep_cells.open_log(cell).close()
    assert not sweep_cells.finished(cell)
    (out / "evaluation.json").write_text("{}")
    assert sweep_cells.finished(cell)
    other = cell._replace(command=(*command, "--config.sample.num_steps=3"))
    assert not sweep_cells.finished(other)
    later = (out / "evaluation.json").stat().st_mtime + 9
    os.utime(meta, (later, later))
    assert not sweep_cells.finished(cell)
    sweep_cells.open_log(cell).close()  # begun again: the old scores are gone
    assert not (out / "evaluation.json").exists()


# Mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "arguments", "told"),
    [
        (
            "yield {}",
            ["GENERATOR=sweep_that"],
            "no sweep 'sweep_that'; it has sweep_it",
        ),
        ('yield {"train.lr": 1}', [], "point 0 .*--config.train.lr=1: no such key"),
        ('yield {"batch_size": 1.5}', [], "point 0 .*batch_size=1.5: invalid literal"),
        (
            'yield {"train.window_frames": 20}',
            [],
            r"window_frames is 20, .*\(20,\)",
        ),
        (
            'yield {"seed": 1}; yield {"seed": 1}',
            [],
            "point 1 .*cell seed=1 comes twice",
        ),
        ('yield {"seed": 1}', ["--config.dataset=/nowhere"], "dataset: .* at /nowhere"),
        ('yield {"seed": 1}', [], "config.dataset is empty"),
        (
            'yield {"seed": 1}',
            ["--config.sed=2"],
            'config.sed=2: .*Did you mean "seed"',
        ),
        ('yield {"seed": 1}', ["--run=cluster"], "--run is 'cluster'; expected local"),
        ('yield {"seed": 1}', ["--jobs=0"], "--jobs is 0"),
        ('yield {"seed": 1}', ["--base=b"], "--base is for adapters"),
        ('yield {"seed": 1}', ["--model=b"], "--model is for sweeps of sample"),
        ("yield from ()", [], "sweep_it of .* yields no point"),
    ],
)
def test_a_mistake_ends_in_one_line(sweep_file, capsys, body, arguments, told):
    spec = sweep_file(body)
    for text in arguments:
        if text.startswith("GENERATOR="):
            spec = spec.replace("sweep_it", text.partition("=")[2])
    arguments = [a for a in arguments if a.startswith("--")]
    assert sweep.main([spec, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"sweep: .*{told}", line), line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["partition"], "--slurm partition: expected key=value"),
        (["=gpu"], "--slurm =gpu: expected key=value"),
        (["partitoin=gpu"], "--slurm: Unknown argument 'partitoin'"),
    ],
)
def test_a_malformed_slurm_parameter_is_named(given, told, tmp_path, monkeypatch):
    from launch import sweep_slurm

    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ValueError, match=re.escape(told)):
        sweep_slurm.executor(given, 1, tmp_path)


def test_no_slurm_and_no_directory_are_named(
    sweep_file, tiny_dataset, tmp_path, capsys, monkeypatch
):
    spec = sweep_file('yield {"seed": 1}')
    data = f"--config.dataset={tiny_dataset}"
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert sweep.main([spec, data, f"--out={tmp_path / 'o'}", "--run=slurm"]) == 2
    assert "--run slurm: no srun on this machine" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert sweep.main([spec, data, f"--out={tmp_path / 'file' / 'out'}"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_an_out_that_may_not_be_written_is_named(sweep_file, tmp_path, capsys):
    """As nobody, to whom root's directories are closed, where the tests run as root."""
    spec = "configs/small.py:smoke:sweep_steps"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        data = pathlib.Path(folder) / "data"
        data.mkdir()
        (data / "metadata.json").write_text("{}")
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            for out in (folder, f"{folder}/out"):
                flags = [f"--config.dataset={data}", f"--out={out}"]
                assert sweep.main([spec, *flags]) == 2
                (line,) = capsys.readouterr().err.splitlines()
                assert "ermission" in line and out in line
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)


def test_a_directory_of_another_config_is_refused(
    sweep_file, tiny_dataset, tmp_path, capsys
):
    spec = sweep_file('yield {"seed": 1}')
    arguments = [spec, f"--config.dataset={tiny_dataset}", f"--out={tmp_path / 'o'}"]
    cell = sweep_cells.read_sweep(spec, out=tmp_path / "o").cells[0]
    cell.workdir.mkdir(parents=True)
    kept = json.loads(json.dumps(cell.config))
    kept["train"]["learning_rate"] = 0.5
    (cell.workdir / "config.json").write_text(json.dumps(kept))
    assert sweep.main(arguments) == 2
    error = capsys.readouterr().err
    assert "another config: train.learning_rate was 0.5" in error


def test_the_command_line_helps_and_exits(tmp_path):
    run = functools.partial(subprocess.run, capture_output=True, text=True, cwd=ROOT)
    done = run([sys.executable, "-m", "launch.sweep", "--help"])
    assert done.returncode == 0 and "--dry_run" in done.stdout
    done = run([sys.executable, "-m", "launch.sweep", "configs/base.py:x", "foo"])
    assert done.returncode == 2
    assert done.stderr.strip() == "sweep: unknown argument foo; --help lists them"
