"""The same inputs through both sides: rows of errors against what is allowed.

In f32 with full-precision matmuls. A comparison says relative L2 and the largest error
over the std of the output, of which ten times as much is allowed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from toktalk_jax import flow, torch_port
from toktalk_jax import motion as mo
from toktalk_jax.streaming import Sampler
from toktalk_jax.training import optim
from tools.torch_reference import pairs, training
from tools.torch_reference.sampler import Sampler as TwinSampler

NET, STEPS, GRADIENT = 1e-4, 1e-3, 1e-3  # relative L2; the largest element ten times
SMALL_LEAF = 1e-6  # of the gradient's global norm; under it errors count absolutely
ADAM = 1e-2  # Adam divides by the gradient's size, and so enlarges its error
BF16 = 0.02
CLIP_NORM, RATE = 1.0, 1e-4


class Row(NamedTuple):
    """One line of the table: what was compared, its error and what is allowed."""

    name: str
    error: float
    allowed: float

    @property
    def passes(self):
        return bool(self.error <= self.allowed)  # False for NaN


def compared(name, ours, theirs, allowed):
    """Rows of two arrays: relative L2, and the largest error over the output's std."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    difference = ours - theirs
    l2 = np.linalg.norm(difference) / np.linalg.norm(theirs)
    return [
        Row(f"{name}, relative L2", float(l2), allowed),
        Row(
            f"{name}, largest / std",
            float(np.abs(difference).max() / theirs.std()),
            10 * allowed,
        ),
    ]


