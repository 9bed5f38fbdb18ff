"""Streams of sessions into one batch and back: all that knows how a `Stream` is laid.

A session keeps its stream on the host between chunks, as a pytree of NumPy arrays whose
every leaf leads with 1, without its history, so that it may go on in a sampler of other
n or C. Stacking is NumPy's, so nothing compiles per combination.
"""

import jax
import numpy as np


def to_host(stream):
    """A `Stream` of B rows as B host rows."""
    data = jax.random.key_data(stream.key)
    raw = stream.replace(key=data, pending=None, history=None)
    host = jax.tree.map(np.asarray, raw)
    leaves, tree = jax.tree.flatten(host)
    # Copies: a slice would keep the whole batch alive.
    rows = zip(*(leaf[:, None] for leaf in leaves), strict=True)
    return [jax.tree.unflatten(tree, [x.copy() for x in row]) for row in rows]


def to_device(rows, size, sampler):
    """Host rows as one `Stream` of `size` rows; the first fills what is left."""
    rows = [*rows, *rows[:1] * (size - len(rows))]
    stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
    stream = jax.device_put(stacked, sampler.device)
    pending = np.zeros((size, 0, sampler.width), np.float32)
    return stream.replace(key=jax.random.wrap_key_data(stream.key), pending=pending)


def restyled(row, style, guidance):
    """A host row with another style [1, K] and guidance weight."""
    return row.replace(style=style, guidance=np.full(1, guidance, np.float32))


def fresh(row):
    """Whether a host row has solved no chunk yet."""
    return bool(row.chunk[0] == 0)


def alike(row, other):
    """Whether a row of one sampler can go on in another: the same leaves."""
    shapes = lambda r: jax.tree.map(lambda x: (x.shape, x.dtype), r)  # noqa: E731
    return shapes(row) == shapes(other)


def padded(tokens, size, mean):
    """[1, size, A] of a chunk's tokens [s, A]; a ragged end is filled with the mean."""
    spare = np.broadcast_to(mean, (size - len(tokens), tokens.shape[1]))
    return np.concatenate([tokens, spare]).astype(np.float32)[None]
