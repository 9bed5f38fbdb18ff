r"""Time the training step: against the PyTorch twin, its input, and over devices.

    python -m tools.bench_train --size small --json tools/bench_results/train.json

Two tables. First the real mapped step on the real pipeline, on 1, 2, ... simulated CPU
devices, each count in a process of its own, with the same batch per device: the ideal
is one machine's examples per second, whatever the number of devices; what is lost is
pmap's and the all-reduce's. As in training, a batch is drawn while a step runs; what is
not there when the step ends is waiting for input. Then the step of the twin's
comparison, all sides in alternation on the same batch, with the share of peak that its
matrix products reach (`flops`): on a known GPU the published peak, where both sides
multiply in TF32; elsewhere the best matrix product of either side in the same run.
Beside other work PyTorch's threads wait for each other: the load is kept with the
numbers, and a run under load says little about the ratio.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import jax
import numpy as np

from toktalk_jax import flops, host_memory
from toktalk_jax import motion as mo

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLIPS, CLIP_FRAMES = 700, 74  # GRID's
FRAMES = 60  # of a training window
WARM_UP = 2


def against_twin(size_name, batch, rounds, threads, eager_only=False):
    """Times of a training step on both sides, with their shares of peak.

    Args:
      threads: PyTorch's; XLA takes what the process may use.
    """
    import torch

    from tools.torch_reference import checks, pairs, timing

    gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True  # as JAX multiplies by default
    device = "cuda" if gpu else "cpu"
    size = pairs.size_of(size_name)
    pair, data = pairs.make_pair(size, device), checks.example(size, batch, FRAMES)
    params = {k: pair.params[k] for k in ("velocity", "style")}
    gradient = jax.grad(lambda p, *data: checks.our_loss(p, pair.ours, *data))
    flop = flops.count(gradient, params, *data)
    peaks = [flops.peak(jax.devices()[0], "float32")]
    forms = timing.twin_forms(device, eager_only)
    times = timing.time_training(pair, data, device, rounds, forms)
    if peaks[0][1].startswith("measured"):
        # Beside other work a single look may find the machine at its slowest.
        peaks += [flops.peak(jax.devices()[0], "float32"), torch_peak()]
    peak, source = max(peaks)
    for row in times.values():
        row["peak_share"] = flop / (row["p50_ms"] / 1e3) / peak
    return {
        "flop": flop,
        "peak": peak,
        "peak_source": source,
        **speeds(times),
        "times": times,
    }


def speeds(times):
    """{"ratio", "ratio_eager"}: our fastest form against theirs, and against eager."""
    p50 = {name: row["p50_ms"] for name, row in times.items()}
    ours = min(ms for name, ms in p50.items() if name.startswith("JAX"))
    theirs = min(ms for name, ms in p50.items() if not name.startswith("JAX"))
    return {"ratio": theirs / ours, "ratio_eager": p50["PyTorch eager"] / ours}


def torch_peak(size=2048, repeats=5):
    """(FLOP/s, source) of PyTorch's own matrix product on the CPU."""
    import torch

    factor, spent = torch.rand(size, size), []
    for _ in range(repeats):
        begin = time.perf_counter()
        factor @ factor
        spent.append(time.perf_counter() - begin)
    return 2 * size**3 / min(spent), f"measured, PyTorch's {size} x {size} x {size}"


def clips_in_memory(width, count=CLIPS, seed=0):
    """Clips of GRID's size from noise, tokens of `width`."""
    from toktalk_jax.data.dataset import Clip

    rng = np.random.default_rng(seed)
    tokens = CLIP_FRAMES // mo.FRAMES_PER_TOKEN
    return [
        Clip(
            *(f"{i}", "speaker", "noise"),
            rng.standard_normal((CLIP_FRAMES, mo.F), np.float32),
            rng.standard_normal((tokens, width), np.float32),
            np.zeros(100, np.float32),
            None,
        )
        for i in range(count)
    ]


