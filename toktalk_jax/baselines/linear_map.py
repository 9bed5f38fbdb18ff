"""The closed-form adapter: ridge regression of a base token on three foreign ones."""

import jax.numpy as jnp
import numpy as np

RIDGES = (0.0, 1.0, 10.0, 100.0, 1000.0)  # chosen on the held-out clips


def fit(clips, held):
    """Params of `models.LinearMap` by ridge regression, its weight chosen on `held`."""

    def rows(clip):
        count = min(len(clip.foreign), len(clip.tokens))
        padded = np.pad(clip.foreign[:count], ((2, 0), (0, 0)))
        taps = [padded[k : k + count] for k in range(3)]  # oldest first, as `Conv`
        return np.concatenate([*taps, np.ones((count, 1))], 1), clip.tokens[:count]

    # Clip by clip: all rows at once would be 43 GB for a day of Whisper's embeddings.
    gram = cross = 0.0
    for clip in clips:
        x, y = rows(clip)
        gram, cross = gram + x.T @ x, cross + x.T @ y
    penalty = np.ones(len(gram))
    penalty[-1] = 0  # not the bias
    found = [
        np.linalg.solve(gram + np.diag((1e-3 + ridge) * penalty), cross)
        for ridge in RIDGES
    ]
    errors = np.zeros(len(found))
    for x, y in map(rows, held):
        errors += [np.square(x @ w - y).sum() for w in found]
    best = found[int(np.argmin(errors))].astype(np.float32)
    kernel = best[:-1].reshape(3, -1, best.shape[1])
    return {"conv": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(best[-1])}}
