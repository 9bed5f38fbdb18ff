"""What a row says beside its scores: its data, weights, settings and device."""

import hashlib
import json
import pathlib

from toktalk_jax import hardware
from toktalk_jax.baselines import ridge
from toktalk_jax.evaluation import predict, references, results, scoring
from toktalk_jax.inputs import heard_by
from toktalk_jax.methods import BASELINES, METHODS

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
# Methods that TokTalk's own network draws.
SAMPLED = ("stream", "mean", "whole", "adapter")
# What the rows hear that are not made from tokens.
HEARS = {
    "static": "hears nothing",
    "rules": "told the whole clip's sound and phonemes",
    "truth": "the dataset's own motion",
    "files": "made elsewhere",
}


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

    trained = method in (*SAMPLED, *BASELINES)
    names = sorted(predict.name_of(clip) for clip in task.clips)
    data = digest([pipeline.describe(task.dataset), [task.split, names]])
    # A baseline's row is the same whatever network stands beside it.
    config = {"chunk_seconds": task.settings["chunk_seconds"], "scored": task.scored}
    if trained:
        free = ("dataset", "method")  # a path, and what the row's name says
        run = {k: v for k, v in task.bundle.config.items() if k not in free}
        config |= {"run": run, "sample": task.settings, "style": task.style}
        config |= {"samples": task.samples}
        data = digest([task.bundle.dataset, data])
    regions = scoring.region_hashes(task.head)
    if task.landmark_map and task.rig is not None:  # what tracked_* are measured by
        mapped = hashlib.sha256(pathlib.Path(task.landmark_map).read_bytes())
        regions["tracked_lips"] = config["map"] = mapped.hexdigest()[:12]
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
        "regions": regions,
        "samples": task.samples if several else 1,
        "weights": f"ema at step {meta['step']}, {meta['hash']}" if trained else "none",
        "seed": task.seed,
        "commit": results.commit(),
        "config_hash": digest(config),
        "dataset_hash": data,
        "data": identity(task.dataset),
        "device": hardware.device(),
        "scored": task.scored,
        "note": _note(task, method),
    }


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
        cut = (
            f"{sampler.chunk_frames} frames a chunk, {sampler.context_frames} of "
            f"context ({sampler.known})"
        )
        cut = "each clip solved at once" if method == "whole" else cut
        parts += [
            f"{cut}, {len(sampler.times) - 1} steps, guidance {sampler.guidance}, "
            f"temperature {sampler.temperature}",
            f"style {task.style}",
        ]
        strangers = len(references.without_another(task.clips, task.train))
        if strangers and task.style in ("another_clip", "mean_offset"):
            clips = "1 clip" if strangers == 1 else f"{strangers} clips"
            parts.append(f"{clips} whose speaker has no other shown a stranger's")
    if method in BASELINES:
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


def digest(value):
    """12 hex digits of what JSON can hold, and of other things' text."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