def config_of(size_name, batch):
    """The training config of a size at a global batch and one window length."""
    from configs import base, small

    config = {
        "paper": base.get_config,
        "small": small.get_config,
        "tiny": lambda: small.get_config("smoke"),
    }[size_name]()
    config.batch_size = batch
    if size_name != "tiny":
        config.train.window_frames = (FRAMES,)
    return config


def real_step(config, width):
    """(state, step function, key): the step as `toktalk_jax.train` maps it."""
    from toktalk_jax.methods import METHODS
    from toktalk_jax.training import optim, parallel, steps

    stats = mo.Stats(*(np.ones(n, np.float32) for n in (mo.F, mo.F, width, width)))
    params, loss_sums = METHODS[config.method].build(
        config.to_dict(), jax.random.key(0), stats, ["speaker"], stats.live
    )
    optimiser = optim.adam(lambda _: config.train.learning_rate, config.train.clip_norm)
    step = functools.partial(
        steps.train_step,
        loss_sums=loss_sums,
        optimiser=optimiser,
        ema_decay=config.train.ema_decay,
    )
    state = parallel.replicate(steps.init_state(params, optimiser))
    key = parallel.replicate(jax.random.key(1))
    return state, parallel.mapped_step(step), key


def train_alone(size_name, batch, rounds):
    """One row of the table over devices, on all devices of this process."""
    from toktalk_jax.data import pipeline
    from toktalk_jax.training.loop import next_batch

    devices, width = jax.local_device_count(), 12 if size_name == "tiny" else 512
    config = config_of(size_name, batch * devices)
    drawn = pipeline.batches(
        clips_in_memory(width),
        seed=0,
        batch_size=config.batch_size,
        window_lengths=tuple(config.train.window_frames),
        style_frames=tuple(config.train.style_frames),
    )
    next(drawn)
    begin = time.perf_counter()
    for _ in range(4 * rounds):
        next(drawn)
    batches_per_s = 4 * rounds / (time.perf_counter() - begin)
    state, step, key = real_step(config, width)
    waited, spent = [], []
    _, placed, _ = next_batch(drawn)
    for _ in range(WARM_UP + rounds):
        begin = time.perf_counter()
        state, metrics = step(state, placed, key)
        _, placed, seconds = next_batch(drawn, metrics["loss"])
        jax.block_until_ready((state, metrics))
        waited.append(seconds)
        spent.append(time.perf_counter() - begin)
    waited, spent = (np.array(t[WARM_UP:]) * 1e3 for t in (waited, spent))
    p50, p95 = np.percentile(spent, [50, 95])
    flop = flops.count(step, state, placed, key)
    return {
        "devices": devices,
        "batch": config.batch_size,
        "p50_ms": p50,
        "p95_ms": p95,
        "wait_p50_ms": float(np.median(waited)),
        "input_share": float(waited.sum() / spent.sum()),
        "input_batches_per_s": batches_per_s,
        "examples_per_s": config.batch_size / p50 * 1e3,
        "gflop_per_s": flop / p50 / 1e6,
    }


def over_devices(size_name, batch, rounds, counts):
    """Rows of `train_alone`, a process for each number of simulated CPU devices."""
    rows = []
    for count in counts:
        command = [sys.executable, "-m", "tools.bench_train", "--alone"]
        command += ["--size", size_name, "--batch", str(batch), "--rounds", str(rounds)]
        simulated = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | simulated,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"bench_train on {count} devices: {done.stderr[-2000:]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        rows[-1]["of_one_device"] = (
            rows[-1]["examples_per_s"] / rows[0]["examples_per_s"]
        )
        print_row(rows[-1], header=len(rows) == 1)
    return rows


def print_row(row, header):
    """Print a line of the table over devices."""
    if header:
        print(
            f"\n{'devices':>7} {'batch':>6} {'p50 ms':>9} {'p95 ms':>9} {'input':>7} "
            f"{'batches/s':>10} {'examples/s':>11} {'of one':>7} {'GFLOP/s':>8}"
        )
    print(
        f"{row['devices']:7} {row['batch']:6} "
        f"{row['p50_ms']:9.2f} {row['p95_ms']:9.2f} "
        f"{row['input_share']:7.2%} {row['input_batches_per_s']:10.1f} "
        f"{row['examples_per_s']:11.1f} {row['of_one_device']:7.2f} "
        f"{row['gflop_per_s']:8.1f}",
        flush=True,
    )


