r"""FaceFormer, the autoregressive baseline (Fan et al., CVPR 2022): 0.08 M parameters.

The decoder has the sizes that the authors publish for VOCASET: width 64, one layer,
four heads, feed-forward 128; the period is a second of frames.

Chosen on GRID's validation clips (`mel_rvq` tokens, `lve_mm`; ridge 1.73): 3,000 steps,
three minutes on one core, reach 1.81, and 1.62 with `offline`. At rate 1e-3 it is 1.80
and 1.66, with 6,000 steps 1.81 and 1.68: it overfits, and without dropout of the tokens
sooner (3,500 steps: 1.85).

    python -m toktalk_jax.train --config configs/faceformer.py \
        --config.dataset data/grid_mel --workdir runs/faceformer
    python -m toktalk_jax.evaluate --config configs/faceformer.py \
        --config.dataset data/grid_mel --workdir runs/faceformer \
        --rows faceformer,static,ridge

Arguments, after a colon and joined by commas:
  offline  a frame also hears the four tokens before and after its own, as the paper's
           sound encoder hears the whole clip; it then cannot stream
  smoke    the same code at a width that trains a few steps in seconds
"""

from ml_collections import ConfigDict

from configs import base

CHOICES = ("offline", "smoke")


def get_config(arg=""):
    """The config for a comma-separated list of CHOICES."""
    chosen = base.parse(arg, CHOICES)
    c = ConfigDict()
    c.method = "faceformer"
    c.seed = 0
    c.dataset = ""  # a directory made by tools.export_tokens
    c.head = ""  # FLAME file of the dataset's face model; empty is the stand-in
    c.tokenizer = ""  # "": with whichever tokenizer the dataset was made
    c.total_steps = 3000
    c.batch_size = 16
    c.model = dict(
        width=64,
        heads=4,
        depth=1,
        feed_forward=128,
        period=25,
        before=0,  # tokens that a frame hears beside its own
        after=0,
    )
    c.train = dict(
        learning_rate=2e-3,
        warmup_steps=200,
        decay="cosine",  # or "constant"
        clip_norm=1.0,
        ema_decay=0.999,
        window_frames=(60,),
        style_frames=(10, 10),  # every batch has references; this method reads none
        style_reference="same_clip",
        token_drop=0.5,  # dropout of the tokens' components
        surface_weight=0.8,  # as TokTalk's small config
    )
    c.sample = dict(chunk_seconds=0.4)  # ridge's, and where borders are scored
    base.keep_books(c)
    if "offline" in chosen:
        c.model.update(before=4, after=4)
    if "smoke" in chosen:
        c.total_steps, c.batch_size = 6, 4
        c.model.update(width=8, heads=2, feed_forward=16)
        c.train.update(window_frames=(20,), warmup_steps=2)
        c.log_every, c.save_every, c.validation.clips = 2, 3, 1
    return c


def sweep_width():
    """Width of the decoder."""
    for width in (32, 64, 128, 256):
        yield {"model.width": width, "model.feed_forward": 2 * width}


def sweep_depth():
    """Decoder layers."""
    for depth in (1, 2, 4):
        yield {"model.depth": depth}


def sweep_hearing():
    """Tokens that a frame hears before and after its own."""
    for before, after in ((0, 0), (4, 0), (4, 2), (4, 4)):
        yield {"model.before": before, "model.after": after}


def sweep_learning_rate():
    """Learning rate at fixed steps."""
    for rate in (5e-4, 1e-3, 2e-3, 4e-3):
        yield {"train.learning_rate": rate}
