"""Does a style clip control what it shows? Rank correlations of gains and motion.

The performer's eight gains are the truth: its motion in a style is the reference, and
the same gain is then read off the motion that the model makes of other sound.
"""

import dataclasses

import numpy as np

from toktalk_jax import task as tasks
from toktalk_jax.data.corpora import performer, speech
from toktalk_jax.inputs import encode_style

LEVELS, CLIPS = 6, 8
# What is said in the reference clip: two lines, some five seconds.
SAID = "The quick brown fox jumps over the lazy dog. Please bring my blue mug home."


def rank_correlations(task, levels=LEVELS, clips=CLIPS):
    """Spearman's rho of each gain, over levels of it, with the generated motion.

    One gain moves from its lowest to its highest, the others stay neutral; each level's
    reference is the performer's motion, and its measurement is taken over the same
    clips of the task, drawn from the same noise.

    Args:
      task: `task.Task` of a model whose face is the stand-in's performer.

    Returns:
      {"rho opening": ..., ...} for the eight fields of `performer.Style`.

    Raises:
      ImportError: the performer's voice is not installed.
    """
    from scipy.stats import spearmanr

    sound = speech.say(SAID)
    few = dataclasses.replace(task, clips=task.clips[:clips], samples=1)
    names = performer.Style._fields
    ladders = [
        np.linspace(low, high, levels)
        for low, high in zip(performer.LOWEST, performer.HIGHEST, strict=True)
    ]
    references = [
        reference(sound, performer.NEUTRAL._replace(**{name: float(gain)}))
        for name, gains in zip(names, ladders, strict=True)
        for gain in gains
    ]
    measured, found = measure(few, few.sampler, references), {}
    for k, (name, gains) in enumerate(zip(names, ladders, strict=True)):
        seen = [getattr(m, name) for m in measured[k * levels : (k + 1) * levels]]
        # A statistic that never changes follows nothing.
        still = np.ptp(seen) == 0
        found[f"rho {name}"] = 0.0 if still else float(spearmanr(gains, seen).statistic)
    return found


def reference(sound, style):
    """[R, 56] raw motion of the performer saying `speech.Spoken` in a style."""
    return performer.perform(sound.audio, sound.phonemes, style, seed=0)


def measure(task, sampler, motions):
    """`performer.measure` of what a model makes of the task's clips, style by style.

    Args:
      motions: list of [R, 56] raw motion, what the style encoder is shown in turn.

    Returns:
      a list as long; the same noise is drawn for each.
    """
    count = len(task.clips)
    shown = np.concatenate([encode_style(task.bundle, m[None]) for m in motions])
    # All together, for a few clips alone would leave most rows of a batch empty.
    many = dataclasses.replace(task, clips=task.clips * len(motions), style="none")
    drawn = [d[0] for d in tasks.draw(many, sampler, np.repeat(shown, count, axis=0))]
    return [
        performer.measure(np.concatenate(drawn[i : i + count]))
        for i in range(0, len(drawn), count)
    ]
