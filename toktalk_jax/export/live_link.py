"""ARKit weights and head turn as Live Link Face's CSV, and such a CSV as motion.

Columns are the app's own, in its order (JawRight before JawLeft, MouthRight before
MouthLeft; Unreal reads them by name). The time code counts sixtieths of a second, for
Unreal's importer divides by 60 whatever the rate: frames at 25 fps lie 2.4 apart.

Angles are radians, right-handed about the face's own axes: yaw to its left, pitch down,
roll to its right shoulder, applied as yaw, pitch, roll. The eyes' follow from the
eyeLook weights by how far those turn the eyeballs of the stand-in head.
"""

import csv
import io
import re

import numpy as np
from scipy.spatial.transform import Rotation

from toktalk_jax import motion as mo

_SWAPPED = {"jawLeft": "jawRight", "mouthLeft": "mouthRight"}
_SWAPPED |= {right: left for left, right in _SWAPPED.items()}
_ORDER = [mo.ARKIT_52.index(_SWAPPED.get(name, name)) for name in mo.ARKIT_52]
SHAPES = tuple(mo.ARKIT_52[k][0].upper() + mo.ARKIT_52[k][1:] for k in _ORDER)
ANGLES = tuple(
    part + turn
    for part in ("Head", "LeftEye", "RightEye")
    for turn in ("Yaw", "Pitch", "Roll")
)
HEADER = ("Timecode", "BlendShapeCount", *SHAPES, *ANGLES)
CLOCK = 60  # frames of the time code in a second
# Radians that a whole eyeLook shape turns the stand-in's eyes (Procrustes).
EYE_IN, EYE_OUT, EYE_UP, EYE_DOWN = 0.268, 0.261, 0.171, 0.198
_TIMECODE = re.compile(r"(\d+):(\d\d):(\d\d):(\d+(?:\.\d+)?)")


def encode(weights, neck, fps=mo.FPS):
    """The CSV's text.

    Args:
      weights: [T, 52] in the order of `motion.ARKIT_52`.
      neck: [T, 3] axis-angle of the head, radians.

    Raises:
      ValueError: lengths that differ.
    """
    weights, neck = np.asarray(weights), np.asarray(neck)
    if weights.shape[1:] != (52,) or neck.shape != (len(weights), 3):
        raise ValueError(
            f"weights are {weights.shape} and head turns {neck.shape}; "
            "expected [T, 52] and [T, 3]"
        )
    head = Rotation.from_rotvec(neck).as_euler("YXZ")
    rows = np.concatenate([weights[:, _ORDER], head, _eyes(weights)], 1)
    text = io.StringIO()
    file = csv.writer(text, lineterminator="\n")
    file.writerow(HEADER)
    for frame, row in enumerate(rows):
        # No minus before a zero.
        values = [f"{value + 0.0:.8f}" for value in np.round(row.astype(float), 8)]
        file.writerow([timecode(frame / fps), rows.shape[1], *values])
    return text.getvalue()


def timecode(seconds):
    """HH:MM:SS:FF.fff of a time; FF counts sixtieths."""
    thousandths = round(seconds * CLOCK * 1000)
    whole, rest = divmod(thousandths, CLOCK * 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}:{rest / 1000:06.3f}"


def _eyes(weights):
    """[T, 6] yaw, pitch, roll of the left and the right eye."""
    of = dict(zip(mo.ARKIT_52, weights.T, strict=True))
    still = np.zeros(len(weights))

    def turn(side, towards_left):
        inward, out = of[f"eyeLookIn{side}"], of[f"eyeLookOut{side}"]
        yaw = towards_left * (EYE_OUT * out - EYE_IN * inward)
        pitch = EYE_DOWN * of[f"eyeLookDown{side}"] - EYE_UP * of[f"eyeLookUp{side}"]
        return [yaw, pitch, still]

    return np.stack([*turn("Left", 1), *turn("Right", -1)], 1)


def decode(text):
    """ARKit weights [T, 52], head axis-angle [T, 3] and fps of such a CSV.

    Columns are found by name, whatever their case; angles that it lacks are zero. The
    rate is that of the time codes, as a mean.

    Raises:
      ValueError: it is no such CSV; names the columns or the line.
    """
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    names = [name.strip().lower() for name in rows[0]] if rows else []
    missing = [n for n in ("Timecode", *SHAPES) if n.lower() not in names]
    if missing or len(rows) < 2:
        raise ValueError(
            f"no Live Link Face CSV with frames: it lacks {missing[:4] or 'rows'}"
        )
    at = {name: k for k, name in enumerate(names)}
    times, values = [], []
    for number, row in enumerate(rows[1:], 2):
        try:
            code = _TIMECODE.fullmatch(row[at["timecode"]].strip())
            hour, minute, second, frame = (float(x) for x in code.groups())
            times.append(3600 * hour + 60 * minute + second + frame / CLOCK)
            wanted = [*(f"{n[0].upper()}{n[1:]}" for n in mo.ARKIT_52), *ANGLES[:3]]
            values.append(
                [float(row[at[n.lower()]]) if n.lower() in at else 0.0 for n in wanted]
            )
        except (ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"line {number} cannot be read ({error})") from None
    values = np.array(values)
    if not np.isfinite(values).all():
        raise ValueError("the CSV holds values that are not finite")
    spent = times[-1] - times[0]
    fps = (len(times) - 1) / spent if spent > 0 else float(CLOCK)
    neck = Rotation.from_euler("YXZ", values[:, 52:]).as_rotvec()
    return values[:, :52].astype(np.float32), neck.astype(np.float32), fps
