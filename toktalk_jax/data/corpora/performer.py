"""A procedural actor: text or sound with phonemes in, 56-d motion out, no download.

Lips and jaw follow the phonemes (`visemes`); brows, nods and blinks follow stress and
energy. A style of eight named gains makes a speaker. Same seed, same bytes.
"""

import itertools
from typing import NamedTuple

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.data.corpora import gestures, sentences, speech, visemes
from toktalk_jax.data.schema import RawClip


class Style(NamedTuple):
    """How a speaker moves; every field is a gain of one thing that can be measured.

    Attributes:
      opening: how far the mouth opens.
      jaw_lips: above 1 the jaw does the opening, below 1 the lips do.
      smile: raised mouth corners, 0 is neutral.
      brow: height of the brow raises.
      nod: size of nods and sway.
      tempo: speaking rate; on given sound, quickness of lips, jaw and head.
      asymmetry: above 0 the head's left side moves more, below 0 its right.
      blink: blinks per time.
    """

    opening: float = 1.0
    jaw_lips: float = 1.0
    smile: float = 0.2
    brow: float = 1.0
    nod: float = 1.0
    tempo: float = 1.0
    asymmetry: float = 0.0
    blink: float = 1.0


LOWEST = Style(0.65, 0.55, 0.0, 0.2, 0.2, 0.8, -1.0, 0.7)
HIGHEST = Style(1.45, 1.45, 1.0, 2.0, 2.0, 1.25, 1.0, 1.4)

# Which split a style's seed falls in, by seed modulo the length.
SPLITS = ("train", "test", "train", "test", "validation", "train", "train", "train")
CLIP_SECONDS = (2.0, 4.5, 6.0)  # shortest, longest to aim at, longest

JAW_RADIANS = 0.16  # an open vowel at gain 1
JAW_LIMIT = 0.30
LOWER_LIP = 0.42  # mouthLowerDown of an open vowel at gain 1
# How much mouthClose it takes to undo what parts the lips of the stand-in head (fitted
# on its inner lip landmarks): per radian of jaw, per funnel, and less by what presses
# them together already, the smile and the seal's own press and roll.
CLOSE_PER_JAW, CLOSE_PER_FUNNEL = 2.70, 0.37
LESS_PER_SMILE, LESS_PER_SEAL = 0.08, 0.01
SEAL_ROLL = 0.07  # of the upper lip, which else stands before the lower
SMOOTH_S = 0.012  # rounds the cusps that exponential dominance leaves
NEUTRAL = Style()


def draw_style(seed):
    """The style of a seed: each gain uniform between `LOWEST` and `HIGHEST`."""
    rng = np.random.default_rng([_whole(seed), 0])
    return Style(
        *(float(rng.uniform(a, b)) for a, b in zip(LOWEST, HIGHEST, strict=True))
    )


def _whole(seed):
    if int(seed) != seed or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected a whole number from 0")
    return int(seed)


def check_style(style):
    """Raise ValueError naming the gain that is not a number in its range."""
    for name, gain, low, high in zip(
        Style._fields, style, LOWEST, HIGHEST, strict=True
    ):
        if not low - 1e-6 <= gain <= high + 1e-6:
            raise ValueError(f"style gain {name} is {gain}; expected {low} to {high}")


def read(seconds=60.0, seed=0, styles=None, splits=SPLITS):
    """Make a corpus on the spot.

    Speaker k is `draw_style(k)` and speaks at its tempo; the split goes by its seed,
    and validation and test speak lines that train never does.

    Args:
      seconds: clips come until their sound adds up to this.
      seed: of texts and performances; the styles do not depend on it.
      styles: number of speakers; None is one per 20 s, at least 8.
      splits: split of speaker k is splits[k % len(splits)].

    Yields:
      schema.RawClip of 2 to 6 s with phonemes.

    Raises:
      ValueError: bad arguments. ImportError: hibari-tts is not installed.
    """
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}; expected more than 0")
    styles = max(8, round(seconds / 20)) if styles is None else styles
    if styles < 1 or set(splits) - {"train", "validation", "test"}:
        raise ValueError(
            f"styles is {styles} and splits {splits}; expected at least one style "
            "and only train, validation, test"
        )
    first, count = sentences.HELD_OUT_FROM, len(sentences.LINES)
    lines = {"train": _shuffled(0, first, seed), "held out": None}
    lines["held out"] = _shuffled(first, count, seed)
    made = 0.0
    for k in itertools.count():
        speaker = k % styles
        split = splits[speaker % len(splits)]
        style = draw_style(speaker)
        audio, phonemes, states = _speak(
            lines["train" if split == "train" else "held out"], style.tempo, [seed, k]
        )
        yield RawClip(
            clip_id=f"performer-{seed}-{k:05d}",
            speaker_id=f"style-{speaker:03d}",
            corpus="performer",
            split=split,
            audio=audio,
            motion=perform(audio, phonemes, style, [seed, k]),
            phonemes=phonemes,
            states=states,
        )
        made += len(audio) / mo.SAMPLE_RATE
        if made >= seconds:
            return


