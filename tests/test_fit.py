"""Landmarks to motion: the map, the solver, what it refuses."""

import numpy as np
import pytest

from toktalk_jax import motion as mo
from toktalk_jax.flame import assets, fit, landmarks, model
from tools import build_landmark_map

T = 50
TONGUE = mo.ARKIT_EXPRESSION.index("tongueOut")  # no landmark sees it


@pytest.fixture(scope="module")
def head():
    return assets.load_head()


@pytest.fixture(scope="module")
def points(head):
    """Motion [T, 56] -> landmarks [T, 478, 3] on the full head, neck still."""
    where = landmarks.load_map(head)

    def of(motion):
        vertices = model.vertices(head, np.asarray(motion), pose=False)
        return np.asarray(landmarks.surface_points(head, where, vertices))

    return of


@pytest.fixture(scope="module")
def rest(points):
    return points(np.zeros(mo.F, np.float32))


def speech_like(seed=0):
    """Motion [T, 56] of slow bumps: some shapes at a time, others exactly at zero."""
    rng = np.random.default_rng(seed)
    time = np.arange(T)[:, None] / mo.FPS
    waves = np.sin(2 * np.pi * (rng.uniform(0.5, 4, 52) * time + rng.random(52)))
    motion = np.zeros((T, mo.F), np.float32)
    motion[:, :48] = 0.5 * np.maximum(waves[:, :48], 0)
    motion[:, TONGUE] = 0
    for side in ("Left", "Right"):  # an eye does not look both ways at once
        for one, other in (("In", "Out"), ("Up", "Down")):
            names = (f"eyeLook{way}{side}" for way in (one, other))
            a, b = (mo.ARKIT_EXPRESSION.index(name) for name in names)
            motion[:, b] = 0.5 * np.maximum(-waves[:, a], 0)
    motion[:, 50] = 0.12 + 0.1 * waves[:, 48]
    motion[:, 51] = 0.02 * waves[:, 49]
    motion[:, mo.NECK] = 0.1 * waves[:, 49:52]
    return motion


