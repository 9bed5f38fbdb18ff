"""The paper's tables: kept rows are found again, missing ones made, claims judged."""

import dataclasses
import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from configs import grid
from tests import tiny_corpus
from tests.conftest import ROOT
from tests.test_report import make_row
from toktalk_jax import evaluate, latency, rows, style_gains, tables, task, train
from toktalk_jax.data.corpora import performer
from toktalk_jax.evaluation import (
    intervals,
    paper,
    predict,
    references,
    results,
    scoring,
)
from toktalk_jax.evaluation import tables as table_text
from toktalk_jax.evaluation.claims import check_claim
from toktalk_jax.flame import assets
from toktalk_jax.tokenizers.ahead import Ahead

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


def test_a_seed_that_is_missing_hides_no_other(filled, tmp_path):
    """Rows of later seeds are kept rows too, and the table says which is not there."""
    config, module, runs, out = filled
    shutil.copytree(out / "rows", tmp_path / "rows")
    line = tables.check(next(iter(module.table_3())))
    (tmp_path / f"rows/{tables.row_key(config, line, 0)}.json").unlink()
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


def test_what_a_line_cannot_be_is_told_before_it_trains(filled, tmp_path):
    config, _, runs, _ = filled
    for changes, message in (
        ({"data": "mimo"}, r"has data 'mimo'; expected one of .*'mimi'"),
        ({"run": "faceformers"}, "has run 'faceformers'"),
        ({"style": "own"}, "has style 'own'"),
        ({"scored": "half"}, "has scored 'half'"),
        ({"run": "datasets"}, "has run 'datasets'"),
        ({"sample": {"steps": 3}}, r"overrides \['steps'\] in 'sample'"),
        ({"train": {"train.style_dropp": 1.0}}, r"overrides \['train.style_dropp'\]"),
        ({"train": {"seed.x": 1}}, r"overrides \['seed.x'\] in 'train'"),
        ({"adapter": {"steps": 1}}, r"overrides \['steps'\] in 'adapter'"),
    ):
        module = types.SimpleNamespace(
            __name__="m",
            table_3=lambda c=changes: [{"label": "x", "data": "mel_rvq", **c}],
        )
        with pytest.raises(ValueError, match=message):
            tables.fill(3, config, module, runs=[tmp_path], kept=tmp_path, train=True)
    assert not list(tmp_path.iterdir())


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


def test_a_kept_row_of_other_data_counts_as_missing(
    filled, tiny_dataset, tmp_path, capsys
):
    """Nobody is shown another speaker's row for their own; without data it is kept."""
    config, module, _, out = filled
    shutil.copytree(out / "rows", tmp_path / "rows")
    moved = tmp_path / "data"
    shutil.copytree(tiny_dataset, moved)
    config = config.copy_and_resolve_references()
    config.datasets.mel_rvq = str(moved)

    def fill():
        where = {"runs": [tmp_path / "no runs"], "kept": tmp_path / "rows"}
        lines, _ = tables.fill(3, config, module, **where, train=False)
        return lines[0]

    assert len(fill().rows) == 2  # another path to the same data
    facts = json.loads((moved / "metadata.json").read_text())
    (moved / "metadata.json").write_text(json.dumps({**facts, "seed": 77}))
    assert not fill().rows and "is of other data" in capsys.readouterr().out
    shutil.rmtree(moved)
    assert len(fill().rows) == 2


def test_a_kept_row_of_other_regions_counts_as_missing(filled, monkeypatch, capsys):
    """A new mask of the face changes every score and no key."""
    config, module, _, out = filled
    line = tables.check(next(iter(module.table_3())))
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
    line = tables.check(next(iter(module.table_3())))
    run = tables.run_config(config, line, 1)
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


