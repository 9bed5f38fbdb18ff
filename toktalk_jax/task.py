"""What the rows of a table are made of: a model, a split's clips, how it samples."""

import dataclasses
import functools

import numpy as np
from tqdm import tqdm

from toktalk_jax import motion as mo
from toktalk_jax.evaluation import predict, references, scoring
from toktalk_jax.inputs import encode_style
from toktalk_jax.sample import make_sampler
from toktalk_jax.training import adapters, checkpoints

SCORED = ("all", "second_half")


@dataclasses.dataclass(frozen=True)
class Task:
    """What the rows are made of: a model, its clips, how it samples.

    Attributes:
      bundle: `checkpoints.Bundle`; adapter: `adapters.AdapterBundle` or None.
      dataset: directories of the clips; clips: to be scored; train: to fit baselines
        on and to take styles from, both with raw motion.
      head: `flame.assets.Head`; rig: `flame.fit.prepare`, where lips were tracked.
      settings: `sample` block of a config.
      split, samples, seed: which clips, samples per clip, of the noise.
      motions: directory of motion files, for the row "files", or "".
      style: a name of `references.STYLES`; scored: one of `SCORED`.
      landmark_map: file of the user's own, which `rig` was made of, or "".
    """

    bundle: checkpoints.Bundle
    adapter: adapters.AdapterBundle | None
    dataset: str
    clips: list
    train: list
    head: object
    rig: object
    settings: dict
    split: str
    samples: int
    seed: int
    motions: str
    style: str
    scored: str
    landmark_map: str

    @property
    def head_joint(self):
        """What the dataset's last three coefficients turn, "neck" or "root"."""
        return self.bundle.dataset.get("head_joint", "neck")

    @property
    def chunk_frames(self):
        """Frames a chunk; it also places the borders of a row that has none."""
        return mo.chunk_frames(self.settings["chunk_seconds"])

    @functools.cached_property
    def sampler(self):
        """The model's own `Sampler`."""
        return make_sampler(self.bundle, self.settings)

    @functools.cached_property
    def styles(self):
        """Style vectors [clips, K]."""
        shown = self.clips, self.train, self.style, self.scored
        return style_vectors(self.bundle, *shown)

    @functools.cached_property
    def draws(self):
        """Samples [k, T, F] of every clip, streamed."""
        return draw(self, self.sampler)

    def held(self):
        """The validation clips, raw, to choose a baseline's settings on."""
        return read_clips(self.bundle, self.dataset, "validation")


def prepare(
    config,
    workdir,
    *,
    split="test",
    samples=8,
    seed=0,
    limit=None,
    landmark_map=None,
    adapter="",
    motions="",
    style="another_clip",
    scored="all",
):
    """`Task` of a run on a dataset.

    Args:
      config: its `dataset`, `head` and `sample` are used; the network is the run's own.
      workdir: run, bundle or shipped name; adapter: the same of an adapter, or "".
      landmark_map: where the tracker's landmarks lie on a head of the user's own.

    Raises:
      ValueError: a dataset that the model or the adapter was not made for, an unknown
        style, no sample, or a limit under 1.
    """
    if samples < 1 or (limit is not None and limit < 1):
        raise ValueError(
            f"{samples} samples of at most {limit} clips; expected at least one of each"
        )
    if style not in references.STYLES or scored not in SCORED:
        names = (*references.STYLES, *SCORED)
        raise ValueError(
            f"style {style!r}, scored {scored!r}; expected one each of {names}"
        )
    bundle = checkpoints.load(workdir)
    if bundle.config["train"].get("objective") == "regression":
        samples = 1  # it draws nothing: all would be the same
    before = adapters.load(adapter) if adapter else None
    if before:
        _check_foreign(config.dataset, before)
    from toktalk_jax.flame.assets import head_of

    train = read_clips(bundle, config.dataset, "train")
    clips = read_clips(bundle, config.dataset, split, limit)
    if not clips:
        raise ValueError(f"{config.dataset} has no {split} clips to score")
    head = head_of(bundle.dataset, config.head)
    scoring.region_hashes(head)  # a head without its masks is refused before any draw
    return Task(
        bundle=bundle,
        adapter=before,
        dataset=config.dataset,
        clips=clips,
        train=train,
        head=head,
        rig=_rig(head, clips, landmark_map),
        settings=config.sample.to_dict(),
        split=split,
        samples=samples,
        seed=seed,
        motions=motions,
        style=style,
        scored=scored,
        landmark_map=landmark_map or "",
    )


