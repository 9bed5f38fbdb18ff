"""One row of a table: what a method makes of every clip of a split, and its scores.

All rows of a task see the same clips, and a network's row is drawn by the `Sampler`
that serves. `ROWS` holds what there is to choose from.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import re

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax import takes
from toktalk_jax import task as tasks
from toktalk_jax.baselines import ridge
from toktalk_jax.evaluation import predict, probes, references, results, scoring
from toktalk_jax.inputs import heard_by
from toktalk_jax.methods import BASELINES, METHODS
from toktalk_jax.sample import make_sampler

# Scored for every sample of a clip: best, mean and spread.
OVER_SAMPLES = ("mve_mm", "lve_mm", "mod_mm")
VOICED_DB = -60.0  # a clip that is nowhere as loud as this holds no speech
# What makes a dataset the same one; not what tokenising it again may round otherwise.
IDENTITY = (
    *("corpus", "source", "talkers", "split_rule", "clips", "seed", "augment"),
    *("perform_styles", "motion_fit", "faces_of", "face_hash"),
    *("tokenizer", "tokenizer_hash", "lookahead_s", "foreign"),
)
VOCABULARY = {
    "grid": "51 words",
    "grid_performer": "51 words",
    "performer": "150 sentences",
    "ravdess": "2 sentences",
    "hdtf_tfhp": "open vocabulary",
}


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
    samples = [
        predict.whole(
            lambda **sizes: make_sampler(task.bundle, task.settings, **sizes),
            task.clips,
            task.styles,
            chunk_frames=task.chunk_frames,
            seed=task.seed,
            sample=k,
        )
        for k in range(task.samples)
    ]
    return [np.stack(motions) for motions in zip(*samples, strict=True)]


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


# By TokTalk's sampler; by a network of another method; by none.
SAMPLED = {"stream": _stream, "mean": _mean, "whole": _whole, "adapter": _adapter}
LEARNED = {name: functools.partial(_baseline, name) for name in BASELINES}
ROWS = {**SAMPLED, **LEARNED, "static": _static, "ridge": _ridge, "truth": _truth}
ROWS |= {"rules": _rules, "files": _files}
# Rows of no network: what their fit depends on beside data and chunk.
UNTRAINED = {name: None for name in ("static", "rules", "truth")}
UNTRAINED["ridge"] = (ridge.TOKENS_BEFORE, ridge.COMPONENTS, ridge.LAMBDAS)
# What the rows hear that are not made from tokens.
HEARS = {
    "static": "hears nothing",
    "rules": "told the whole clip's sound and phonemes",
    "truth": "the dataset's own motion",
    "files": "made elsewhere",
}


def frames(clip):
    """Frames of a clip that have tokens."""
    return min(len(clip.motion), 2 * len(clip.tokens))


# --- scores ------------------------------------------------------------------------


def check(task, method):
    """Refuse a row of a method that the run is not of."""
    wanted, found = "toktalk", task.bundle.config["method"]
    if method in LEARNED:
        wanted = method
    if method in {**SAMPLED, **LEARNED} and found != wanted:
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
    return results.Row(scores=scores, skipped=skipped, **facts(task, method))


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


def identity(dataset):
    """What the datasets are that a row was scored on, a dict for each directory."""
    from toktalk_jax.data import pipeline

    return [
        {name: found[name] for name in IDENTITY if name in found}
        for found in pipeline.describe(dataset)
    ]


def facts(task, method):
    """The fields of a `results.Row` beside its scores."""
    from toktalk_jax.data import pipeline

    trained = method in {**SAMPLED, **LEARNED}
    names = sorted(predict.name_of(clip) for clip in task.clips)
    data = _hash([pipeline.describe(task.dataset), [task.split, names]])
    # A baseline's row is the same whatever network stands beside it.
    config = {"chunk_seconds": task.settings["chunk_seconds"], "scored": task.scored}
    if trained:
        free = ("dataset", "method")  # a path, and what the row's name says
        run = {k: v for k, v in task.bundle.config.items() if k not in free}
        config |= {"run": run, "sample": task.settings, "style": task.style}
        config |= {"samples": task.samples}
        data = _hash([task.bundle.dataset, data])
    if method == "files":
        config["motions"] = task.motions
    if method == "adapter":
        config["adapter"] = task.adapter.meta["hash"]
    meta = task.bundle.meta
    corpora = sorted({clip.corpus for clip in task.clips})
    several = method in ("stream", "whole", "adapter")
    return {
        "name": row_name(task, method),
        "corpus": "+".join(corpora),
        "speakers": len({clip.speaker_id for clip in task.clips}),
        "vocabulary": ", ".join(
            VOCABULARY.get(c, "vocabulary unknown") for c in corpora
        ),
        "head": task.head.name,
        "regions": scoring.region_hashes(task.head),
        "samples": task.samples if several else 1,
        "weights": f"ema at step {meta['step']}, {meta['hash']}" if trained else "none",
        "seed": task.seed,
        "commit": results.commit(),
        "config_hash": _hash(config),
        "dataset_hash": data,
        "data": identity(task.dataset),
        "device": device(),
        "scored": task.scored,
        "note": _note(task, method),
    }


def device():
    """What computes: the accelerator, or the processor and how many of its cores."""
    import jax

    found = jax.local_devices()[0]
    if found.platform != "cpu":
        return f"{found}, {found.device_kind}"
    return f"{found}, {os.cpu_count()} cores of {processor()}"


def processor():
    """The processor's name, as its maker calls it where the system tells."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def row_name(task, method):
    """How a report names a row."""
    if method == "adapter":
        return f"adapter from {task.adapter.facts['foreign']['tokenizer']}"
    if method == "mean":
        return f"mean of {task.samples}"
    if method in ("stream", "whole"):
        return f"{task.bundle.config['train']['objective']} {method}"
    return method