def test_a_rows_key_is_what_it_is_made_from(filled, monkeypatch):
    config, module, _, _ = filled
    line = tables.check(next(iter(module.table_3())))
    key = tables.row_key(config, line, 0)
    assert tables.row_key(config, {**line, "label": "x", "paper": ""}, 0) == key
    for change in (
        {"train": {"train.style_drop": 1.0}},
        {"sample": {"num_steps": 3}},
        *({"style": "none"}, {"scored": "second_half"}, {"match_std": True}),
        {"unscored": True},
    ):
        assert tables.row_key(config, {**line, **change}, 0) != key
    assert tables.row_key(config, line, 1) != key
    matched, gains = {**line, "match_std": True}, {**line, "gains": True}
    fitted = {**line, "method": "ridge"}
    other = config.copy_and_resolve_references()
    other.train.learning_rate, other.sample.temperature = 0.5, 0.3
    assert tables.row_key(other, line, 0) != key
    assert tables.row_key(other, fitted, 0) == tables.row_key(config, fitted, 0)
    before = tables.row_key(config, fitted, 0)
    monkeypatch.setitem(rows.UNTRAINED, "ridge", (3,))
    assert tables.row_key(config, fitted, 0) != before
    for module, name, value, asked in (
        (references, "FRAMES", 25, line),
        (tables, "TEMPERATURES", (0.5, 1.0), matched),
        (style_gains, "LEVELS", 4, gains),
    ):
        before = tables.row_key(config, asked, 0)
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            assert tables.row_key(config, asked, 0) != before


def test_the_temperature_is_matched_by_the_motions_std(styled, monkeypatch):
    """Where samples move 0.4 + 0.8 T as much as the truth, T is 0.75."""
    made = styled(split="validation")

    def matched(ratio):
        def score(made, method):
            assert (method, made.samples) == ("stream", 1)
            sums = [ratio(made.settings["temperature"]) ** 2, 1.0, 1.0]
            found = {"c": {"std_ratio": sums, "skipped": {}}}
            return dataclasses.replace(make_row(), scores=found)

        monkeypatch.setattr(rows, "score", score)
        return tables.matched_temperature(made)

    found, words = matched(lambda t: 0.4 + 0.8 * t)
    assert found == pytest.approx(0.75, abs=0.002)
    assert words == "temperature matched on validation clips"
    # Between neighbours alone: 1 lies between 0.85 and 1.05, not 0.9 and 1.05.
    bent = {0.3: 0.9, 0.6: 0.8, 1.0: 0.85, 1.4: 1.05}
    assert matched(bent.get)[0] == pytest.approx(1.3, abs=0.002)
    # What no temperature reaches is said, and is no match.
    found, words = matched(lambda t: 0.5 + 0.2 * t)
    assert found == 1.4 and words.startswith("not matched: std_ratio on validation")
    assert "0.780 at temperature 1.4" in words
    assert matched(lambda t: 1.1 + 0.2 * t)[0] == 0.3
    with pytest.raises(ValueError, match="undefined at temperature 0.3 on 1 validat"):
        matched(lambda t: np.nan)


def test_every_table_of_grid_is_well_formed(tmp_path):
    """Every line resolves to a config, every claim to lines and a directed metric."""
    config = grid.get_config()
    assert "8,000 batches of 16" in grid.about(config)
    for number in table_text.TITLES:
        lines, claims = tables.fill(
            number, config, grid, runs=[tmp_path], kept=tmp_path / "rows", train=False
        )
        assert all(not line.rows and line.reason for line in lines)
        printed = paper.TABLES[number].rows
        assert {line.paper for line in lines} - {""} <= set(printed)
        for claim in claims:
            assert check_claim(lines, claim)["verdict"] == "not run"
        for given in getattr(grid, f"table_{number}")():
            line = tables.check(given)
            if line["data"]:
                train.check_config(tables.run_config(config, line, 0))
                assert set(line["sample"]) <= set(config.sample)
                assert line["run"] in ("", *tables.BLOCKS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"label": "x", "data": "mel_rvq", "stile": "none"}, "unknown fields.*stile"),
        ({"data": "mel_rvq"}, "expected label"),
        ({"label": "x"}, "expected label, data"),
        ({"label": "x", "data": "mel_rvq", "method": "rigde"}, "method 'rigde'"),
    ],
)
def test_malformed_lines(line, message):
    with pytest.raises(ValueError, match=message):
        tables.check(line)


def test_a_config_without_the_table_says_so(filled, tmp_path):
    config, module, runs, _ = filled
    with pytest.raises(ValueError, match=r"no table_2\(\)"):
        tables.fill(2, config, module, runs=[runs], kept=tmp_path, train=False)


# --- claims and seeds --------------------------------------------------------------


