"""Intervals over clips, rows on disk, and the report made of them."""

import dataclasses
import json

import numpy as np
import pytest

from toktalk_jax.evaluation import intervals, metrics, report, results


def scores_of(values, metric="lve_mm"):
    return {f"c{i:03}": {metric: v, "skipped": {}} for i, v in enumerate(values)}


# --- intervals ---------------------------------------------------------------------


def test_mean_interval_covers_the_truth():
    """95 % intervals of 60-clip means hold the true mean in about 95 % of trials."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        found = intervals.interval(
            scores_of(rng.gamma(4.0, 0.5, 60)), "lve_mm", seed=trial, resamples=300
        )
        hits += found.low <= 2.0 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_interval_by_hand_and_by_seed():
    values = np.arange(10.0)
    a = intervals.interval(scores_of(values), "lve_mm", seed=3)
    assert a.value == 4.5 and a.clips == 10
    # Of a plain mean it is Student's: std sqrt(9.167 / 10) = 0.957, t of 9 is 2.262.
    assert (a.high - a.low) / (2 * 2.262) == pytest.approx(0.957, rel=0.1)
    assert a == intervals.interval(scores_of(values), "lve_mm", seed=3)
    assert a != intervals.interval(scores_of(values), "lve_mm", seed=4)


def test_resamples_equal_a_plain_loop():
    values = np.random.default_rng(0).normal(5, 1, (8, 3))
    scores = scores_of(values.tolist(), "std_ratio")
    counts = intervals.resample_counts(8, 50, seed=1)
    assert counts.shape == (50, 8) and (counts.sum(1) == 7).all()
    loop = []
    for row in counts:
        drawn = np.repeat(values, row, axis=0)
        loop.append(np.sqrt(drawn[:, 0].sum() / drawn[:, 1].sum()))
    found = intervals.interval(scores, "std_ratio", seed=1, resamples=50)
    assert found.value == pytest.approx(np.sqrt(np.divide(*values.sum(0)[:2])))
    stretched = (np.percentile(loop, [2.5, 97.5]) - found.value) * 2.3646 / 1.96
    assert [found.low, found.high] == pytest.approx(found.value + stretched, rel=1e-4)


def test_speakers_are_resampled_where_there_are_several():
    """Many clips of few speakers say little of another speaker."""
    rng = np.random.default_rng(0)
    voices = np.repeat(rng.normal(5, 1, 6), 20)
    scores = scores_of(voices + rng.normal(0, 0.1, 120))
    alone = intervals.interval(scores, "lve_mm")
    for k, score in enumerate(scores.values()):
        score["speaker"] = f"s{k // 20}"
    found = intervals.interval(scores, "lve_mm")
    by_speaker = np.reshape([s["lve_mm"] for s in scores.values()], (6, 20)).mean(1)
    half = 2.5706 * by_speaker.std(ddof=1) / np.sqrt(6)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.value == alone.value and alone.high - alone.low < half
    for score in scores.values():  # of two speakers nothing is said of a third
        score["speaker"] = "a" if score["speaker"] < "s3" else "b"
    assert intervals.interval(scores, "lve_mm") == alone


def test_pooled_ratio_is_not_the_mean_of_ratios():
    # Excess of a clip: (border / inside) over the control's; the quiet clip is noise.
    loud, quiet = [20.0, 100.0, 10.0, 100.0, 50.0], [1.0, 0.1, 0.1, 0.1, 50.0]
    scores = scores_of([loud, quiet], "boundary_excess")
    got = intervals.interval(scores, "boundary_excess").value
    assert got == pytest.approx((21 / 100.1) / (10.1 / 100.1))


def test_paired_rows_share_their_clips():
    """Clip difficulty cancels: the paired interval is far narrower than unpaired."""
    rng = np.random.default_rng(0)
    hard = rng.gamma(4.0, 0.5, 50)
    theirs = scores_of(hard)
    ours = scores_of(0.8 * hard + rng.normal(0, 0.01, 50))
    ratio = intervals.paired(ours, theirs, "lve_mm")
    assert ratio.low < 0.8 < ratio.high and ratio.high - ratio.low < 0.01
    gap = intervals.paired(ours, theirs, "lve_mm", kind="difference")
    assert gap.value == pytest.approx(-0.2 * hard.mean(), abs=0.01) and gap.high < 0
    alone = intervals.interval(ours, "lve_mm")
    assert alone.high - alone.low > 10 * (ratio.high - ratio.low)
    # The order of a row's clips changes nothing, nor do clips that one row lacks.
    shuffled = dict(reversed(ours.items()))
    assert intervals.paired(shuffled, theirs, "lve_mm") == ratio
    theirs["extra"] = {"lve_mm": 1e9}
    assert intervals.paired(ours, theirs, "lve_mm") == ratio
    with pytest.raises(ValueError, match="share no clip"):
        intervals.paired(ours, {"extra": theirs["extra"]}, "lve_mm")
    with pytest.raises(ValueError, match="'ratio' or 'difference'"):
        intervals.paired(ours, theirs, "lve_mm", kind="quotient")


def test_an_interval_of_a_correlation_stays_below_one():
    """Of few speakers, one much unlike the others, a symmetric one would not."""
    rng = np.random.default_rng(0)
    scores = {}
    for k, noise in enumerate((0.02, 0.02, 0.02, 0.9, 0.02)):
        x = rng.normal(size=75)
        y = x + noise * rng.normal(size=75)
        sums = [75.0, x.sum(), y.sum(), x @ x, y @ y, x @ y]
        scores[f"clip{k}"] = {"mouth_gap_r": sums, "speaker": f"s{k}"}
    found = intervals.interval(scores, "mouth_gap_r")
    assert found.low < found.value < found.high < 1
    pooled = np.sum([score["mouth_gap_r"] for score in scores.values()], axis=0)
    assert found.value == pytest.approx(intervals.pool("mouth_gap_r", pooled), abs=1e-8)
    x = np.arange(75.0)
    exact = [75.0, x.sum(), x.sum(), x @ x, x @ x, x @ x]
    same = intervals.interval(scores_of([exact] * 3, "mouth_gap_r"), "mouth_gap_r")
    assert same.value == pytest.approx(1) and same.high <= 1


def test_undefined_is_none_and_skips_are_not_averaged():
    scores = scores_of([1.0, 3.0])
    scores["short"] = {"skipped": {"lve_mm": "why"}}
    found = intervals.interval(scores, "lve_mm")
    assert found.value == 2.0 and found.clips == 2
    assert intervals.interval(scores, "jitter") == (None, None, None, 0)
    one = intervals.interval(scores_of([2.0]), "lve_mm")
    assert one == (2.0, None, None, 1)
    assert intervals.interval({}, "lve_mm") == (None, None, None, 0)


def test_a_still_face_has_no_ratio():
    """The static mean face: rounding over rounding is no excess and no correlation."""
    still = [1e-6, 2e-6, 10.0, 50.0, 60.0]
    scores = scores_of([still, still], "boundary_excess")
    assert intervals.interval(scores, "boundary_excess") == (None, None, None, 2)
    gap = [75.0, 75 * 5.0, 75 * 4.0, 75 * 25.0, 75 * 18.0, 75 * 20.0]  # x is constant 5
    assert (
        intervals.interval(scores_of([gap], "mouth_gap_r"), "mouth_gap_r").value is None
    )
    ratio = scores_of([[0.0, 9.0, 75.0]], "std_ratio")  # a ratio of 0 is defined
    assert intervals.interval(ratio, "std_ratio").value == 0.0


# --- rows and reports --------------------------------------------------------------


def make_row(name="ours", factor=1.0, **changes):
    rng = np.random.default_rng(5)
    scores = {
        f"clip{i}": {
            "frames": 75,
            "lve_mm": float(np.float32(factor * rng.gamma(4.0, 0.5))),
            "energy_score": 0.5 * factor,
            "std_ratio": [factor * 3.0, 4.0, 75.0],
            "skipped": {"jitter": "no chunk border between valid frames"},
        }
        for i in range(12)
    }
    row = results.Row(
        name=name,
        scores=scores,
        corpus="GRID",
        speakers=1,
        vocabulary="51 words",
        head="stand_in",
        regions={"lips": "0123456789ab", "all": "ba9876543210"},
        samples=1,
        weights="ema at step 12000",
        seed=0,
        commit="abc123",
        config_hash="c0ffee",
        dataset_hash="da7a",
        device="2 CPU cores",
    )
    return dataclasses.replace(row, **changes)


def test_rows_come_back_as_they_went(tmp_path):
    rows = [make_row("b"), make_row("a", 0.5, skipped={"clip99": "no valid frame"})]
    paths = [results.write_row(tmp_path, row) for row in rows]
    assert [p.name for p in paths] == [f"{row.hash()}.json" for row in rows]
    loaded = results.load_rows(tmp_path)
    assert loaded == [rows[1], rows[0]]
    assert loaded[0].values == rows[1].values
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)


def test_identity_decides_what_is_replaced(tmp_path):
    row = make_row()
    first = results.write_row(tmp_path, row)
    again = results.write_row(tmp_path, dataclasses.replace(row, commit="later"))
    assert again == first and json.loads(first.read_text())["commit"] == "later"
    for field in ("name", "config_hash", "dataset_hash", "weights", "seed"):
        assert dataclasses.replace(row, **{field: "other"}).hash() != row.hash(), field


def test_bad_rows_are_named(tmp_path):
    with pytest.raises(ValueError, match="scored none of"):
        results.write_row(tmp_path, make_row(scores={}, skipped={"a": "short"}))
    with pytest.raises(ValueError):
        results.write_row(tmp_path, make_row(scores={"a": {"lve_mm": np.nan}}))
    assert not list(tmp_path.glob("*.json"))
    for text in ('{"name": "x"}', "{", "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="bad.json is not a row"):
            results.load_rows(tmp_path)


def test_report_says_what_a_reader_must_know(tmp_path):
    rows = [make_row("ridge"), make_row("ours", 0.5, note="look-ahead 0 s")]
    rows.append(make_row("acted", corpus="performer", speakers=6, vocabulary="open"))
    markdown, numbers, plot = report.write_report(tmp_path, rows, "Title", "ridge")
    text = markdown.read_text()
    assert "## GRID: 1 speaker, 51 words" in text
    assert "## performer: 6 styles of the procedural performer, open" in text
    for word in ("0123456789ab", "ema at step 12000", "abc123", "c0ffee", "da7a"):
        assert word in text
    assert "look-ahead 0 s" in text and "2 CPU cores" in text
    assert metrics.DEFINITIONS["lve_mm"][2] in text
    assert metrics.DEFINITIONS["jitter"][2] not in text  # no row scored it
    # All clips halve exactly, so the paired ratio is 0.5 with no width.
    assert "| ours | 0.500 [0.500, 0.500] |" in text
    content = json.loads(numbers.read_text())
    ratios = content["ratios"]["GRID: 1 speaker, 51 words"]
    assert ratios["ours"]["lve_mm"]["value"] == pytest.approx(0.5, rel=1e-6)
    first = content["rows"][0]
    assert first["metrics"]["lve_mm"]["clips"] == first["clips"] == 12
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_metric_stands_in_one_table():
    listed = [metric for table in report.TABLES.values() for metric in table]
    assert sorted(listed) == sorted(metrics.DEFINITIONS)
    for _, better, words in metrics.DEFINITIONS.values():
        assert better in report.BETTER and words


def test_signed_numbers_have_no_ratio():
    signed = {"fdd_signed": 0.5, "head_beat_gain": [1.0, 4.0, 5.0, 50.0]}
    rows = [make_row("ours"), make_row("ridge")]
    for row in rows:
        for score in row.scores.values():
            score.update(signed)
    found = report.compare(rows, "ridge")["ours"]
    assert not found.keys() & signed.keys() and "lve_mm" in found
    text = report.to_markdown(rows, "T", "ridge")
    tables = [part.splitlines() for part in text.split("### ")[1:]]
    assert [lines[0] for lines in tables] == ["Error", "Dynamics", "Timing and head"]
    dynamics = [line for line in tables[1] if line.startswith("| r")]
    heads = "std_ratio → 1 | fdd_signed (mm^2) → 0"
    assert dynamics[0] == f"| row | clips | samples | {heads} |"
    assert "| ratio | std_ratio |" in dynamics
    # 0.25 at the peaks and 0.1 anywhere; a table of gains has no ratios at all.
    assert "| ours | 12 | 1 | 0.150 [0.150, 0.150] |" in tables[2]
    assert not any(line.startswith("| ratio") for line in tables[2])


def test_older_rows_stand_beside_newer_ones(tmp_path):
    """A row from before a region was named may stand where the others' agree."""
    old = make_row("old")
    more = {**old.regions, "brows": "30d2eb2e5c9e"}
    new = make_row("new", regions=more)
    other = make_row("other", regions={**more, "lips": "000000000000"})
    text = report.to_markdown([old, new, other], "T")
    assert text.count("## GRID: 1 speaker") == 2
    assert text.index("| new |") < text.index("lips 000000000000")
    assert "brows 30d2eb2e5c9e, lips 0123456789ab" in text
    # A file from before rows had keys, and what was measured or scored in them.
    stored = results.to_json(old)
    for later in results._LATER:
        del stored[later]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/old.json").write_text(json.dumps(stored))
    (loaded,) = results.load_rows(tmp_path / "rows")
    assert loaded.values == old.values and not (loaded.key or loaded.measured)
    for path in report.write_report(tmp_path, [loaded, new], "T"):
        assert path.stat().st_size > 1000


def test_report_from_stored_rows_is_the_same(tmp_path):
    rows = [make_row("a"), make_row("b", 0.5)]
    for row in rows:
        results.write_row(tmp_path / "rows", row)
    loaded = results.load_rows(tmp_path / "rows")
    first = report.write_report(tmp_path / "one", rows, "T", "a")
    second = report.write_report(tmp_path / "two", loaded, "T", "a")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_reference_must_be_there(tmp_path):
    rows = [make_row("a"), make_row("b")]
    with pytest.raises(ValueError, match="no row is named 'ridge'"):
        report.write_report(tmp_path, rows, "T", "ridge")
    with pytest.raises(ValueError, match="2 rows are named 'a'"):
        report.compare([*rows, make_row("a", seed=1)], "a")
    with pytest.raises(ValueError, match="at least one row"):
        report.write_report(tmp_path, [], "T")


def test_partly_scored_metrics_say_their_clips():
    row = make_row()
    del row.scores["clip0"]["energy_score"]
    assert "0.500 [0.500, 0.500] (11 clips)" in report.to_markdown([row], "T")


def test_commit_of_no_checkout(tmp_path):
    assert results.commit(tmp_path) == "unknown"
