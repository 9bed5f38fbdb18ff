"""Every metric: a case worked by hand, a NumPy twin, masks, degenerate clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toktalk_jax.evaluation import intervals, metrics

T, L = 40, 7


@pytest.fixture(scope="module")
def faces():
    """(prediction, truth) [T, L, 3] of the size of a face's motion."""
    rng = np.random.default_rng(0)
    rest = rng.normal(0, 0.05, (1, L, 3))
    walk = np.cumsum(rng.normal(0, 1e-3, (2, T, L, 3)), axis=1)
    return (rest + walk).astype("f4")


def landmarks_of(seed):
    """[T, 68, 3]: still points but for the lip centres."""
    rng = np.random.default_rng(seed)
    points = np.zeros((T, 68, 3), "f4")
    points[:, [57, 66]] = rng.uniform(-0.02, -0.001, (T, 2, 3))
    return points


def everyone():
    return np.ones(T, bool)


BORDERS = metrics.chunk_borders(T, 10)
UPPER_NEUTRAL = np.full((L, 3), 0.01, "f4")


def full(metric, prediction, truth, mask):
    """Any metric on [T, L, 3] faces, so that one test can go through all of them."""
    calls = {
        "mve_mm": lambda: metrics.mve_mm(prediction, truth, mask),
        "lve_mm": lambda: metrics.lve_mm(prediction, truth, mask),
        "fdd_1e5m": lambda: metrics.fdd_1e5m(prediction, truth, UPPER_NEUTRAL, mask),
        "jitter": lambda: metrics.jitter(prediction, mask, BORDERS),
        "boundary_excess": lambda: metrics.boundary_excess(
            prediction, truth, mask, BORDERS
        ),
        "std_ratio": lambda: metrics.std_ratio(prediction, truth, mask),
        "energy_score": lambda: metrics.energy_score(
            jnp.stack([prediction, prediction + 1e-3, truth]), truth, mask
        ),
    }
    return float(calls[metric]())


FACE_METRICS = (
    *("mve_mm", "lve_mm", "fdd_1e5m", "jitter"),
    *("boundary_excess", "std_ratio", "energy_score"),
)


def twin(metric, p, q, valid):
    """The definitions again, in float64 loops that share no code with the package."""
    p, q = p.astype("f8"), q.astype("f8")
    frames = np.flatnonzero(valid)

    def length(v):
        return float(np.sqrt((v**2).sum()))

    def error(a, b, t):
        return [length(a[t, i] - b[t, i]) for i in range(L)]

    def acceleration(x, border):
        out = []
        for t in range(1, T - 1):
            crossing = t % 10 in (9, 0)
            if crossing != border or not valid[t - 1 : t + 2].all():
                continue
            bends = [x[t + 1, i] - 2 * x[t, i] + x[t - 1, i] for i in range(L)]
            out.append(np.mean([length(b) for b in bends]))
        return np.mean(out)

    if metric == "mve_mm":
        return 1e3 * np.mean([np.mean(error(p, q, t)) for t in frames])
    if metric == "lve_mm":
        return 1e3 * np.mean([np.max(error(p, q, t)) for t in frames])
    if metric == "jitter":
        return 1e3 * acceleration(p, True)
    if metric == "boundary_excess":
        ratios = [acceleration(x, True) / acceleration(x, False) for x in (p, q)]
        return ratios[0] / ratios[1]
    if metric == "std_ratio":
        variance = [x[frames].var(axis=0).sum(-1).mean() for x in (p, q)]
        return np.sqrt(variance[0] / variance[1])
    if metric == "fdd_1e5m":
        gaps = []
        for i in range(L):
            stds = [
                np.std(
                    [length(x[t, i] - UPPER_NEUTRAL[i].astype("f8")) for t in frames]
                )
                for x in (p, q)
            ]
            gaps.append(abs(stds[0] - stds[1]))
        return 1e5 * np.mean(gaps)
    samples = np.stack([p, p + 1e-3, q])
    near = np.mean([[error(x, q, t) for t in frames] for x in samples])
    pairs = [(0, 1), (0, 2), (1, 2)]
    apart = np.mean(
        [[error(samples[a], samples[b], t) for t in frames] for a, b in pairs]
    )
    return 1e3 * (near - 0.5 * apart)


@pytest.mark.parametrize("metric", FACE_METRICS)
def test_numpy_twin(metric, faces):
    mask = everyone()
    mask[[0, 1, 30, 31, 39]] = False
    expected = twin(metric, *faces, mask)
    with jax.enable_x64(True):
        exact = full(metric, *faces.astype("f8"), mask)
    assert exact == pytest.approx(expected, rel=1e-9)
    # In float32, what differences near equals (std, acceleration) loses two digits.
    differenced = metric in ("fdd_1e5m", "jitter", "boundary_excess")
    tolerance = 2e-5 if differenced else 1e-6
    assert full(metric, *faces, mask) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("metric", FACE_METRICS)