def line(label, *factors, **changes):
    made = [make_row(factor=f, seed=k, **changes) for k, f in enumerate(factors)]
    return table_text.Line(label=label, block="b", rows=tuple(made))


def test_a_claim_is_judged_by_its_interval():
    lines = [line("low", 0.8, 0.81, 0.79), line("high", 1.0, 1.01, 0.99)]
    lines += [line("wide", 0.5, 1.5, 1.0)]
    judge = lambda a, b: check_claim(  # noqa: E731
        lines, {"claim": "c", "metric": "lve_mm", "better": a, "worse": b}
    )
    assert judge("low", "high")["verdict"] == "holds"
    assert judge("high", "low")["verdict"] == "reversed"
    # Seeds that disagree leave it open, however many clips there are.
    assert judge("wide", "high")["verdict"] == "not resolved"
    found = judge("low", "high")["difference"]
    mean = np.mean([s["lve_mm"] for s in lines[1].rows[0].scores.values()])
    assert found["value"] == pytest.approx(-0.2 * mean, rel=1e-3)
    with pytest.raises(ValueError, match="names lines"):
        judge("low", "nobody")
    with pytest.raises(ValueError, match="without a direction"):
        check_claim(
            lines,
            {"claim": "c", "metric": "std_ratio", "better": "low", "worse": "high"},
        )


def test_one_training_sampled_otherwise_is_paired_by_seed():
    """Seeds that differ alike say nothing of which is better."""
    shared = [{"weights": f"ema at step 9, {k}"} for k in "abc"]

    def trained(label, factors, weights):
        made = line(label, *factors)
        rows_ = zip(made.rows, weights, strict=True)
        found = tuple(dataclasses.replace(row, **w) for row, w in rows_)
        return dataclasses.replace(made, rows=found)

    lines = [
        trained("low", (0.6, 0.9, 1.2), shared),
        trained("high", (0.7, 1.0, 1.3), shared),
        trained("other", (0.7, 1.0, 1.3), shared[::-1]),
    ]
    claim = {"claim": "c", "metric": "lve_mm", "better": "low", "worse": "high"}
    found = check_claim(lines, claim)
    assert found["verdict"] == "holds" and found["seeds"] == [3, 3]
    apart = check_claim(lines, {**claim, "worse": "other"})
    assert apart["verdict"] == "not resolved"
    assert apart["difference"]["value"] == pytest.approx(found["difference"]["value"])
    with pytest.raises(ValueError, match="3 and 1 seeds are no pairs"):
        scores = [row.scores for row in lines[0].rows]
        intervals.paired(scores, scores[:1], "lve_mm", same_seeds=True)


def test_a_claim_that_does_not_hold_says_why():
    lines = [line("low", 0.8), line("high", 1.0)]
    claim = {"claim": "c", "metric": "lve_mm", "why": {"reversed": "Too few steps."}}
    good, bad = (
        check_claim(lines, {**claim, "better": better, "worse": worse})
        for better, worse in (("low", "high"), ("high", "low"))
    )
    text = table_text.to_markdown(3, lines, [good, bad])
    assert "- c, `lve_mm`, high against low: reversed. Too few steps." in text
    assert text.count("Too few steps") == 1
    del bad["why"]
    text = table_text.to_markdown(3, lines, [bad])
    assert "high against low: reversed. Why is not known." in text
    assert "What does not hold" not in table_text.to_markdown(3, lines, [good])


def test_lines_that_are_not_alike_are_not_compared():
    lines = [line("low", 0.5), line("high", 1.0)]
    lines += [
        line("acted", 1.0, corpus="acted"),
        line("else", 1.0, regions={"lips": ""}),
    ]
    lines.append(line("reworded", 1.0, redefined={"lve_mm": ["mm", "low", "once"]}))
    elsewhere = {f"other{i}": s for i, s in enumerate(lines[1].rows[0].scores.values())}
    lines.append(line("clips", 1.0, scores=elsewhere))
    claim = {"claim": "c", "metric": "lve_mm", "better": "low"}
    judge = lambda worse, **more: check_claim(  # noqa: E731
        lines, {**claim, "worse": worse, **more}
    )
    assert judge("high")["verdict"] == "holds"
    for other in ("acted", "else", "clips", "reworded"):
        assert judge(other)["verdict"] == "not comparable", other
    found = judge("high", metric="closure")
    assert found["verdict"] == "not scored"
    assert "**not scored**" in table_text.to_markdown(3, lines, [found])
    with pytest.raises(ValueError, match="without a direction"):
        judge("high", metric="lve")


