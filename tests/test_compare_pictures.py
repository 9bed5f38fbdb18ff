"""Takes side by side: what is in the page, on the heat map and in the video."""

import sys

import jax
import numpy as np
import pytest

from tests.test_compare_clips import FRAMES, load_four, load_three, write_takes
from toktalk_jax import motion as mo
from toktalk_jax.flame import model, regions
from toktalk_jax.flame.assets import load_head
from toktalk_jax.page import comparison, read_page
from tools import compare_clips, compare_picture, compare_video, render_head


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_three(write_takes(tmp_path_factory.mktemp("takes")))


# Machado, Oliveira and Fernandes 2009, table 1, severity 1: linear RGB as it is seen.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(linear):
    """CIELAB [..., 3] of linear RGB."""
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    f = np.cbrt(np.clip(linear, 0.001, 1) @ np.transpose(to_xyz) / [0.9505, 1, 1.089])
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_stay_apart_to_the_colour_blind(kind):
    rgb = np.array([list(bytes.fromhex(c[1:])) for c in comparison.COLOURS]) / 255
    seen = lab((rgb**2.2) @ np.transpose(BLINDNESS[kind]))
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1)
    assert apart[np.triu_indices(len(seen), 1)].min() > 25
    lightness = lab((comparison.ramp() ** 2.2) @ np.transpose(BLINDNESS[kind]))[:, 0]
    assert (np.diff(lightness) > 0).all()


def test_the_page_holds_the_curves_and_the_colours(clips, tmp_path):
    page = read_page(compare_clips.page(clips, tmp_path / "page.html", "Takes"))
    compare, arrays = page["compare"], page["arrays"]
    assert page["tracks"] == ["first", "truth", "jaw"] and compare["truth"] == 1
    assert [lane["values"] for lane in compare["lanes"]] == [[0, 2], [0, 1, 2]]
    measured = clips.compared.curves
    np.testing.assert_array_equal(arrays["lane_0_2"], measured.lip_mm[2])
    np.testing.assert_array_equal(arrays["lane_1_1"], measured.gap_mm[1])
    for n in range(3):
        np.testing.assert_array_equal(arrays[f"motion_{n}"], clips.motions[n])
        np.testing.assert_allclose(
            arrays[f"vertex_mm_{n}"], measured.vertex_mm[n], atol=6e-4
        )
    assert page["borders"] == [[10, comparison.LINE]]
    assert compare["heat"]["mean"] >= measured.vertex_mm.max()
    assert page["info"]["Against truth"]["jaw"]["lve_mm"] == pytest.approx(
        measured.lip_mm[2].mean(), rel=1e-5
    )


def test_a_moved_jaw_paints_lips_and_chin_but_not_the_forehead(clips, head):
    errors = clips.compared.curves.vertex_mm[2]
    rest = np.asarray(head.v_template)
    brows = np.asarray(regions.landmarks_68(head, rest))[17:27, 1].max()
    forehead = np.flatnonzero(rest[:, 1] > brows + 0.005)
    lips = regions.lips(head)
    assert errors[lips].max() > 3 and errors[forehead].max() < 0.05
    size = 120
    picture = compare_picture.heat_heads(clips, size)["jaw"].astype(float).sum(-1)
    still = render_head.painter(head, size)(
        rest, np.tile(comparison.ramp()[0], (len(rest), 1))
    )
    brighter = picture - still.astype(float).sum(-1)
    screen, seen = render_head.project(head, rest, size)

    def painted(vertices):
        front = vertices[seen[vertices, 2] > seen[lips, 2].min()]
        x, y = np.clip(screen[front].astype(int), 0, size - 1).T
        return brighter[y, x]

    assert painted(lips).max() > 150 > 3 > np.abs(painted(forehead)).max()
    top = np.unravel_index(brighter.argmax(), brighter.shape)
    assert abs(top[1] - size / 2) < 12 and top[0] > screen[lips, 1].min()


