r"""Adaptation layers: another tokenizer's embeddings in front of a trained base.

    python -m tools.export_tokens --corpus grid --source DIR --tokenizer lyra \
        --weights lyra_v2 --foreign whisper --foreign_causal --out data/pair
    python -m toktalk_jax.adapt --config configs/adapter.py:tokens=whisper \
        --config.dataset data/pair --base runs/grid_lyra --workdir runs/whisper_to_lyra

Arguments, after a colon and joined by commas:
  tokens=NAME  the foreign tokenizer; the dataset must hold it
  paper        the paper's size (width 512) for a base of paper size
  smoke        the same code at a width that trains a few steps in seconds

How it samples, and what weighs in the flow's loss, is the base's own.
"""

from ml_collections import ConfigDict

from configs import base
from toktalk_jax.tokenizers import load

CHOICES = (*(f"tokens={name}" for name in load.NAMES), "paper", "smoke")


def get_config(arg=""):
    """The config for a comma-separated list of CHOICES."""
    chosen = base.parse(arg, CHOICES)
    c = ConfigDict()
    c.seed = 0
    c.dataset = ""  # made by tools.export_tokens with --foreign
    c.tokens = base.named(chosen, "tokens")  # the dataset's foreign one; "": any
    c.head = ""  # FLAME file of the dataset's face model; empty is the stand-in
    c.minutes = 0.0  # of paired speech to train on, a seeded choice of clips; 0: all
    c.total_steps = 4000
    c.batch_size = 16
    c.adapter = dict(
        kind="transformer",  # or "linear", a closed-form map of three tokens
        width=64,
        depth=4,
        heads=8,
        feed_forward=128,
        context_tokens=25,
    )
    c.train = dict(
        flow=1.0,  # the paper's L_CFM
        align=0.5,  # the paper's lambda, in standardised units
        distill=0.0,  # the base's own velocity as the target
        faces="data",  # or "base": samples of the base, so no face is needed
        learning_rate=2e-3,
        warmup_steps=100,
        decay="cosine",
        clip_norm=1.0,
        ema_decay=0.999,
        window_frames=(60,),
        style_frames=(25, 50),
        style_reference="same_clip",
    )
    base.keep_books(c)
    c.keep.update(best=0, metric="")  # an adapter is scored by its report card
    c.validation.clips = 0
    c.report_split = "test"  # "validation" to choose by
    c.report_clips = 50  # of the report card; 0: all
    if "paper" in chosen:
        c.adapter.update(width=512, feed_forward=1024)
        c.train.learning_rate = 1e-4
        c.total_steps, c.batch_size = 100_000, 32
    if "smoke" in chosen:
        c.total_steps, c.batch_size = 6, 4
        c.adapter.update(width=16, heads=2, feed_forward=16, depth=1, context_tokens=5)
        c.train.update(window_frames=(20,), style_frames=(10, 30), warmup_steps=2)
        c.log_every, c.save_every, c.report_clips = 2, 3, 2
    return c


def sweep_depth():
    """Transformer layers."""
    for depth in (1, 2, 4, 6):
        yield {"adapter.depth": depth}


def sweep_width():
    """Width of the encoder."""
    for width in (32, 64, 128, 256):
        yield {"adapter.width": width, "adapter.feed_forward": 2 * width}


def sweep_align():
    """The weight of the alignment loss, lambda."""
    for weight in (0.0, 0.1, 0.5, 2.0):
        yield {"train.align": weight}


def sweep_losses():
    """The rows of the comparison: which losses make an adapter."""
    yield {"total_steps": 0}
    yield {"adapter.kind": "linear", "total_steps": 0}
    yield {"train.flow": 0.0, "train.align": 1.0}
    yield {"train.align": 0.0}
    yield {}
    yield {"train.distill": 1.0}
    yield {"train.flow": 0.0, "train.distill": 1.0, "train.align": 0.0} | {
        "train.faces": "base"
    }


def sweep_minutes():
    """Minutes of paired speech."""
    for minutes in (5.0, 15.0, 40.0):
        yield {"minutes": minutes}