def turned(points, angle, size):
    """The same landmarks as another camera and unit would give them."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return size * points @ turn.T + np.array([3.0, -1.0, 2.0])


def relative_error(found, truth):
    """Rms error over rms std, expression and jaw."""
    used = slice(0, fit.FITTED)
    error = found[:, used] - truth[:, used]
    return np.sqrt((error**2).mean() / truth[:, used].var(0).mean())


def test_round_trip_within_three_percent(head, points, rest):
    truth = speech_like()
    tracked = turned(points(truth), 0.1, 14.0)
    found = fit.fit_landmarks(
        head, tracked, turned(rest, 0.1, 14.0), neck=truth[:, mo.NECK]
    )
    assert relative_error(found.motion, truth) < 0.03
    np.testing.assert_array_equal(found.motion[:, mo.NECK], truth[:, mo.NECK])
    assert found.residual_mm() < 0.02
    assert found.residual_mm(dynamic=True) <= found.residual_mm()
    np.testing.assert_allclose(found.fitted, points(found.motion), atol=2e-6)


def test_leftover_pose_is_not_taken_for_expression(head, points, rest):
    truth = speech_like(1)
    clean = points(truth)
    rng = np.random.default_rng(2)
    shaken = clean * (1 + 0.01 * rng.standard_normal((T, 1, 1)))
    shaken = shaken + 1e-3 * rng.standard_normal((T, 1, 3))
    found = fit.fit_landmarks(head, shaken, rest)
    left = np.linalg.norm(found.target - clean, axis=-1).mean()
    assert left < 0.2 * np.linalg.norm(shaken - clean, axis=-1).mean()
    assert relative_error(found.motion, truth) < 0.2


def test_bounds_hold_whatever_comes(head, rest):
    rng = np.random.default_rng(3)
    wild = rest[None] + 0.01 * rng.standard_normal((7, landmarks.LANDMARKS, 3))
    motion = fit.fit_landmarks(head, wild, rest).motion
    assert motion.shape == (7, mo.F) and np.isfinite(motion).all()
    expression, jaw = motion[:, mo.EXPRESSION], motion[:, mo.JAW]
    assert expression.min() >= 0 and expression.max() <= 1
    assert (jaw >= np.float32(fit.JAW_LOW)).all()
    assert (jaw <= np.float32(fit.JAW_HIGH)).all()
    assert not motion[:, [TONGUE, 48, 49]].any() and not motion[:, mo.NECK].any()


def test_neutral_gives_no_motion(head, rest):
    motion = fit.fit_landmarks(head, rest[None].repeat(3, 0), rest).motion
    np.testing.assert_allclose(motion, 0, atol=1e-5)


def test_reduced_head_moves_its_points_as_the_whole_head(head, points):
    small, where = landmarks.reduce_head(head, landmarks.load_map(head))
    motion = speech_like(4)[:6]
    vertices = model.vertices(small, motion, pose=False)
    got = landmarks.surface_points(small, where, vertices)
    np.testing.assert_allclose(got, points(motion), atol=1e-6)


def test_map_lies_where_it_should(head, points, rest):
    where = landmarks.load_map(head)
    assert where.faces.shape == (478,) and where.weights.shape == (478, 3)
    np.testing.assert_allclose(where.weights.sum(1), 1, atol=1e-5)
    assert where.weights.min() > -1e-5
    mirrored = [(61, 291), (78, 308), (33, 263), (133, 362), (70, 300), (50, 280)]
    for right, left in mirrored:
        assert rest[right, 0] < 0 < rest[left, 0]  # x points to the head's own left
        np.testing.assert_allclose(rest[right] * [-1, 1, 1], rest[left], atol=2e-3)
    # In the middle of the face, from forehead to chin.
    middle = rest[[10, 151, 9, 168, 6, 4, 2, 0, 13, 17, 18, 200, 152]]
    assert np.abs(middle[:, 0]).max() < 1.5e-3
    assert (np.diff(middle[:, 1]) < 0).all()
    assert 1e3 * landmarks.inner_lip_gap(rest) < 1.5
    eyes = set(np.asarray(head.groups["eyes"]))
    corners = np.asarray(head.faces)[where.faces[list(landmarks.IRISES)]]
    assert set(corners.ravel()) <= eyes


def test_open_jaw_leaves_the_upper_lip(points, rest):
    motion = np.zeros(mo.F, np.float32)
    motion[mo.JAW.start] = 0.2
    fall = np.linalg.norm(points(motion) - rest, axis=-1)
    upper = fall[list(landmarks.INNER_UPPER[1:-1])]
    lower = fall[list(landmarks.INNER_LOWER[1:-1])]
    # Towards the corners the upper lip rightly follows; between them it must not.
    assert upper[2:7].mean() < 0.15 * lower[2:7].mean()
    assert upper[4] < 0.05 * lower[4]
    assert lower[4] > 0.015


def test_gap_reads_the_plane_of_the_face():
    points = np.zeros((2, 478, 3))
    points[:, list(landmarks.INNER_UPPER), 1] = 4.0
    points[:, list(landmarks.INNER_LOWER), 1] = 1.0
    points[1, list(landmarks.INNER_LOWER), 2] = 9.0
    np.testing.assert_allclose(landmarks.inner_lip_gap(points), 3.0)


def test_filters_keep_parabolas_and_smooth_noise():
    time = np.arange(20.0)[:, None]
    parabola = np.broadcast_to(0.5 + 0.001 * (time - 9) ** 2, (20, mo.F))
    np.testing.assert_allclose(fit.smooth(parabola), parabola, atol=1e-6)
    noise = np.random.default_rng(0).uniform(0.3, 0.7, (200, mo.F))
    kept = fit.smooth(noise).std(0) / noise.std(0)
    # Centre weights 17/35 and 1/3 of white noise's variance pass (5, 2) and (7, 2).
    np.testing.assert_allclose(kept[: mo.JAW.stop].mean(), (17 / 35) ** 0.5, atol=0.03)
    np.testing.assert_allclose(kept[mo.NECK].mean(), (1 / 3) ** 0.5, atol=0.08)


def test_filters_stay_in_bounds_and_pass_short_clips():
    step = np.zeros((12, mo.F))
    step[6:] = 1.0
    filtered = fit.smooth(step)
    assert filtered[:, mo.EXPRESSION].min() == 0 and filtered[:, 0].max() == 1
    assert filtered[:, mo.NECK].min() < 0  # the neck is not an activation
    short = np.random.default_rng(1).random((4, mo.F)).astype(np.float32)
    np.testing.assert_array_equal(fit.smooth(short), short)


def test_bad_input_is_named(head, rest):
    with pytest.raises(ValueError, match=r"landmarks are \(4, 468, 3\)"):
        fit.fit_landmarks(head, np.zeros((4, 468, 3)), rest)
    with pytest.raises(ValueError, match=r"neutral is \(68, 3\)"):
        fit.fit_landmarks(head, rest[None], rest[:68])
    with pytest.raises(ValueError, match=r"neck is \(2, 3\); expected \[1, 3\]"):
        fit.fit_landmarks(head, rest[None], rest, neck=np.zeros((2, 3)))
    broken = rest[None].copy()
    broken[0, 5, 1] = np.nan
    with pytest.raises(ValueError, match="landmarks hold 1 values that are not finite"):
        fit.fit_landmarks(head, broken, rest)


def test_map_of_another_head_is_refused(head, tmp_path):
    with pytest.raises(FileNotFoundError, match="no landmark map at"):
        landmarks.load_map(head, tmp_path / "none.npz")
    other = head.replace(faces=head.faces[:-1])
    with pytest.raises(ValueError, match="make its own map"):
        landmarks.load_map(other)


def test_version_follows_the_head(head):
    assert fit.version(head) == fit.version(head)
    other = head.replace(posedirs=head.posedirs * 1.01)
    assert fit.version(other) != fit.version(head)


def test_canonical_mesh_of_a_wrong_file(tmp_path):
    path = tmp_path / "x.task"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="no face landmarker .task file"):
        build_landmark_map.read_canonical(path)


@pytest.mark.long
def test_shipped_map_is_what_the_tool_makes(head, shared):
    task = shared / "mediapipe_face_landmarker/face_landmarker_v2.task"
    canonical, triangles = build_landmark_map.read_canonical(task)
    assert canonical.shape == (468, 3) and triangles.max() == 467
    faces, weights = build_landmark_map.build(head, canonical)
    made = landmarks.LandmarkMap(faces, weights)
    places = [
        landmarks.surface_points(head, where, head.v_template)
        for where in (made, landmarks.load_map(head))
    ]
    np.testing.assert_allclose(*places, atol=1e-4)