def _note(task, method):
    """Anything else that a reader of the table must know."""
    parts = [HEARS[method]] if method in HEARS else [_heard(task, method)]
    if method in SAMPLED:
        sampler = task.sampler
        parts += [
            f"{sampler.chunk_frames} frames a chunk, {sampler.context_frames} of "
            f"context ({sampler.known}), {len(sampler.times) - 1} steps, guidance "
            f"{sampler.guidance}, temperature {sampler.temperature}",
            f"style {task.style}",
        ]
        strangers = len(references.without_another(task.clips, task.train))
        if strangers and task.style in ("another_clip", "mean_offset"):
            clips = "1 clip" if strangers == 1 else f"{strangers} clips"
            parts.append(f"{clips} whose speaker has no other shown a stranger's")
    if method in LEARNED:
        parts.append(METHODS[method].note(task.bundle.config))
    if method == "ridge":
        before = ridge.TOKENS_BEFORE
        parts.append(f"{task.chunk_frames} frames a chunk, with {before} tokens before")
    if method == "adapter":
        run, facts = task.adapter.config["train"], task.adapter.facts
        losses = ", ".join(f"{k} {run[k]:g}" for k in ("flow", "align", "distill"))
        parts += [
            f"{task.adapter.config['adapter']['kind']} from "
            f"{facts['foreign']['tokenizer']}, {losses}, faces {run['faces']}, "
            f"{task.adapter.meta['step']} steps on {facts['seconds'] / 60:.0f} min"
        ]
    if task.scored != "all":
        parts.append(f"scored: {task.scored}")
    return "; ".join(parts)


def _heard(task, method):
    """Which tokens a method hears, and how far they look ahead."""
    facts = heard_by(task.bundle, task.adapter if method == "adapter" else None)[0]
    return f"{facts['tokenizer']} tokens, look-ahead {facts['lookahead_s']:g} s"


def _hash(value):
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
