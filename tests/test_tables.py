"""The paper's tables: kept rows are found again, missing ones made, claims judged."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from configs import grid
from tests.conftest import ROOT
from tests.test_report import make_row
from toktalk_jax import latency, rows, style_gains, tables, task, train
from toktalk_jax.data.corpora import performer
from toktalk_jax.evaluation import paper, references
from toktalk_jax.evaluation import tables as table_text

MINIATURE = '''
"""Table 3 with four lines, for a test."""

from configs import grid


def get_config(arg=""):
    return grid.get_config("smoke")


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
    lines, claims = tables.fill(
        3, config, module, runs=[runs], kept=out / "rows", train=True
    )
    table_text.write(out, 3, lines, claims)
    return config, module, runs, out


def test_a_table_trains_what_is_missing(filled):
    _, _, runs, out = filled
    assert len(list(runs.iterdir())) == 2  # two seeds of one model serve four lines
    table = json.loads((out / "table_3.json").read_text())
    ours, ridge, still, absent = table["lines"]
    assert len(ours["rows"]) == 2 and len(ridge["rows"]) == len(still["rows"]) == 1
    assert ours["paper"] == list(paper.TABLE_3.rows["TokTalk w/ style"])
    assert ours["measured"][0]["T_animation_ms"] > 0
    assert absent["reason"] == "not here" and not absent["metrics"]
    verdicts = [claim["verdict"] for claim in table["claims"]]
    assert verdicts[0] in ("holds", "reversed", "not resolved")
    assert verdicts[1] == "not run"
    text = (out / "table_3.md").read_text()
    assert "not run: not here" in text and "*14.53*" in text
    assert "Over the samples" in text
    assert (out / "table_3.png").stat().st_size > 5000


def test_kept_rows_need_neither_data_nor_runs(filled, miniature, tmp_path):
    """The command gives the same report from the rows alone."""
    _, _, _, out = filled
    shutil.copytree(out / "rows", tmp_path / "rows")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "toktalk_jax.evaluate", "--config", miniature),
            *("--table", "3", "--out", tmp_path, "--train=false"),
            "--config.table.samples=2",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("table_3.md", "table_3.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    assert done.stdout.strip() == (out / "table_3.md").read_text().strip()


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
    (moved / "metadata.json").write_text(json.dumps({**facts, "corpus": "other"}))
    assert tables.finished(run, [runs]) is None


def test_a_rows_key_is_what_it_is_made_from(filled):
    config, module, _, _ = filled
    line = tables.check(next(iter(module.table_3())))
    key = tables.row_key(config, line, 0)
    assert tables.row_key(config, {**line, "label": "x", "paper": ""}, 0) == key
    for change in (
        {"train": {"train.style_drop": 1.0}},
        {"sample": {"num_steps": 3}},
        *({"style": "none"}, {"scored": "second_half"}, {"match_std": True}),
    ):
        assert tables.row_key(config, {**line, **change}, 0) != key
    assert tables.row_key(config, line, 1) != key


def test_the_temperature_is_matched_by_the_motions_std(styled, monkeypatch):
    """Where samples move 0.4 + 0.8 T as much as the truth, T is 0.75."""

    def score(made, method):
        ratio = 0.4 + 0.8 * made.settings["temperature"]
        found = {"c": {"std_ratio": [ratio**2, 1.0, 1.0], "skipped": {}}}
        return dataclasses.replace(make_row(), scores=found)

    monkeypatch.setattr(rows, "score", score)
    assert tables.matched_temperature(styled()) == pytest.approx(0.75, abs=0.002)


def test_every_table_of_grid_is_well_formed(tmp_path):
    """Every line resolves to a config, every claim to lines and a directed metric."""
    config = grid.get_config()
    for number in table_text.TITLES:
        lines, claims = tables.fill(
            number, config, grid, runs=[tmp_path], kept=tmp_path / "rows", train=False
        )
        assert all(not line.rows and line.reason for line in lines)
        printed = paper.TABLES[number].rows
        assert {line.paper for line in lines} - {""} <= set(printed)
        for claim in claims:
            assert table_text.check_claim(lines, claim)["verdict"] == "not run"
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
    judge = lambda a, b: table_text.check_claim(  # noqa: E731
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
        table_text.check_claim(
            lines,
            {"claim": "c", "metric": "std_ratio", "better": "low", "worse": "high"},
        )


def test_a_bound_must_hold_for_every_seed():
    rows_ = [dataclasses.replace(make_row(), measured={"rho nod": r}) for r in (0.9, 1)]
    good = table_text.Line(label="a", block="b", rows=tuple(rows_))
    claim = {"claim": "c", "metric": "rho nod", "better": "a", "at_least": 0.8}
    found = table_text.check_claim([good], claim)
    assert found["verdict"] == "holds"
    assert found["difference"]["value"] == pytest.approx(0.15)
    assert "at least 0.8" in table_text.to_markdown(3, [good], [found])
    mixed = table_text.check_claim([good], {**claim, "at_least": 0.95})
    assert mixed["verdict"] == "not resolved"
    none = table_text.check_claim([good], {**claim, "at_least": 1.1})
    assert none["verdict"] == "reversed"


def test_a_gain_is_read_off_the_motion_that_its_style_makes(styled, monkeypatch):
    """A model that copies its reference scores 1, one that ignores it does not."""
    pytest.importorskip("hibari")
    copy = lambda made, sampler, motion: performer.measure(motion)  # noqa: E731
    made = styled()
    monkeypatch.setattr(style_gains, "measure", copy)
    found = style_gains.rank_correlations(made, levels=5)
    assert min(found.values()) > 0.8 and len(found) == 8  # blinks are few in 5 s
    still = performer.measure(np.zeros((100, 56), np.float32))
    monkeypatch.setattr(style_gains, "measure", lambda *_: still)
    lost = style_gains.rank_correlations(made, levels=5)
    assert set(lost.values()) == {0.0}


def test_the_motion_of_a_style_is_drawn_by_the_sampler(styled):
    made = styled()
    shown = np.random.default_rng(0).normal(0, 0.1, (40, 56)).astype("f4")
    found = style_gains.measure(made, made.sampler, shown)
    assert np.isfinite(found).all()
    other = style_gains.measure(made, made.sampler, 3 * shown)
    assert found != other
    assert found == style_gains.measure(made, made.sampler, shown)


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
    assert table_text.check_claim(lines, claim)["verdict"] == "holds"


def test_seeds_widen_the_interval_and_average_the_value():
    one, three = line("one", 1.0), line("three", 0.7, 1.0, 1.3)
    a, b = one.interval("lve_mm"), three.interval("lve_mm")
    assert b.value == pytest.approx(a.value, rel=1e-3)
    assert b.high - b.low > 1.2 * (a.high - a.low)
    assert one.interval("closure_nobody_scores") is None


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
    # Where tokens end before the motion does, the scored half begins earlier too.
    clip = made.clips[0]
    cut = dataclasses.replace(clip, tokens=clip.tokens[: len(clip.motion) // 2 - 1])
    first = references.of_clips([cut], made.train, "first_half")[0]
    assert len(first) == rows.frames(cut) // 2 < len(clip.motion) // 2
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


def test_latency_adds_up(styled):
    found = latency.first_chunk(styled(), examples=3)
    assert found["T_animation_ms_p50"] <= found["T_animation_ms_p95"]
    shown = latency.TTFTB_MS + max(latency.T_AUDIO_MS, found["T_animation_ms"])
    chunk = styled().sampler.chunk_frames / 25
    assert chunk == 0.4 and found["chatbot_ms"] == shown
    assert "voice_ms" not in found  # the dataset holds no sound


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