def test_a_row_keeps_the_definitions_it_was_scored_by(tmp_path):
    old = {"lve_mm": ["mm", "low", "something else"], "gone": ["", "high", "whatever"]}
    made = line("ours", 1.0, redefined=old).rows[0]
    results.write_row(tmp_path, made)
    (kept,) = results.load_rows(tmp_path)
    assert kept.redefined == old
    text = table_text.to_markdown(3, [table_text.Line("ours", "", (kept,))])
    assert f"- ours, seed 0: gone, lve_mm; remove {kept.hash()}.json" in text
    today = line("ours", 1.0).rows[0]
    results.write_row(tmp_path, today)
    (kept,) = results.load_rows(tmp_path)
    assert kept == today
    text = table_text.to_markdown(3, [table_text.Line("ours", "", (kept,))])
    assert "other definitions" not in text


def test_a_table_counts_its_clips_and_names_those_it_lacks():
    made = line("ours", 1.0, skipped={"grid/c": "one frame has no motion"})
    del made.rows[0].scores["clip0"]["energy_score"]
    text = table_text.to_markdown(3, [made])
    assert "| row | seeds | clips |" in text and "| ours | 1 | 12 |" in text
    assert "(11 clips)" in text
    assert "- ours, seed 0: grid/c, one frame has no motion" in text
    whole = table_text.to_markdown(3, [line("ours", 1.0)])
    assert "Not scored" not in whole and "(11 clips)" not in whole


def test_what_was_not_run_stands_with_its_block():
    here = dataclasses.replace(line("ours", 1.0), block="Codecs")
    later = table_text.Line("mimi", "Codecs", reason="no weights")
    other = table_text.Line("hubert", "ASR", reason="no weights")
    text = table_text.to_markdown(2, [later, other, here])
    codecs, asr = text.index("## Codecs"), text.index("## ASR")
    assert text.count("## Codecs") == 1 and text.count(". Face ") == 1
    assert codecs < text.index("| mimi |") < text.index("| ours |") < asr


def test_a_reason_stands_once_for_all_seeds():
    assert tables._reason({"no data": ["0", "1", "2"]}, (0, 1, 2)) == "no data"
    some = tables._reason({"no data": ["1", "2"], "no run": ["0"]}, (0, 1, 2))
    assert some == "seeds 1, 2: no data; seed 0: no run"
    assert tables._reason({}, (0,)) == ""


def test_a_picture_keeps_corpora_and_numbers_apart():
    """Scores of two corpora share no panel; one line's numbers have one panel."""
    acted = dataclasses.replace(make_row(), corpus="acted", measured={"rho": 0.5})
    gains = {"rho nod": 1.0, "rho blink": 0.0}
    rows_ = [
        dataclasses.replace(make_row(scores={}), measured=gains | {"rho nod": r})
        for r in (0.8, 1.0)
    ]
    lines = [
        *(line("ours", 1.0), line("ridge", 2.0)),
        table_text.Line("acted", "b", (acted,)),
        table_text.Line("gains", "b", tuple(rows_)),
        table_text.Line("mimi", "b", reason="no weights"),
    ]
    ours, other, beside, of_gains = table_text.panels(3, lines)
    assert ours[1] == ["ours", "ridge"] and other[1] == ["acted"]
    once, twice = (found.value for found in ours[2]["lve_mm ↓"])
    assert twice == pytest.approx(2 * once)
    assert beside[1] == ["rho"] and of_gains[1] == ["rho blink", "rho nod"]
    assert of_gains[2]["gains"] == [[0.0, 0.0], [0.8, 1.0]]


def test_latency_prints_what_it_assumes():
    row = dataclasses.replace(make_row(scores={}), measured={"chatbot_ms": 400.0})
    made = table_text.Line(label="n = 1", block="b", rows=(row,))
    text = table_text.to_markdown(4, [made])
    assert "200 ms to the first tokens of a chunk of 0.4 s" in text
    assert "max(T_audio, T_animation)" in text and "## Definitions" not in text


