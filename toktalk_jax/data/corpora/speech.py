"""Text to sound with phoneme times, through the PyPI package `hibari-tts`.

A phoneme is (start s, end s, symbol). Symbols are the synthesizer's own: IPA with
A I O W Y for the diphthongs of "day, my, go, now, boy" and T for a tapped t, a vowel
led by its stress mark ("ˈA"); a pause is "sil" or the punctuation that made it.
"""

import functools
from typing import NamedTuple

import numpy as np

from toktalk_jax.motion import SAMPLE_RATE

VOWELS = frozenset("AIOQWYaiuæɑɒɔəɛɜɐɪʊʌᵊᵻ")
CONSONANTS = frozenset("pbmfvθðszʃʒʧʤtdnlTɾkɡŋhjwɹ")
BILABIALS = frozenset("pbm")
STRESS = "ˈˌ"
PAUSES = frozenset([*";:,.!?—…", "sil", "sp"])

DURATION_OUTPUT = "/Clip_output_0"  # per input id, in units of UNIT_S
STATE_OUTPUT = "/dec.7/Add_1_output_0"  # last decoder layer, two frames per unit
UNIT_S = 0.025
WAVE_HZ = 24_000  # of the sound that it makes; 300 samples a state
# The duration model sets a consonant's boundary at its release: over 200 stops and
# nasals (three speeds) the constriction lies 25 to 55 ms before the nominal interval.
LEAD_S = 0.055
MAX_SYMBOLS = 400  # what the synthesizer was trained to see at once
# Typical length relative to a full vowel, for words whose phonemes are not timed.
TYPICAL = (
    ("AIOQWY", 1.3),
    ("iuɑɔæɜɒ", 1.1),
    ("əɐᵊᵻ", 0.6),
    ("ptkbdɡmnŋ", 0.75),
    ("szʃʧ", 1.0),
    ("lɹwjTɾð", 0.55),
)


class Voice(NamedTuple):
    """The synthesizer and a session that also returns durations and states."""

    text: object
    session: object


class Uttered(NamedTuple):
    """A sentence before it sounds: what `wave_of` makes sound of.

    Attributes:
      kept: its symbols; spectra: five [601, S] and a pitch [S], of `hibari.dsp.synth`.
      durations: [n] of each symbol, a pause before and after, in units of UNIT_S.
      states: [S, 256] float32, the synthesizer's decoder states at 80 Hz.
    """

    kept: list
    spectra: tuple
    durations: np.ndarray
    states: np.ndarray


class Spoken(NamedTuple):
    """What was said.

    Attributes:
      audio: [L] float32 in [-1, 1] at 16 kHz.
      phonemes: tuple of (start s, end s, symbol), without gaps.
      states: [L / 200, 256] float32, the synthesizer's decoder states at 80 Hz.
    """

    audio: np.ndarray
    phonemes: tuple
    states: np.ndarray


@functools.lru_cache(maxsize=1)
def voice():
    """Load the one voice that ships inside the package; no network.

    Raises:
      ImportError: hibari-tts is not installed; names the extra that brings it.
    """
    try:
        import hibari
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "the performer speaks through hibari-tts, which is not installed "
            f"({error}); install this project with the [demo] extra"
        ) from error
    text = hibari.Hibari()
    options = onnxruntime.SessionOptions()
    # One thread: the order of sums, and so every byte, is the same in each run.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with open(text.model_path, "rb") as file:
        model = file.read() + b"".join(
            _extra_output(name) for name in (DURATION_OUTPUT, STATE_OUTPUT)
        )
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )
    return Voice(text, session)


def _extra_output(name):
    """Bytes that, appended to an ONNX file, add graph output `name`.

    Concatenated protocol-buffer messages merge: ModelProto.graph is field 7,
    GraphProto.output 12, ValueInfoProto.name 1.
    """
    message = name.encode()
    for field in (1, 12, 7):
        if len(message) > 127:
            raise ValueError(f"output name {name!r} is too long for one length byte")
        message = bytes([field << 3 | 2, len(message)]) + message
    return message


