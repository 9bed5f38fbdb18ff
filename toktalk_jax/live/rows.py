"""Streams of sessions into one batch and back: all that knows how a `Stream` is laid.

A session keeps its stream on the host between chunks, so that it may go on in a sampler
of other n or C, and its history on the device. Stacking streams is NumPy's, and
histories come in batches of a few sizes, so nothing compiles per combination.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(eq=False)
class Row:
    """What a session is between chunks; never changed, but that a history may come.

    Attributes:
      stream: pytree of NumPy arrays whose every leaf leads with 1, without history.
      history: `chunk.History` of it, its leaves leading with 1, or None. It follows
        from the stream, and is kept because to compute it costs more than a solve.
    """

    stream: object
    history: object = None


def to_host(stream):
    """A `Stream` of B rows as B `Row`s without a history."""
    data = jax.random.key_data(stream.key)
    raw = stream.replace(key=data, pending=None, history=None)
    host = jax.tree.map(np.asarray, raw)
    leaves, tree = jax.tree.flatten(host)
    # Copies: a slice would keep the whole batch alive.
    rows = zip(*(leaf[:, None] for leaf in leaves), strict=True)
    return [Row(jax.tree.unflatten(tree, [x.copy() for x in row])) for row in rows]


def to_device(rows, size, sampler):
    """`Row`s as one `Stream` of `size` rows; the first fills what is left.

    It has a history if all of them have this sampler's.
    """
    rows = [*rows, *rows[:1] * (size - len(rows))]
    streams = [row.stream for row in rows]
    stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *streams)
    stream = jax.device_put(stacked, sampler.device)
    pending = np.zeros((size, 0, sampler.width), np.float32)
    stream = stream.replace(key=jax.random.wrap_key_data(stream.key), pending=pending)
    if not all(has_history(row, sampler) for row in rows):
        return stream
    layers = [row.history.layers for row in rows]
    return stream.replace(history=rows[0].history.replace(layers=_stack(layers)))


def has_history(row, sampler):
    """Whether a row holds the history that this sampler needs."""
    return row.history is not None and row.history.plan is sampler.plan


def keep_histories(rows, history):
    """Give each of the rows its part of a batch's `chunk.History`."""
    size = len(jax.tree.leaves(history.layers)[0])
    for row, layers in zip(rows, _split(history.layers, size), strict=False):
        row.history = history.replace(layers=layers)


@jax.jit
def _stack(layers):
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *layers)


@functools.partial(jax.jit, static_argnums=1)
def _split(layers, size):
    part = lambda i: jax.tree.map(lambda x: x[i : i + 1], layers)  # noqa: E731
    return [part(i) for i in range(size)]


def restyled(row, style, guidance):
    """A row with another style [1, K] and guidance weight for the frames to come."""
    guidance = np.full(1, guidance, np.float32)
    return Row(row.stream.replace(style=style, guidance=guidance), row.history)


def fresh(row):
    """Whether a row has solved no chunk yet."""
    return bool(row.stream.chunk[0] == 0)


def alike(row, other):
    """Whether a row of one sampler can go on in another: the same leaves."""
    shapes = lambda r: jax.tree.map(lambda x: (x.shape, x.dtype), r.stream)  # noqa: E731
    return shapes(row) == shapes(other)


def padded(tokens, size, mean):
    """[1, size, A] of a chunk's tokens [s, A]; a ragged end is filled with the mean."""
    spare = np.broadcast_to(mean, (size - len(tokens), tokens.shape[1]))
    return np.concatenate([tokens, spare]).astype(np.float32)[None]
