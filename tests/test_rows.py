"""Rows: what cannot be scored is named, and nothing else changes a score."""

import dataclasses
import re
import types

import numpy as np
import pytest

from configs import small
from tests.test_report import make_row
from toktalk_jax import evaluate, provenance, rows, task
from toktalk_jax import motion as mo
from toktalk_jax.baselines import rules
from toktalk_jax.evaluation import predict, scoring
from toktalk_jax.evaluation.results import Row
from toktalk_jax.methods import BASELINES

NOISE = np.random.default_rng(0).normal(0, 3000, 16000).astype(np.int16)
HUM = (9000 * np.sin(2 * np.pi * 140 * np.arange(16000) / 16000)).astype(np.int16)


@pytest.fixture(scope="module")
def made(tiny_dataset, tiny_run):
    config = small.get_config("smoke")
    config.dataset = str(tiny_dataset)
    return task.prepare(config, tiny_run, samples=1)


def with_first(made, **changes):
    """The task with its first clip changed."""
    first = dataclasses.replace(made.clips[0], **changes)
    return dataclasses.replace(made, clips=[first, *made.clips[1:]])


@pytest.mark.parametrize("method", ["static", "ridge", "stream"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: {"tokens": c.tokens[:-6]}, r"its tokens cover \d+ of \d+ frames"),
        (lambda c: {"motion": c.motion[:1]}, "one frame has no motion"),
        (
            lambda c: {"loudness": np.full(len(c.motion), -90, "f4")},
            "no frame is voiced: the loudest has -90 dB",
        ),
        (
            lambda c: {"audio": NOISE, "loudness": np.full(len(c.motion), -20, "f4")},
            "no frame is voiced: its sound has no pitch",
        ),
        (
            lambda c: {"audio": np.where(np.arange(16000) < 1280, 0, NOISE)},
            "its sound has no pitch",
        ),
        (lambda c: {"motion": c.motion * np.nan}, "not finite"),
    ],
)
def test_a_clip_that_says_nothing_is_named(made, method, change, reason):
    """And leaves the other clips' scores as they were."""
    clip, others = made.clips[0], rows.score(made, method)
    row = rows.score(with_first(made, **change(clip)), method)
    name = predict.name_of(clip)
    assert list(row.skipped) == [name] and name not in row.scores
    assert re.search(reason, row.skipped[name])
    for other, scores in row.scores.items():
        assert scores["lve_mm"] == pytest.approx(others.scores[other]["lve_mm"])
    assert all(v.value is None or np.isfinite(v.value) for v in row.values.values())


def test_a_pitch_anywhere_is_a_voice(made):
    heard = NOISE.copy()
    heard[4000:8000] += HUM[4000:8000]
    loud = np.full(len(made.clips[0].motion), -20, "f4")
    row = rows.score(with_first(made, audio=heard, loudness=loud), "static")
    assert len(row.scores) == len(made.clips) and not row.skipped


def test_foreign_tokens_that_end_early_are_named_too(made, monkeypatch):
    """An adapter's row hears them: a clip cut to them would pass for a whole one."""
    clip = made.clips[0]
    short = with_first(made, foreign=clip.tokens[:-6])
    others = [dataclasses.replace(c, foreign=c.tokens) for c in made.clips[1:]]
    short = dataclasses.replace(short, clips=[short.clips[0], *others])
    fields = {f.name: getattr(make_row(), f.name) for f in dataclasses.fields(Row)}
    known = {k: v for k, v in fields.items() if k not in ("scores", "skipped")}
    monkeypatch.setattr(provenance, "facts", lambda *_: known)
    draw = lambda task: [c.motion[: 2 * len(c.foreign)] for c in task.clips]  # noqa: E731
    monkeypatch.setitem(rows.ROWS, "adapter", draw)
    row = rows.score(short, "adapter")
    assert re.search(r"tokens cover \d+ of", row.skipped[predict.name_of(clip)])
    assert len(row.skipped) == 1 and len(row.scores) == 2
    assert not rows.score(short, "truth").skipped  # it hears the others