def test_heads_wear_the_colours_that_they_are_given(head):
    red = np.tile([1.0, 0, 0], (len(head.v_template), 1))
    picture = render_head.painter(head, 64)(head.v_template, red)
    worn = picture[(picture[..., 1] == 0) & (picture[..., 2] == 0)]
    assert len(worn) > 64 * 64 / 5 and worn[:, 0].min() > 0.55 * 255
    plain = render_head.render(head, head.v_template, 64)
    assert (np.ptp(plain[20:40, 20:40].astype(int), axis=-1) > 0).all()


def envelope(samples, rate):
    """Loudness in pieces of 5 ms, its mean taken off."""
    step = rate // 200
    whole = samples[: len(samples) // step * step].reshape(-1, step)
    level = np.sqrt((whole.astype(float) ** 2).mean(1))
    return level - level.mean()


def decoded(av, path):
    """(pictures [T, H, W, 3], s of each; sound [L], its rate, s at which it starts)."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    with av.open(str(path)) as file:
        heard = list(file.decode(audio=0))
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    sound = np.concatenate([frame.to_ndarray()[0] for frame in heard])
    times = [float(frame.time) for frame in frames]
    return pictures, times, sound, heard[0].rate, float(heard[0].time)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    av = pytest.importorskip("av")
    clips = load_four(write_takes(tmp_path_factory.mktemp("takes")))
    rng = np.random.default_rng(3)
    bursts = np.repeat(rng.random(FRAMES * 2) > 0.6, mo.SAMPLES_PER_FRAME // 2)
    audio = (0.4 * bursts * rng.standard_normal(len(bursts))).clip(-1, 1)
    told = clips._replace(audio=audio.astype(np.float32))
    path = tmp_path_factory.mktemp("film") / "clips.mp4"
    compare_video.write_video(path, told, 128)
    return told, decoded(av, path)


def test_the_video_is_as_long_as_the_motion_and_its_sound_in_sync(film):
    clips, (pictures, times, sound, rate, start) = film
    assert len(pictures) == FRAMES
    np.testing.assert_allclose(times, np.arange(FRAMES) / mo.FPS, atol=1e-3)
    seconds = FRAMES / mo.FPS
    assert abs(start + len(sound) / rate - seconds) < 1 / mo.FPS
    sound = np.pad(sound, (round(start * rate), 0))
    ours = envelope(clips.audio, clips.sample_rate)
    theirs = envelope(sound, rate)[: len(ours)]
    ours = ours[: len(theirs)]
    by_lag = np.correlate(theirs, ours, "full")
    assert by_lag.argmax() == len(ours) - 1
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95


def test_the_video_shows_every_head_at_its_frame(film, head):
    clips, (pictures, *_) = film
    board = compare_picture.draw_board(clips, 128)
    assert len(board.places) == 4
    assert pictures.shape[1:] == board.picture.shape
    frame = 17
    posed = np.asarray(jax.jit(model.vertices)(head, clips.motions[:, frame]))
    paint = render_head.painter(head, 128 - 2 * compare_picture.BORDER)
    for n, (x, y) in enumerate(board.places):
        own = paint(posed[n]).astype(int)
        shown = pictures[:, y : y + len(own), x : x + len(own)].astype(int)
        away = np.abs(shown - own).mean((1, 2, 3))
        assert away.argmin() == frame, n
    strip = pictures[:, board.top : board.bottom].astype(int).min((1, 3))
    cursor = (strip[:, board.left :].argmax(1)) / (board.right - board.left)
    np.testing.assert_allclose(cursor, np.arange(FRAMES) / FRAMES, atol=0.01)


def test_a_video_needs_pyav(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"PyAV is not installed.*\[track\]"):
        compare_video.write_video(tmp_path / "x.mp4", clips)


def test_an_interrupted_video_leaves_nothing(clips, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(jax, "jit", lambda *a, **k: lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare_video.write_video(tmp_path / "x.mp4", clips, 64)
    assert not list(tmp_path.iterdir())
