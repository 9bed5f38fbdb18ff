r"""Time the chunk of the sampler, and say what it could cost at best.

    python -m tools.bench_sampler                                # small model, minutes
    python -m tools.bench_sampler --size paper --steps 5,20 --twin --json paper.json
    python -m tools.bench_sampler --steps 20 --explain --trace profile

Weights and tokens are random; only their shapes matter. All cases run in alternation,
one chunk each per round, so that a busy machine is busy for all of them. A line is one
case:

  after    ms from the tokens to the motion, the known frames being prefilled: p50, p95
  total    ms until the prefill for the next chunk is done too: p50
  floors   ms that the solve's products (at the rate of a large one) and its bytes (at
           the rate of a large copy) would take, both rates measured here
  host     ms of Python and JAX per chunk: a call of equal arguments without any work

Below them the fit a + b n of the time after the tokens over the Euler steps. --json
keeps everything, with all times, the load of the machine, tracing, lowering and
compilation of the first chunk apart, and a picture beside it.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from toktalk_jax import chunk, flops, hardware
from toktalk_jax.evaluation import results
from tools import bench_cases, bench_explain
from tools.bench_stream import compile_counter


def one_chunk(held):
    """(ms after the tokens, ms in total) of one chunk; moves the stream on."""
    begin = time.perf_counter()
    stream, motion = held["sampler"].step(held["stream"], held["tokens"])
    motion.block_until_ready()
    there = time.perf_counter()
    held["stream"] = jax.block_until_ready(stream)
    return (there - begin) * 1e3, (time.perf_counter() - begin) * 1e3


def host_ms(held, rounds=50):
    """Median ms of a call with the solve's arguments and results and no work."""
    sampler, bare = held["sampler"], held["stream"].replace(pending=None)
    idle = jax.jit(
        lambda params, stream, tokens: (stream.replace(history=None), tokens),
        keep_unused=True,
    )
    spent = []
    for _ in range(rounds):
        begin = time.perf_counter()
        idle(sampler.params, bare, held["tokens"])[1].block_until_ready()
        spent.append((time.perf_counter() - begin) * 1e3)
    return float(np.median(spent))


def rates(dtype):
    """Measured here: {"flops": per second of a large product, "bytes": of a copy}."""
    device = jax.local_devices()[0]
    per_second, _ = flops.measured_peak(device, jnp.dtype(dtype))
    source = jax.device_put(np.ones(2**25, np.float32), device)
    copy = jax.jit(lambda a: a + 1, donate_argnums=0)
    spent = []
    for _ in range(6):
        begin = time.perf_counter()
        source = copy(source).block_until_ready()
        spent.append(time.perf_counter() - begin)
    return {"flops": per_second, "bytes": 2 * source.nbytes / min(spent)}


def work(held):
    """What a chunk must compute and move.

    Returns:
      {"solve_flop", "prefill_flop", "weight_bytes" (read once a step), "history_bytes"
      (read once a chunk)}.
    """
    sampler, bare = held["sampler"], held["stream"].replace(pending=None)
    size = lambda tree: sum(a.nbytes for a in jax.tree.leaves(tree))  # noqa: E731
    count = lambda f, *a: flops.count(  # noqa: E731
        functools.partial(f, sampler.plan), sampler.params, *a
    )
    return {
        "solve_flop": count(chunk.solve, bare, held["tokens"]),
        "prefill_flop": count(chunk.prefill, bare.replace(history=None)),
        "weight_bytes": size(sampler.params),
        "history_bytes": size(bare.history),
    }


def summary(spent):
    """p50, p95, p99, least and spread (p75 - p25) of milliseconds, and all of them."""
    p25, p50, p75, p95, p99 = np.percentile(spent, [25, 50, 75, 95, 99])
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "least_ms": min(spent),
        "spread_ms": p75 - p25,
        "all_ms": [round(ms, 3) for ms in spent],
    }


def measure(cases, twins, rounds, seconds):
    """Alternate cases and twins for `rounds`, or until `seconds` have passed."""
    spent = [([], []) for _ in cases]
    theirs = {name: [] for name in twins}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        for held, (after, total) in zip(cases, spent, strict=True):
            for kept, ms in zip((after, total), one_chunk(held), strict=True):
                kept.append(ms)
        for name, call in twins.items():
            begin = time.perf_counter()
            call()
            theirs[name].append((time.perf_counter() - begin) * 1e3)
    found = [{"after": summary(a), "total": summary(t)} for a, t in spent]
    return found, {name: summary(ms) for name, ms in theirs.items()}


def fits(rows):
    """{case without its steps: (a, b)} of after = a + b n, where n takes two values."""
    groups = {}
    for row in rows:
        case = {k: v for k, v in row["case"].items() if k != "num_steps"}
        point = row["case"]["num_steps"], row["after"]["p50_ms"]
        groups.setdefault(json.dumps(case), []).append(point)
    found = {}
    for name, points in groups.items():
        if len(points) > 1:
            slope, offset = np.polyfit(*zip(*points, strict=True), 1)
            found[name] = {"a_ms": float(offset), "b_ms": float(slope)}
    return found