def test_a_bound_must_hold_for_every_seed():
    rows_ = [dataclasses.replace(make_row(), measured={"rho nod": r}) for r in (0.9, 1)]
    good = table_text.Line(label="a", block="b", rows=tuple(rows_))
    claim = {"claim": "c", "metric": "rho nod", "better": "a", "at_least": 0.8}
    found = check_claim([good], claim)
    assert found["verdict"] == "holds"
    assert found["over_seeds"] == pytest.approx({"mean": 0.95, "least": 0.9, "most": 1})
    text = table_text.to_markdown(3, [good], [found])
    assert "| at least 0.8 | 2 | is 0.95 (seeds 0.9 to 1) | **holds** |" in text
    mixed = check_claim([good], {**claim, "at_least": 0.95})
    assert mixed["verdict"] == "not resolved"
    none = check_claim([good], {**claim, "at_least": 1.1})
    assert none["verdict"] == "reversed"
    most = {"claim": "c", "metric": "rho nod", "better": "a", "at_most": 1}
    assert check_claim([good], most)["verdict"] == "holds"
    slow = check_claim([good], {**most, "at_most": 0.5})
    assert slow["verdict"] == "reversed" and slow["over_seeds"]["least"] == 0.9
    assert "at most 0.5: reversed" in table_text.to_markdown(3, [good], [slow])
    lost = check_claim([good], {**claim, "metric": "rho tempo"})
    assert lost["verdict"] == "not scored" and lost["difference"] is None
    with pytest.raises(ValueError, match="names lines .'b'. that are not"):
        check_claim([good], {**claim, "better": "b"})


def test_a_claim_may_ask_for_a_ratio_or_for_matched_motion():
    lines = [line("base", 1.0), line("near", 1.02), line("far", 1.2)]
    claim = {"claim": "c", "metric": "lve_mm", "worse": "base", "at_most_times": 1.05}
    near, far = (check_claim(lines, {**claim, "better": b}) for b in ("near", "far"))
    assert near["verdict"] == "holds" and far["verdict"] == "reversed"
    assert near["difference"]["value"] == pytest.approx(1.02)
    text = table_text.to_markdown(3, lines, [near])
    assert "at most 1.05 times base" in text and "ratio 1.020 [" in text
    # make_row's std_ratio goes with the root of its factor: 1.02 is alike, 1.2 is not,
    # and two that are alike but move otherwise than the truth are not matched either.
    one = lines[0].interval("std_ratio").value ** -2
    factors = {"base": one, "near": 1.02 * one, "far": 1.2 * one}
    factors |= {"still": 0.7 * one, "as still": 0.71 * one}
    lines = [line(name, factor) for name, factor in factors.items()]
    claim = {"claim": "c", "metric": "lve_mm", "better": "base", "matched": "std_ratio"}
    near, far = (check_claim(lines, {**claim, "worse": w}) for w in ("near", "far"))
    assert near["verdict"] == "holds" and far["verdict"] == "not matched"
    still = check_claim(lines, {**claim, "better": "still", "worse": "as still"})
    assert still["verdict"] == "not matched"
    unscored = check_claim(lines, {**claim, "worse": "near", "matched": "closure"})
    assert unscored["verdict"] == "not matched"


def test_a_gain_is_read_off_the_motion_that_its_style_makes(styled, monkeypatch):
    """A model that copies its reference scores 1, one that ignores it does not."""
    pytest.importorskip("hibari")
    copy = lambda made, sampler, shown: [performer.measure(m) for m in shown]  # noqa: E731
    made = styled()
    monkeypatch.setattr(style_gains, "measure", copy)
    found = style_gains.rank_correlations(made, levels=5)
    assert min(found.values()) > 0.8 and len(found) == 8  # blinks are few in 5 s
    still = performer.measure(np.zeros((100, 56), np.float32))
    monkeypatch.setattr(style_gains, "measure", lambda *given: [still] * len(given[2]))
    lost = style_gains.rank_correlations(made, levels=5)
    assert set(lost.values()) == {0.0}


def test_the_motion_of_a_style_is_drawn_by_the_sampler(styled):
    made = styled()
    shown = np.random.default_rng(0).normal(0, 0.1, (40, 56)).astype("f4")
    found, other = style_gains.measure(made, made.sampler, [shown, 3 * shown])
    assert np.isfinite(found).all() and found != other
    again = style_gains.measure(made, made.sampler, [shown])
    np.testing.assert_allclose(again, [found], rtol=1e-5)


