r"""Table 2: one model per audio representation on RAVDESS, 24 actors, 8 emotions.

Everything but the tokens is equal. The paper's best rows are CosyVoice2's (MSE 0.22,
LVE 1.84, MOD 1.35 mm) and wav2vec2's (FDD 2.63e-5 m). RAVDESS is 1.5 h of short clips
(about four seconds), so the run is shorter than the base's and windows are too; faces
are yours to track (README, "What you must bring").

    python -m tools.export_tokens --corpus ravdess --source DIR --head FLAME.pkl \
        --tokenizer cosyvoice2 --weights DIR --out data/ravdess_cosyvoice2
    python -m toktalk_jax.train --config configs/ravdess.py:features=cosyvoice2,l40s \
        --workdir runs/ravdess_cosyvoice2

Arguments, after a colon and joined by commas: those of configs/base.py, and
  features=NAME  the tokenizer (default mimi); its dataset is data/ravdess_NAME
"""

from configs import base

FEATURES = ("mimi", "cosyvoice2", "glm4voice", "wav2vec2", "hubert", "whisper")
FEATURES += ("lyra", "mel_rvq")
CHOICES = (*base.CHOICES, *(f"features={name}" for name in FEATURES))


def get_config(arg=""):
    """The config for a comma-separated list of CHOICES."""
    chosen = base.parse(arg, CHOICES)
    c = base.get_config(",".join(sorted(chosen & set(base.CHOICES))))
    c.tokenizer = base.named(chosen, "features") or "mimi"
    c.dataset = f"data/ravdess_{c.tokenizer}"
    if "smoke" not in chosen:
        c.total_steps = 50_000
        c.train.update(window_frames=(60,), style_frames=(25, 50))
        c.train.style_reference = "same_speaker"  # clips have no room for both
        c.save_every = 2500
    return c


def sweep_features():
    """Table 2's rows."""
    for name in FEATURES:
        yield {"tokenizer": name, "dataset": f"data/ravdess_{name}"}
