"""Sweeps that run here: failures, interrupts, resumption, real trainings."""

import csv
import functools
import os
import pickle
import signal
import subprocess
import sys

import pytest

from launch import sweep, sweep_cells, sweep_local
from tests.conftest import ROOT
from tests.tiny_sweep import TRAINING_ENVIRONMENT, quick_cell, until, write_sweep


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Makes cells of the quick trainer."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return functools.partial(quick_cell, tmp_path / "out")


def test_a_failing_cell_stops_no_other_and_the_rest_resumes(trainings, capsys):
    """Two good cells around a bad one; then the bad one is mended and alone runs."""
    cells = [trainings("a"), trainings("b", fail="no luck"), trainings("c", steps=5)]
    sweep_local.run(cells, jobs=2)
    assert [sweep_cells.finished(cell) for cell in cells] == [True, False, True]
    assert [sweep_cells.status(cell) for cell in cells][1] == "unfinished"
    assert sweep._report(cells) == 1
    out = capsys.readouterr().out
    assert out == f"unfinished: b: train: no luck ({cells[1].log})\n"
    before = cells[0].log.read_text()
    mended = [cells[0], trainings("b"), cells[2]]
    todo = sweep._todo(mended)
    assert todo == [mended[1]]
    sweep_local.run(todo, jobs=2)
    assert sweep._report(mended) == 0
    assert cells[0].log.read_text() == before
    assert sweep_cells.steps_done(cells[2]) == 5


def test_more_steps_make_a_finished_cell_go_on(trainings):
    cell = trainings("a", steps=2)
    sweep_local.run([cell], jobs=1)
    assert sweep_cells.finished(cell)
    assert not sweep_cells.finished(trainings("a", steps=4))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_trainings_save(trainings, tmp_path, number):
    """The launcher in a process of its own; its children save, end, and resume."""
    cells = [trainings(name, steps=10_000, pause=0.05) for name in "ab"]
    script = tmp_path / "launcher.py"
    script.write_text(
        "import pickle, signal, sys\nfrom launch import sweep_local\n"
        # A shell starts what it puts in the background deaf to Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sweep_local.run(pickle.load(open(sys.argv[1], 'rb')), 2)\n"
    )
    (tmp_path / "cells").write_bytes(pickle.dumps(cells))
    launcher = subprocess.Popen(
        [sys.executable, script, tmp_path / "cells"], stderr=subprocess.PIPE, text=True
    )
    until(lambda: all(sweep_cells.steps_done(cell) >= 3 for cell in cells))
    assert {sweep_cells.status(cell) for cell in cells} == {"running"}
    # A second launcher leaves cells alone that run already.
    sweep_local.run(cells[:1], jobs=1)
    assert cells[0].log.read_text().count("from step") == 1
    launcher.send_signal(number)
    assert "KeyboardInterrupt" in launcher.communicate(timeout=60)[1]
    for cell in cells:
        assert sweep_cells.status(cell) == "unfinished"
        assert sweep_cells.last_line(cell).startswith("saved at step")
    steps = sweep_cells.steps_done(cells[0])
    more = trainings("a", steps=steps + 2)
    sweep_local.run([more], jobs=1)
    assert sweep_cells.finished(more) and f"from step {steps}" in more.log.read_text()


def test_an_interrupt_within_a_destructor_is_not_lost(trainings, monkeypatch):
    """Python drops what a signal handler raises there."""

    class Dropped:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    cell, show = trainings("a", steps=10_000, pause=0.05), sweep_local.show

    def shown(*given):
        show(*given)
        if sweep_cells.steps_done(cell) >= 3:
            Dropped()

    monkeypatch.setattr(sweep_local, "show", shown)
    with pytest.raises(KeyboardInterrupt):
        sweep_local.run([cell], 1)
    assert sweep_cells.last_line(cell).startswith("saved at step")


def test_children_share_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5, 6})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,7")
    shares = [sweep_local.share(slot, 2) for slot in range(2)]
    assert [cores for cores, _ in shares] == [{0, 2, 6}, {1, 5}]
    devices = [e["CUDA_VISIBLE_DEVICES"] for _, e in shares]
    assert devices == ["3,7", "4"]
    assert sweep_local.share(3, 4)[1] == {}  # more jobs than GPUs
    assert sweep_local.share(6, 7)[0] == set()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert sweep_local.share(0, 2)[1] == {}


@pytest.mark.long
def test_a_real_sweep_trains_lists_failures_and_makes_its_table(
    tiny_dataset, tmp_path, monkeypatch, capsys
):
    """Two trainings, one of which cannot build."""
    monkeypatch.chdir(ROOT)
    body = "yield {'train.objective': 'flow'}; yield {'train.objective': 'flw'}"
    out = tmp_path / "out"
    arguments = [
        write_sweep(tmp_path / "own.py", body),
        *("--config.dataset", str(tiny_dataset), f"--out={out}"),
        *("--config.total_steps=2", "--config.log_every=1"),
    ]
    for name, value in TRAINING_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert sweep.main(arguments) == 1
    failed = "unfinished: train.objective=flw: train: config.train.objective is 'flw'"
    assert failed in capsys.readouterr().out
    assert (out / "train.objective=flow/bundle/params.npz").is_file()
    (out / "table.md").unlink()
    assert sweep.main([*arguments, "--table"]) == 0
    assert failed in capsys.readouterr().out
    assert "| flow | finished | 2 |" in (out / "table.md").read_text()
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["status"] for row in rows] == ["finished", "unfinished"]
    assert float(rows[0]["loss"]) > 0 and float(rows[0]["step_ms"]) > 0
    assert (out / "table.png").is_file()


@pytest.mark.long
def test_a_real_sweep_of_sampling_scores_one_model(
    tiny_dataset, tmp_path, monkeypatch, capsys
):
    """One training, then a score for each point; the second call does nothing."""
    monkeypatch.chdir(ROOT)
    for name, value in TRAINING_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    spec = write_sweep(
        tmp_path / "own.py",
        'yield {"sample.num_steps": 1}; yield {"sample.num_steps": 2}',
    )
    arguments = [spec, f"--config.dataset={tiny_dataset}", f"--out={tmp_path / 'o'}"]
    assert sweep.main([*arguments, "--jobs=2"]) == 0, capsys.readouterr()
    rows = list(csv.DictReader((tmp_path / "o/table.csv").open()))
    assert [row["status"] for row in rows] == ["finished"] * 2
    errors = [float(row["validation_lve_mm"]) for row in rows]
    assert errors[0] != errors[1] and min(errors) > 0
    monkeypatch.setattr(sweep_local, "run", None)
    assert sweep.main(arguments) == 0
    assert "2 of 2 cells are finished already" in capsys.readouterr().out
