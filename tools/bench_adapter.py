"""What an adapter adds to a chunk's time: with and without it, in turns, n = 20.

    python -m tools.bench_adapter --base small --adapter hibari_to_small \
        --json tools/bench_results/adapter_cpu.json

Both samplers stand side by side in one process; after the compile each solves one
chunk of one stream per round, its result waited for.
"""

import argparse
import json
import os
import pathlib

import jax

from toktalk_jax import adapter_card, hardware
from toktalk_jax.training import adapters, checkpoints


def measure(base, adapter, rounds):
    """Facts and milliseconds of an adapter before its base.

    Raises:
      FileNotFoundError, ValueError: no base or adapter there, or of another base.
    """
    bundle, before = checkpoints.load(base), adapters.load(adapter)
    found = adapter_card.added_ms(before, bundle, rounds)
    return {
        "device": jax.local_devices()[0].device_kind,
        "cpu": hardware.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "base_hash": bundle.meta["hash"],
        "adapter_hash": before.meta["hash"],
        "from": before.facts["foreign"]["tokenizer"],
        "parameters": adapter_card.size(before.params),
        "base_parameters": adapter_card.size(bundle.params["velocity"]),
        "rounds": rounds,
        **found,
    }


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(
        prog="bench_adapter",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--base", default="small", help="run, bundle or shipped name")
    p.add_argument("--adapter", default="hibari_to_small", help="likewise")
    p.add_argument("--rounds", type=int, default=300)
    p.add_argument("--json", default="", help="file to write")
    args = p.parse_args(argv)
    if args.rounds < 2:
        raise SystemExit(
            f"bench_adapter: --rounds is {args.rounds}; expected 2 or more"
        )
    try:
        found = measure(args.base, args.adapter, args.rounds)
    except (ValueError, OSError) as error:
        raise SystemExit(f"bench_adapter: {error}") from None
    low, high = (100 * share for share in found["added_between"])
    print("chunk, ms   with the adapter, ms   added, paired by round [95 %]")
    print(
        f"{found['chunk_ms']:9.2f}   {found['chunk_ms_adapted']:20.2f}   "
        f"{100 * found['added_share']:+.1f} % [{low:+.1f}, {high:+.1f}]"
    )
    if args.json:
        pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
