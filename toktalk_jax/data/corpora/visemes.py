"""Phonemes to articulation tracks by dominance functions.

Every phoneme has a target on each axis and a dominance that decays exponentially
before and after it; a track is the dominance-weighted mean of the targets (Cohen and
Massaro, "Modeling coarticulation in synthetic visual speech", 1993). Jaw and lips are
separate axes, as in JALI (Edwards et al., 2016).
"""

import numpy as np

from toktalk_jax.data.corpora.speech import PAUSES, STRESS, VOWELS

AXES = ("jaw", "lower", "upper", "wide", "pucker", "funnel", "closed", "tuck", "tongue")
RATE = 200  # Hz, of the tracks

# phonemes, targets in the order of AXES, dominance of (jaw, opening, shape, seal)
TARGETS = (
    #     jaw  lower upper wide pucker funnel closed tuck tongue
    ("ɑaI", (1.0, 0.75, 0.40, 0.10, 0.0, 0.0, 0, 0, 0), (1.4, 1.2, 0.8, 1)),
    ("W", (1.0, 0.70, 0.35, 0.00, 0.0, 0.1, 0, 0, 0), (1.4, 1.2, 0.8, 1)),
    ("æ", (0.90, 0.85, 0.50, 0.45, 0.0, 0.0, 0, 0, 0), (1.4, 1.2, 1.0, 1)),
    ("ʌ", (0.65, 0.60, 0.30, 0.10, 0.0, 0.0, 0, 0, 0), (1.1, 1.0, 0.6, 1)),
    ("ɐ", (0.45, 0.45, 0.20, 0.10, 0.0, 0.0, 0, 0, 0), (0.7, 0.7, 0.4, 1)),
    ("əᵊᵻQ", (0.30, 0.40, 0.18, 0.10, 0.0, 0.0, 0, 0, 0), (0.5, 0.6, 0.3, 1)),
    ("ɛA", (0.65, 0.75, 0.40, 0.40, 0.0, 0.0, 0, 0, 0), (1.2, 1.1, 1.0, 1)),
    ("ɪ", (0.38, 0.60, 0.30, 0.45, 0.0, 0.0, 0, 0, 0), (0.9, 1.0, 1.0, 1)),
    ("i", (0.25, 0.60, 0.35, 0.85, 0.0, 0.0, 0, 0, 0), (1.1, 1.1, 1.5, 1)),
    ("ɔɒY", (0.75, 0.40, 0.20, 0.0, 0.30, 0.65, 0, 0, 0), (1.2, 1.1, 1.5, 1)),
    ("O", (0.65, 0.35, 0.20, 0.0, 0.35, 0.60, 0, 0, 0), (1.2, 1.1, 1.5, 1)),
    ("ʊ", (0.32, 0.25, 0.12, 0.0, 0.45, 0.40, 0, 0, 0), (0.9, 1.0, 1.4, 1)),
    ("u", (0.22, 0.18, 0.10, 0.0, 0.85, 0.30, 0, 0, 0), (1.2, 1.2, 2.2, 1)),
    ("ɜ", (0.40, 0.35, 0.20, 0.0, 0.30, 0.45, 0, 0, 0), (1.0, 1.0, 1.2, 1)),
    ("pbm", (0.18, 0.0, 0.0, 0.05, 0.0, 0.0, 1, 0, 0), (1.5, 2.0, 0.4, 25)),
    ("fv", (0.15, 0.0, 0.35, 0.10, 0.0, 0.0, 0, 1, 0), (1.8, 2.5, 0.5, 12)),
    ("θð", (0.25, 0.40, 0.25, 0.10, 0.0, 0.0, 0, 0, 1), (1.2, 1.0, 0.4, 1)),
    ("sz", (0.10, 0.50, 0.30, 0.40, 0.0, 0.0, 0, 0, 0), (2.5, 1.0, 0.6, 1)),
    ("ʃʒʧʤ", (0.14, 0.45, 0.35, 0.0, 0.35, 0.75, 0, 0, 0), (2.5, 1.2, 1.8, 1)),
    ("tdnTɾ", (0.20, 0.40, 0.20, 0.15, 0.0, 0.0, 0, 0, 0), (1.0, 0.6, 0.25, 1)),
    ("l", (0.32, 0.42, 0.20, 0.15, 0.0, 0.0, 0, 0, 0), (0.8, 0.6, 0.25, 1)),
    ("kɡŋh", (0.32, 0.40, 0.20, 0.10, 0.0, 0.0, 0, 0, 0), (0.4, 0.4, 0.15, 1)),
    ("ɹ", (0.25, 0.30, 0.20, 0.0, 0.35, 0.40, 0, 0, 0), (0.9, 0.8, 0.9, 1)),
    ("w", (0.15, 0.10, 0.05, 0.0, 1.0, 0.20, 0, 0, 0), (1.4, 1.5, 2.5, 1)),
    ("j", (0.20, 0.50, 0.30, 0.55, 0.0, 0.0, 0, 0, 0), (1.0, 0.9, 0.8, 1)),
)
REST = ((0.0,) * len(AXES), (1.0, 1.0, 0.6, 1.0))
# Diphthongs glide: the second target takes the last 45 % of the time.
GLIDE = {"A": "ɪ", "I": "ɪ", "Y": "ɪ", "O": "ʊ", "W": "ʊ", "Q": "ʊ"}

