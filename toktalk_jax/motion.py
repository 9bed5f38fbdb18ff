"""The 56-d motion vector: named slices, normalisation, seconds, frames and tokens.

Axis letters here and everywhere: B batch, T motion frames (25 fps), S token frames,
A token-embedding width, F motion coefficients (56), K style width, D model width,
N heads, V vertices.
"""

import fractions
import hashlib
import json
import math
from typing import NamedTuple

import numpy as np

FPS = 25
SAMPLE_RATE = 16_000
TOKEN_HZ = 12.5  # the base rate: Mimi's
FRAMES_PER_TOKEN = 2
SAMPLES_PER_TOKEN = 1280
SAMPLES_PER_FRAME = 640

F = 56
EXPRESSION = slice(0, 50)
JAW = slice(50, 53)  # axis-angle, radians
NECK = slice(53, 56)  # axis-angle, radians

# Order of Apple's ARFaceAnchor blend shapes as Live Link Face writes them.
ARKIT_52 = (
    *("eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft"),
    *("eyeLookUpLeft", "eyeSquintLeft", "eyeWideLeft"),
    *("eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight"),
    *("eyeLookUpRight", "eyeSquintRight", "eyeWideRight"),
    *("jawForward", "jawLeft", "jawRight", "jawOpen"),
    *("mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight"),
    *("mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight"),
    *("mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft"),
    *("mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight"),
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft"),
    *("browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight"),
    *("noseSneerLeft", "noseSneerRight", "tongueOut"),
)
# Expression 0..47 of the stand-in head; 48 and 49 are zero and dead.
ARKIT_EXPRESSION = tuple(name for name in ARKIT_52 if not name.startswith("jaw"))


class Stats(NamedTuple):
    """Statistics of a train split; they travel with dataset and checkpoint.

    Attributes:
      motion_mean: [F] mean coefficient.
      motion_std: [F] mean within-clip std (DiffPoseTalk's rule); 0 marks a dead
        coefficient, which is masked from the loss and denormalises to its mean.
      token_mean: [A] mean token embedding at the base rate (12.5 Hz).
      token_std: [A] its std over all train tokens.
    """

    motion_mean: np.ndarray
    motion_std: np.ndarray
    token_mean: np.ndarray
    token_std: np.ndarray

    @property
    def motion_scale(self):
        """[F] divisor of the z-score: the std, or 1 where the coefficient is dead."""
        return np.where(self.motion_std > 0, self.motion_std, 1.0).astype(np.float32)

    @property
    def live(self):
        """[F] bool: coefficients that move and carry loss."""
        return np.asarray(self.motion_std > 0)

    def normalise(self, motion):
        """Raw coefficients [..., F] to z-scores."""
        return (motion - self.motion_mean) / self.motion_scale

    def denormalise(self, z):
        """Z-scores [..., F] to raw coefficients; a dead one returns to its mean."""
        return self.motion_mean + self.motion_std * z

    def standardise(self, tokens):
        """Token embeddings [..., A] at the base rate to zero mean and unit std."""
        return (tokens - self.token_mean) / np.where(
            self.token_std > 1e-8, self.token_std, 1.0
        )

    def to_json(self):
        """JSON text, floats as shortest round-trip decimals."""
        fields = {
            k: np.asarray(v, np.float64).tolist() for k, v in self._asdict().items()
        }
        return json.dumps(fields, indent=1)

    @classmethod
    def from_json(cls, text):
        """Inverse of `to_json`; extra keys are ignored.

        Raises:
          ValueError: a field is missing or the motion is not 56 wide.
        """
        raw = json.loads(text)
        missing = [k for k in cls._fields if k not in raw]
        if missing:
            raise ValueError(f"stats lack {missing}; expected the keys {cls._fields}")
        stats = cls(*(np.asarray(raw[k], np.float32) for k in cls._fields))
        if stats.motion_mean.shape != (F,):
            raise ValueError(f"stats hold {stats.motion_mean.shape} motion, not ({F},)")
        return stats

    def hash(self):
        """12 hex digits that identify these numbers."""
        digest = hashlib.sha256()
        for value in self:
            digest.update(np.ascontiguousarray(value, np.float32).tobytes())
        return digest.hexdigest()[:12]


