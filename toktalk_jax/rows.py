"""One row of a table: what a method makes of every clip of a split, and its scores.

All rows of a task see the same clips, and a network's row is drawn by the `Sampler`
that serves. `ROWS` holds what there is to choose from.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax import provenance, takes
from toktalk_jax import task as tasks
from toktalk_jax.baselines import ridge
from toktalk_jax.evaluation import predict, probes, results, scoring
from toktalk_jax.methods import BASELINES, METHODS
from toktalk_jax.sample import make_sampler

# Scored for every sample of a clip: best, mean and spread.
OVER_SAMPLES = ("mve_mm", "lve_mm", "mod_mm")
VOICED_DB = -60.0  # a clip that is nowhere as loud as this holds no speech


def _stream(task):
    """The model, chunk by chunk."""
    return task.draws


def _mean(task):
    """Mean of the samples: what a regressor would strive for."""
    return [d.mean(0) for d in task.draws]


def _whole(task):
    """The same weights, each clip solved at once."""
    return tasks.with_offset(task, _solved_whole(task))


def _solved_whole(task):
    return predict.whole(
        lambda **sizes: make_sampler(task.bundle, task.settings, **sizes),
        task.clips,
        task.styles,
        chunk_frames=task.chunk_frames,
        seed=task.seed,
        samples=task.samples,
    )


def borderless(task):
    """One sample [T, F] a clip of `_whole`: the second control of chunk borders.

    Without the style "mean_offset": what is added to all of a clip has no borders.
    """
    return [drawn[0] for drawn in _solved_whole(dataclasses.replace(task, samples=1))]


def _static(task):
    """The training set's mean face."""
    from toktalk_jax.baselines import static

    mean = static.fit(clip.motion for clip in task.train)
    return [static.predict(mean, frames(clip)) for clip in task.clips]


def _ridge(task):
    """Ridge regression on the tokens that the stream sees."""
    chunk = task.chunk_frames

    def error(prediction, truth):
        scores = scoring.score_clip(task.head, prediction, truth, chunk_frames=chunk)
        return scores["lve_mm"]

    pairs = [
        [(c.tokens, c.motion[: frames(c)]) for c in part]
        for part in (task.train, task.held())
    ]
    fitted = ridge.fit(*pairs, error, chunk)
    return [ridge.predict(fitted, c.tokens, frames(c)) for c in task.clips]


def _rules(task):
    """The performer's rules, told the phonemes; an error for a clip without them."""
    from toktalk_jax.baselines import rules

    if task.head.name != rules.HEAD:
        raise ValueError(
            f"the row 'rules' moves the head {rules.HEAD!r}, but this run is of "
            f"{task.head.name!r}; leave it out"
        )
    return [_by_rules(rules, clip) for clip in task.clips]


def _by_rules(rules, clip):
    try:
        return rules.predict(clip.audio, clip.phonemes)[: frames(clip)]
    except ValueError as error:
        return error


def _truth(task):
    """The dataset's own motion: what its fit to tracked landmarks leaves."""
    return [clip.motion[: frames(clip)] for clip in task.clips]


def _adapter(task):
    """As stream, from the foreign tokens, through the adapter."""
    return tasks.draw(task, make_sampler(task.bundle, task.settings, task.adapter))


def _baseline(name, task):
    """The motion of a trained baseline."""
    return METHODS[name].predict(task.bundle, task.clips)


def _files(task):
    """Motion files of any system, DIR/CLIP.npz or DIR/CLIP/motion.npz."""
    return [_read_file(task, clip) for clip in task.clips]


def _read_file(task, clip):
    """A clip's motion [T, F], or the error that says why there is none."""
    folder, joint = pathlib.Path(task.motions), task.head_joint
    file = folder / f"{clip.clip_id}.npz"
    file = file if file.is_file() else folder / clip.clip_id / "motion.npz"
    try:
        take = takes.read(file)
    except (ValueError, OSError) as error:
        return ValueError(str(error))
    if take.fps != mo.FPS:
        return ValueError(f"{file} has {take.fps:g} frames a second, not {mo.FPS}")
    if take.face_model not in (None, task.head.name):
        return ValueError(
            f"{file} holds coefficients of the face model {take.face_model!r}, not of "
            f"{task.head.name!r}: the same numbers are other faces there"
        )
    if take.head_joint != joint:
        return ValueError(
            f"{file} turns the head at {take.head_joint!r}, not {joint!r}"
        )
    if len(take.motion) < len(clip.motion) - 2:
        missing = f"{len(take.motion)} of {len(clip.motion)} frames"
        return ValueError(f"{file} holds {missing}")
    return take.motion[: len(clip.motion)]