# Axis -> which of the four dominances, and its reach (s) before and after. Rounding is
# prepared earliest; a seal must come and go within a tenth of a second.
GROUPS = {"jaw": 0, "lower": 1, "upper": 1, "wide": 2, "pucker": 2, "funnel": 2}
GROUPS |= {"closed": 3, "tuck": 3, "tongue": 1}
REACH = ((0.045, 0.045), (0.040, 0.045), (0.065, 0.055), (0.011, 0.011))
SEAL_HOLD_S = 0.025  # half the time a seal holds: 25 fps cannot miss 50 ms
WINDOW_S = 0.8  # dominance further away than this is below 1e-5

TABLE = {
    symbol: (np.array(target, float), np.array(dominance, float))
    for symbols, target, dominance in TARGETS
    for symbol in symbols
}


def check_phonemes(phonemes):
    """Raise ValueError unless phonemes are known symbols in order of time."""
    clock = 0.0
    for start, end, symbol in phonemes:
        if symbol not in PAUSES and symbol.lstrip(STRESS) not in TABLE:
            raise ValueError(
                f"phoneme {symbol!r} at {start:.2f} s is unknown; expected a pause "
                f"or one of {' '.join(sorted(TABLE))}, a vowel led by its stress mark"
            )
        if not clock - 1e-6 <= start <= end:
            raise ValueError(
                f"phoneme {symbol!r} spans {start:.3f} to {end:.3f} s after "
                f"{clock:.3f} s; expected phonemes in order, without overlap"
            )
        clock = end


def segments(phonemes, seconds, emphasis=None):
    """Timed targets, diphthongs as two, pauses and gaps as rest.

    Args:
      phonemes: (start s, end s, symbol).
      seconds: rest follows the last phoneme to here and beyond.
      emphasis: factor per phoneme on how far a vowel opens; None is 1.

    Returns:
      (times [P, 2], targets [P, len(AXES)], dominances [P, 4]).
    """
    times, targets, dominances = [], [], []

    def add(start, end, viseme, factor=1.0):
        target, dominance = viseme
        target = np.array(target, float)
        target[:3] *= factor
        times.append((start, end))
        targets.append(target)
        dominances.append(dominance)

    clock = 0.0
    for i, (start, end, symbol) in enumerate(phonemes):
        if start > clock:
            add(clock, start, REST)
        clock = end
        factor = 1.0 if emphasis is None else emphasis[i]
        plain = symbol.lstrip(STRESS)
        if symbol in PAUSES:
            add(start, end, REST)
        elif plain in GLIDE:
            middle = start + 0.55 * (end - start)
            add(start, middle, TABLE[plain], factor)
            add(middle, end, TABLE[GLIDE[plain]], factor)
        else:
            add(start, end, TABLE[plain], factor if plain in VOWELS else 1.0)
    add(clock, max(clock, seconds) + 1.0, REST)
    return np.array(times), np.array(targets), np.array(dominances, float)


def tracks(phonemes, seconds, rate=RATE, tempo=1.0, emphasis=None):
    """Articulation over time.

    Args:
      phonemes: (start s, end s, symbol), checked.
      seconds: length; time without a phoneme is rest.
      tempo: above 1 the articulators are quicker and blend less.

    Returns:
      dict of axis -> [seconds * rate] in [0, 1], 0 at rest.
    """
    check_phonemes(phonemes)
    times, targets, dominances = segments(phonemes, seconds, emphasis)
    count = round(seconds * rate)
    clock = (np.arange(count) + 0.5) / rate
    weight = np.zeros((4, count))
    blend = np.zeros((len(AXES), count))
    group = np.array([GROUPS[axis] for axis in AXES])
    for (start, end), target, dominance in zip(times, targets, dominances, strict=True):
        low, high = np.searchsorted(clock, (start - WINDOW_S, end + WINDOW_S))
        d = dominance[:, None] * _decay(clock[low:high], start, end, tempo)
        weight[:, low:high] += d
        blend[:, low:high] += target[:, None] * d[group]
    return dict(zip(AXES, blend / np.maximum(weight[group], 1e-12), strict=True))


def _decay(clock, start, end, tempo):
    """Dominance shape of one segment: [4, N], 1 on its plateau."""
    shapes = []
    for i, (before, after) in enumerate(REACH):
        inset = min(0.25 * (end - start), 0.03)
        first, last = start + inset, end - inset
        if i == 3:
            middle = (start + end) / 2
            first = min(first, middle - SEAL_HOLD_S)
            last = max(last, middle + SEAL_HOLD_S)
        ahead = np.maximum(first - clock, 0) / before
        behind = np.maximum(clock - last, 0) / after
        shapes.append(np.exp(-tempo * (ahead + behind)))
    return np.array(shapes)