def test_tracked_lips_are_scored_in_the_scored_frames_alone(made, monkeypatch):
    """Or a style reference out of the first half would be scored on what it showed."""
    masks = []

    def track(rig, motion, lips, mask=None):
        masks.append(mask)
        return {"tracked_lip_mm": 1.0}

    monkeypatch.setattr(scoring, "score_tracked", track)
    frames = rows.frames(made.clips[0])
    lips = np.zeros((len(made.clips[0].motion), 40, 3), "f4")
    half = dataclasses.replace(with_first(made, lips=lips), scored="second_half")
    rows.score(half, "truth")
    (mask,) = masks
    np.testing.assert_array_equal(mask, np.arange(frames) >= frames // 2)


def test_a_face_that_the_tracker_lost_costs_what_is_tracked_alone(made, monkeypatch):
    def lost(*_):
        raise ValueError("the tracker saw no face in 20 valid frames")

    monkeypatch.setattr(scoring, "score_tracked", lost)
    lips = np.full((len(made.clips[0].motion), 40, 3), np.nan, "f4")
    row = rows.score(with_first(made, lips=lips), "static")
    plain = rows.score(made, "static")
    assert not row.skipped
    name = predict.name_of(made.clips[0])
    reasons = row.scores[name].pop("skipped")
    for metric in ("tracked_lip_mm", "tracked_gap_r"):
        assert "saw no face" in reasons[metric]
    assert row.scores[name].items() <= plain.scores[name].items()


def test_rules_move_the_clips_whose_sound_and_phonemes_are_known(made):
    """Against themselves they make no error; what they lack is named."""
    long = len(made.clips[0].tokens) * 1280
    audio = np.resize(HUM, long)
    phonemes = ((0.2, 0.4, "m"), (0.4, 0.8, "a"), (0.8, 1.0, "b"))
    truth = rules.predict(audio, phonemes)[: rows.frames(made.clips[0])]
    told = with_first(made, audio=audio, phonemes=phonemes, motion=truth)
    second = dataclasses.replace(told.clips[1], audio=audio)
    told = dataclasses.replace(told, clips=[told.clips[0], second, *told.clips[2:]])
    row = rows.score(told, "rules")
    first, *others = map(predict.name_of, told.clips)
    assert row.weights == "none" and list(row.scores) == [first]
    assert row.values["lve_mm"].value == 0 and row.values["mod_mm"].value == 0
    assert "phonemes, and none are known" in row.skipped[others[0]]
    assert "export with --with_audio" in row.skipped[others[1]]
    shut = truth[5:10].mean(0), truth[10:20].mean(0)  # the jaw of m, and of a
    assert shut[0][mo.JAW][0] < 0.5 * shut[1][mo.JAW][0]
    other = dataclasses.replace(made, head=types.SimpleNamespace(name="flame"))
    with pytest.raises(ValueError, match="moves the head 'stand_in'.*of 'flame'"):
        rows.score(other, "rules")


def test_motion_files_of_any_system_are_scored(made, tmp_path):
    """The truth scores 0; what is missing, at another rate or cut off is named."""
    full, bare, fast, short, alien = (
        tmp_path,
        *(tmp_path / n for n in ("b", "f", "s", "a")),
    )
    for folder in (bare, fast, short, alien):
        folder.mkdir()
    for k, clip in enumerate(made.clips):
        arrays = {"motion": clip.motion}
        if k == 0:
            (full / clip.clip_id).mkdir()
            np.savez(full / clip.clip_id / "motion.npz", **arrays)
        else:
            np.savez(full / f"{clip.clip_id}.npz", **arrays)
        np.savez(fast / f"{clip.clip_id}.npz", **arrays, fps=30.0)
        np.savez(short / f"{clip.clip_id}.npz", motion=clip.motion[:-5])
        np.savez(alien / f"{clip.clip_id}.npz", **arrays, face_model="flame2023")
    score = lambda folder: rows.score(  # noqa: E731
        dataclasses.replace(made, motions=str(folder)), "files"
    )
    row = score(full)
    assert row.values["lve_mm"].value == 0 and not row.skipped
    for folder, reason in (
        (bare, "no motion file"),
        (fast, "30 frames a second, not 25"),
        (alien, f"the face model 'flame2023', not of '{made.head.name}'"),
        (short, f"{len(made.clips[0].motion) - 5} of "),
    ):
        row = score(folder)
        assert not row.scores and len(row.skipped) == 3
        assert reason in row.skipped[predict.name_of(made.clips[0])]


@pytest.mark.parametrize("known", [True, False])
def test_order_batch_and_padding_change_no_score(made, monkeypatch, known):
    """Nor where each clip is shown another of a speaker whom training never saw."""
    if not known:
        new = [dataclasses.replace(c, speaker_id="new") for c in made.clips]
        made = dataclasses.replace(made, clips=new)
    plain = rows.score(made, "stream")
    turned = dataclasses.replace(made, clips=made.clips[::-1], train=made.train[::-1])
    monkeypatch.setattr(predict, "BATCH", 2)
    other = rows.score(turned, "stream")
    assert set(other.scores) == set(plain.scores)
    for name, scores in plain.scores.items():
        for metric in set(scores) - {"skipped", "speaker"}:
            np.testing.assert_allclose(
                *(other.scores[name][metric], scores[metric]),
                rtol=2e-4,
                atol=1e-6,
                err_msg=metric,
            )
        assert other.scores[name]["skipped"] == scores["skipped"]
    assert other.hash() == plain.hash()


def test_flags_that_go_together(tiny_dataset, tiny_run):
    config = small.get_config("smoke")
    config.dataset = str(tiny_dataset)
    with pytest.raises(ValueError, match="--motions DIR go together"):
        evaluate.evaluate(config, tiny_run, rows=("files",))
    with pytest.raises(ValueError, match="--adapter DIR go together"):
        evaluate.evaluate(config, tiny_run, rows=("static",), adapter="x")


def test_every_method_is_of_one_kind():
    """What `provenance` calls a network's row and what a key calls fitted are all."""
    kinds = (*provenance.SAMPLED, *BASELINES, *rows.UNTRAINED, "files")
    assert sorted(kinds) == sorted(rows.ROWS)
