"""Brow raises, nods and blinks that go with speech: timed by stress and energy."""

import numpy as np

from toktalk_jax.data.corpora import speech


def strength(audio, phonemes):
    """How strongly each vowel is spoken, near 1: its stress times its loudness."""
    level = speech.loudness(audio)
    is_vowel = [p[2].lstrip(speech.STRESS) in speech.VOWELS for p in phonemes]
    heard = [
        level[int(a * 100) : max(int(b * 100), int(a * 100) + 1)] if v else level[:0]
        for (a, b, _), v in zip(phonemes, is_vowel, strict=True)
    ]
    loud = [h.mean() if len(h) else None for h in heard]
    mean = np.mean([x for x in loud if x is not None] or [1.0]) + 1e-9
    stress = {"ˈ": 1.15, "ˌ": 0.9}
    return [
        None
        if x is None
        else stress.get(p[2][0], 0.65) * float(np.clip(x / mean, 0, 2))
        for x, p in zip(loud, phonemes, strict=True)
    ]


def accents(phonemes, strength, rng):
    """(time s, strength) of vowels that may carry a gesture, strongest first."""
    chance = rng.uniform(0.7, 1.3, len(phonemes))
    stressed = [
        ((a + b) / 2, s * c)
        for (a, b, p), s, c in zip(phonemes, strength, chance, strict=True)
        if s is not None and p[0] in speech.STRESS
    ]
    return sorted(stressed, key=lambda accent: -accent[1])


def spaced(accents, apart):
    """Greedy choice of accents at least `apart` seconds from each other."""
    chosen = []
    for time, strength in accents:
        if all(abs(time - other) >= apart for other, _ in chosen):
            chosen.append((time, strength))
    return chosen


def bumps(events, clock, rise, fall):
    """Sum of raised-cosine pulses that start `rise` before their peak."""
    total = np.zeros_like(clock)
    for time, height in events:
        phase = np.where(clock < time, (clock - time) / rise, (clock - time) / fall)
        total += height * 0.5 * (1 + np.cos(np.pi * np.clip(phase, -1, 1)))
    return total


def sides(name, track, asymmetry):
    """A left-right pair of shapes, the favoured side stronger."""
    return {
        f"{name}Left": track * (1 + 0.5 * asymmetry),
        f"{name}Right": track * (1 - 0.5 * asymmetry),
    }


def brows(phonemes, accents, clock, style):
    """Brow raises at the strongest accents and before a question mark."""
    pace = 1 / style.tempo
    events = [(t, 0.28 * min(s, 1.6)) for t, s in spaced(accents, 0.9)]
    events += [(start - 0.15, 0.4) for start, _, mark in phonemes if mark == "?"]
    raised = style.brow * bumps(events, clock, 0.22 * pace, 0.4 * pace)
    return {
        "browInnerUp": 0.8 * raised,
        **sides("browOuterUp", 0.7 * raised, style.asymmetry),
    }


def neck(accents, clock, style, rng):
    """Nods on accents over a slow sway: [T, 3] axis-angle, radians."""
    pace = 1 / style.tempo
    nods = [(t, 0.045 * min(s, 1.8)) for t, s in spaced(accents, 0.5)]
    sway = np.zeros((len(clock), 3))
    for axis, size in enumerate((0.012, 0.022, 0.012)):
        for hertz in (0.17, 0.29, 0.43):
            turn = 2 * np.pi * hertz * rng.uniform(0.85, 1.15) * style.tempo
            sway[:, axis] += size * np.sin(turn * clock + rng.uniform(0, 2 * np.pi))
    sway[:, 0] += bumps(nods, clock, 0.24 * pace, 0.36 * pace)
    return style.nod * sway


def blinks(phonemes, clock, gain, rng):
    """Lid closure [T]: about three blinks in ten seconds, drawn towards pauses."""
    pauses = [a + 0.06 for a, b, p in phonemes if p in speech.PAUSES and b - a > 0.08]
    times, time = [], rng.uniform(0.2, 0.9) * 3.1 / gain
    while time < clock[-1]:
        near = min(pauses, key=lambda p: abs(p - time), default=time)
        times.append(near if abs(near - time) < 0.3 else time)
        time += rng.uniform(0.8, 1.2) * 3.1 / gain
    lid = np.zeros_like(clock)
    for time in times:
        # 40 ms fully closed, so that one frame always shows it.
        phase = np.where(
            clock < time, (time - clock - 0.02) / 0.09, (clock - time - 0.02) / 0.18
        )
        lid = np.maximum(lid, 0.5 * (1 + np.cos(np.pi * np.clip(phase, 0, 1))))
    return 0.95 * lid
