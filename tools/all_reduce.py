r"""What share of a training step data parallelism spends on summing gradients.

    python -m tools.all_reduce --rows 32 --mfu 0.3

Prints the numbers that stand in the docstring of `toktalk_jax/training/parallel.py`,
for the paper's model: parameters and operations are counted from `configs/base.py`,
chips and links are published numbers.
"""

import argparse
import functools
import math
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp

from configs import base
from toktalk_jax import flops, models
from toktalk_jax import motion as mo
from toktalk_jax.training import toktalk

FRAMES, TOKEN_WIDTH = 60, 512
CHIPS = (8, 32, 128, 512)
AIM = 0.1  # share of a step that a sum of gradients may cost


class Fabric(NamedTuple):
    """Chips and what joins them.

    Attributes:
      name; peak: dense bfloat16 FLOP/s of a chip.
      bandwidth: bytes/s that a chip sends while it receives as much.
      latency: s of one hop of the ring; largest: chips that it can join.
    """

    name: str
    peak: float
    bandwidth: float
    latency: float
    largest: int = CHIPS[-1]


# Chips as in `flops.PUBLISHED`. NVLink 4 (H100, H200) moves 450 GB/s each way; a PCIe 4
# x16 slot 32; an ICI link 45 on TPU v4 and 90 on v5p, three axes of a torus at a time
# ("How to Scale Your Model", jax-ml.github.io/scaling-book). Ethernet and InfiniBand
# move 1/8 of their Gb/s; the NIC is one chip's own.
FABRICS = (
    Fabric("H100, NVLink", 989e12, 450e9, 3e-6, largest=8),
    Fabric("H100, 400 Gb/s InfiniBand", 989e12, 50e9, 5e-6),
    Fabric("H100, 200 Gb/s InfiniBand", 989e12, 25e9, 5e-6),
    Fabric("H100, 100 Gb/s Ethernet", 989e12, 12.5e9, 20e-6),
    Fabric("L40S, PCIe 4", 362e12, 32e9, 5e-6, largest=8),
    Fabric("L40S, 100 Gb/s Ethernet", 362e12, 12.5e9, 20e-6),
    Fabric("TPU v4, ICI", 275e12, 270e9, 1e-6),
    Fabric("TPU v5p, ICI", 459e12, 540e9, 1e-6),
)


def all_reduce_seconds(chips, size, bandwidth, latency):
    """Time of a ring all-reduce (Patarasuk and Yuan, 2009).

    Args:
      size: bytes of what is summed; bandwidth: bytes/s; latency: s per hop.
    """
    return 2 * (chips - 1) * (size / chips / bandwidth + latency)


def all_reduce_share(chips, size, bandwidth, latency, compute):
    """Share of a step that the all-reduce takes when nothing hides it.

    Args:
      compute: s of the step without it; the others as `all_reduce_seconds`.
    """
    summing = all_reduce_seconds(chips, size, bandwidth, latency)
    return summing / (summing + compute)


def rows_for_share(share, chips, size, bandwidth, latency, row_seconds):
    """Fewest rows per chip and step that keep the all-reduce under `share` of it."""
    summing = all_reduce_seconds(chips, size, bandwidth, latency)
    return math.ceil(summing * (1 - share) / share / row_seconds)


def paper_model():
    """(parameters, FLOP of a training step per row of 60 frames), by counting."""
    config = base.get_config()
    networks = models.build(config.model.to_dict(), config.style.to_dict())
    params = jax.eval_shape(
        lambda key: toktalk.init_params(key, *networks, TOKEN_WIDTH), jax.random.key(0)
    )
    reference = config.train.style_frames[1]
    shapes = {
        "motion": ((FRAMES, mo.F), jnp.float32),
        "tokens": ((FRAMES // mo.FRAMES_PER_TOKEN, TOKEN_WIDTH), jnp.float32),
        "mask": ((FRAMES,), bool),
        "style": ((reference, mo.F), jnp.float32),
        "style_mask": ((reference,), bool),
        "block_id": ((FRAMES,), jnp.int32),
        "index": ((), jnp.int32),
    }
    row = {k: jax.ShapeDtypeStruct((1, *s), d) for k, (s, d) in shapes.items()}
    sums = functools.partial(
        toktalk.cfm_sums,
        key=jax.random.key(0),
        models=networks,
        weights=jnp.ones(mo.F),
        options=toktalk.make_options(config.to_dict()),
    )
    gradient = jax.grad(lambda params, row: sums(params, row)[0])
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return size, flops.count(gradient, params, row)


def page(parameters, flop, rows, mfu):
    """The docstring's text.

    Args:
      flop: of a training step per row; rows: per chip and step; mfu: share of `peak`.
    """
    size = 4 * parameters
    chips = " ".join(f"{f'n={n}':>6}" for n in CHIPS)
    text = (
        f"A step sums {parameters / 1e6:.1f} M gradients, {size / 1e6:.0f} MB in f32. "
        "A ring of n chips takes 2 (n - 1) (bytes / n / bandwidth + latency) for it. "
        f"Computing takes {flop / 1e9:.1f} GFLOP for a row of {FRAMES} frames, at "
        f"{mfu:.0%} of the bf16 peak (assumed). The share that the sum has of a step "
        f"of {rows} rows a chip when nothing hides it, and the rows a chip that make "
        f"it {AIM:.0%} on the most chips of a line:"
    )
    lines = [*textwrap.wrap(text, 88), ""]
    lines.append(f"    {'':26} {'GB/s':>5} {chips} {'rows':>6}")
    for fabric in FABRICS:
        link = size, fabric.bandwidth, fabric.latency
        row_s = flop / (mfu * fabric.peak)
        shares = [
            f"{all_reduce_share(n, *link, rows * row_s):6.0%}"
            if n <= fabric.largest
            else f"{'-':>6}"
            for n in CHIPS
        ]
        needed = rows_for_share(AIM, fabric.largest, *link, row_s)
        lines.append(
            f"    {fabric.name:26} {fabric.bandwidth / 1e9:5.4g} {' '.join(shares)} "
            f"{needed:6}"
        )
    return "\n".join(lines)


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rows", type=int, default=32, help="per chip and step")
    p.add_argument("--mfu", type=float, default=0.3, help="share of the bf16 peak")
    args = p.parse_args(argv)
    print(page(*paper_model(), args.rows, args.mfu))


if __name__ == "__main__":
    main()
