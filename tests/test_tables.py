"""The paper's tables: kept rows are found again, missing ones made, claims judged."""

import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from tests.conftest import ROOT
from toktalk_jax import evaluate, style_gains, table_lines, tables
from toktalk_jax.evaluation import paper, results, scoring
from toktalk_jax.evaluation import tables as table_text
from toktalk_jax.flame import assets

MINIATURE = '''
"""Table 3 with four lines, Table 5 with one, for a test."""

from configs import grid


def get_config(arg=""):
    return grid.get_config("smoke")


def about(config):
    return f"Trained on {config.total_steps} batches."


def table_3():
    seeds = {"data": "mel_rvq", "seeds": (0, 1)}
    yield {**seeds, "label": "TokTalk", "paper": "TokTalk w/ style", "timed": 2}
    yield {"label": "ridge", "data": "mel_rvq", "method": "ridge"}
    yield {"label": "mean face", "data": "mel_rvq", "method": "static"}
    yield {"label": "MSMD", "paper": "MSMD", "reason": "not here"}


def claims_3():
    yield {
        **{"claim": "less error", "metric": "lve_mm"},
        **{"better": "ridge", "worse": "TokTalk"},
    }
    yield {
        **{"claim": "less error", "metric": "lve_mm"},
        **{"better": "TokTalk", "worse": "MSMD"},
    }


def table_5():
    yield {
        **{"label": "C = 0.4 s, n = 1", "paper": "C = 0.4 s, n = 1", "timed": 2},
        **{"data": "mel_rvq", "sample": {"num_steps": 1}, "unscored": True},
    }
'''


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "miniature.py"
    path.write_text(MINIATURE)
    return path


def settings(module, dataset):
    config = module.get_config()
    config.datasets.mel_rvq = str(dataset)
    config.table.samples = 2
    return config


@pytest.fixture(scope="module")
def filled(miniature, tiny_dataset, tmp_path_factory):
    """(config, module, runs, directory of the report) of a filled table."""
    module = tables.module_of(miniature)
    config = settings(module, tiny_dataset)
    runs, out = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("out")
    for number in (3, 5):
        lines, claims = tables.fill(
            number, config, module, runs=[runs], kept=out / "rows", train=True
        )
        table_text.write(out, number, lines, claims, module.about(config))
    return config, module, runs, out


def test_a_table_trains_what_is_missing(filled):
    _, _, runs, out = filled
    assert len(list(runs.iterdir())) == 2  # two seeds of one model serve five lines
    table = json.loads((out / "table_3.json").read_text())
    ours, ridge, still, absent = table["lines"]
    assert len(ours["rows"]) == 2 and len(ridge["rows"]) == len(still["rows"]) == 1
    assert ours["paper"] == list(paper.TABLE_3.rows["TokTalk w/ style"])
    assert ours["rows"][0]["measured"]["T_animation_ms"] > 0
    for name in ("commit", "config_hash", "dataset_hash", "weights", "device", "seed"):
        assert name in ours["rows"][1], name
    assert ours["rows"][0]["over_samples"]["lve_mm"]["best"]["value"] > 0
    assert {"boundary_excess", "boundary_excess_whole"} <= set(ours["metrics"])
    assert "boundary_excess_whole" not in ridge["metrics"]  # there is no such control
    assert absent["reason"] == "not here" and not absent["metrics"]
    verdicts = [claim["verdict"] for claim in table["claims"]]
    assert verdicts[0] in ("holds", "reversed", "not resolved")
    assert verdicts[1] == "not run"
    text = (out / "table_3.md").read_text()
    assert "not run: not here" in text and "*14.53*" in text
    assert f"Trained on {filled[0].total_steps} batches." in text
    assert "Over the samples" in text
    assert (out / "table_3.png").stat().st_size > 5000
    (timed,) = json.loads((out / "table_5.json").read_text())["lines"]
    assert timed["rows"][0]["measured"]["voice_ms_p95"] > 400 and not timed["metrics"]
    assert "mve_mm ↓" not in (out / "table_5.md").read_text()


