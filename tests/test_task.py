"""What a run is scored on: references of a style, scored frames, samples."""

import dataclasses

import numpy as np
import pytest

from configs import grid
from tests.test_report import make_row
from toktalk_jax import provenance, rows, style_gains, tables, task
from toktalk_jax.data.corpora import performer
from toktalk_jax.evaluation import predict, references


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
    told = provenance.facts(dataclasses.replace(made, clips=[new]), "stream")["note"]
    assert "1 clip whose speaker has no other shown a stranger's" in told
    assert "stranger" not in provenance.facts(made, "stream")["note"]
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
