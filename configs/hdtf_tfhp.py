r"""Base TokTalk as the paper trained it: HDTF and TFHP, 588 subjects, 26.5 hours.

Split by speaker 460 / 64 / 64. The paper's Table 3 (on an L40S, 144 h) reads MSE
1.39 mm, LVE 14.53 mm, FDD 4.29e-5 m, MOD 2.82 mm with style; nobody has run this config
to its end here: the corpus is not public. Fed with it, the commands are

    python -m tools.export_tokens --corpus hdtf_tfhp --source DIR --head FLAME.pkl \
        --tokenizer mimi --out data/hdtf_tfhp
    python -m toktalk_jax.train --config configs/hdtf_tfhp.py:l40s \
        --workdir runs/hdtf_tfhp

Arguments, after a colon and joined by commas: those of configs/base.py, and
  tokens=NAME  another tokenizer of the dataset, data/hdtf_tfhp_NAME
"""

from configs import base

TOKENS = ("cosyvoice2", "glm4voice", "wav2vec2", "hubert", "whisper", "lyra")
CHOICES = (*base.CHOICES, *(f"tokens={name}" for name in TOKENS))


def get_config(arg=""):
    """The config for a comma-separated list of CHOICES."""
    chosen = base.parse(arg, CHOICES)
    tokens = base.named(chosen, "tokens")
    c = base.get_config(",".join(sorted(chosen & set(base.CHOICES))))
    c.tokenizer = tokens or "mimi"
    c.dataset = f"data/hdtf_tfhp_{tokens}" if tokens else "data/hdtf_tfhp"
    return c


def sweep_style():
    """Table 3's rows with and without style, and where the reference is from."""
    yield {}
    yield {"train.style_drop": 1.0}
    yield {"train.style_reference": "same_window"}
    yield {"train.style_reference": "same_speaker"}


def sweep_seed():
    """Three seeds, for rows that are compared."""
    for seed in (0, 1, 2):
        yield {"seed": seed}