def test_a_high_metric_is_better_where_it_is_more():
    score = lambda r: [60.0, 0.0, 0.0, 60.0, 60.0, 60.0 * r]  # noqa: E731

    def gaps(label, low):
        row = make_row()
        found = {
            f"c{i}": {"mouth_gap_r": score(low + 0.01 * i), "skipped": {}}
            for i in range(9)
        }
        row = dataclasses.replace(row, scores=found)
        return table_text.Line(label=label, block="b", rows=(row,))

    lines = [gaps("good", 0.8), gaps("bad", 0.3)]
    claim = {"claim": "c", "metric": "mouth_gap_r", "better": "good", "worse": "bad"}
    assert check_claim(lines, claim)["verdict"] == "holds"


def test_seeds_widen_the_interval_and_average_the_value():
    one, three = line("one", 1.0), line("three", 0.7, 1.0, 1.3)
    a, b = one.interval("lve_mm"), three.interval("lve_mm")
    assert b.value == pytest.approx(a.value, rel=1e-3)
    # Student's over three values that spread by 0.3 of the mean, beside the clips'.
    seeds = 2 * 4.3027 * 0.3 * a.value / np.sqrt(3)
    assert b.high - b.low == pytest.approx(np.hypot(seeds, a.high - a.low), rel=0.05)
    assert one.interval("closure_nobody_scores") is None


@pytest.mark.parametrize("same_seeds", [False, True])
@pytest.mark.parametrize(("of_seeds", "of_clips"), [(1, 0.1), (0.1, 1)])
def test_an_interval_over_few_seeds_is_wide_enough(same_seeds, of_seeds, of_clips):
    """Simulated pairs that do not differ: 0 is inside some 95 times in a hundred.

    Three seeds resampled with as many draws would give 82, and 75 for pairs of one
    training.
    """
    rng = np.random.default_rng(0)

    def row(shared):
        apart = rng.normal(0, of_seeds, (3, 1)) + rng.normal(0, of_clips, (3, 40))
        seeds = shared + apart
        return [{f"c{i}": {"x": v} for i, v in enumerate(one)} for one in seeds]

    trials, inside = 300, 0
    for trial in range(trials):
        shared = rng.normal(0, 1, 40) + same_seeds * rng.normal(0, 1, (3, 1))
        found = intervals.paired(
            *(row(shared), row(shared), "x"),
            **{"kind": "difference", "seed": trial, "resamples": 300},
            same_seeds=same_seeds,
        )
        inside += found.low <= 0 <= found.high
    assert 0.91 <= inside / trials


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


# --- styles and latency ------------------------------------------------------------


@pytest.fixture(scope="module")
def styled(tiny_dataset, tiny_run):
    from configs import small

    config = small.get_config("smoke")
    config.dataset = str(tiny_dataset)
    return lambda **options: task.prepare(config, tiny_run, samples=1, **options)