def say(text, speed=1.0, seed=0):
    """Speak English text.

    Args:
      text: any length; it is spoken sentence by sentence.
      speed: 0.5 slow to 2 fast.
      seed: of the noise component; same seed, same bytes.

    Returns:
      `Spoken`.

    Raises:
      ValueError: nothing in the text can be spoken, or the speed is out of range.
      ImportError: hibari-tts is not installed.
    """
    if not 0.5 <= speed <= 2:
        raise ValueError(f"speed is {speed}; expected 0.5 (slow) to 2 (fast)")
    chunks = sentences(text)
    if not chunks:
        raise ValueError(f"nothing to say in {text!r}; give English words or numbers")
    rng = np.random.default_rng(seed)
    waves, states, phonemes, offset = [], [], [], 0.0
    for chunk in chunks:
        wave, timed, state = _say_chunk(chunk, speed, rng)
        waves.append(wave)
        states.append(state)
        phonemes += [(s + offset, e + offset, p) for s, e, p in timed]
        offset = sum(map(len, waves)) / SAMPLE_RATE
    return Spoken(np.concatenate(waves), tuple(phonemes), np.concatenate(states))


def sentences(text):
    """Symbol strings of what can be spoken in a text, sentence by sentence.

    Raises:
      ImportError: hibari-tts is not installed.
    """
    return [c for c in _phonemize(text) if _speakable(c)]


def _phonemize(text):
    """Symbol strings of at most `MAX_SYMBOLS`, cut between words."""
    if not isinstance(text, str):
        raise ValueError(f"text is {type(text).__name__}, expected str")
    chunks = []
    for sentence in voice().text.phonemize(text):
        line = ""
        for word in sentence.split(" "):
            if line and len(line) + 1 + len(word) > MAX_SYMBOLS:
                chunks.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        # One endless word is cut anywhere: the model must not see more at once.
        while len(line) > MAX_SYMBOLS:
            chunks.append(line[:MAX_SYMBOLS])
            line = line[MAX_SYMBOLS:]
        chunks.append(line)
    return chunks


def _speakable(symbols):
    return any(c in VOWELS or c in CONSONANTS for c in symbols)


def utter(symbols, speed=1.0):
    """`Uttered` of one of `sentences`: all of the synthesizer but its sound."""
    text, session = voice()
    kept = [c for c in symbols if c in text.vocab]
    feed = {
        "ids": np.array([text.ids(kept)], np.int64),
        "speed": np.array([speed], np.float32),
    }
    *spectra, durations, states = session.run(None, feed)
    spectra = tuple(part[0] for part in spectra)
    return Uttered(kept, spectra, durations.ravel(), states[0].T)


def wave_of(uttered, rng):
    """[300 S] float32 sound at the synthesizer's own `WAVE_HZ`; rng: of its noise."""
    import hibari.dsp

    return hibari.dsp.synth(*uttered.spectra, rng)


def _say_chunk(symbols, speed, rng):
    """One chunk of symbols to (audio [L] at 16 kHz, timed phonemes, states)."""
    import soxr

    uttered = utter(symbols, speed)
    audio = soxr.resample(wave_of(uttered, rng), WAVE_HZ, SAMPLE_RATE)
    audio = np.clip(audio, -1, 1).astype(np.float32)
    edges = np.concatenate([[0], np.cumsum(uttered.durations)]) * UNIT_S
    if abs(edges[-1] - len(audio) / SAMPLE_RATE) > 2 * UNIT_S:
        raise RuntimeError(
            f"durations sum to {edges[-1]:.3f} s but the sound lasts "
            f"{len(audio) / SAMPLE_RATE:.3f} s: this hibari-tts is of another version"
        )
    timed = _time_phonemes(["sil", *uttered.kept, "sil"], edges, audio)
    return audio, timed, uttered.states