def bench(args):
    """Everything of a parsed command line, as a JSON-ready dict."""
    load = [os.getloadavg()]
    grid = itertools.product(
        args.chunk, args.context, args.steps, args.batch, args.dtype
    )
    cases = []
    for case in grid:
        print("compile", *case, flush=True)
        cases.append(bench_cases.make_case(args.size, *case))
    peak = {dtype: rates(dtype) for dtype in args.dtype}
    twins = bench_explain.twins(args.size, cases) if args.twin else {}
    compiles = compile_counter()
    found, theirs = measure(cases, twins, args.rounds, args.seconds)
    count = len(compiles)
    rows = []
    for held, times in zip(cases, found, strict=True):
        needs, rate = work(held), peak[held["case"]["dtype"]]
        moved = needs["weight_bytes"] * held["case"]["num_steps"]
        times |= {
            "compute_floor_ms": 1e3 * needs["solve_flop"] / rate["flops"],
            "bandwidth_floor_ms": 1e3
            * (moved + needs["history_bytes"])
            / rate["bytes"],
            "host_ms": host_ms(held),
            "host_share": 0.0,
        }
        times["host_share"] = times["host_ms"] / times["after"]["p50_ms"]
        rows.append(
            {"case": held["case"], "started": held["started"], **needs, **times}
        )
    load.append(os.getloadavg())
    if args.explain:
        bench_explain.explain(cases[-1], rows[-1])
    if args.trace:
        with jax.profiler.trace(args.trace):
            one_chunk(cases[-1])
    return {
        "size": args.size,
        "device": str(jax.devices()[0].device_kind),
        "processor": hardware.processor(),
        "cores": bench_cases.cores(),
        "load_average": load,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": results.commit(),
        "rates": peak,
        "compiles_while_measuring": count,
        "rows": rows,
        "twins": theirs,
        "fits": fits(rows),
    }


def show(result):
    """The table."""
    print(
        f"\n{'chunk':>5} {'context':>7} {'steps':>5} {'batch':>5} {'dtype':>8} "
        f"{'after p50':>9} {'p95':>8} {'least':>8} {'total':>8} {'floors':>15} "
        f"{'host':>6}  ms"
    )
    for row in result["rows"]:
        case, after = row["case"], row["after"]
        print(
            f"{case['chunk_s']:5} {case['context_frames']:7} {case['num_steps']:5} "
            f"{case['batch']:5} {case['dtype']:>8} {after['p50_ms']:9.1f} "
            f"{after['p95_ms']:8.1f} {after['least_ms']:8.1f} "
            f"{row['total']['p50_ms']:8.1f} {row['compute_floor_ms']:7.1f} "
            f"{row['bandwidth_floor_ms']:7.1f} {row['host_ms']:6.2f}"
        )
    for name, times in result["twins"].items():
        print(f"{name:34} {times['p50_ms']:9.1f} {times['p95_ms']:8.1f}")
    for name, fit in result["fits"].items():
        print(f"{name}: {fit['a_ms']:.1f} + {fit['b_ms']:.2f} n ms")
    first, last = (loads[0] for loads in result["load_average"])
    print(
        f"compiled while measuring: {result['compiles_while_measuring']}; load of the "
        f"machine {first:.1f} before, {last:.1f} after, on {result['cores']} cores"
    )


def main(argv=None):
    """Command line."""
    many = lambda kind: lambda text: [kind(x) for x in text.split(",")]  # noqa: E731
    types = {"f32": "float32", "bf16": "bfloat16"}
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--size", choices=[*bench_cases.SIZES], default="small")
    p.add_argument("--chunk", type=many(float), default=[0.4], help="s, e.g. 0.4,0.8")
    p.add_argument("--context", type=many(int), default=[10, 50], help="known frames")
    p.add_argument("--steps", type=many(int), default=[1, 5, 20], help="Euler steps n")
    p.add_argument("--batch", type=many(int), default=[1], help="streams at once")
    p.add_argument(
        "--dtype", type=many(types.get), default=["float32"], help="f32, bf16 or both"
    )
    p.add_argument("--rounds", type=int, default=50, help="chunks of each case at most")
    p.add_argument("--seconds", type=float, default=60, help="to measure for at most")
    p.add_argument("--twin", action="store_true", help="alternate with eager PyTorch")
    p.add_argument("--explain", action="store_true", help="take the last case apart")
    p.add_argument("--trace", default="", help="directory for a profile of one chunk")
    p.add_argument("--json", default="", help="file to write, and a .png beside it")
    args = p.parse_args(argv)
    result = bench(args)
    show(result)
    if args.json:
        path = pathlib.Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        bench_explain.plot(result, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
