r"""Base TokTalk at paper size: 82.9 M parameters, Mimi tokens, HDTF-TFHP (Table 3).

The paper trained it for 144 h on one L40S at Adam 1e-4 and reports, streamed at
C = 0.4 s and n = 20, LVE 14.53 mm, MSE 1.39 mm, FDD 4.29e-5 m, MOD 2.82 mm. Data and
tokens are yours to bring (README, "What you must bring"). With a dataset of other
tokens than Mimi's say which, `--config.tokenizer=whisper`, or "" for whatever it holds.

    python -m toktalk_jax.train --config configs/base.py \
        --config.dataset DIR --workdir runs/base

Arguments, after a colon and joined by commas:
  paper   the paper's own text where we chose otherwise: style from the same window,
          full conditions but for joint dropout, no warm-up, constant rate
  l40s, h100, v4-8  batch of 256, bf16, and accumulation for this hardware: one GPU, or
          the four chips of a TPU v4-8
  smoke   the same code at a width that trains a few steps in seconds
"""

from ml_collections import ConfigDict

# The same global batch on each, so that their runs compare; what it needs on a device:
# python -m toktalk_jax.train --config configs/base.py:l40s --dry_run
HARDWARE = {
    "l40s": {"batch_size": 256, "accumulation": 2},  # 48 GB
    "h100": {"batch_size": 256, "accumulation": 1},  # 80 GB
    "v4-8": {"batch_size": 256, "accumulation": 1},  # 4 chips of 32 GB
}
CHOICES = ("paper", "smoke", *HARDWARE)


def get_config(arg=""):
    """The config for a comma-separated list of CHOICES."""
    chosen = parse(arg, CHOICES)
    c = ConfigDict()
    c.method = "toktalk"  # see toktalk_jax.methods
    c.seed = 0
    c.dataset = ""  # a directory made by tools.export_tokens
    c.head = ""  # FLAME file of the dataset's face model; empty is the stand-in
    c.tokenizer = "mimi"  # the dataset must have been made with it; "": with any
    c.total_steps = 400_000
    c.batch_size = 32
    c.model = dict(
        channels=(256, 256), blocks_per_stage=4, mid_blocks=12, heads=8, head_dim=64
    )
    # Stacked layers compile in half the time; unstacked, a step on two cores takes a
    # fifth less at this size (tools.bench_train) and as long at small size.
    c.model.stacked = True
    c.model.skip_std = 0.0  # 0 is the paper; see models.velocity.linear_velocity
    c.style = dict(width=256, hidden=512, heads=8, dropout=0.2)
    c.train = dict(
        objective="flow",  # or "regression", the same U-Net as a plain regressor
        learning_rate=1e-4,
        warmup_steps=1000,
        decay="constant",  # or "cosine"
        clip_norm=1.0,
        ema_decay=0.9999,
        condition_drop=0.2,  # audio and style jointly, for guidance
        style_drop=0.1,  # style alone; 1.0 trains the ablation without style
        kl_weight=0.0,
        window_frames=(60, 100),  # drawn per batch: context + chunk, and longer
        style_frames=(25, 100),
        style_reference="same_clip",
        surface_weight=0.0,  # share of the loss weighted by what moves the surface
        dtype="float32",  # or "bfloat16", of the velocity field; weights stay f32
        accumulation=1,  # micro-batches per step: the same step in less memory
    )
    c.sample = dict(
        chunk_seconds=0.4,
        context_frames=50,
        num_steps=20,
        guidance=0.3,
        known="noised",
        grid="linear",
        temperature=1.0,  # scale of the noise at sampling; 1 is the paper
    )
    keep_books(c)
    c.log_every, c.save_every = 100, 5000
    if "paper" in chosen:
        c.train.update(style_reference="same_window", style_drop=0.0, warmup_steps=0)
    for name in chosen & set(HARDWARE):
        c.batch_size = HARDWARE[name]["batch_size"]
        c.train.accumulation = HARDWARE[name]["accumulation"]
        c.train.dtype = "bfloat16"
    if "smoke" in chosen:
        shrink(c)
    return c


def parse(arg, choices):
    """ "a,b" to a set of names.

    Raises:
      ValueError: a name that is not among `choices`.
    """
    chosen = {name for name in (arg or "").split(",") if name}
    unknown = chosen - set(choices)
    if unknown:
        raise ValueError(
            f"config argument {sorted(unknown)} is unknown; choose from {choices}"
        )
    if len(hardware := sorted(chosen & set(HARDWARE))) > 1:
        raise ValueError(f"config argument names {hardware}; give one hardware")
    return chosen


def named(chosen, key):
    """The NAME of "key=NAME" among the chosen arguments, or "".

    Raises:
      ValueError: several are given.
    """
    names = [c.partition("=")[2] for c in chosen if c.startswith(f"{key}=")]
    if len(names) > 1:
        raise ValueError(f"config argument names {sorted(names)}; give one {key}=NAME")
    return names[0] if names else ""


def keep_books(c):
    """What a run logs, scores and keeps, in place; it changes no number of the run."""
    c.log_every, c.save_every = 50, 1000
    c.keep = dict(last=2, best=1, metric="validation_loss")  # checkpoints; lowest wins
    c.validation = dict(
        clips=8
    )  # to stream and draw when a checkpoint is saved; 0: off
    c.stop_after_skips = 10  # steps in a row whose loss or gradient is not finite
    c.wandb = ""  # a Weights & Biases project


def shrink(c):
    """Smoke size, in place: every code path, a few seconds."""
    c.total_steps = 6
    c.batch_size = 4
    c.model.update(
        channels=(16, 16), blocks_per_stage=1, mid_blocks=2, heads=2, head_dim=8
    )
    c.style.update(width=8, hidden=16, heads=2)
    c.train.update(window_frames=(20, 30), style_frames=(10, 30), warmup_steps=2)
    c.sample.update(context_frames=10, num_steps=2)
    c.log_every, c.save_every = 2, 3
    c.validation.clips = 1


def sweep_latency():
    """Table 5: chunk size by Euler steps."""
    for seconds in (0.4, 0.8, 1.2):
        for steps in (1, 5, 10, 20):
            yield {"sample.chunk_seconds": seconds, "sample.num_steps": steps}


def sweep_learning_rate():
    """Learning rate at fixed steps."""
    for rate in (5e-5, 1e-4, 2e-4):
        yield {"train.learning_rate": rate}
