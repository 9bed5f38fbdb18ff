"""Voice augmentation at export: one speaker is in the data, anyone at the microphone.

Pitch, formants and tempo change independently: WSOLA stretches time, resampling brings
pitch and formants up together, a cepstral envelope moves the formants to their own
place. Everything is drawn from (seed, clip id, copy), so an export can be repeated.
"""

import dataclasses
import hashlib

import numpy as np
import scipy.interpolate
import scipy.signal
import soxr

from toktalk_jax import motion as mo

SEPARATOR = "~"  # between the clip's id and the number of the copy
SEMITONES = 4.0
TEMPO = (0.9, 1.1)
GAIN_DB = 12.0
NOISE_SNR_DB = (8.0, 35.0)
REVERB_SECONDS = (0.1, 0.5)

STRETCH_HOP = 160  # 10 ms
STRETCH_SEARCH = 128  # 8 ms either way: a period of 62 Hz, and under a motion frame
ENVELOPE_FFT = 512
ENVELOPE_QUEFRENCY = 26  # 1.6 ms: formants, but no harmonics of voices under 600 Hz


def source_id(clip_id):
    """The id of the clip that an augmented copy was made from."""
    return clip_id.split(SEPARATOR)[0]


def augment(clip, seed, copy):
    """One augmented copy of a clip.

    Args:
      clip: `schema.RawClip`.
      seed, copy: ints; with the clip's id they fix every draw.

    Returns:
      A new `RawClip` named `<clip_id>~<copy>`: another pitch, vocal tract, tempo, room,
      noise and level; motion and phoneme times follow the tempo.
    """
    key = f"{seed}/{clip.clip_id}/{copy}".encode()
    rng = np.random.default_rng(list(hashlib.sha256(key).digest()))
    pitch, formant = 2 ** (rng.uniform(-SEMITONES, SEMITONES, 2) / 12)
    tempo = rng.uniform(*TEMPO)
    audio = change_voice(clip.audio, pitch, formant, tempo)
    if rng.random() < 0.4:
        audio = add_reverb(audio, rng)
    if rng.random() < 0.7:
        audio = add_noise(audio, rng)
    audio = change_gain(audio, rng.uniform(-GAIN_DB, GAIN_DB))
    return dataclasses.replace(
        clip,
        clip_id=f"{clip.clip_id}{SEPARATOR}{copy}",
        audio=audio,
        states=None,  # another voice than the synthesizer's
        lips=None,  # for scoring, which copies are not for
        motion=resample_motion(clip.motion, tempo),
        phonemes=tuple((a / tempo, b / tempo, p) for a, b, p in clip.phonemes),
    )


def change_voice(audio, pitch, formant, tempo):
    """Scale pitch, formant frequencies and speed, each by its own factor.

    Args:
      audio: [L] f32 at 16 kHz.
      pitch, formant, tempo: factors; tempo 1.1 is faster, so shorter.

    Returns:
      [round(L / tempo)] f32.
    """
    length = round(len(audio) / tempo)
    stretched = stretch_time(audio, pitch / tempo)
    # Played `pitch` times faster, the stretched sound has the wanted length again.
    raised = soxr.resample(stretched, mo.SAMPLE_RATE * pitch, mo.SAMPLE_RATE)
    moved = move_formants(raised.astype(np.float32), formant / pitch)
    return np.pad(moved[:length], (0, max(0, length - len(moved))))


