"""Claims are judged by paired intervals over clips and seeds, or by a bound."""

import dataclasses

import numpy as np
import pytest

from tests.test_report import make_row
from toktalk_jax.evaluation import intervals
from toktalk_jax.evaluation import tables as table_text
from toktalk_jax.evaluation.claims import check_claim


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