def test_kept_rows_need_neither_data_nor_runs(filled, miniature, tmp_path):
    """The command gives the same report, of several tables, from the rows alone."""
    _, _, _, out = filled
    shutil.copytree(out / "rows", tmp_path / "rows")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "toktalk_jax.evaluate"),
            *("--config", f"{miniature}:smoke"),  # an argument is no part of the file
            *("--table=3", "--table=5", "--out", tmp_path, "--train=false"),
            "--samples=2",
            "--config.datasets.mel_rvq=nowhere",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("table_3.md", "table_3.json", "table_5.md", "table_5.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    told = "\n".join((out / f"table_{n}.md").read_text() for n in (3, 5))
    assert done.stdout.split() == told.split()


def test_a_line_that_cannot_be_scored_costs_no_other(filled, tmp_path, capsys):
    """The dataset holds no sound: the rules have nothing to act, the others do."""
    config, _, runs, _ = filled
    given = [
        {"label": method, "data": "mel_rvq", "method": method}
        for method in ("rules", "static")
    ]
    module = types.SimpleNamespace(__name__="m", table_3=lambda: given)
    (rules, still), _ = tables.fill(
        3, config, module, runs=[runs], kept=tmp_path, train=False
    )
    assert still.rows and not rules.rows
    assert rules.reason.startswith("not scored: row 'rules' scored none of 3 clips; ")
    assert "rules, seed 0: row 'rules' scored none" in capsys.readouterr().out
    assert f"not run: {rules.reason}" in table_text.to_markdown(3, [rules, still])


def test_what_is_measured_beside_the_scores_stands_in_the_row(
    filled, tmp_path, monkeypatch
):
    """A matched row is sampled at the temperature found; gains score no clip."""
    config, _, runs, _ = filled
    beside = {"data": "mel_rvq", "unscored": True}
    matched = {"label": "matched", **beside, "match_std": True}
    gains = {"label": "gains", **beside, "gains": True}
    module = types.SimpleNamespace(__name__="m", table_3=lambda: [matched, gains])
    splits = []

    def found(task, method):
        splits.append(task.split)
        return 0.33, "matched somewhere"

    rho = {"rho nod": 0.5, "rho blink": np.nan}
    monkeypatch.setattr(tables, "matched_temperature", found)
    monkeypatch.setattr(style_gains, "rank_correlations", lambda task: rho)
    lines, _ = tables.fill(3, config, module, runs=[runs], kept=tmp_path, train=False)
    (at,), (measured,) = (line.rows for line in lines)
    assert splits == ["validation"] and at.measured == {"temperature": 0.33}
    assert "temperature 0.33" in at.note and at.note.endswith("matched somewhere")
    assert measured.measured == {"rho nod": 0.5} and measured.samples == 1
    assert (
        not at.scores
        and not measured.scores
        and "style of the performer" in measured.note
    )
    assert measured.note.endswith("undefined: rho blink")
    assert {path.stem for path in tmp_path.iterdir()} == {at.key, measured.key}


def test_a_seed_that_is_missing_hides_no_other(filled, tmp_path):
    """Rows of later seeds are kept rows too, and the table says which is not there."""
    config, module, runs, out = filled
    shutil.copytree(out / "rows", tmp_path / "rows")
    line = table_lines.check(next(iter(module.table_3())))
    (tmp_path / f"rows/{table_lines.row_key(config, line, 0)}.json").unlink()
    lines, claims = tables.fill(
        *(3, config, module),
        **{"runs": [tmp_path / "no runs"], "kept": tmp_path / "rows", "train": False},
    )
    assert [row.seed for row in lines[0].rows] == [1]
    assert lines[0].reason == f"seed 0: no finished run in {tmp_path / 'no runs'}"
    text = table_text.to_markdown(3, lines)
    assert f"- TokTalk: {lines[0].reason}" in text
    assert lines[3].reason == "not here" and "- MSMD: not here" not in text
    # Rows of another folder are read too, and nothing is written there.
    before = sorted((out / "rows").iterdir())
    lines, _ = tables.fill(
        *(3, config, module),
        **{"runs": [tmp_path / "no runs"], "kept": tmp_path / "new", "train": False},
        known=out / "rows",
    )
    assert [row.seed for row in lines[0].rows] == [0, 1] and not lines[0].reason
    assert sorted((out / "rows").iterdir()) == before


def test_probes_come_to_a_kept_row_when_its_dataset_has_sound(
    filled, tiny_dataset, tmp_path, monkeypatch
):
    """The key does not know of it; without sound the row says what it lacks."""
    config, module, runs, _ = filled
    line = {"label": "ridge", "data": "mel_rvq", "method": "static", "probes": True}
    module = types.SimpleNamespace(__name__="m", table_3=lambda: [line])
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    config = config.copy_and_resolve_references()
    config.datasets.mel_rvq = str(dataset)

    def fill(where=runs):
        (found,), _ = tables.fill(
            3, config, module, runs=where, kept=tmp_path / "rows", train=False
        )
        return found.rows[0]

    facts = json.loads((dataset / "metadata.json").read_text())
    assert not facts.get("with_audio")
    first = fill([runs])
    assert "no probes: the dataset holds no sound" in first.note
    monkeypatch.setattr(
        tables, "_probes", lambda task: ({"probe A": 0.5, "probe B": np.nan}, [])
    )
    assert fill([runs]) == first
    facts["with_audio"] = True
    (dataset / "metadata.json").write_text(json.dumps(facts))
    assert fill([tmp_path]) == first  # there is no run to make it again from
    again = fill([runs])
    assert again.measured == {"probe A": 0.5} and again.key == first.key
    assert again.note.endswith("undefined: probe B")


def test_a_kept_row_of_other_data_is_not_shown_nor_written_over(
    filled, tiny_dataset, tmp_path, capsys
):
    """Nobody is shown another speaker's row for their own, or loses one to it."""
    config, module, _, out = filled
    shutil.copytree(out / "rows", tmp_path / "rows")
    moved = tmp_path / "data"
    shutil.copytree(tiny_dataset, moved)
    config = config.copy_and_resolve_references()
    config.datasets.mel_rvq = str(moved)

    def fill(**where):
        where = {"runs": [tmp_path / "no runs"], "kept": tmp_path / "rows"} | where
        lines, _ = tables.fill(3, config, module, **{"train": False} | where)
        return lines[0]

    assert len(fill().rows) == 2  # another path to the same data
    facts = json.loads((moved / "metadata.json").read_text())
    (moved / "metadata.json").write_text(json.dumps({**facts, "seed": 77}))
    kept = fill(train=True)
    assert not kept.rows and "is of other data" in capsys.readouterr().out
    assert "is of other data; remove it, or name a folder for yours" in kept.reason
    # Beside them, in a folder of one's own, it is only missing.
    beside = fill(known=tmp_path / "rows", kept=tmp_path / "own")
    assert not beside.rows and beside.reason.startswith("no finished run")
    shutil.rmtree(moved)
    assert len(fill().rows) == 2


def test_a_kept_row_of_other_regions_counts_as_missing(filled, monkeypatch, capsys):
    """A new mask of the face changes every score and no key."""
    config, module, _, out = filled
    line = table_lines.check(next(iter(module.table_3())))
    known = {row.key: row for row in results.load_rows(out / "rows")}

    def made():
        tables._regions.cache_clear()
        return tables._row(config, line, 0, known, [], out, False)[0]

    assert made() is not None
    now = scoring.region_hashes(assets.load_head())
    monkeypatch.setattr(
        scoring, "region_hashes", lambda head: now | {"lips": "of another mask"}
    )
    assert made() is None and "is of other regions" in capsys.readouterr().out
    # The user's own FLAME file is not where they view the table: nothing to compare.
    config = config.copy_and_resolve_references()
    config.head = "flame.pkl"
    assert made() is not None


def test_a_finished_run_is_found_by_what_it_is(filled, tiny_dataset, tmp_path):
    """Not by its name or its dataset's path; another seed or other data is another."""
    config, module, runs, _ = filled
    line = table_lines.check(next(iter(module.table_3())))
    run = table_lines.run_config(config, line, 1)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_dataset, moved)
    run.dataset = str(moved)
    found = tables.finished(run, [runs])
    assert json.loads((found / "config.json").read_text())["seed"] == 1
    run.seed = 2
    assert tables.finished(run, [runs]) is None
    run.seed = 1
    facts = json.loads((moved / "metadata.json").read_text())
    # A second tokenizer beside the tokens is nothing that a base was trained on.
    both = json.dumps({**facts, "foreign": {"tokenizer": "whisper"}})
    (moved / "metadata.json").write_text(both)
    assert tables.finished(run, [runs]) == found
    before, after = str(tiny_dataset), f"{tiny_dataset},{moved}"
    assert tables.finished(run, [runs]) and not tables._on_data(found, after)
    described = json.loads((found / "bundle/dataset.json").read_text())
    pooled = tmp_path / "pooled"
    (pooled / "bundle").mkdir(parents=True)
    kept = json.dumps({**described, "corpus": "a+b", "directories": [facts, facts]})
    (pooled / "bundle/dataset.json").write_text(kept)
    assert tables._on_data(pooled, after) and not tables._on_data(pooled, before)
    (moved / "metadata.json").write_text(json.dumps({**facts, "corpus": "other"}))
    assert tables.finished(run, [runs]) is None


