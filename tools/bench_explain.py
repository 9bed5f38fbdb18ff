"""Beside `tools.bench_sampler`: a case taken apart, the twin, the picture."""

import collections
import functools
import re

import jax
import numpy as np

from toktalk_jax import motion as mo
from tools import bench_cases


def explain(held, row):
    """Print where a chunk's work and bytes are, and what XLA made of a step."""
    n, sampler = row["case"]["num_steps"], held["sampler"]
    params, _ = sampler.plan.unpack(sampler.params)
    scopes = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        scopes[re.sub(r"mid_\d+", "mid", path[0].key)] += leaf.nbytes
    print(f"\nOne chunk of {row['case']}:")
    print(
        f"  solve {row['solve_flop'] / 1e9:.2f} GFLOP, prefill before it "
        f"{row['prefill_flop'] / 1e9:.2f}; weights {row['weight_bytes'] / 1e6:.1f} MB, "
        f"read {n} times; history {row['history_bytes'] / 1e6:.1f} MB, read once"
    )
    for scope, size in scopes.most_common():
        print(f"  {scope:18} {size / 1e6:8.2f} MB {size / row['weight_bytes']:6.1%}")
    floor = max(row["compute_floor_ms"], row["bandwidth_floor_ms"])
    after = row["after"]["p50_ms"]
    bound = "compute" if floor == row["compute_floor_ms"] else "bandwidth"
    print(
        f"  bound by {bound}: {floor:.1f} ms of {after:.1f} measured; host "
        f"{row['host_ms']:.2f} ms"
    )
    bare = held["stream"].replace(pending=None)
    text = sampler._solve.lower(sampler.params, bare, held["tokens"]).compile()
    print("  instructions of one Euler step:", *instructions(text.as_text()))


def instructions(text):
    """The commonest (kind, count) of the largest loop body of an HLO text."""
    bodies = re.findall(r"body=%?([\w.\-]+)", text)
    parts = {b.lstrip("% \n").split(" ", 1)[0]: b for b in text.split("\n\n")}
    body = max((parts.get(name, "") for name in bodies), key=len, default="")
    kinds = collections.Counter(re.findall(r" = \S+ ([a-z\-]+)\(", body))
    for free in ("get-tuple-element", "bitcast", "constant", "tuple", "parameter"):
        kinds.pop(free, None)
    return [f"{kind} {count}" for kind, count in kinds.most_common(6)]


def twins(size, cases):
    """{name: call} of the eager PyTorch twin, one for each f32 case at its size."""
    import torch

    from toktalk_jax import torch_port
    from tools.torch_reference.pairs import tensors
    from tools.torch_reference.sampler import Sampler
    from tools.torch_reference.velocity import VelocityField

    torch.set_num_threads(bench_cases.cores())
    width, options = bench_cases.SIZES[size]
    net = VelocityField(mo.F + bench_cases.TOKENS + width, **options).eval()
    params = bench_cases.network(size)[1]
    net.load_state_dict(tensors(torch_port.to_torch(params)))
    found = {}
    for held in cases:
        case = held["case"]
        if case["dtype"] != "float32":
            continue
        twin = Sampler(
            net,
            bench_cases.random_stats(),
            chunk_frames=held["sampler"].chunk_frames,
            context_frames=case["context_frames"],
            num_steps=case["num_steps"],
        )
        stream = twin.init(torch.zeros(case["batch"], width))
        stream = stream._replace(chunk=case["context_frames"])  # a full context
        noise = torch.randn(case["batch"], held["sampler"].chunk_frames, mo.F)
        tokens = torch.from_numpy(held["tokens"])
        name = " ".join(str(v) for v in case.values())
        call = functools.partial(twin.step, stream, tokens, noise)
        call()
        found[f"PyTorch eager {name}"] = call
    return found


def plot(result, path):
    """Time after the tokens and in total against n, with the floors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = collections.defaultdict(list)
    for row in result["rows"]:
        case = row["case"]
        name = f"C {case['chunk_s']} s, context {case['context_frames']}"
        name += f", batch {case['batch']}, {case['dtype']}"
        groups[name].append(row)
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, (name, rows) in enumerate(groups.items()):
        rows = sorted(rows, key=lambda row: row["case"]["num_steps"])
        n = [row["case"]["num_steps"] for row in rows]
        after = np.array(
            [[r["after"][k] for k in ("least_ms", "p50_ms", "p95_ms")] for r in rows]
        )
        total = [row["total"]["p50_ms"] for row in rows]
        axis.fill_between(n, after[:, 0], after[:, 2], color=f"C{i}", alpha=0.15)
        axis.plot(n, after[:, 1], "o-", color=f"C{i}", label=name)
        axis.plot(n, total, "--", color=f"C{i}")
    for key, style in (("compute_floor_ms", ":"), ("bandwidth_floor_ms", "-.")):
        floor = sorted((r["case"]["num_steps"], r[key]) for r in result["rows"])
        label = key.replace("_floor_ms", " floor, lowest case")
        lowest = {n: ms for n, ms in reversed(floor)}
        axis.plot(
            *zip(*sorted(lowest.items()), strict=True), style, color="0.5", label=label
        )
    axis.set(xlabel="Euler steps", ylabel="ms per chunk", yscale="log")
    axis.set_title(
        f"{result['size']} model, {result['device']}: after the tokens (p50, band from "
        "least to p95),\nand with the prefill (dashed)"
    )
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