def print_twin(found):
    """Print the table of both sides."""
    print(
        f"{found['flop'] / 1e9:.1f} GFLOP a step; peak {found['peak'] / 1e9:.0f} "
        f"GFLOP/s ({found['peak_source']})\n{'step':27} {'p50 ms':>9} {'p95 ms':>9} "
        f"{'times JAX':>10} {'of peak':>8}"
    )
    ours = found["times"]["JAX"]["p50_ms"]
    for name, row in found["times"].items():
        print(
            f"{name:27} {row['p50_ms']:9.2f} {row['p95_ms']:9.2f} "
            f"{row['p50_ms'] / ours:9.2f}x {row['peak_share']:8.1%}",
            flush=True,
        )
    print(
        f"JAX runs at {found['ratio_eager']:.2f}x the speed of eager PyTorch, at "
        f"{found['ratio']:.2f}x that of its fastest form"
    )


def plot(result, path):
    """Both tables as a picture."""
    from matplotlib.figure import Figure

    figure = Figure((11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    times, rows = result["twin"].get("times", {}), result["devices"]
    p50 = [row["p50_ms"] for row in times.values()]
    above = [row["p95_ms"] - row["p50_ms"] for row in times.values()]
    names = [f"{k}\n{row['peak_share']:.0%} of peak" for k, row in times.items()]
    left.bar(names, p50, yerr=[[0] * len(p50), above], color="#4878a8")
    left.set_title(f"training step of {result['batch']}, ms (p50, whisker p95)")
    left.set_visible(bool(times))
    counts = [f"{row['devices']}" for row in rows]
    right.bar(counts, [row["examples_per_s"] for row in rows], color="#4878a8")
    right.axhline(rows[0]["examples_per_s"] if rows else 0, color="black", linewidth=1)
    right.set_title("examples/s by simulated devices (line: one device)")
    right.set_visible(bool(rows))
    figure.suptitle(
        f"{result['size']} size on {result['device']}, {result['cores']} cores, load "
        f"{result['load_before'][0]:.1f} to {result['load_after'][0]:.1f}"
    )
    figure.savefig(path, dpi=100)


def bench(args):
    """Everything, printed as it comes and returned as a JSON-ready dict."""
    from toktalk_jax.evaluation import results

    before, cores = os.getloadavg(), len(os.sched_getaffinity(0))
    counts = [int(n) for n in args.devices.split(",") if n]
    rows = over_devices(args.size, args.batch, args.rounds, counts)
    print()
    twin = {}
    if not args.no_twin:
        sizes = args.size, args.batch, args.rounds
        twin = against_twin(*sizes, args.threads or cores, args.eager_only)
        print_twin(twin)
    return {
        "size": args.size,
        "batch": args.batch,
        "device": jax.devices()[0].device_kind,
        "cores": cores,
        "load_before": before,
        "load_after": os.getloadavg(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": results.commit(),
        "twin": twin,
        "devices": rows,
    }


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--size", choices=("paper", "small", "tiny"), default="small")
    p.add_argument("--batch", type=int, default=8, help="examples, per device")
    p.add_argument("--rounds", type=int, default=5, help="timed steps of each")
    p.add_argument(
        "--devices",
        default="1,2,4,8",
        help='to simulate, 3 GB each at paper size; "": none',
    )
    p.add_argument("--no_twin", action="store_true", help="needs no PyTorch")
    p.add_argument("--eager_only", action="store_true", help="no torch.compile")
    p.add_argument("--threads", type=int, default=0, help="PyTorch's; 0: all cores")
    p.add_argument("--json", default="", help="file to write, and a .png beside it")
    p.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    host_memory.keep_freed()  # as training does
    if args.alone:
        print(json.dumps(train_alone(args.size, args.batch, args.rounds)))
        return
    result = bench(args)
    if args.json:
        path = pathlib.Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        plot(result, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
