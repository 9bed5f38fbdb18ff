"""The table of a sweep: last and best values, wall time, the plot's columns."""

import csv
import json
import math

import numpy as np

from launch import sweep_cells, sweep_table
from tests.tiny_sweep import quick_cell


def fake_cell(folder, values, lines, status="finished"):
    cell = sweep_cells.Cell(
        "-".join(map(str, values.values())),
        values,
        values,
        ("toktalk_jax.train",),
        folder / "-".join(map(str, values.values())),
        {"total_steps": 10},
    )
    cell.workdir.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (cell.workdir / "metrics.jsonl").write_text(text)
    if status == "finished":
        (cell.workdir / "config.json").write_text(json.dumps(cell.config))
        (cell.workdir / "bundle").mkdir()
        (cell.workdir / "bundle/meta.json").write_text('{"step": 10}')
    return cell


def test_a_table_has_the_last_and_the_best_values(tmp_path):
    lines = [
        {"step": 5, "time": 10.0, "loss": 3.0, "step_ms": 100.0},
        {
            "step": 5,
            "time": 12.0,
            "validation_lve_mm": 1.5,
            "validation_std_ratio": 1.4,
        },
        {"step": 10, "time": 14.0, "loss": 2.0, "step_ms": 90.0},
        {
            "step": 10,
            "time": 15.0,
            "validation_lve_mm": 1.7,
            "validation_std_ratio": 0.9,
        },
    ]
    cells = [
        fake_cell(tmp_path, {"seed": 1, "train.decay": "cosine"}, lines),
        fake_cell(tmp_path, {"seed": 2, "train.decay": "constant"}, lines[:1], "none"),
    ]
    paths = sweep_table.write(tmp_path / "out", cells)
    first, second = csv.DictReader(paths[0].open())
    expected = {
        **{"seed": 1, "steps": 10, "loss": 2.0, "step_ms": 90.0},
        **{"validation_lve_mm": 1.7, "best_validation_lve_mm": 1.5},
        **{"validation_std_ratio": 0.9, "best_validation_std_ratio": 0.9},
    }
    assert {k: float(first[k]) for k in expected} == expected
    assert first["status"] == "finished" and second["status"] == "unfinished"
    assert second["validation_lve_mm"] == "" and second["steps"] == "5"
    assert paths[1].read_text().count("\n") == 4
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_the_plot_shows_what_a_user_asks_for_first():
    columns = ["seed", "loss", "validation_a", "validation_lve_mm"]
    best = ["best_validation_a", "best_validation_lve_mm", "best_validation_loss"]
    assert sweep_table.results_of([*columns, *best]) == [best[2], best[1], best[0]]
    assert sweep_table.results_of(columns) == ["validation_lve_mm", "validation_a"]
    assert sweep_table.results_of(["seed", "loss", "step_ms"]) == ["loss"]
    assert sweep_table.results_of(["seed"]) == []


def test_adapters_are_judged_by_their_faces_not_by_their_loss(tmp_path):
    """Their losses are weighed differently, and a linear map has none."""
    cells = []
    for weight, error in ((0.1, 2.0), (2.0, 1.5)):
        cell = fake_cell(tmp_path, {"train.align": weight}, [])
        cell = cell._replace(command=(sweep_cells.ADAPT,))
        card = {"split": "validation", "align_explained": 0.5, "added_share": 0.01}
        card |= {"adapter": {"lve_mm": error}, "ratio": {"lve_mm": {"value": error}}}
        (cell.workdir / "card.json").write_text(json.dumps(card))
        cells.append(cell)
    paths = sweep_table.write(tmp_path / "out", cells)
    first, second = csv.DictReader(paths[0].open())
    assert first["card_lve_mm"] == "2.0" and second["card_lve_mm"] == "1.5"
    assert first["card_lve_mm_over_base"] == "2.0" and first["split"] == "validation"
    columns = ["seed", "loss", "card_a", "card_lve_mm"]
    assert sweep_table.results_of(columns) == ["card_lve_mm", "card_a"]
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_best_follows_the_metrics_own_direction():
    assert sweep_table.best("lve_mm", [2.0, 1.0, 3.0]) == 1.0
    assert sweep_table.best("mouth_gap_r", [0.2, 0.8, 0.5]) == 0.8
    assert sweep_table.best("std_ratio", [0.5, 1.2, 1.6]) == 1.2
    assert sweep_table.best("fdd_signed", [-3.0, 0.5, 1.0]) == 0.5
    assert sweep_table.best("unheard_of", [math.nan, 3.0, 2.0]) == 2.0
    assert math.isnan(sweep_table.best("lve_mm", [math.nan]))


def test_wall_time_leaves_out_the_pause_before_a_resumption():
    rng = np.random.default_rng(0)
    seconds = rng.uniform(1, 5, size=20)
    lines, clock, step = [], 1e9, 0
    for k, took in enumerate(seconds):
        clock += took + (86_400 if k in (7, 15) else 0)  # a day off, twice
        step += 10
        lines.append({"step": step, "time": clock, "step_ms": took / 10 * 1e3})
    np.testing.assert_allclose(
        sweep_table.wall_seconds(lines), seconds.sum(), rtol=1e-6
    )
    # An evaluation between rows counts by the clock.
    lines.append({"step": step, "time": clock + 30, "validation_loss": 1.0})
    np.testing.assert_allclose(
        sweep_table.wall_seconds(lines), seconds.sum() + 30, rtol=1e-6
    )
    assert sweep_table.wall_seconds([]) == 0


def test_a_table_of_nothing_yet(tmp_path):
    cells = [quick_cell(tmp_path, name) for name in "ab"]
    paths = sweep_table.write(tmp_path, cells)
    assert len(paths) == 2 and "waiting" in paths[1].read_text()
