r"""Small TokTalk: 2.2 M + 0.3 M parameters, two CPU cores, GRID or performer clips.

On GRID (700 clips of one speaker) 14,000 steps take under 30 minutes on two cores. The
shipped checkpoint `small` is this config on GRID and performer clips; its model card
names the command and the numbers.

What made the difference on GRID's validation clips (streamed, `lve_mm`, ridge 1.73):
the velocity's linear part added to the network (`model.skip_std`; 1,500 steps: 3.31
without, 2.37 with), the loss weighted by what moves the surface, and at sampling a
temperature of 0.7 (14,000 steps: 1.83 at 1, 1.63 at 0.7, 1.52 at 0.5, with less and
less of the spread between takes).

    python -m tools.export_tokens --corpus grid --source DIR --tokenizer mel_rvq \
        --fit_tokenizer --out data/grid_mel
    python -m toktalk_jax.train --config configs/small.py \
        --config.dataset data/grid_mel --workdir runs/grid_mel

Arguments, after a colon and joined by commas:
  lyra        a dataset of Lyra tokens (50 Hz, stacked to 256-d)
  regression  the same U-Net with a regression loss, a baseline
  quickstart  a few hundred steps, for launch/quickstart.sh
  smoke       the same code at a width that trains a few steps in seconds
"""

from configs import base

CHOICES = ("lyra", "regression", "quickstart", "smoke")


def get_config(arg=""):
    """The config for a comma-separated list of CHOICES."""
    chosen = base.parse(arg, CHOICES)
    c = base.get_config()
    c.tokenizer = "lyra" if "lyra" in chosen else ""  # else the dataset's own
    c.total_steps = 14_000
    c.batch_size = 16
    c.model.update(
        channels=(96, 96), blocks_per_stage=1, mid_blocks=2, heads=2, head_dim=64
    )
    c.model.skip_std = 0.5  # what a token leaves open of a z-score, measured on GRID
    c.style.update(width=64, hidden=128)
    c.train.update(
        learning_rate=1e-3,
        warmup_steps=200,
        decay="cosine",
        ema_decay=0.999,
        style_frames=(25, 50),
        window_frames=(60,),  # context + chunk; GRID's clips have 74 frames
        surface_weight=0.8,
    )
    c.sample.update(num_steps=10, temperature=0.7, guidance=0.6)
    c.log_every, c.save_every = 50, 1000
    if "regression" in chosen:
        c.train.objective = "regression"
    if "quickstart" in chosen:
        c.total_steps, c.save_every = 300, 100
        c.validation.clips = 2
        c.train.update(warmup_steps=30)
    if "smoke" in chosen:
        base.shrink(c)
        c.train.window_frames = (20,)  # each length compiles once
    return c


def sweep_paper_sampling():
    """The paper's sampling on the same weights."""
    yield {"sample.num_steps": 20, "sample.temperature": 1.0, "sample.guidance": 0.3}


def sweep_temperature():
    """From the mean (0) to the whole spread of the takes (1)."""
    for temperature in (0.0, 0.5, 0.7, 1.0):
        yield {"sample.temperature": temperature}


def sweep_context():
    """Known frames before the chunk, an open arm of the design."""
    for frames in (10, 20, 50):
        yield {"sample.context_frames": frames}


def sweep_steps():
    """Euler steps at the serving chunk."""
    for steps in (1, 2, 5, 10, 20):
        yield {"sample.num_steps": steps}