def _time_phonemes(symbols, edges, audio):
    """Merge marks and spaces into phonemes, apply the lead, trim before pauses."""
    end = len(audio) / SAMPLE_RATE
    starts, names, stress, space = [], [], "", None
    for symbol, start in zip(symbols, edges[:-1], strict=True):
        if symbol == " ":
            space = start
            continue
        if symbol in STRESS:
            # The mark's own time is the vowel's.
            stress, mark = symbol, start
            continue
        if symbol not in PAUSES and symbol not in VOWELS and symbol not in CONSONANTS:
            continue  # quotes and length marks: time of what came before
        if stress:
            start, symbol, stress = mark, stress + symbol, ""
        elif symbol in PAUSES and names and names[-1] in PAUSES:
            space = None
            continue  # one pause, named by its first mark
        if space is not None and names[-1] not in PAUSES:
            start = (space + start) / 2  # a space is the two words' own sound
        space = None
        starts.append(start)
        names.append(symbol)
    starts = np.maximum(np.array(starts) - LEAD_S, 0)
    ends = np.append(starts[1:], end)
    return _trim_before_pauses(starts, ends, names, audio)


def _trim_before_pauses(starts, ends, names, audio):
    """End a phrase's last phoneme where its sound ends; the pause takes the rest.

    The duration model gives that phoneme up to 300 ms of silence.
    """
    level = loudness(audio)
    loud = level > 0.01 * np.percentile(level, 95)  # 40 dB under the voice
    timed = []
    for i, (start, stop, name) in enumerate(zip(starts, ends, names, strict=True)):
        if timed and name in PAUSES:
            start = timed[-1][1]
        elif i + 1 < len(names) and names[i + 1] in PAUSES:
            first = int(start * 100)
            heard = np.flatnonzero(loud[first : int(stop * 100)])
            last = (first + heard[-1] + 1) / 100 if len(heard) else 0.0
            stop = min(stop, max(last, start + 0.06))
        timed.append((float(start), float(stop), name))
    return tuple(p for p in timed if p[1] > p[0])


def loudness(audio):
    """Root mean square per 10 ms: [L] at 16 kHz -> [ceil(L / 160)]."""
    padded = np.pad(np.asarray(audio, np.float64), (0, -len(audio) % 160))
    return np.sqrt((padded.reshape(-1, 160) ** 2).mean(1))


def time_words(words, phonemes_of=None):
    """Spread each word's phonemes over its time by typical durations.

    Args:
      words: (start s, end s, word) in order; "sil" and "sp" are silence. A single
        letter is read by its name, as in GRID.
      phonemes_of: word -> its symbols; None is `word_phonemes`.

    Returns:
      tuple of (start s, end s, phoneme), gaps filled with "sil".

    Raises:
      ValueError: times that overlap or run backwards, or a word without a sound.
      ImportError: `word_phonemes` needs hibari-tts, which is not installed.
    """
    phonemes_of = phonemes_of or word_phonemes
    timed, clock = [], 0.0
    for start, end, word in words:
        if not clock - 1e-6 <= start < end:
            raise ValueError(
                f"word {word!r} spans {start} to {end} s after {clock} s; expected "
                "words in order, without overlap, each longer than nothing"
            )
        if start > clock + 1e-6:
            timed.append((clock, start, "sil"))
        symbols = phonemes_of(word)
        weights = np.array([_typical(s) for s in symbols])
        edges = start + (end - start) * np.cumsum([0, *weights]) / weights.sum()
        timed += [
            (float(a), float(b), s)
            for a, b, s in zip(edges[:-1], edges[1:], symbols, strict=True)
        ]
        clock = end
    return tuple(timed)


@functools.lru_cache(maxsize=4096)
def word_phonemes(word):
    """Phoneme symbols of one word, stress on its vowel: "bin" -> ("b", "ˈɪ", "n")."""
    if word.lower() in ("sil", "sp", ""):
        return ("sil",)
    # Alone, "a" would be the article; the corpus means the letter.
    line = "ˈA" if word.lower() == "a" else "".join(_phonemize(_spelled(word)))
    symbols, stress = [], ""
    for c in line:
        if c in STRESS:
            stress = c
        elif c in VOWELS or c in CONSONANTS:
            symbols.append(stress + c)
            stress = ""
    if not symbols:
        raise ValueError(f"no sound known for the word {word!r}; give English words")
    return tuple(symbols)


def _spelled(word):
    return word.upper() if len(word) == 1 else word


def _typical(symbol):
    for members, length in TYPICAL:
        if symbol[-1] in members:
            return length * (1.25 if symbol[0] == "ˈ" else 1.0)
    return 1.0