ROWS = {"stream": _stream, "mean": _mean, "whole": _whole, "adapter": _adapter}
ROWS |= {name: functools.partial(_baseline, name) for name in BASELINES}
ROWS |= {"static": _static, "ridge": _ridge, "truth": _truth}
ROWS |= {"rules": _rules, "files": _files}
# Rows of no network: what their fit depends on beside data and chunk.
UNTRAINED = {name: None for name in ("static", "rules", "truth")}
UNTRAINED["ridge"] = (ridge.TOKENS_BEFORE, ridge.COMPONENTS, ridge.LAMBDAS)


def frames(clip):
    """Frames of a clip that have tokens."""
    return min(len(clip.motion), 2 * len(clip.tokens))


# --- scores ------------------------------------------------------------------------


def check(task, method):
    """Refuse a row of a method that the run is not of."""
    wanted, found = "toktalk", task.bundle.config["method"]
    if method in BASELINES:
        wanted = method
    if method in (*provenance.SAMPLED, *BASELINES) and found != wanted:
        raise ValueError(
            f"the row {method!r} is of a run of {wanted}, but this is one of {found}; "
            "leave it out, or name another --workdir"
        )


def score(task, method, *, control=None):
    """`results.Row` of a method.

    Args:
      method: a name of ROWS.
      control: motions of the same net without chunk borders, as of `borderless`.

    Raises:
      ValueError: the run is of another method than the row.
    """
    check(task, method)
    motions = ROWS[method](task)
    scores, skipped = {}, {}
    for i, (clip, motion) in enumerate(zip(task.clips, motions, strict=True)):
        try:
            check_clip(clip, foreign=method == "adapter")
            if isinstance(motion, ValueError):
                raise motion
            found = _score_clip(task, clip, motion, control=control and control[i])
            scores[predict.name_of(clip)] = found | {"speaker": clip.speaker_id}
        except ValueError as error:
            skipped[predict.name_of(clip)] = str(error)
    return results.Row(scores=scores, skipped=skipped, **provenance.facts(task, method))


def check_clip(clip, foreign=False):
    """Refuse a clip of which a score would say nothing.

    Args:
      foreign: whether the method hears the clip's second tokens in place of its own.

    Raises:
      ValueError: its name stands in the report with this reason.
    """
    covered = mo.FRAMES_PER_TOKEN * len(clip.foreign if foreign else clip.tokens)
    if covered + 2 < len(clip.motion):
        raise ValueError(f"its tokens cover {covered} of {len(clip.motion)} frames")
    if min(covered, len(clip.motion)) < 2:
        raise ValueError("one frame has no motion")
    if clip.loudness is not None and clip.loudness.max() < VOICED_DB:
        raise ValueError(
            f"no frame is voiced: the loudest has {clip.loudness.max():.0f} dB, under "
            f"{VOICED_DB:.0f} dB of full scale"
        )
    # Loud enough may still be a cough or traffic; where there is sound, ask it.
    if clip.audio is not None and not probes.voiced(clip.audio):
        raise ValueError("no frame is voiced: its sound has no pitch anywhere")


def _score_clip(task, clip, motion, control):
    truth = clip.motion[: motion.shape[-2]]
    mask = np.ones(len(truth), bool)
    if task.scored == "second_half":
        mask[: len(truth) // 2] = False
    score_one = functools.partial(
        scoring.score_clip,
        task.head,
        truth=truth,
        mask=mask,
        phonemes=clip.phonemes,
        loudness=clip.loudness,
        chunk_frames=task.chunk_frames,
        head_joint=task.head_joint,
    )
    found = score_one(motion, control=control)
    if motion.ndim == 3 and len(motion) > 1:
        each = [score_one(sample) for sample in motion]
        found["samples"] = {m: [s[m] for s in each] for m in OVER_SAMPLES}
    if clip.lips is not None:
        try:
            found |= scoring.score_tracked(task.rig, motion, clip.lips, mask)
        except ValueError as error:  # the tracker lost the face, not the net its sound
            found["skipped"] |= dict.fromkeys(scoring.TRACKED, str(error))
    return found
