"""The picture beside a tracked video: landmarks found and fitted, and the lip gap."""

import jax
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.flame import fit, landmarks, model
from tools import render_head
from tools.video_reader import read_frames, read_sound

MOMENTS = 4
SHOWN = sorted({*landmarks.LIPS, *landmarks.LIDS, *landmarks.BROWS})
TRACKED, FITTED, LOST = "#00c8ff", "#ff8c1a", "#e0483c"


def draw(stem, track, found, aligned, rest, head, rig, facts):
    """Write STEM.png.

    Args:
      track: `track_video.Track`; found: its `fit.Fit`.
      aligned, rest: tracked points without size and pose, and those at rest.
      facts: `track_video.facts_of`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen = _moments(track, found)
    back = _in_the_picture(track.points, aligned, rest, found, rig)
    faces = np.asarray(
        jax.jit(model.vertices)(
            head, fit.smooth(found.motion, fit.bounds_of(head))[chosen]
        )
    )
    figure = plt.figure(figsize=(12, 9.5), layout="constrained")
    grid = figure.add_gridspec(3, MOMENTS, height_ratios=(3, 3, 2))
    axes = [[figure.add_subplot(grid[r, k]) for k in range(MOMENTS)] for r in (0, 1)]
    for k, (frame, rgb) in enumerate(zip(chosen, _frames(track, chosen), strict=True)):
        axes[0][k].imshow(rgb)
        for points, colour in ((track.points[frame], TRACKED), (back[frame], FITTED)):
            x, y = points[SHOWN, 0], -points[SHOWN, 1]
            axes[0][k].scatter(x, y, s=3, color=colour, linewidths=0)
        _around(axes[0][k], track.points[frame], rgb.shape)
        axes[0][k].set_title(f"{frame / mo.FPS:.2f} s", fontsize=9)
        axes[1][k].imshow(render_head.render(head, faces[k], 256, zoom=1.2))
        for row in axes:
            row[k].set_axis_off()
    _gaps(figure.add_subplot(grid[2, :]), track, found, chosen)
    name = facts["video"].replace("$", r"\$")  # no formula
    figure.suptitle(
        f"{name}: {facts['frames']} frames, {facts['dropped']} without a "
        f"face; lips {facts['residual_mm']} mm off (a still face {facts['still_mm']}), "
        f"gap r {facts['gap_r']}\nblue: tracked, orange: fitted",
        fontsize=10,
    )
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(f"{stem}.png", dpi=90)
    plt.close(figure)


def _moments(track, found):
    """Frames to show: lips closest, widest, and two between, in order of time."""
    gap = landmarks.inner_lip_gap(found.target)
    gap = np.where(track.detected, gap, np.nan)
    order = np.argsort(gap)[: int(track.detected.sum())]
    places = np.linspace(0, len(order) - 1, MOMENTS).round().astype(int)
    return sorted(int(k) for k in order[places])


def _in_the_picture(points, aligned, rest, found, rig):
    """The fitted points [T, 478, 3] where they would lie in the video, pixels."""
    skin = np.ones(landmarks.LANDMARKS)
    skin[list(landmarks.IRISES)] = 0
    scale, rotation, _ = landmarks.similarity(rest, rig.rest, skin)
    own = rest + (found.fitted - rig.rest) @ rotation / scale
    still = fit.still_landmarks(rig.rest).astype(float)
    out = np.empty_like(points)
    for k, (frame, seen) in enumerate(zip(aligned, points, strict=True)):
        size, turn, shift = landmarks.similarity(frame, seen, still)
        out[k] = size * own[k] @ turn.T + shift
    return out


def _frames(track, chosen):
    """The video's pictures at these frames of 25 fps."""
    _, start = read_sound(track.path)
    wanted = (np.array(chosen) + 0.5) / mo.FPS + start
    pictures, best = [None] * len(chosen), np.full(len(chosen), np.inf)
    for time, rgb in read_frames(track.path):
        away = np.abs(time + 0.5 / mo.FPS - wanted)
        for k in np.flatnonzero(away < best):
            pictures[k], best[k] = rgb, away[k]
    return pictures


def _around(axis, points, shape):
    """Show the face with a margin, within the picture."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    reach = 0.65 * (high - low).max()
    x, y = (low + high) / 2 * (1, -1)
    axis.set_xlim(max(x - reach, 0), min(x + reach, shape[1] - 1))
    axis.set_ylim(min(y + reach, shape[0] - 1), max(y - reach, 0))


def _gaps(axis, track, found, chosen):
    clock = np.arange(len(track.detected)) / mo.FPS
    for points, colour, label in (
        (found.target, TRACKED, "tracked"),
        (found.fitted, FITTED, "fitted"),
    ):
        gap = 1e3 * landmarks.inner_lip_gap(points)
        axis.plot(clock, gap, color=colour, label=label, linewidth=1.2)
    for k in np.flatnonzero(~track.detected):
        axis.axvspan(clock[k], clock[k] + 1 / mo.FPS, color=LOST, alpha=0.3, lw=0)
    for frame in chosen:
        axis.axvline(frame / mo.FPS, color="0.6", linewidth=0.6, linestyle=":")
    axis.set(xlabel="s (red: no face found)", ylabel="inner lip gap, mm")
    axis.set_xlim(0, len(clock) / mo.FPS)
    axis.legend(loc="upper right", fontsize=8)