def stretch_time(audio, factor):
    """WSOLA (Verhelst and Roelands, 1993): `factor` times longer at the same pitch.

    Args:
      audio: [L] f32 at 16 kHz.

    Returns:
      [round(L * factor)] f32; no moment is off its place by more than 8 ms.
    """
    hop, search = STRETCH_HOP, STRETCH_SEARCH
    length = round(len(audio) * factor)
    count = -(-length // hop) + 1
    padded = np.pad(audio, (hop + search, 3 * hop + search + len(audio) // 50 + 1))
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    out = np.zeros((count + 1) * hop, np.float32)
    offset = 0.3 * np.abs(np.linspace(-1, 1, 2 * search + 1))  # stay on time
    natural = search  # where the previous piece would go on by itself
    for k in range(count):
        # Output sample k * hop is the centre of its piece; so is the input's.
        target = min(round(k * hop / factor), len(audio)) + search
        region = padded[target - search : target + search + 2 * hop]
        following = padded[natural : natural + 2 * hop]
        windows = np.lib.stride_tricks.sliding_window_view(region, 2 * hop)
        likeness = windows @ following
        energy = np.square(windows).sum(1) * np.square(following).sum()
        score = likeness / np.sqrt(energy + 1e-12) - offset
        best = target - search + int(np.argmax(score))
        piece = padded[best : best + 2 * hop] * window
        out[k * hop : (k + 2) * hop] += piece
        natural = min(best + hop, len(padded) - 2 * hop)
    return out[hop : hop + length]


def move_formants(audio, factor):
    """Scale the spectral envelope's frequencies, harmonics in place. [L] -> [L]."""
    if abs(factor - 1) < 1e-3:
        return audio
    size = ENVELOPE_FFT
    stft = scipy.signal.ShortTimeFFT(
        scipy.signal.windows.hann(size, sym=False), size // 4, mo.SAMPLE_RATE
    )
    spectrum = stft.stft(audio.astype(np.float64))  # [257, frames]
    log_magnitude = np.log(np.abs(spectrum) + 1e-6)
    cepstrum = np.fft.irfft(log_magnitude, axis=0)
    cepstrum[ENVELOPE_QUEFRENCY : size - ENVELOPE_QUEFRENCY + 1] = 0
    envelope = np.fft.rfft(cepstrum, axis=0).real
    bins = np.arange(size // 2 + 1)
    source = np.minimum(bins / factor, size // 2)
    below = np.minimum(source.astype(int), size // 2 - 1)
    share = (source - below)[:, None]
    moved = (1 - share) * envelope[below] + share * envelope[below + 1]
    change = np.exp(np.clip(moved - envelope, -4, 4))
    out = stft.istft(spectrum * change, k1=len(audio)).astype(np.float32)
    # The voice keeps its level; the gain has its own draw.
    return out * np.float32(_rms(audio) / max(_rms(out), 1e-9))


def resample_motion(motion, tempo):
    """Motion [T, F] played `tempo` times faster -> [round(T / tempo), F] f32.

    A cubic spline, for linear interpolation damps fast motion; no coefficient leaves
    the range that it had in the clip.
    """
    motion = np.asarray(motion, np.float32)
    count = max(round(len(motion) / tempo), 1)
    if len(motion) < 4:
        return motion[np.minimum(np.arange(count), len(motion) - 1)]
    at = np.minimum(np.arange(count) * tempo, len(motion) - 1)
    spline = scipy.interpolate.CubicSpline(np.arange(len(motion)), motion, axis=0)
    return np.clip(spline(at), motion.min(0), motion.max(0)).astype(np.float32)


def add_reverb(audio, rng):
    """A small room: the direct sound first, then a decaying, darkening tail."""
    seconds = rng.uniform(*REVERB_SECONDS)
    wet = rng.uniform(0.1, 0.5)
    time = np.arange(int(seconds * mo.SAMPLE_RATE)) / mo.SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail = scipy.signal.lfilter([0.4], [1, -0.6], tail)
    tail[: int(0.002 * mo.SAMPLE_RATE)] = 0
    tail *= wet / np.sqrt(np.square(tail).sum())
    out = audio + scipy.signal.fftconvolve(audio, tail)[: len(audio)]
    return out.astype(np.float32)


def add_noise(audio, rng):
    """White to brownish noise at 8 to 35 dB under the speech."""
    colour = rng.uniform(0, 0.95)
    noise = scipy.signal.lfilter([1], [1, -colour], rng.standard_normal(len(audio)))
    snr = rng.uniform(*NOISE_SNR_DB)
    noise *= _rms(audio) * 10 ** (-snr / 20) / _rms(noise)
    return (audio + noise).astype(np.float32)


def change_gain(audio, decibels):
    """Scale by decibels; a peak over full scale is scaled back to it, not clipped."""
    out = audio * np.float32(10 ** (decibels / 20))
    peak = float(np.abs(out).max(initial=0))
    return out if peak <= 1 else (out / np.float32(peak))


def _rms(audio):
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
