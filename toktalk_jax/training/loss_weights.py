"""How much each coefficient weighs in a loss."""

import numpy as np

from toktalk_jax import motion as mo


def loss_weights(config, data):
    """[F] `coefficient_weights` of a config and its `pipeline.Dataset`.

    Raises:
      ValueError: config.head is not the head of the dataset.
    """
    surface = config.train.surface_weight
    if not surface:
        return np.asarray(data.stats.live, np.float32)
    from toktalk_jax.flame import assets

    head = assets.head_of(data.metadata, config.head)
    return coefficient_weights(data.stats, surface, head)


def coefficient_weights(stats, surface, head):
    """[F] loss weights, mean 1 over live coefficients, 0 on dead ones.

    Any positive weights have the same minimiser, E[u | x_t]; they only say where the
    network spends itself. With `surface` s, a weight is (1 - s) + s m / mean(m), with m
    the rms movement, per z-score, of all vertices and, as heavy again, of the
    lips. The neck moves every vertex alike: its weight is 1.
    """
    from toktalk_jax.flame import regions
    from toktalk_jax.flame.model import vertices

    live, step = np.asarray(stats.live), 1e-3
    mean = np.asarray(stats.motion_mean)
    poses = np.concatenate([mean[None], mean[None] + step * np.diag(stats.motion_std)])
    faces = np.asarray(vertices(head, poses.astype(np.float32)))
    moved = np.square((faces[1:] - faces[:1]) / step).sum(-1)  # [F, V]
    lips = np.asarray(regions.lips(head))
    face = live & (np.arange(mo.F) < mo.NECK.start)
    rms = [np.sqrt(m.mean(1)) for m in (moved, moved[:, lips])]
    share = sum(m / m[face].mean() for m in rms)
    weights = (1 - surface) + surface * np.where(face, share / 2, 1.0)
    return (live * weights).astype(np.float32)