def read_clips(bundle, dataset, split, limit=None):
    """Clips of a split with raw motion, tokens standardised as the model's."""
    from toktalk_jax.data import pipeline

    # Codebooks of another fit have the same name and width, and mean nothing here.
    kept = ("tokenizer", "tokenizer_hash", "face_model", "face_hash", "head_joint")
    expect = {key: bundle.dataset[key] for key in kept if key in bundle.dataset}
    return pipeline.evaluation_clips(
        dataset, split, stats=bundle.stats, expect=expect, limit=limit
    )


def _check_foreign(directories, before):
    """Refuse a dataset whose second tokenizer is not the adapter's."""
    from toktalk_jax.data import pipeline

    wanted = before.facts["foreign"]
    for facts in pipeline.describe(directories):
        found = facts.get("foreign") or {}
        for key in ("tokenizer", "tokenizer_hash", "rate_hz", "dim"):
            if found.get(key) != wanted[key]:
                raise ValueError(
                    f"the dataset's second tokenizer has {key} {found.get(key)!r}, the "
                    f"adapter was trained with {wanted[key]!r}; export with "
                    f"--foreign {wanted['tokenizer']}"
                )


def _rig(head, clips, landmark_map):
    from toktalk_jax.flame import fit, landmarks

    if not any(clip.lips is not None for clip in clips):
        return None
    try:
        where = landmarks.load_map(head, landmark_map or None)
    except ValueError as error:
        raise ValueError(
            f"the dataset holds tracked lips: {error} and name it with --landmark_map"
        ) from error
    return fit.prepare(head, where)


def style_vectors(bundle, clips, train, style="another_clip", scored="all"):
    """Style vectors [clips, K]; zeros where the encoder is shown nothing."""
    vectors = np.zeros((len(clips), bundle.config["style"]["width"]), np.float32)
    if references.STYLES[style] is None:
        return vectors
    lengths = {}  # one batch a length: few compiles
    for i, motion in enumerate(references.of_clips(clips, train, style, scored)):
        lengths.setdefault(len(motion), {}).setdefault(motion.tobytes(), []).append(i)
    for length, known in lengths.items():
        shown = [np.frombuffer(motion, np.float32) for motion in known]
        encoded = encode_style(bundle, np.stack(shown).reshape(len(known), length, -1))
        for vector, members in zip(encoded, known.values(), strict=True):
            vectors[members] = vector
    return vectors


def draw(task, sampler, styles=None):
    """Samples [k, T, F] of every clip by a sampler.

    Args:
      styles: style vectors [clips, K] in place of the task's own.
    """
    styles = task.styles if styles is None else styles
    draws = [
        predict.streamed(sampler, task.clips, styles, seed=task.seed, sample=k)
        for k in tqdm(range(task.samples), desc="samples")
    ]
    return with_offset(task, [np.stack(d) for d in zip(*draws, strict=True)])


def with_offset(task, drawn):
    """`drawn`, for the style "mean_offset" moved by the mean pose of another clip."""
    if task.style != "mean_offset":
        return drawn
    from toktalk_jax.baselines import static

    middle = static.fit(clip.motion for clip in task.train)
    shown = references.of_clips(task.clips, task.train, "another_clip")
    return [
        d + (r.mean(0) - middle)[None, None] for d, r in zip(drawn, shown, strict=True)
    ]
