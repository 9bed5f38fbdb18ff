"""Scores of a run in progress on its validation clips, and something to look at.

Each saved state gets the loss on fixed windows with fixed noise, the lip and vertex
errors of a few clips as they would be streamed, their mouth curves, and a page to
watch.
"""

import dataclasses
import pathlib

import jax
import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax import task
from toktalk_jax.evaluation import curves, predict
from toktalk_jax.flame import assets
from toktalk_jax.methods import METHODS
from toktalk_jax.sample import make_sampler
from toktalk_jax.training import checkpoints, parallel

BATCHES = 8  # of the loss: enough windows that their choice is a few per cent of it
REFERENCES = 3  # training clips of a speaker to take a style from


def scorer(config, data, loss_sums, workdir, writer):
    """`score(state, step)` as `loop` takes it, or None where there is nothing to score.

    Args:
      config: of `train`; data: its `pipeline.Dataset`, metadata with the training
        speakers; loss_sums: of the method.
      writer: `logs.Writer`, or None on a process that only waits for the numbers.

    Raises:
      ValueError: config.keep.metric is none of the scores.
    """
    if not config.validation.clips or not data.metadata["clips"].get("validation"):
        return None
    known = ["validation_loss"]
    if _has_head(config, data):
        known += ["validation_lve_mm", "validation_mve_mm"]
    if config.keep.metric and config.keep.metric not in known:
        raise ValueError(
            f"config.keep.metric is {config.keep.metric!r}; expected one of {known}"
        )
    if writer is None:
        name = config.keep.metric
        return lambda state, step: _told({name: 0.0} if name else {}, config)
    loss = _loss(config, data, loss_sums)
    clips = task.read_clips(_bundle(config, data, {}, 0), config.dataset, "validation")
    clips = clips[: config.validation.clips]
    streamed = _streamed(config, data, clips)
    head = _head(config, data)

    def score(state, step):
        params = jax.tree.map(np.asarray, state.ema)
        scores = {"validation_loss": loss(params)}
        motions = streamed(_bundle(config, data, params, step))
        if head is not None:
            folder = pathlib.Path(workdir) / "validation" / f"step_{step}"
            joint = data.metadata.get("head_joint", "neck")
            found = _measured(head, joint, clips, motions)
            scores |= _errors(found)
            writer.picture(step, "mouth", _plot(folder / "mouth.png", clips, found))
            writer.page(
                step, "clip", _page(folder / "watch.html", head, joint, clips, motions)
            )
        return _told(scores, config)

    return score


def _told(scores, config):
    """The scores, of which every process knows the one that checkpoints are kept by."""
    name = config.keep.metric
    return {**scores, name: parallel.agree(scores[name])} if name else scores


def _loss(config, data, loss_sums):
    """params -> the loss over windows that are the same at every step."""
    from toktalk_jax.data import pipeline, windows

    held = pipeline.load(config.dataset, "validation", stats=data.stats).clips
    rows = pipeline.batches(
        held,
        seed=0,
        batch_size=config.batch_size,
        window_lengths=(max(config.train.window_frames),),
        style_frames=tuple(config.train.style_frames),
        style_reference="same_window",  # the one that every clip has room for
    )
    batches = [next(rows) for _ in range(BATCHES)]
    rows.close()
    known = data.metadata["speakers"]  # a new one is given the first one's place
    place = [known.index(n) if n in known else 0 for n in windows.speakers(held)]
    for batch in batches:
        batch["speaker"] = np.array(place, np.int32)[batch["speaker"]]
    sums = jax.jit(lambda *given: loss_sums(*given)[1])

    def loss(params):
        found = [
            sums(params, batch, jax.random.fold_in(jax.random.key(0), i))
            for i, batch in enumerate(batches)
        ]
        errors, counts = np.sum(jax.device_get(found), axis=0)
        return float(errors / counts)

    return loss


def _bundle(config, data, params, step):
    """The weights of a run as `checkpoints.load` would give them."""
    facts = {"step": step, "weights": "ema", "hash": ""}
    state = data.tokenizer_state
    return checkpoints.Bundle(
        config.to_dict(), params, data.stats, state, data.metadata, facts
    )


def _streamed(config, data, clips):
    """bundle -> raw motion of the clips, streamed as they would be served."""
    if config.method != "toktalk":
        return lambda bundle: METHODS[config.method].predict(bundle, clips)
    speakers = {clip.speaker_id for clip in clips}
    shown = []
    for speaker in sorted(speakers):
        # A speaker that training does not know is shown in the style of another.
        own = [c for c in data.clips if c.speaker_id == speaker] or data.clips
        shown += [
            dataclasses.replace(c, motion=data.stats.denormalise(c.motion))
            for c in own[:REFERENCES]
        ]
    compiled = []

    def stream(bundle):
        if not compiled:
            compiled.append(make_sampler(bundle))
        sampler = compiled[0].with_params(bundle.params["velocity"])
        styles = task.style_vectors(bundle, clips, shown)
        return predict.streamed(sampler, clips, styles)

    return stream


def _has_head(config, data):
    return bool(config.head) or data.metadata["face_model"] == "stand_in"


def _head(config, data):
    """The head of the data, or None where its file was not given."""
    if not _has_head(config, data):
        return None
    return assets.head_of(data.metadata, config.head)


def _measured(head, joint, clips, motions):
    """`Curves` of every clip: the truth, then what was streamed."""
    return [
        curves.measure(head, np.stack([clip.motion[: len(m)], m]), 0, joint)
        for clip, m in zip(clips, motions, strict=True)
    ]


def _errors(found):
    lips = np.concatenate([c.lip_mm[1] for c in found])
    vertices = np.mean([c.vertex_mm[1].mean() for c in found])
    return {
        "validation_lve_mm": float(lips.mean()),
        "validation_mve_mm": float(vertices),
    }


def _plot(path, clips, found, most=4):
    """The mouth's gap over time, of the first clips."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    found = found[:most]
    figure, axes = plt.subplots(len(found), squeeze=False, figsize=(8, 2 * len(found)))
    for (axis,), clip, curve in zip(axes, clips, found, strict=False):
        gaps = curve.lip_mm if curve.gap_mm is None else curve.gap_mm
        time = np.arange(gaps.shape[1]) / mo.FPS
        axis.plot(time, gaps[0], color="black", label="truth")
        axis.plot(time, gaps[1], color="tab:red", label="streamed")
        axis.set_title(f"{clip.corpus}/{clip.clip_id}", fontsize=8, loc="left")
        axis.set_ylabel("lip gap, mm")
    axes[0, 0].legend(fontsize=8, loc="upper right", frameon=False)
    axes[-1, 0].set_xlabel("s")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def _page(path, head, joint, clips, motions):
    """The first clip beside its truth, with its sound where the dataset has it."""
    from toktalk_jax.page import write_page

    clip, motion = clips[0], motions[0]
    audio = np.zeros(mo.SAMPLE_RATE * len(motion) // mo.FPS, np.float32)
    if clip.audio is not None:
        audio = clip.audio.astype(np.float32) / 32767
    tracks = [("truth", clip.motion[: len(motion)]), ("streamed", motion)]
    return write_page(path, head, tracks, audio, title=clip.clip_id, head_joint=joint)