def test_a_config_without_the_table_says_so(filled, tmp_path):
    config, module, runs, _ = filled
    with pytest.raises(ValueError, match=r"no table_2\(\)"):
        tables.fill(2, config, module, runs=[runs], kept=tmp_path, train=False)


def test_a_reason_stands_once_for_all_seeds():
    assert tables._reason({"no data": ["0", "1", "2"]}, (0, 1, 2)) == "no data"
    some = tables._reason({"no data": ["1", "2"], "no run": ["0"]}, (0, 1, 2))
    assert some == "seeds 1, 2: no data; seed 0: no run"
    assert tables._reason({}, (0,)) == ""


def test_the_command_tells_of_errors_in_one_line(monkeypatch):
    """Of a table that is none before any is filled; of flags that it does not read."""

    def fill(*_, **__):
        raise AssertionError("filled")

    def mute():
        raise ImportError("hibari is not installed")

    def tell(*numbers, present=()):
        class Given(dict):
            table = list(numbers)

            def __missing__(self, name):
                return types.SimpleNamespace(present=name in present)

        given = types.SimpleNamespace(FLAGS=Given())
        monkeypatch.setattr(evaluate, "flags", given)
        evaluate.main(["evaluate"])

    monkeypatch.setattr(tables, "fill", fill)
    with pytest.raises(SystemExit, match=r"evaluate: --table holds \[9\]"):
        tell(3, 9)
    with pytest.raises(SystemExit, match="does not read --seed, --style: the lines"):
        tell(3, present=("seed", "style"))
    monkeypatch.setattr(evaluate, "_tables", mute)
    with pytest.raises(SystemExit, match="evaluate: hibari is not installed"):
        tell(3)


def test_other_settings_are_kept_elsewhere(filled):
    """A smoke run, fewer samples or nothing at all never write over the kept tables."""
    config, module, _, out = filled
    with pytest.raises(ValueError, match="settings are kept.*--out DIR"):
        evaluate.check_settings(config, module, ["runs"], "")  # samples=2
    evaluate.check_settings(config, module, ["runs"], str(out))
    own = module.get_config()
    own.datasets.mel_rvq = "elsewhere"
    evaluate.check_settings(own, module, ["runs"], "")
    with pytest.raises(ValueError, match="--runs names no folder"):
        evaluate.check_settings(own, module, [], "")
    for name, least in (("samples", 0), ("limit", -1)):
        other = own.copy_and_resolve_references()
        other.table[name] = least
        with pytest.raises(ValueError, match=f"--{name} is {least}; expected"):
            evaluate.check_settings(other, module, ["runs"], str(out))
    with pytest.raises(ValueError, match=r"has no table_4\(\)"):
        tables.describer(module, 4)