def test_references_never_show_a_scored_frame_but_where_they_say_so(styled):
    made = styled()
    shown = {
        style: references.of_clips(made.clips, made.train, style)
        for style, of in references.STYLES.items()
        if of is not None
    }
    for k, clip in enumerate(made.clips):
        train = [c for c in made.train if c.speaker_id == clip.speaker_id]
        other = next(c for c in made.train if c.speaker_id != clip.speaker_id)
        half = clip.motion[: len(clip.motion) // 2]
        np.testing.assert_array_equal(
            shown["another_clip"][k], train[0].motion[: references.FRAMES]
        )
        np.testing.assert_array_equal(
            shown["wrong_speaker"][k], other.motion[: references.FRAMES]
        )
        np.testing.assert_array_equal(shown["first_half"][k], half[: references.FRAMES])
        np.testing.assert_array_equal(
            shown["same_window"][k], clip.motion[: references.FRAMES]
        )
    scored = rows.score(dataclasses.replace(made, scored="second_half"), "truth")
    halves = references.of_clips(made.clips, made.train, "same_window", "second_half")
    for clip, half in zip(made.clips, halves, strict=True):
        assert len(half) == scored.scores[predict.name_of(clip)]["frames"]
        last = rows.frames(clip)
        np.testing.assert_array_equal(half, clip.motion[last - len(half) : last])
    window = dataclasses.replace(made, style="same_window")
    styles = dataclasses.replace(window, scored="second_half").styles
    assert np.abs(styles - window.styles).max() > 1e-6
    # Where tokens end before the motion does, the scored half begins earlier too.
    clip = made.clips[0]
    cut = dataclasses.replace(clip, tokens=clip.tokens[: len(clip.motion) // 2 - 1])
    first = references.of_clips([cut], made.train, "first_half")[0]
    assert len(first) == rows.frames(cut) // 2 < len(clip.motion) // 2
    # A clip of one frame is skipped by name, but its style is encoded before.
    brief = dataclasses.replace(clip, motion=clip.motion[:1])
    for style in ("first_half", "same_window"):
        (one,) = references.of_clips([brief], made.train, style, "second_half")
        assert len(one) == 1
    # A speaker whom training never saw: another clip of the split, or a stranger's,
    # which the row's note tells.
    new, second = (
        dataclasses.replace(c, speaker_id="new", motion=c.motion + k)
        for k, c in enumerate(made.clips[:2], 1)
    )
    shown = references.of_clips([new, second], made.train, "another_clip")
    np.testing.assert_array_equal(shown[0], second.motion[: references.FRAMES])
    np.testing.assert_array_equal(shown[1], new.motion[: references.FRAMES])
    (shown,) = references.of_clips([new], made.train, "another_clip")
    np.testing.assert_array_equal(shown, made.train[0].motion[: references.FRAMES])
    told = rows.facts(dataclasses.replace(made, clips=[new]), "stream")["note"]
    assert "1 clip whose speaker has no other shown a stranger's" in told
    assert "stranger" not in rows.facts(made, "stream")["note"]
    lonely = [c for c in made.clips if c.speaker_id == "speaker-0"]
    with pytest.raises(ValueError, match="needs two speakers"):
        references.of_clips(lonely, lonely, "wrong_speaker")


def test_a_style_changes_the_motion_and_none_is_the_null(styled):
    """mean_offset is "none" moved by one pose; the others show the encoder a clip."""
    made = {style: styled(style=style) for style in references.STYLES}
    sampler = made["none"].sampler  # one compile for all
    drawn = {style: task.draw(made[style], sampler) for style in made}
    null = drawn["none"]
    assert (made["none"].styles == 0).all()
    for style in ("another_clip", "same_window", "first_half", "wrong_speaker"):
        assert np.abs(drawn[style][0] - null[0]).max() > 1e-6, style
    shift = drawn["mean_offset"][0] - null[0]
    np.testing.assert_allclose(shift, shift[:, :1] + 0 * shift, atol=1e-6)
    assert np.abs(shift).max() > 1e-4
    # Solved at once it is moved as much; the control of chunk borders has no need to.
    at_once = {
        style: rows.ROWS["whole"](made[style]) for style in ("none", "mean_offset")
    }
    moved = at_once["mean_offset"][0] - at_once["none"][0]
    np.testing.assert_allclose(moved, shift[:, :1] + 0 * moved, atol=1e-5)
    np.testing.assert_array_equal(
        rows.borderless(made["mean_offset"])[0], at_once["none"][0][0]
    )


def test_the_second_half_is_scored_alone(styled):
    whole, half = styled(), styled(scored="second_half")
    for method in ("static", "truth"):
        both = [rows.score(t, method) for t in (whole, half)]
        for name, score in both[1].scores.items():
            assert score["frames"] == -(-both[0].scores[name]["frames"] // 2)
    moved = dataclasses.replace(
        half,
        clips=[
            dataclasses.replace(
                c,
                motion=np.concatenate(
                    [
                        c.motion[: len(c.motion) // 2] + 0.1,
                        c.motion[len(c.motion) // 2 :],
                    ]
                ),
            )
            for c in half.clips
        ],
    )
    a, b = (rows.score(t, "static").values["lve_mm"] for t in (half, moved))
    assert a == b


def test_unknown_styles_are_refused(styled):
    with pytest.raises(ValueError, match="style 'none at all'"):
        styled(style="none at all")


@pytest.mark.parametrize("options", [{"samples": 0}, {"limit": -3}])
def test_numbers_of_nothing_are_refused(tiny_dataset, tiny_run, options):
    config = grid.get_config("smoke")
    config.dataset = str(tiny_dataset)
    with pytest.raises(ValueError, match="at least one of each"):
        task.prepare(config, tiny_run, **options)


@pytest.mark.parametrize(("chunk_s", "ttftb"), [(0.4, 200), (0.8, 400)])
def test_latency_adds_up(styled, chunk_s, ttftb):
    made = styled()
    made.settings["chunk_seconds"] = chunk_s
    found, notes = latency.first_chunk(made, examples=3)
    assert not notes and found["TTFTB_ms"] == pytest.approx(ttftb)
    for name in ("T_animation_ms", "tokenise_ms", "voice_ms", "chatbot_ms"):
        assert 0 < found[f"{name}_p50"] <= found[f"{name}_p95"] and found[name] > 0
    assert found["chatbot_ms_p50"] == pytest.approx(
        ttftb + max(latency.T_AUDIO_MS, found["T_animation_ms_p50"])
    )
    # The dataset holds no sound: the tokenizer is timed on noise, never left out.
    parts = 1e3 * chunk_s + found["tokenise_ms"] + found["T_animation_ms"]
    assert found["voice_ms"] == pytest.approx(parts)


def test_a_language_model_is_waited_for_as_far_as_tokens_look(styled, monkeypatch):
    """Five tokens of a chunk and two beside the last: 200 ms for five, so 280."""
    made = styled()
    facts = made.bundle.dataset | {"tokenizer": Ahead(tiny_corpus.tokenizer(), 2).name}
    monkeypatch.setattr(latency, "_tokenizer", lambda task: (None, []))
    ahead = dataclasses.replace(made, bundle=made.bundle._replace(dataset=facts))
    found, _ = latency.first_chunk(ahead, examples=1)
    assert found["TTFTB_ms"] == pytest.approx(280)
    assert found["chatbot_ms"] >= 480


def test_a_voice_waits_for_what_its_tokens_look_ahead():
    made = tiny_corpus.tokenizer()
    sound = np.zeros(3000, np.int16)
    assert latency._listen(made, sound, 5)[0] == pytest.approx(400)
    assert latency._listen(Ahead(made, 2), sound, 5)[0] == pytest.approx(560)
    slow = types.SimpleNamespace(
        **{"name": "slow", "rate_hz": 12.5},
        stream=lambda: types.SimpleNamespace(push=lambda _: np.zeros((0, 4), "f4")),
    )
    with pytest.raises(ValueError, match="slow made 0 tokens of 1.6 s"):
        latency._listen(slow, None, 5)


def test_a_tokenizer_that_cannot_be_timed_is_told(styled, monkeypatch):
    whole = types.SimpleNamespace(name="whisper", lookahead_s=np.inf)
    monkeypatch.setattr(latency, "load_tokenizer", lambda *_, **__: whole)
    found, notes = latency.first_chunk(styled(), examples=2)
    assert notes == ["no voice is timed: whisper reads the whole clip"]
    assert "tokenise_ms" not in found

    def missing(*_, **__):
        raise FileNotFoundError("no weights of lyra")

    monkeypatch.setattr(latency, "load_tokenizer", missing)
    found, notes = latency.first_chunk(styled(), examples=2)
    assert notes == ["the tokenizer is not timed: no weights of lyra"]
    assert found["T_animation_ms"] > 0 and "voice_ms" not in found


def test_samples_of_a_clip_have_a_best_and_a_spread(styled):
    made = dataclasses.replace(styled(), samples=3)
    row = rows.score(made, "stream")
    for name, score in row.scores.items():
        assert score["samples"]["lve_mm"][0] == score["lve_mm"], name
        assert len(score["samples"]["lve_mm"]) == 3
    found = row.over_samples["lve_mm"]
    values = np.array([s["samples"]["lve_mm"] for s in row.scores.values()])
    assert found["best"].value == pytest.approx(values.min(1).mean())
    assert found["mean"].value == pytest.approx(values.mean())
    assert found["spread"].value == pytest.approx(values.std(1, ddof=1).mean())
    assert found["best"].value < found["mean"].value
    assert not rows.score(made, "static").over_samples
