"""Time a chunk and a training step of both sides, in alternation, and plot them."""

import functools
import time

import jax
import numpy as np
import optax
import torch

from toktalk_jax import motion as mo
from toktalk_jax.models import layers
from toktalk_jax.streaming import Sampler
from toktalk_jax.training import optim
from tools.torch_reference import checks, training
from tools.torch_reference.sampler import Sampler as TwinSampler


def alternate(contestants, rounds, warm_up=2):
    """Milliseconds of each contestant, one call each per round.

    Args:
      contestants: {name: () -> None}, each call blocking until its result is there.

    Returns:
      {name: {"p50_ms", "p95_ms", "all_ms"}}.
    """
    spent = {name: [] for name in contestants}
    for call in contestants.values():
        for _ in range(warm_up):
            call()
    for _ in range(rounds):
        for name, call in contestants.items():
            begin = time.perf_counter()
            call()
            spent[name].append((time.perf_counter() - begin) * 1e3)
    return {
        name: {
            "p50_ms": float(np.percentile(ms, 50)),
            "p95_ms": float(np.percentile(ms, 95)),
            "all_ms": [round(m, 3) for m in ms],
        }
        for name, ms in spent.items()
    }


def twin_forms(device, eager_only=False):
    """{name: module -> callable} of the twin's forms that this device has."""
    forms = {"PyTorch eager": lambda module: module}
    if not eager_only:
        forms["torch.compile"] = torch.compile
    if not eager_only and device != "cpu":
        forms["torch.compile max-autotune"] = functools.partial(
            torch.compile,
            mode="max-autotune",  # CUDA graphs
        )
    return forms


def time_chunks(pair, size, stats, device, rounds, forms):
    """One streaming chunk at batch 1: 10 frames, 50 of context, 20 steps, guidance.

    All of its work: after the tokens comes less (`tools.bench_sampler --twin`).
    """
    rng = np.random.default_rng(0)
    sampler = Sampler(pair.ours["velocity"], pair.params["velocity"], stats)
    style = rng.standard_normal((1, size.style["width"]), np.float32)
    tokens = rng.standard_normal((1, sampler.chunk_tokens, size.tokens), np.float32)
    fresh = rng.standard_normal((1, sampler.chunk_frames, mo.F), np.float32)
    held = {"JAX": sampler.init(jax.random.split(jax.random.key(0), 1), style)}

    def ours():
        held["JAX"], _ = sampler.step(held["JAX"], tokens)
        jax.block_until_ready(held["JAX"])  # the prefill for the next chunk, too

    there = [torch.from_numpy(a).to(device) for a in (tokens, fresh)]

    def theirs(twin, name):
        with torch.no_grad():
            held[name], motion = twin.step(held[name], *there)
            motion.cpu()

    contestants = {"JAX": ours}
    for name, form in forms.items():
        twin = TwinSampler(form(pair.twin["velocity"].eval()), stats, device=device)
        held[name] = twin.init(torch.from_numpy(style).to(device))
        contestants[name] = functools.partial(theirs, twin, name)
    return alternate(contestants, rounds, warm_up=7)  # fills the context first


def time_training(pair, data, device, rounds, forms):
    """One training step: loss, gradient, clipping, Adam. Moves the twin's weights.

    Ours with equal layers stacked and, "JAX unstacked", each by itself.

    Args:
      data: (batch, x0, t) of NumPy arrays, see `checks.example`.
    """
    params = {k: pair.params[k] for k in ("velocity", "style")}
    apart = {**params, "velocity": layers.unstack(params["velocity"])}
    whole = pair.ours["velocity"].clone(stacked=False)
    contestants = {
        "JAX": _our_step(pair.ours, params, data),
        "JAX unstacked": _our_step({**pair.ours, "velocity": whole}, apart, data),
    }
    networks = [pair.twin[k].train() for k in params]
    weights = [p for network in networks for p in network.parameters()]
    adam = training.adam(weights, checks.RATE)
    there = jax.tree.map(lambda a: torch.from_numpy(np.array(a)).to(device), data)

    def theirs(networks):
        loss = lambda: training.batch_loss(*networks, *there)  # noqa: E731
        training.train_step(loss, weights, adam, checks.CLIP_NORM).item()

    for name, form in forms.items():
        formed = [form(network) for network in networks]
        contestants[name] = functools.partial(theirs, formed)
    return alternate(contestants, rounds)


def _our_step(networks, params, data):
    """() -> None, a training step that is done when it returns."""
    optimiser = optim.adam(lambda _: checks.RATE, checks.CLIP_NORM)
    held = [jax.device_put((params, optimiser.init(params)))]

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, batch, x0, t):
        params, moments = state
        loss, g = jax.value_and_grad(checks.our_loss)(params, networks, batch, x0, t)
        change, moments = optimiser.update(g, moments, params)
        return (optax.apply_updates(params, change), moments), loss

    def step():
        held[0], loss = update(held[0], *data)
        jax.block_until_ready((held[0], loss))

    return step


def plot(result, path):
    """Errors as a share of what is allowed, and times, as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timings = {k: v for k, v in result["times"].items() if v}
    figure, axes = plt.subplots(
        1, 1 + len(timings), figsize=(6 + 4 * len(timings), 4.5), layout="constrained"
    )
    axes = np.atleast_1d(axes)
    names = [row["name"].split(", worst")[0] for row in result["rows"]]
    shares = [row["error"] / row["allowed"] for row in result["rows"]]
    axes[0].barh(names[::-1], shares[::-1], color="#4878a8")
    axes[0].set_xscale("log")
    axes[0].axvline(1, color="black", linewidth=1)
    axes[0].set_title("error / tolerance")
    for axis, (title, table) in zip(axes[1:], timings.items(), strict=True):
        p50 = [v["p50_ms"] for v in table.values()]
        above = [v["p95_ms"] - v["p50_ms"] for v in table.values()]
        axis.bar([*table], p50, yerr=[[0] * len(p50), above], color="#4878a8")
        axis.set_title(f"{title}, ms (p50, whisker p95)")
        axis.tick_params(axis="x", rotation=20)
    figure.suptitle(f"{result['size']} size, {result['device']}")
    figure.savefig(path, dpi=120)
    plt.close(figure)
