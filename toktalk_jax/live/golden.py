"""The golden chunk: a model must give today what it gave when it was made.

    python -m toktalk_jax.live.golden --checkpoint small     # adds it to golden.json

Of a model that golden.json does not know, the batched solve is compared with the solve
of one row alone.
"""

import argparse
import json
import pathlib

import numpy as np

from toktalk_jax import motion as mo

PATH = pathlib.Path(__file__).with_name("golden.json")
# Other machines sum in another order; wrong weights are off by orders of magnitude.
TOLERANCE = 1e-2


def check(engine):
    """Compare the served, batched solve of a fixed chunk with what it must be.

    Raises:
      RuntimeError: it differs or is not finite; tells by how much.
    """
    known = json.loads(PATH.read_text()).get(engine.bundle.meta["hash"])
    for key in engine.samplers:
        alone = served(engine, key, 1)
        _close(served(engine, key, engine.batches[-1]), alone, f"{key} in a batch")
        if known is not None and list(key) == known["key"]:
            _close(alone, known["motion"], f"{key}")


def served(engine, key, size):
    """[C, F] of the fixed chunk, as the last row of a batch of this size."""
    sampler, mean = engine.samplers[key], engine.sources[key.source].mean
    # A little off the mean, the same on every machine.
    wave = np.sin(np.arange(sampler.chunk_tokens)[:, None] + np.arange(len(mean))[None])
    tokens = (mean[None] + 0.1 * wave).astype(np.float32)[None]
    row = engine.open(key, engine.offer.settings, 0)
    _, motion = engine.solve(key, [row] * size, np.repeat(tokens, size, 0))
    return motion[-1]


def _close(found, wanted, what):
    wanted = np.asarray(wanted)
    error = np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-6)
    if not error < TOLERANCE:  # a NaN is none
        raise RuntimeError(
            f"self-test: {what} is off its golden chunk by {error:.3g} of its size; "
            f"expected under {TOLERANCE}"
        )


def main(arguments=None):
    """Command line."""
    from toktalk_jax.live.engine import Engine

    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", default="small", help="run, bundle or shipped name")
    args = p.parse_args(arguments)
    engine = Engine(args.checkpoint, chunks=[0.4], steps=[5], max_sessions=1)
    key = next(iter(engine.samplers))
    motion = served(engine, key, 1)
    known = json.loads(PATH.read_text()) if PATH.exists() else {}
    found = {"key": list(key), "motion": motion.astype(float).round(5).tolist()}
    known[engine.bundle.meta["hash"]] = found
    PATH.write_text(json.dumps(known) + "\n")
    print(f"{PATH}: {mo.F} coefficients of {len(motion)} frames")


if __name__ == "__main__":
    main()
