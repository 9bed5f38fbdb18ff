r"""Turn a finished run into a shipped checkpoint: weights, styles and a model card.

    python -m tools.ship_checkpoint --workdir runs/small --name small \
        --evaluation runs/small/evaluation.json --command "python -m ..." \
        --data "GRID talker s1, 700 train clips (Cooke et al. 2006)"

Writes toktalk_jax/checkpoints/NAME. The styles are the performer's, in its own voice:
no clip of a corpus ships.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np

from toktalk_jax.data.corpora import performer, speech
from toktalk_jax.takes import score_lines
from toktalk_jax.training import checkpoints

LINE = "People say a face tells more than words, so may we begin?"
# Overrides of the neutral style; every gain is one of `performer.Style`.
STYLES = {
    "neutral": {},
    "warm": {"smile": "high", "brow": "high"},
    "reserved": {"opening": "low", "nod": "low", "brow": "low"},
    "lively": {"opening": "high", "nod": "high", "brow": "high", "blink": "high"},
}
MAX_BYTES = 15e6


def named_style(overrides):
    """`performer.Style` with "low" and "high" as the ends of a gain's range."""
    ends = {"low": performer.LOWEST, "high": performer.HIGHEST}
    return performer.NEUTRAL._replace(
        **{gain: getattr(ends[end], gain) for gain, end in overrides.items()}
    )


def style_clips():
    """{name: motion [50, 56]}: two seconds of the performer in each style."""
    said = speech.say(LINE)
    return {
        name: performer.perform(said.audio, said.phonemes, named_style(overrides), 0)[
            :50
        ]
        for name, overrides in STYLES.items()
    }


def model_card(bundle, name, data, command, evaluation):
    """Markdown: what it is, data, licence, scores, and how it was made."""
    parameters = sum(
        value.size for part in bundle.params.values() for value in _leaves(part)
    )
    lines = [
        f"# TokTalk `{name}`",
        "",
        f"{parameters / 1e6:.2f} M parameters (EMA), step {bundle.meta['step']}, "
        f"{bundle.dataset['tokenizer']} tokens, hash {bundle.meta['hash']}. Takes "
        "token embeddings at 12.5 Hz and a style clip; gives 56 FLAME coefficients at "
        f"25 fps for the {bundle.dataset['face_model']} head.",
        "",
        "## Data and licence",
        "",
        data,
        "",
        "One speaker of GRID and one synthetic voice: expect less on other voices. "
        "Only weights, statistics and codebooks derived from GRID are here, no audio, "
        "landmarks, coefficients or clips. Cite: M. Cooke, J. Barker, S. Cunningham, "
        "X. Shao, *An audio-visual corpus for speech perception and automatic speech "
        "recognition*, JASA 120(5), 2006. Code and weights: Apache-2.0.",
        "",
        "## Made by",
        "",
        "```bash",
        *command,
        "```",
        *(score_lines(evaluation) if evaluation else []),
    ]
    return "\n".join(lines) + "\n"


def _leaves(tree):
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    else:
        yield tree


def ship(args):
    """Write the folder; returns its path.

    Raises:
      ValueError: it would be larger than a checkpoint in the package may be.
    """
    bundle = checkpoints.load(args.workdir)
    # Paths of the machine that trained it.
    config = {**bundle.config, "dataset": "", "head": ""}
    bundle = bundle._replace(config=config)
    folder = pathlib.Path(args.out or checkpoints.SHIPPED) / args.name
    beside = folder.with_name(f"{args.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    checkpoints.export(bundle, beside)
    np.savez_compressed(beside / "styles.npz", **style_clips())
    evaluation = args.evaluation and json.loads(
        pathlib.Path(args.evaluation).read_text()
    )
    card = model_card(bundle, args.name, args.data, args.command, evaluation)
    (beside / "MODEL_CARD.md").write_text(card)
    size = sum(path.stat().st_size for path in beside.iterdir())
    if size > MAX_BYTES:
        shutil.rmtree(beside)
        raise ValueError(f"{args.name} is {size / 1e6:.1f} MB; at most 15 MB ship")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return folder


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--workdir", required=True, help="finished run")
    p.add_argument("--name", required=True, help="name to ship it under")
    p.add_argument("--data", required=True, help="what it was trained on, for the card")
    p.add_argument("--command", action="append", default=[], help="how it was made")
    p.add_argument("--evaluation", default="", help="evaluation.json for the card")
    p.add_argument("--out", default="", help="default: toktalk_jax/checkpoints")
    print(ship(p.parse_args(argv)))


if __name__ == "__main__":
    main()