def test_masked_frames_change_nothing(metric, faces):
    mask = everyone()
    mask[25:] = False
    clean = full(metric, *faces, mask)
    spoiled = faces.copy()
    spoiled[:, 25:] = np.nan
    assert full(metric, *spoiled, mask) == clean
    spoiled[:, 20] += 0.01 * np.arange(1, 3)[:, None, None]  # a valid frame counts
    assert full(metric, *spoiled, mask) != clean


@pytest.mark.parametrize("metric", FACE_METRICS)
def test_jit_agrees(metric, faces):
    jitted = {
        "mve_mm": (metrics.mve_mm, ()),
        "lve_mm": (metrics.lve_mm, ()),
        "std_ratio": (metrics.std_ratio, ()),
        "fdd_1e5m": (metrics.fdd_1e5m, (UPPER_NEUTRAL,)),
        "boundary_excess": (
            lambda p, q, m: metrics.boundary_excess(p, q, m, BORDERS),
            (),
        ),
        "jitter": (lambda p, q, m: metrics.jitter(p, m, BORDERS), ()),
        "energy_score": (
            lambda p, q, m: metrics.energy_score(jnp.stack([p, p + 1e-3, q]), q, m),
            (),
        ),
    }
    function, extra = jitted[metric]
    got = float(jax.jit(function)(*faces, *extra, everyone()))
    assert got == pytest.approx(full(metric, *faces, everyone()), rel=1e-5)


def line(values, vertices=1):
    """[T, vertices, 3] that moves along x by `values` in metres."""
    out = np.zeros((len(values), vertices, 3), "f4")
    out[..., 0] = np.asarray(values, "f4")[:, None]
    return out


def yes(count):
    return np.ones(count, bool)


def test_distances_by_hand():
    truth = np.zeros((2, 2, 3), "f4")
    prediction = truth.copy()
    prediction[0, 0] = [3e-3, 4e-3, 0]  # 5 mm and 0
    prediction[1] = [[0, 0, 1e-3], [2e-3, 0, 0]]  # 1 mm and 2 mm
    assert metrics.mve_mm(prediction, truth, yes(2)) == pytest.approx(2.0)
    assert metrics.lve_mm(prediction, truth, yes(2)) == pytest.approx(3.5)
    assert metrics.lve_mm(prediction, truth, np.array([False, True])) == pytest.approx(
        2
    )


def test_fdd_by_hand():
    neutral = np.zeros((2, 3), "f4")
    # Displacements 0 and 2 mm have std 1 mm; of the second vertex the truth moves.
    prediction, truth = np.zeros((2, 2, 2, 3), "f4")
    prediction[1, 0, 0] = 2e-3
    truth[1, 1, 1] = 4e-3
    # |1 - 0| and |0 - 2| mm: mean 1.5 mm = 150 e-5 m; signed it would be -0.5 mm.
    got = metrics.fdd_1e5m(prediction, truth, neutral, yes(2))
    assert got == pytest.approx(150.0)


def test_mouth_opening_by_hand():
    truth, prediction = np.zeros((2, 2, 68, 3), "f4")
    prediction[:, 51, 1] = [3e-3, -4e-3]  # outer lips; distances 3 and 4 mm, not 0
    prediction[:, 62, 1] = 9e-3  # inner lips do not enter
    expected = np.sqrt((9 + 16) / 2 / 3)
    assert metrics.mod_mm(prediction, truth, yes(2)) == pytest.approx(expected)
    assert metrics.mouth_gap_mm(prediction).tolist() == pytest.approx([9.0, 9.0])


def test_landmark_twins_and_masks():
    p, q, mask = landmarks_of(1), landmarks_of(2), everyone()
    mask[30:] = False
    gap = {n: np.linalg.norm(p[:30, n] - p[:30, m], axis=-1) for n, m in [(51, 57)]}
    gap_q = np.linalg.norm(q[:30, 51] - q[:30, 57], axis=-1)
    expected = 1e3 * np.sqrt(np.mean((gap[51] - gap_q) ** 2) / 3)
    assert metrics.mod_mm(p, q, mask) == pytest.approx(expected, rel=1e-6)
    gaps = [np.array(metrics.mouth_gap_mm(x)) for x in (p, q)]
    sums = np.asarray(metrics.correlation_sums(*gaps, mask), "f8")
    r = np.corrcoef(gaps[0][:30].astype("f8"), gaps[1][:30].astype("f8"))[0, 1]
    assert intervals.pool("mouth_gap_r", sums) == pytest.approx(r, abs=1e-6)
    p[30:], gaps[0][30:] = np.nan, np.nan
    assert metrics.mod_mm(p, q, mask) == pytest.approx(expected, rel=1e-6)
    assert (np.asarray(metrics.correlation_sums(*gaps, mask)) == sums).all()