def motion_stats(clips, dead_below=None):
    """Mean and mean within-clip std of raw motion (DiffPoseTalk's normalisation).

    Args:
      clips: iterable of [T, F] arrays.
      dead_below: [F] optional; a coefficient whose std lies under its entry is dead
        (the std that moves no vertex by more than 0.01 mm rms).

    Returns:
      (mean [F], std [F]), std 0 for dead coefficients.
    """
    mean, std, frames = np.zeros(F), np.zeros(F), 0
    for clip in clips:  # one at a time: a corpus need not fit into memory
        mean += clip.mean(0, dtype=np.float64) * len(clip)
        std += clip.std(0, dtype=np.float64) * len(clip)
        frames += len(clip)
    if not frames:
        raise ValueError("motion statistics need at least one clip; none came")
    mean, std = mean / frames, std / frames
    floor = np.full(F, 1e-6) if dead_below is None else np.maximum(dead_below, 1e-6)
    return mean.astype(np.float32), np.where(std > floor, std, 0.0).astype(np.float32)


def to_token_rate(tokens, rate_hz):
    """Token embeddings at their own rate to the base rate of 12.5 Hz.

    A whole multiple is stacked (pooling would throw lip closures away); any other rate
    becomes the area average over the base token's cell, never reading past it.

    Args:
      tokens: [S, A] at `rate_hz`, covering the clip from sample 0.

    Returns:
      [S', A'] with S' whole base tokens; a cell that is not fully covered is dropped.
    """
    tokens = np.asarray(tokens)
    ratio = rate_hz / TOKEN_HZ
    if ratio < 1:
        raise ValueError(
            f"a token rate of {rate_hz} Hz is under the base {TOKEN_HZ} Hz"
        )
    whole = round(ratio)
    if abs(ratio - whole) < 1e-6:
        count = len(tokens) // whole
        return tokens[: count * whole].reshape(count, whole * tokens.shape[1])
    count = int(len(tokens) / ratio + 1e-6)
    if not count:
        return tokens[:0]
    edges = np.arange(count + 1) * ratio
    integral = np.concatenate([np.zeros_like(tokens[:1]), np.cumsum(tokens, 0)])
    below = np.minimum(edges.astype(int), len(tokens) - 1)
    at_edges = integral[below] + (edges - below)[:, None] * tokens[below]
    return (np.diff(at_edges, axis=0) / ratio).astype(tokens.dtype)


class ToTokenRate:
    """`to_token_rate` of tokens that come piece by piece: however they are split."""

    def __init__(self, rate_hz):
        """Begin a clip; its tokens will come at `rate_hz`."""
        self._rate_hz, self._rest, self._given = rate_hz, None, 0
        # So many tokens fill so many cells, and the next ones begin like the first.
        ratio = fractions.Fraction(rate_hz / TOKEN_HZ).limit_denominator(1000)
        self._tokens, self._cells = ratio.numerator, ratio.denominator

    def push(self, tokens):
        """Tokens [s, A] -> base tokens [s', A'] that they fill; the rest waits."""
        if self._rest is not None:
            tokens = np.concatenate([self._rest, tokens])
        base = to_token_rate(tokens, self._rate_hz)
        found = base[self._given :]
        periods = len(tokens) // self._tokens
        self._rest = tokens[periods * self._tokens :]
        self._given = len(base) - periods * self._cells
        return found


def chunk_frames(seconds):
    """Frames of a chunk of `seconds`: whole tokens, so an even number of frames.

    Raises:
      ValueError: the size fits no whole number of tokens; names the nearest that do.
    """
    tokens = seconds * TOKEN_HZ
    if tokens < 1 - 1e-6 or abs(tokens - round(tokens)) > 1e-6:
        below = max(math.floor(tokens), 1) / TOKEN_HZ
        above = max(math.ceil(tokens), 1) / TOKEN_HZ
        raise ValueError(
            f"a chunk of {seconds} s is not a whole number of {1 / TOKEN_HZ} s tokens; "
            f"the nearest sizes that fit are {below:.2f} s and {above:.2f} s"
        )
    return round(tokens) * FRAMES_PER_TOKEN