def example(size, B=2, T=40, seed=0):
    """A batch with ragged masks and blocks of 10 frames, its noise and its times.

    Returns:
      (batch, x0 [B, T, F], t [B]) of NumPy arrays; batch as `training.batch_loss`.
    """
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal((B, *shape), np.float32)  # noqa: E731
    mask = np.arange(T) < rng.integers(T // 2, T + 1, (B, 1))
    mask[0] = True
    R = 25
    batch = dict(
        motion=normal(T, mo.F),
        tokens=normal(T // mo.FRAMES_PER_TOKEN, size.tokens),
        mask=mask,
        block_id=np.broadcast_to(np.arange(T, dtype=np.int32) // 10, (B, T)).copy(),
        style=normal(R, mo.F),
        style_mask=np.arange(R) < rng.integers(10, R + 1, (B, 1)),
    )
    return batch, normal(T, mo.F), rng.uniform(size=B).astype(np.float32)


def on(device, tree):
    """Arrays to tensors on a device."""
    return jax.tree.map(lambda a: torch.from_numpy(np.array(a)).to(device), tree)


def host(tensor):
    """A tensor to NumPy."""
    return tensor.detach().float().cpu().numpy()


def our_loss(params, ours, batch, x0, t):
    """`training.batch_loss` on our side: nothing dropped, the style's mean."""
    x1 = batch["motion"]
    mean, _ = ours["style"].apply(
        {"params": params["style"]}, batch["style"], batch["style_mask"]
    )
    styles = jnp.broadcast_to(mean[:, None], (*x1.shape[:2], mean.shape[-1]))
    audio = jnp.repeat(batch["tokens"], mo.FRAMES_PER_TOKEN, 1)
    weight = jnp.broadcast_to(batch["mask"][..., None], x1.shape).astype(x1.dtype)

    def velocity(x, t, audio, style):
        variables = {"params": params["velocity"]}
        more = (batch["block_id"], batch["mask"])
        return ours["velocity"].apply(variables, x, t, audio, style, *more)

    errors, count = flow.cfm_loss_sums(velocity, x0, x1, t, audio, styles, weight)
    return errors / count


def check_forward(pair, size, device):
    """Rows of the three networks' outputs."""
    batch, x0, t = example(size)
    audio = np.repeat(batch["tokens"], mo.FRAMES_PER_TOKEN, 1)
    rng = np.random.default_rng(1)
    style = rng.standard_normal((*x0.shape[:2], size.style["width"]), np.float32)
    chunks = np.arange(batch["tokens"].shape[1]) // 5
    chunks = np.broadcast_to(chunks, batch["tokens"].shape[:2])
    arguments = {
        "velocity": (x0, t, audio, style, batch["block_id"], batch["mask"]),
        "style": (batch["style"], batch["style_mask"]),
        "adapter": (batch["tokens"], chunks),
    }
    rows = []
    for name, values in arguments.items():
        ours = jax.jit(pair.ours[name].apply)({"params": pair.params[name]}, *values)
        with torch.no_grad():
            theirs = pair.twin[name].eval()(*on(device, values))
        if name == "style":  # mean and log-variance
            ours, theirs = jnp.concatenate(ours, -1), torch.cat(theirs, -1)
        rows += compared(f"forward, {name}", ours, host(theirs), NET)
    return rows


def check_gradient(pair, size, device):
    """Rows of the loss and of its gradient's worst tensor."""
    trained = {k: pair.params[k] for k in ("velocity", "style")}
    batch, x0, t = example(size)
    step = jax.jit(jax.value_and_grad(lambda p, *data: our_loss(p, pair.ours, *data)))
    ours, gradient = step(trained, batch, x0, t)
    networks = [pair.twin[k].train() for k in trained]
    for network in networks:
        network.zero_grad()
    theirs = training.batch_loss(*networks, *on(device, (batch, x0, t)))
    theirs.backward()
    gradient = torch_port.to_torch(jax.tree.map(np.asarray, gradient))
    twin = {
        f"{k}.{name}": host(p.grad)
        for k, network in zip(trained, networks, strict=True)
        for name, p in network.named_parameters()
    }
    error, name = worst_leaf(gradient, twin)
    relative = abs(float(ours) - theirs.item()) / theirs.item()
    return [
        Row("loss, relative", relative, NET),
        Row(f"gradient of {len(twin)} tensors, worst {name}", error, GRADIENT),
    ]


def worst_leaf(ours, theirs):
    """(largest relative L2 error of a tensor, its name).

    A tensor under SMALL_LEAF of the global norm, such as the bias of the keys, which no
    softmax can see, is compared with that floor instead of with its own norm.
    """
    norms = {k: np.linalg.norm(v) for k, v in theirs.items()}
    floor = SMALL_LEAF * np.linalg.norm([*norms.values()])
    errors = {
        # Under the floor the error itself may be as large as the floor.
        k: np.linalg.norm(ours[k] - theirs[k])
        / (norms[k] if norms[k] >= floor else floor / GRADIENT)
        for k in theirs
    }
    name = max(errors, key=errors.get)
    return float(errors[name]), name


def random_stats(width, seed=0):
    """Statistics of a train split, one coefficient dead."""
    rng = np.random.default_rng(seed)
    std = rng.uniform(0.5, 2, mo.F)
    std[5] = 0
    values = rng.normal(size=mo.F), std, rng.normal(size=width), np.ones(width)
    return mo.Stats(*(v.astype(np.float32) for v in values))


def chunk_noise(keys, chunk, frames):
    """[B, C, F] noise that our sampler draws for a chunk, for the twin to use."""
    draw = lambda k: jax.random.normal(  # noqa: E731
        jax.random.fold_in(k, chunk), (frames, mo.F)
    )
    return np.asarray(jax.vmap(draw)(keys))


def streams(pair, size, device, chunks, dtype="float32", **options):
    """The same tokens streamed through both: (ours, theirs), [B, frames, F] each.

    Args:
      dtype: of our sampler; the twin's is what autocast says.
    """
    B, rng = 2, np.random.default_rng(2)
    stats = random_stats(size.tokens)
    sampler = Sampler(
        *(pair.ours["velocity"], pair.params["velocity"], stats),
        dtype=dtype,
        **options,
    )
    twin = TwinSampler(pair.twin["velocity"].eval(), stats, device=device, **options)
    style = rng.standard_normal((B, size.style["width"]), np.float32)
    keys = jax.random.split(jax.random.key(3), B)
    stream, other = sampler.init(keys, style), twin.init(on(device, style))
    ours, theirs = [], []
    for i in range(chunks):
        shape = (B, sampler.chunk_tokens, size.tokens)
        tokens = rng.standard_normal(shape, np.float32)
        fresh = chunk_noise(keys, i, sampler.chunk_frames)
        stream, motion = sampler.step(stream, tokens)
        other, same = twin.step(other, on(device, tokens), on(device, fresh))
        ours.append(np.asarray(motion))
        theirs.append(host(same))
    return np.concatenate(ours, 1), np.concatenate(theirs, 1)


def check_stream(pair, size, device, chunks=10, **options):
    """Rows of `chunks` chunks of 20 Euler steps with guidance and known frames."""
    ours, theirs = streams(pair, size, device, chunks, **options)
    return compared(f"20 Euler steps, {chunks} chunks", ours, theirs, STEPS)


def check_training(pair, size, device, steps=10):
    """Rows of Adam steps: the losses and where the weights went. Moves the twin."""
    params = {k: pair.params[k] for k in ("velocity", "style")}
    optimiser = optim.adam(lambda _: RATE, CLIP_NORM)
    state = optimiser.init(params)

    @jax.jit
    def update(params, state, batch, x0, t):
        loss, g = jax.value_and_grad(our_loss)(params, pair.ours, batch, x0, t)
        change, state = optimiser.update(g, state, params)
        return optax.apply_updates(params, change), state, loss

    networks = [pair.twin[k].train() for k in params]
    weights = [p for network in networks for p in network.parameters()]
    adam = training.adam(weights, RATE)
    ours, theirs = [], []
    for i in range(steps):
        data = example(size, seed=i)
        params, state, loss = update(params, state, *data)
        there = on(device, data)
        same = training.train_step(
            lambda there=there: training.batch_loss(*networks, *there),
            weights,
            adam,
            CLIP_NORM,
        )
        ours.append(float(loss))
        theirs.append(same.item())
    errors = np.abs(np.subtract(ours, theirs)) / np.abs(theirs)
    away = weights_apart(params, pair)
    return [
        Row(f"{steps} Adam steps, worst loss", float(errors.max()), STEPS),
        Row(f"{steps} Adam steps, weights over their way", away, ADAM),
    ]


def weights_apart(params, pair):
    """Distance of the trained weights of both sides over the way that theirs went.

    Without the bias of the keys, whose gradient is zero: Adam makes full steps of its
    rounding errors, which no output sees.
    """
    ours, start = (
        torch_port.to_torch({k: jax.tree.map(np.asarray, tree[k]) for k in params})
        for tree in (params, pair.params)
    )
    apart = way = 0.0
    for k in params:
        for name, value in pair.twin[k].state_dict().items():
            key, theirs = f"{k}.{name}", host(value)
            if not name.endswith("in_proj_bias"):
                apart += np.square(ours[key] - theirs, dtype=np.float64).sum()
                way += np.square(theirs - start[key], dtype=np.float64).sum()
    return float(np.sqrt(apart / way))


def check_bf16(pair, size, device="cpu", **options):
    """Rows of bf16 against f32 after 20 steps, each side against itself.

    The twin by autocast (matmuls only), ours by the sampler's `dtype`.
    """
    options = {"chunks": 2, **options}
    ours, theirs = streams(pair, size, device, **options)
    with torch.autocast(device, torch.bfloat16):
        ours_16, theirs_16 = streams(pair, size, device, dtype="bfloat16", **options)
    return [
        compared("bf16, 20 steps, JAX", ours_16, ours, BF16)[0],
        compared("bf16 autocast, 20 steps, PyTorch", theirs_16, theirs, BF16)[0],
    ]


def check_all(pair, size, device="cpu"):
    """All rows, as they come. The twin's weights are ours again afterwards."""
    try:
        for check in (check_forward, check_gradient, check_stream, check_training):
            with jax.default_matmul_precision("highest"):
                rows = check(pair, size, device)
            yield from rows
    finally:
        pairs.load_weights(pair)