def _shuffled(first, last, seed):
    """Endless line numbers, each pass in a new order."""
    for lap in itertools.count():
        rng = np.random.default_rng([_whole(seed), first, lap, 1])
        yield from first + rng.permutation(last - first)


def _speak(lines, tempo, seed):
    """Speak lines up to a random length; one that makes it too long is left out."""
    shortest, aim, longest = CLIP_SECONDS
    enough = np.random.default_rng([*seed, 3]).uniform(shortest, aim)
    said, spoken, length = [], None, 0.0
    while length < enough:
        text = sentences.LINES[next(lines)]
        attempt = speech.say(" ".join([*said, text]), tempo, seed)
        longer = len(attempt.audio) / mo.SAMPLE_RATE
        if longer <= longest:
            said, spoken, length = [*said, text], attempt, longer
        elif length >= shortest:
            break  # no line may be short enough to close the gap
    return spoken


def measure(motion):
    """The statistic of motion that follows each gain, for scoring style.

    Args:
      motion: [T, 56] of the stand-in head; over about 10 s every statistic rises with
        its gain, whatever the others are.

    Returns:
      Style of statistics (not of gains: only their order means something).
    """

    def sides(name):
        index = [mo.ARKIT_EXPRESSION.index(name + side) for side in ("Left", "Right")]
        return np.asarray(motion[:, index], np.float64)

    jaw = np.asarray(motion[:, mo.JAW.start], np.float64)
    by_jaw = np.percentile(jaw, 90) / JAW_RADIANS
    by_lips = np.percentile(sides("mouthLowerDown").mean(1), 90) / LOWER_LIP
    pairs = ("mouthLowerDown", "mouthUpperUp", "mouthStretch", "browOuterUp")
    left, right = sum(sides(name).sum(0) for name in pairs)
    shut = sides("eyeBlink").mean(1) > 0.6
    still = 1e-9  # keeps a motionless face finite
    return Style(
        opening=by_jaw + by_lips,
        jaw_lips=by_jaw / (by_jaw + by_lips + still),
        smile=np.median(sides("mouthSmile")),
        brow=sides("browOuterUp").mean(1).std(),
        nod=motion[:, mo.NECK.start].std(),
        tempo=np.abs(np.diff(jaw)).mean() / (jaw.std() + still),
        asymmetry=(left - right) / (left + right + still),
        blink=np.sum(~shut[:-1] & shut[1:]) * mo.FPS / len(motion),
    )


def perform_words(audio, words, style=NEUTRAL, seed=0):
    """Perform given sound with word times, as GRID has them.

    Args:
      audio: [L] float at 16 kHz.
      words: (start s, end s, word); single letters are read by their names.

    Returns and raises: see `perform` and `speech.time_words`.
    """
    return perform(audio, speech.time_words(words), style, seed)


