r"""The paper's tables on GRID: one speaker, 51 words, two CPU cores.

    for t in mel_rvq "lyra --weights DIR" "whisper --causal"; do
      python -m tools.export_tokens --corpus grid --source DIR --tokenizer $t ... \
          --with_audio --out data/grid_${t%% *}; done
    python -m tools.export_tokens --corpus grid --source DIR --tokenizer mel_rvq \
        --lookahead_tokens 1 --with_audio --out data/grid_mel_rvq_ahead
    python -m tools.export_tokens --corpus grid --source DIR --tokenizer mel_rvq \
        --perform_styles 24 --out data/grid_acted
    python -m tools.export_tokens --corpus performer --seconds 1800 \
        --tokenizer mel_rvq --out data/performer
    python -m tools.export_tokens --corpus grid --source DIR --tokenizer lyra \
        --weights DIR --foreign whisper --foreign_causal --out data/grid_lyra_whisper
    python -m toktalk_jax.evaluate --config configs/grid.py --table 2

Rows that are kept under configs/results/rows are not made again; a missing one is
trained (some 20 minutes on two cores) and scored. Other tokenizers join Table 2 by
exporting their dataset to the path that `datasets` names. Without --with_audio Table 2
has no probes.

Arguments, after a colon and joined by commas:
  smoke   the same tables at a width that trains a few steps in seconds, but for the
          lines that name their own number of steps
"""

from configs import adapter, base, faceformer, small
from configs.grid_claims import claims_2, claims_3, claims_4, claims_5
from configs.grid_lines import (
    REGRESSION,
    SPOKEN,
    TOKENIZERS,
    table_2,
    table_3,
    table_4,
    table_5,
)

__all__ = ["get_config", "about"]
__all__ += ["table_2", "table_3", "table_4", "table_5"]
__all__ += ["claims_2", "claims_3", "claims_4", "claims_5"]

CHOICES = ("smoke",)


def get_config(arg=""):
    """The config for a comma-separated list of CHOICES."""
    chosen = base.parse(arg, CHOICES)
    c = small.get_config("smoke" if "smoke" in chosen else "")
    if "smoke" not in chosen:
        # 4,000 are too few: lyra's lve_mm on validation is 2.02, and no better with
        # twice the steps of half the batch. FaceFormer has its own 3,000, chosen there.
        c.total_steps = 8000
    c.datasets = {name: f"data/grid_{name}" for name in TOKENIZERS}
    c.datasets.acted = "data/grid_acted"  # the performer acts GRID's sound
    c.datasets.performer = "data/performer"  # and speaks its own
    c.datasets.mel_rvq_ahead = "data/grid_mel_rvq_ahead"  # --lookahead_tokens 1
    c.datasets.whisper_to_lyra = "data/grid_lyra_whisper"  # paired, --foreign
    c.adapter_run = adapter.get_config("smoke" if "smoke" in chosen else "")
    c.faceformer_run = faceformer.get_config("smoke" if "smoke" in chosen else "")
    for run in (c, c.faceformer_run):  # rows are made from the last weights
        run.validation.clips, run.keep.best, run.keep.metric = 0, 0, ""
    c.table = dict(samples=5, limit=75)  # samples per clip; clips, 0: all
    return c


def about(config):
    """What every table says first: the data, and how long each net was trained."""
    if config.model.channels == small.get_config("smoke").model.channels:
        return "Networks of a width that learns nothing: these numbers mean nothing."
    sampled, size = config.sample, "2.5 M parameters"
    if config.model.channels != small.get_config().model.channels:
        size = f"channels {', '.join(map(str, config.model.channels))}"
    return (
        "GRID's talker s1: 700 clips of three seconds to train on (35 minutes, 51 "
        f"words), scored on {config.table.limit or 'all'} test clips, evenly spaced. "
        "Ground truth is the stand-in face fitted to the talker's tracked "
        "landmarks; where a table says so it is made by the procedural performer, who "
        "acts the same sound in 24 styles, six of them kept for the test, or speaks "
        "half an hour of its own in 90, a quarter of them for the test. TokTalk's "
        f"U-Net ({size}) is trained on {config.total_steps:,} batches of "
        f"{config.batch_size}, less than it needs (`configs/small.py` takes "
        f"{small.get_config().total_steps:,}), or, on the performer's speech, on "
        f"{SPOKEN['total_steps']:,}; "
        f"the same U-Net with a regression loss on {REGRESSION['total_steps']:,}, "
        f"FaceFormer (0.08 M) on {config.faceformer_run.total_steps:,}: with more they "
        f"are worse on validation. Sampled at temperature {sampled.temperature}, with "
        f"guidance {sampled.guidance} and {sampled.num_steps} Euler steps, but where a "
        "line names others. What is only timed is trained for one step, for weights "
        "change no time."
    )
