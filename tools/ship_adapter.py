r"""Turn a finished adapter into a shipped one: weights, facts and a card.

    python -m tools.ship_adapter --workdir runs/hibari_to_small \
        --name hibari_to_small --command "python -m ..." \
        --data "40 minutes of the performer's own speech"

Writes toktalk_jax/checkpoints/NAME. Its scores are those of the run's report card.
"""

import argparse
import json
import pathlib
import shutil

from toktalk_jax import adapter_card
from toktalk_jax.training import adapters, checkpoints

MAX_BYTES = 3e6


def card_of(adapter, name, base, data, command, scores):
    """Markdown: what it is, data, licence, how it was made, scores."""
    foreign, to = adapter.facts["foreign"], adapter.facts["base"]
    lines = [
        f"# TokTalk adapter `{name}`",
        "",
        f"{foreign['tokenizer']} embeddings ({foreign['rate_hz']:g} Hz, "
        f"{foreign['dim']}-d) to the {to['tokenizer']} tokens of the base `{base}` "
        f"(weights {adapter.facts['base_hash']}; refused before another). Hash "
        f"{adapter.meta['hash']}.",
        "",
        f"    python -m toktalk_jax.sample --workdir {base} --adapter {name} ...",
        "",
        "## Data and licence",
        "",
        f"{data} The base is trained on GRID too (Cooke et al. 2006, see its card). "
        "Code and weights: Apache-2.0.",
        "",
        "## Made by",
        "",
        "```bash",
        *command,
        "```",
        "",
        "",
    ]
    return "\n".join(lines) + scores.replace("# Adapter", "## Adapter", 1)


def ship(args):
    """Write the folder; returns its path.

    Raises:
      ValueError: it would be larger than an adapter in the package may be.
      FileNotFoundError: no adapter, or no report card, in the workdir.
    """
    workdir = pathlib.Path(args.workdir)
    adapter = adapters.load(workdir / "bundle")
    card = json.loads((workdir / "card.json").read_text())
    # Paths of the machine that trained it.
    adapter = adapter._replace(config={**adapter.config, "dataset": "", "head": ""})
    folder = pathlib.Path(args.out or checkpoints.SHIPPED) / args.name
    beside = folder.with_name(f"{args.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    adapters.export(adapter, beside)
    scores = adapter_card.text(card)
    text = card_of(adapter, args.name, args.base, args.data, args.command, scores)
    (beside / "MODEL_CARD.md").write_text(text)
    size = sum(path.stat().st_size for path in beside.iterdir())
    if size > MAX_BYTES:
        shutil.rmtree(beside)
        raise ValueError(f"{args.name} is {size / 1e6:.1f} MB; at most 3 MB ship")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return folder


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--workdir", required=True, help="finished run of toktalk_jax.adapt")
    p.add_argument("--name", required=True, help="name to ship it under")
    p.add_argument("--base", default="small", help="shipped name of its base")
    p.add_argument("--data", required=True, help="what it was trained on, for the card")
    p.add_argument("--command", action="append", default=[], help="how it was made")
    p.add_argument("--out", default="", help="default: toktalk_jax/checkpoints")
    print(ship(p.parse_args(argv)))


if __name__ == "__main__":
    main()
