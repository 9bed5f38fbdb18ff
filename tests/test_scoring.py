"""score_clip on the shipped head: padding, masks, skips, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toktalk_jax.evaluation import head_motion, intervals, metrics, scoring, timing
from toktalk_jax.flame import assets, fit, landmarks, model, regions


@pytest.fixture(scope="module")
def head():
    return assets.load_head()


def clip(frames, seed):
    """Smooth raw motion of the stand-in head, [frames, 56]."""
    rng = np.random.default_rng(seed)
    motion = np.zeros((frames, 56), "f4")
    time = np.arange(frames)[:, None]
    phase, speed = rng.uniform(0, 6, (2, 1, 49))
    wave = 0.3 + 0.3 * np.sin(phase + 0.1 * speed * time)
    motion[:, :48], motion[:, 50] = wave[:, :48], 0.3 * wave[:, 48]
    motion[:, 53:] = rng.normal(0, 0.2, (frames, 3))  # head pose, never scored
    return motion


def sound_of(frames):
    """(phonemes, loudness) of a clip: syllables with a closure each, then silence."""
    phonemes = [(0.0, 0.2, "sil")]
    for k in range(int(frames / 25 / 0.3) - 3):
        start = 0.2 + 0.3 * k
        phonemes += [(start, start + 0.1, "b"), (start + 0.1, start + 0.3, "ˈæ")]
    loudness = -30 - 10 * np.cos(np.arange(frames))
    loudness[int(25 * phonemes[-1][1]) :] = -80
    return {"phonemes": phonemes, "loudness": loudness}


def as_array(scores):
    return {
        k: np.asarray(v) for k, v in scores.items() if k not in ("skipped", "frames")
    }


def test_score_clip_matches_the_metrics(head):
    p, q, control = clip(75, 1), clip(75, 2), clip(75, 3)
    samples, said = np.stack([p, control]), sound_of(75)
    got = scoring.score_clip(head, samples, q, chunk_frames=10, control=control, **said)
    assert got["frames"] == 75 and got["skipped"] == {}
    mask, borders = np.ones(75, bool), metrics.chunk_borders(75, 10)
    sound, _ = timing.read_sound(**said, mask=mask)
    rest, excess = np.asarray(head.v_template), metrics.boundary_excess_sums
    upper, brows = regions.upper_face(head), regions.brows(head)

    @jax.jit  # whole: compiled one by one, these operations take a minute
    def expected(p, q, control):
        faces = model.vertices(head, jnp.stack([p, q, control]), pose=False)
        pair, lips = faces[:2], faces[:, :, regions.lips(head)]
        points = [regions.landmarks_68(head, f) for f in pair]
        gaps = [metrics.mouth_gap_mm(x) for x in points]
        of_upper = (*pair[:, :, upper], rest[upper], mask)
        beats = head_motion.beat_sums(p[:, 53:], mask, sound.peaks)
        return {
            "mve_mm": metrics.mve_mm(*pair, mask),
            "mse_mm2": metrics.mse_mm2(*pair, mask),
            "rmse_mm": jnp.sqrt(metrics.mse_mm2(*pair, mask)),
            "lve_mm": metrics.lve_mm(*lips[:2], mask),
            "lve_l2sq": metrics.lve_l2sq_sums(*lips[:2], mask),
            "lve_rms_mm": metrics.lve_l2sq_sums(*lips[:2], mask),
            "fdd_1e5m": metrics.fdd_1e5m(*of_upper),
            "fdd_signed": metrics.fdd_signed(*of_upper),
            "fdd_xyzsum": metrics.fdd_xyzsum(*of_upper),
            "brow_fdd": metrics.fdd_1e5m(*pair[:, :, brows], rest[brows], mask),
            "mod_mm": metrics.mod_mm(*points, mask),
            "mouth_gap_r": metrics.correlation_sums(*gaps, mask),
            "energy_score": metrics.energy_score(lips[::2], lips[1], mask),
            "jitter": metrics.jitter(lips[0], mask, borders),
            "boundary_excess": excess(lips[0], lips[1], mask, borders),
            "boundary_excess_whole": excess(lips[0], lips[2], mask, borders),
            "std_ratio": metrics.std_ratio_sums(*lips[:2], mask),
            "closure": timing.closure_sums(*gaps, sound.closures, sound.speech),
            "silence_mm": timing.silence_sums(gaps[0], sound.silent),
            "head_speed_w1": head_motion.speed_sums(p[:, 53:], q[:, 53:], mask),
            "head_accel_w1": head_motion.acceleration_sums(p[:, 53:], q[:, 53:], mask),
            "head_beat": beats[:2],
            "head_beat_gain": beats,
        }

    for metric, value in expected(p, q, control).items():
        np.testing.assert_allclose(got[metric], value, rtol=1e-4, err_msg=metric)
    assert got["closure"][1] == 7 and got["silence_mm"][1] > 10
    assert got["head_beat"][1] > 5
    tracked = {"tracked_lip_mm", "tracked_gap_r"}
    assert set(metrics.DEFINITIONS) == set(as_array(got)) | tracked


def test_tracked_lips_are_scored_without_a_fit(head):
    """Zero for the motion that the lips came from; what is added is what is read."""
    rig, motion = fit.prepare(head), clip(40, 1)
    where = landmarks.load_map(head)
    vertices = model.vertices(head, motion, pose=False)
    points = np.asarray(landmarks.surface_points(head, where, vertices))
    lips = points[:, list(landmarks.LIPS)]
    score = scoring.score_tracked(rig, np.stack([motion, 0 * motion]), lips)
    assert score["tracked_lip_mm"] < 1e-3
    pool = lambda s: intervals.pool("tracked_gap_r", np.array(s["tracked_gap_r"]))  # noqa: E731
    assert pool(score) > 0.9999
    moved = scoring.score_tracked(rig, motion[:30], lips + (0, 3e-3, 4e-3))
    np.testing.assert_allclose(moved["tracked_lip_mm"], 5.0, rtol=1e-3)
    still = scoring.score_tracked(rig, 0 * motion, lips)
    gap = 1e3 * landmarks.inner_lip_gap(points)
    np.testing.assert_allclose(still["tracked_gap_r"][2], gap.sum(), rtol=1e-4)
    lost = np.where(np.arange(40)[:, None, None] < 10, np.nan, lips + (0, 3e-3, 0))
    partly = scoring.score_tracked(rig, motion, lost)
    np.testing.assert_allclose(partly["tracked_lip_mm"], 3.0, rtol=1e-3)
    assert partly["tracked_gap_r"][0] == 30
    # As everywhere, what lies in masked frames changes nothing.
    late = np.arange(40) >= 25
    spoiled = np.where(late[:, None, None], lips + (0, 3e-3, 0), lips + 1.0)
    half = scoring.score_tracked(rig, motion, spoiled, late)
    np.testing.assert_allclose(half["tracked_lip_mm"], 3.0, rtol=1e-3)
    assert half["tracked_gap_r"][0] == 15
    with pytest.raises(ValueError, match="saw no face in 0 valid frames"):
        scoring.score_tracked(rig, motion, lips, np.zeros(40, bool))
    with pytest.raises(ValueError, match="saw no face"):
        scoring.score_tracked(rig, motion, lips * np.nan)
    with pytest.raises(ValueError, match=r"tracked lips are \(39, 40, 3\)"):
        scoring.score_tracked(rig, motion, lips[:39])


def test_padding_and_masked_tail_change_no_score(head):
    p, q, said = clip(60, 1), clip(60, 2), sound_of(60)
    whole = as_array(scoring.score_clip(head, p, q, chunk_frames=10, **said))
    assert {"closure", "silence_mm", "head_beat"} <= whole.keys()
    for frames in (64, 75):  # no padding at all, and a third block
        tail = ((0, frames - 60), (0, 0))
        longer = [np.pad(m, tail, constant_values=np.nan) for m in (p, q)]
        mask = np.arange(frames) < 60
        said["loudness"] = np.pad(
            said["loudness"][:60], tail[0], constant_values=np.nan
        )
        got = scoring.score_clip(head, *longer, chunk_frames=10, mask=mask, **said)
        assert got["frames"] == 60
        for metric, value in as_array(got).items():
            np.testing.assert_allclose(value, whole[metric], rtol=2e-6, err_msg=metric)


def test_one_compile_for_clips_of_similar_length(head):
    for frames in (66, 96):
        scoring.score_clip(head, clip(frames, 1), clip(frames, 2), chunk_frames=10)
    before = scoring._measure._cache_size()
    for frames in (65, 74, 90):
        scoring.score_clip(head, clip(frames, 1), clip(frames, 2), chunk_frames=10)
    assert scoring._measure._cache_size() == before


def test_head_pose_and_truth_against_itself(head):
    p = clip(40, 1)
    turned = p.copy()
    turned[:, 53:] += 0.5
    zero = ("mve_mm", "lve_mm", "fdd_1e5m", "mod_mm", "energy_score")
    zero += ("rmse_mm", "mse_mm2", "fdd_signed", "fdd_xyzsum", "brow_fdd")
    for joint in ("neck", "root"):
        got = scoring.score_clip(head, turned, p, chunk_frames=10, head_joint=joint)
        for metric in zero:
            assert got[metric] == pytest.approx(0, abs=1e-4), metric
    rows = {"a": got}
    assert intervals.interval(rows, "lve_l2sq").value == pytest.approx(0, abs=1e-6)
    # The head's own scores see what all the others do not.
    still = turned.copy()
    still[:, 53:] = 0
    moved = scoring.score_clip(head, still, p, chunk_frames=10)
    assert intervals.interval({"a": moved}, "head_speed_w1").value > 5
    for metric in ("mouth_gap_r", "boundary_excess", "std_ratio"):
        assert intervals.interval(rows, metric).value == pytest.approx(1, abs=1e-4)


def test_degenerate_clips_are_named_skips(head):
    unheard = {"closure", "silence_mm", "head_beat", "head_beat_gain"}
    one = scoring.score_clip(head, clip(1, 1), clip(1, 2), chunk_frames=10)
    assert one["skipped"].keys() == unheard | {
        *("fdd_1e5m", "std_ratio", "jitter", "jitter_inside", "boundary_excess"),
        *("fdd_signed", "fdd_xyzsum", "brow_fdd", "head_speed_w1", "head_accel_w1"),
    }
    assert one["lve_mm"] > 0 and not one["skipped"].keys() & as_array(one).keys()
    short = scoring.score_clip(head, clip(9, 1), clip(9, 2), chunk_frames=10)
    assert short["skipped"].keys() == unheard | {"jitter", "boundary_excess"}
    assert short["skipped"]["closure"] == "no phonemes are known"
    assert short["skipped"]["silence_mm"] == "no loudness is known"
    assert "border" in short["skipped"]["jitter"]
    tight = scoring.score_clip(head, clip(9, 1), clip(9, 2), chunk_frames=2)
    assert tight["skipped"].keys() == unheard | {"jitter_inside", "boundary_excess"}
    # No holes for a clip whose last chunk holds one frame only.
    edge = scoring.score_clip(head, clip(11, 1), clip(11, 2), chunk_frames=10)
    assert edge["skipped"].keys() == unheard and np.isfinite(edge["jitter"])
    # Holes everywhere: no two frames stand beside each other.
    holes = np.arange(20) % 2 == 0
    gaps = scoring.score_clip(
        head, clip(20, 1), clip(20, 2), chunk_frames=10, mask=holes, **sound_of(20)
    )
    assert "four valid" in gaps["skipped"]["head_beat"]
    assert "three valid" in gaps["skipped"]["head_accel_w1"]
    assert "two valid" in gaps["skipped"]["head_speed_w1"]
    for scores in (one, short, tight, edge, gaps):
        assert all(np.isfinite(v).all() for v in as_array(scores).values())


def test_bad_input_is_refused(head):
    good, bad = clip(20, 1), clip(20, 2)
    bad[3, 4] = np.nan
    with pytest.raises(ValueError, match="none of the clip's 20 frames"):
        scoring.score_clip(head, good, good, chunk_frames=10, mask=np.zeros(20, bool))
    with pytest.raises(ValueError, match="prediction holds values that are not finite"):
        scoring.score_clip(head, bad, good, chunk_frames=10)
    with pytest.raises(ValueError, match=r"prediction is \(1, 19, 56\); expected 20"):
        scoring.score_clip(head, good[:19], good, chunk_frames=10)
    with pytest.raises(ValueError, match="chunk_frames is 5"):
        scoring.score_clip(head, good, good, chunk_frames=5)
    with pytest.raises(ValueError, match="overflow"):
        scoring.score_clip(head, good * 1e30, good, chunk_frames=10)
    with pytest.raises(ValueError, match=r"truth is \(20, 55\)"):
        scoring.score_clip(head, good, good[:, :55], chunk_frames=10)


def test_regions_are_named(head):
    hashes = scoring.region_hashes(head)
    assert hashes["lips"] == regions.region_hash(regions.lips(head))
    assert hashes["brows"] == regions.region_hash(head.regions["brows"])
    assert len(set(hashes.values())) == len(hashes) == 5
    weights = np.asarray(head.landmark_weights).copy()
    weights[57] = weights[57][::-1]  # another point on the same triangle
    marks = dataclasses.replace(head.marks, landmark_weights=weights)
    moved = scoring.region_hashes(head.replace(marks=marks))
    changed = [name for name in hashes if hashes[name] != moved[name]]
    assert changed == ["landmarks"]