def test_correlation_pools_over_clips():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 9, (2, 3, T)).astype("f4")
    y += x + np.array([0, 5, 10], "f4")[:, None]  # clips of unlike level
    sums = [
        np.asarray(metrics.correlation_sums(a, b, everyone()))
        for a, b in zip(x, y, strict=True)
    ]
    pooled = intervals.pool("mouth_gap_r", np.sum(sums, axis=0, dtype="f8"))
    assert pooled == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], abs=1e-6)


def test_jitter_by_hand():
    # A kink of 3 mm at frame 4, the first of chunk two: accelerations 3 mm at 4 alone.
    lips = line(1e-3 * np.array([0, 0, 0, 0, 0, 3, 6, 9.0]))
    borders = metrics.chunk_borders(8, 4)
    assert borders.tolist() == [False] * 4 + [True] + [False] * 3
    assert metrics.jitter(lips, yes(8), borders) == pytest.approx(1.5, rel=1e-5)
    sums = metrics.acceleration_sums(lips, yes(8), borders)
    assert sums.tolist() == pytest.approx([3.0, 2, 0, 4], abs=1e-5)
    # One frame later the kink is inside the chunk: it must not count as a border.
    later = line(1e-3 * np.array([0, 0, 0, 0, 0, 0, 3, 6.0]))
    assert metrics.jitter(later, yes(8), borders) == pytest.approx(0, abs=1e-5)


def test_boundary_excess_by_hand():
    borders = metrics.chunk_borders(8, 4)
    # Kinks of 1 mm inside (frame 2) and 2 mm at the border (frame 4), against 1 and 1.
    prediction = line(1e-3 * np.array([0, 0, 0, 1, 2, 5, 8, 11.0]))
    control = line(1e-3 * np.array([0, 0, 0, 1, 2, 4, 6, 8.0]))
    got = metrics.boundary_excess(prediction, control, yes(8), borders)
    assert got == pytest.approx(2.0, rel=1e-4)
    # Twice the motion everywhere is no excess.
    double = metrics.boundary_excess(2 * control, control, yes(8), borders)
    assert double == pytest.approx(1.0, rel=1e-5)


def test_std_ratio_by_hand():
    truth = line([0, 2e-3], vertices=2)  # variance 1 mm^2 per vertex
    prediction = line([0, 1e-3], vertices=2)
    prediction[:, 1] = 0  # variances 0.25 and 0 mm^2: mean 0.125
    expected = np.sqrt(0.125)
    assert metrics.std_ratio(prediction, truth, yes(2)) == pytest.approx(expected)
    shifted = metrics.std_ratio(truth + 0.5, truth, yes(2))  # an offset is no motion
    assert shifted == pytest.approx(1.0, rel=1e-4)


def test_energy_score_by_hand():
    truth = line([0.0])
    samples = np.stack([line([1e-3]), line([-3e-3])])
    # E|X-y| = (1 + 3) / 2 = 2; E|X-X'| = 4; 2 - 2 = 0.
    assert metrics.energy_score(samples, truth, yes(1)) == pytest.approx(0, abs=1e-6)
    assert metrics.energy_score(samples[1:], truth, yes(1)) == pytest.approx(3.0)
    same = np.repeat(
        samples[:1], 4, axis=0
    )  # a mean sold as four samples gains nothing
    assert metrics.energy_score(same, truth, yes(1)) == pytest.approx(1.0)


def test_energy_score_is_proper():
    """Samples of the truth's own law beat the law's mean and a wrong spread."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1e-3, (4000, 1, 3)).astype("f4")
    noise = rng.normal(0, 1e-3, (4, *truth.shape)).astype("f4")
    scores = [metrics.energy_score(s * noise, truth, yes(4000)) for s in (1, 0, 0.4, 2)]
    assert scores[0] < min(scores[1:]) - 0.02


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips_are_undefined_not_wrong(frames):
    lips, mask = line(np.arange(frames) * 1e-3), yes(frames)
    borders = metrics.chunk_borders(frames, 2)
    jitter = float(metrics.jitter(lips, mask, borders))
    assert np.isnan(jitter) if frames < 3 else jitter == pytest.approx(0, abs=1e-5)
    assert np.isnan(metrics.lve_mm(lips, lips, ~mask))