def perform(audio, phonemes, style=NEUTRAL, seed=0):
    """Motion of the stand-in head for given sound and phonemes.

    Frame t shows the face in the middle of its 40 ms, the cell of sound it belongs to.

    Args:
      audio: [L] float in [-1, 1] at 16 kHz.
      phonemes: (start s, end s, symbol) in order; what they leave out is rest.
      style: eight gains.
      seed: of blinks, sway and the choice of accents.

    Returns:
      [T, 56] float32, T = ceil(L / 640): expression in [0, 1] in the order of
      motion.ARKIT_EXPRESSION, jaw and neck in radians.

    Raises:
      ValueError: audio that is not finite mono, unknown or disordered phonemes,
        phonemes beyond the sound, a gain out of range.
    """
    audio = np.asarray(audio, np.float64)
    if audio.ndim != 1 or not len(audio) or not np.isfinite(audio).all():
        raise ValueError(f"audio is {audio.shape}, expected [L] of finite samples")
    check_style(style)
    visemes.check_phonemes(phonemes)
    count = -(-len(audio) // mo.SAMPLES_PER_FRAME)
    seconds = count / mo.FPS
    if len(phonemes) and phonemes[-1][1] > seconds + 0.5:
        raise ValueError(
            f"phonemes end at {phonemes[-1][1]:.2f} s but the sound at {seconds:.2f} s"
        )
    strength = gestures.strength(audio, phonemes)
    axes = visemes.tracks(
        phonemes,
        seconds,
        tempo=style.tempo,
        emphasis=[1.0 if s is None else 0.8 + 0.25 * s for s in strength],
    )
    clock = (np.arange(count) + 0.5) / mo.FPS
    axes = {name: _at_frames(track, count) for name, track in axes.items()}
    rngs = [np.random.default_rng([*np.atleast_1d(seed), 2, k]) for k in range(4)]
    accents = gestures.accents(phonemes, strength, rngs[0])
    motion = np.zeros((count, mo.F))
    face = _mouth(axes, clock, style, rngs[1]) | gestures.brows(
        phonemes, accents, clock, style
    )
    blink = gestures.blinks(phonemes, clock, style.blink, rngs[2])
    face |= {"eyeBlinkLeft": blink, "eyeBlinkRight": blink}
    for name, track in face.items():
        motion[:, mo.ARKIT_EXPRESSION.index(name)] = np.clip(track, 0, 1)
    motion[:, mo.JAW.start] = _jaw(axes, style)
    motion[:, mo.NECK] = gestures.neck(accents, clock, style, rngs[3])
    return motion.astype(np.float32)


def _at_frames(track, count):
    """Smooth a track and take it at frame centres."""
    step = visemes.RATE // mo.FPS
    width = np.arange(-12, 13) / visemes.RATE
    kernel = np.exp(-0.5 * (width / SMOOTH_S) ** 2)
    smooth = np.convolve(np.pad(track, 12, mode="edge"), kernel / kernel.sum(), "valid")
    # A centre falls between two samples of the fine clock.
    return (smooth[step // 2 - 1 :: step] + smooth[step // 2 :: step])[:count] / 2


def _jaw(axes, style):
    """Jaw opening [T] in radians, bending softly into its limit."""
    wanted = JAW_RADIANS * style.opening * style.jaw_lips * axes["jaw"]
    return JAW_LIMIT * np.tanh(wanted / JAW_LIMIT)


def _mouth(axes, clock, style, rng):
    """Lip, cheek and tongue shapes [T] by name."""
    a, lean = axes, style.asymmetry
    # Whatever opens the lips must let go where /p b m/ seal them.
    seal = np.clip(1.06 * a["closed"], 0, 1)
    lips = style.opening * (2 - style.jaw_lips) * (1 - seal)
    spread = 0.6 + 0.4 * style.opening
    rounding = np.clip(a["pucker"] + a["funnel"], 0, 1)
    rate, phase = 0.12 * style.tempo, rng.uniform(0, 2 * np.pi)
    mood = 1 + 0.15 * np.sin(2 * np.pi * rate * clock + phase)
    smile = 0.5 * style.smile * mood * (1 - 0.5 * rounding)
    corners = smile + 0.16 * spread * a["wide"]
    funnel = 0.7 * a["funnel"] * (1 - 0.7 * seal)
    close = (
        CLOSE_PER_JAW * _jaw(axes, style)
        + CLOSE_PER_FUNNEL * funnel
        - LESS_PER_SMILE * corners
        - LESS_PER_SEAL
    )
    sides = gestures.sides
    return {
        **sides("mouthLowerDown", LOWER_LIP * lips * a["lower"], lean),
        **sides("mouthUpperUp", 0.34 * lips * a["upper"], lean),
        **sides("mouthStretch", 0.34 * spread * a["wide"], lean),
        **sides("mouthSmile", corners, lean),
        **sides("cheekSquint", 0.4 * smile, lean),
        **sides("mouthPress", 0.15 * seal, lean),
        "mouthPucker": 0.85 * a["pucker"],
        "mouthFunnel": funnel,
        "mouthClose": seal * close,
        "mouthRollLower": 0.5 * a["tuck"],
        "mouthRollUpper": SEAL_ROLL * seal,
        "tongueOut": 0.2 * a["tongue"],
    }
