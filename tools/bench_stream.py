r"""Time a long stream of the shipped (or any) model: flat, fast, no compile, no growth.

    python -m tools.bench_stream --minutes 10 --num_steps 20 \
        --json tools/bench_results/stream.json

Chunks are pushed one by one, as tokens would arrive; each is blocked on, and so is the
prefill after it, whose time is stated apart. The table has a line per minute of media,
so that a slope would show.
"""

import argparse
import json
import pathlib
import resource
import time

import jax
import numpy as np

from toktalk_jax import hardware
from toktalk_jax import motion as mo
from toktalk_jax.sample import make_sampler
from toktalk_jax.training import checkpoints


def compile_counter():
    """A list that grows by one with every XLA compilation from now on."""
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: (
            compiles.append(name) if name.endswith("backend_compile_duration") else None
        )
    )
    return compiles


def bench(checkpoint, minutes, **options):
    """Stream `minutes` of random tokens; returns a JSON-ready dict.

    Args:
      options: of `Sampler`, in place of the checkpoint's own.
    """
    bundle = checkpoints.load(checkpoint)
    sampler = make_sampler(bundle, **options)
    rng = np.random.default_rng(0)
    stats = bundle.stats
    style = np.zeros((1, bundle.config["style"]["width"]), np.float32)
    stream = sampler.init(jax.random.split(jax.random.key(0), 1), style)
    shape = (1, sampler.chunk_tokens, sampler.width)

    def tokens():
        return (rng.normal(size=shape) * stats.token_std + stats.token_mean).astype(
            "f4"
        )

    sampler.warm_up()
    compiles, before = compile_counter(), _resident()
    per_minute = round(60 * mo.FPS / sampler.chunk_frames)
    lines = []
    for _ in range(minutes):
        spent, prefill = [], []
        for _ in range(per_minute):
            piece = tokens()
            begin = time.perf_counter()
            stream, motion = sampler.step(stream, piece)
            motion.block_until_ready()
            there = time.perf_counter()
            jax.block_until_ready(stream)
            spent.append((there - begin) * 1e3)
            prefill.append((time.perf_counter() - there) * 1e3)
        p50, p95, p99 = np.percentile(spent, [50, 95, 99])
        lines.append(
            {
                "p50_ms": p50,
                "p95_ms": p95,
                "p99_ms": p99,
                "prefill_p50_ms": float(np.median(prefill)),
            }
        )
    return {
        "checkpoint": bundle.meta["hash"],
        "chunk_frames": sampler.chunk_frames,
        "context_frames": sampler.context_frames,
        "num_steps": len(sampler.times) - 1,
        "minutes": lines,
        "compiles_after_warm_up": len(compiles),
        "resident_growth_mb": _resident() - before,
        "finite": bool(np.isfinite(motion).all()),
        "device": str(jax.devices()[0].device_kind),
        "cpu": hardware.processor(),
        "jax": jax.__version__,
    }


def _resident():
    """Megabytes, the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--checkpoint", default="small", help="run, bundle or shipped name")
    p.add_argument("--minutes", type=int, default=10, help="of media")
    p.add_argument("--num_steps", type=int, help="default: the checkpoint's own")
    p.add_argument("--context_frames", type=int, help="default: the checkpoint's own")
    p.add_argument("--json", default="", help="file to write")
    args = p.parse_args(argv)
    options = {k: getattr(args, k) for k in ("num_steps", "context_frames")}
    options = {k: v for k, v in options.items() if v is not None}
    result = bench(args.checkpoint, args.minutes, **options)
    print("minute   p50 ms   p95 ms   p99 ms   prefill ms")
    for i, line in enumerate(result["minutes"], 1):
        print(f"{i:6} " + " ".join(f"{ms:8.2f}" for ms in line.values()))
    print(
        f"compiles after warm-up: {result['compiles_after_warm_up']}; peak memory grew "
        f"by {result['resident_growth_mb']:.1f} MB"
    )
    if args.json:
        pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
