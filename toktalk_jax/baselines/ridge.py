"""Ridge regression from the tokens that a stream sees to the motion of its chunk.

For each position in the chunk one linear map: its tokens (5 at 0.4 s) and the four
before, standardised, to motion PCs. All positions share the features, so they share one
Gram matrix and one Cholesky factor per lambda (with fewer rows than features, one
eigendecomposition of the rows' products). Training windows start at every token,
not only where a stream's chunks fall: more rows make the baseline stronger.

The PCs are of the raw coefficients. With 64 or more asked for, all live ones are kept,
and as ridge with one lambda is blind to a rotation of its targets, the space in which
they are taken (coefficients or vertices) then changes nothing.
"""

import dataclasses

import numpy as np
import scipy.linalg

from toktalk_jax import motion as mo

TOKENS_BEFORE = 4
COMPONENTS = 64
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Ridge:
    """A fitted ridge: chunk tokens to chunk motion.

    Attributes:
      weights: [(before + S) A, C F] from centred features; offset: [C F].
      token_mean: [(before + S) A] mean feature.
      chunk_frames: C.
      penalty: the chosen lambda, in units of a feature's variance.
      errors: {lambda: mean validation error}; the choice lies inside when neither end
        of the grid is the least.
    """

    weights: np.ndarray
    offset: np.ndarray
    token_mean: np.ndarray
    chunk_frames: int
    penalty: float
    errors: dict


def _check(tokens, frames):
    tokens = np.asarray(tokens, np.float32)
    needed = -(-frames // mo.FRAMES_PER_TOKEN)
    if tokens.ndim != 2 or len(tokens) < needed - 1 or not np.isfinite(tokens).all():
        raise ValueError(
            f"tokens are {tokens.shape}; expected finite [S, A] at {mo.TOKEN_HZ} Hz, "
            f"some {needed} for {frames} frames"
        )
    return tokens


def windows(tokens, starts, chunk_frames):
    """Features of chunks: their tokens and the four before.

    A token that is not there (before the clip, after its end) is 0, the mean token.

    Args:
      tokens: [S, A] standardised base tokens.
      starts: [N] first token of each chunk.

    Returns:
      [N, (4 + chunk tokens) A].
    """
    width = TOKENS_BEFORE + chunk_frames // mo.FRAMES_PER_TOKEN
    after = max(int(np.max(starts, initial=0)) + width - len(tokens), 0)
    padded = np.pad(tokens, ((TOKENS_BEFORE, after), (0, 0)))
    index = np.asarray(starts, np.int64)[:, None] + np.arange(width)[None]
    return padded[index].reshape(len(index), -1)


def _training_rows(tokens, motion, chunk_frames):
    """(features [N, P], targets [N, C, F]) of every whole window of a clip."""
    tokens, motion = _check(tokens, len(motion)), np.asarray(motion)
    chunk_tokens = chunk_frames // mo.FRAMES_PER_TOKEN
    whole = min(len(motion) // mo.FRAMES_PER_TOKEN, len(tokens)) - chunk_tokens + 1
    starts = np.arange(max(whole, 0))
    frames = mo.FRAMES_PER_TOKEN * starts[:, None] + np.arange(chunk_frames)[None]
    return windows(tokens, starts, chunk_frames), motion[frames]


def principal_axes(motions, components=COMPONENTS):
    """(mean [F], axes [F, n]) of raw motion, n = min(components, rank)."""
    frames = np.concatenate([np.asarray(m, np.float64) for m in motions])
    mean = frames.mean(0)
    variance, axes = np.linalg.eigh((frames - mean[None]).T @ (frames - mean[None]))
    live = int((variance > 1e-10 * max(variance[-1], 1e-30)).sum())
    return mean, axes[:, ::-1][:, : min(components, live)]


def _equations(clips, axes, chunk_frames):
    """(penalty -> weights [P, C n], means of features [P] and of targets [C n]).

    With fewer rows than features the same weights come from the rows' own products.
    """
    gram = cross = 0.0
    sum_x = sum_y = 0.0
    rows = 0
    clips = [clip for clip in clips if len(clip[1]) >= chunk_frames]
    tokens = TOKENS_BEFORE + chunk_frames // mo.FRAMES_PER_TOKEN
    width = tokens * (np.shape(clips[0][0])[-1] if clips else 0)
    # A first group of fewer rows than features is all there is.
    for group in _groups(clips, chunk_frames, max(4096, width)):
        x = np.concatenate([g[0] for g in group]).astype(np.float64)
        y = np.concatenate([g[1] for g in group]).astype(np.float64) @ axes
        y = y.reshape(len(y), -1)
        if not rows and 0 < len(x) < width:
            return _dual(x, y)
        gram, cross = gram + x.T @ x, cross + x.T @ y
        sum_x, sum_y = sum_x + x.sum(0), sum_y + y.sum(0)
        rows += len(x)
    if not rows:
        raise ValueError(f"no train clip holds a whole chunk of {chunk_frames} frames")
    mean_x, mean_y = sum_x / rows, sum_y / rows
    gram = gram / rows - np.outer(mean_x, mean_x)
    cross = cross / rows - np.outer(mean_x, mean_y)
    return (lambda penalty: _solve(gram, cross, penalty)), mean_x, mean_y


def _dual(x, y):
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x[None], y - mean_y[None]
    value, axes = np.linalg.eigh(x @ x.T / len(x))

    def weights(penalty):
        return x.T @ (axes @ ((axes.T @ y) / (value + penalty)[:, None])) / len(x)

    return weights, mean_x, mean_y


def _groups(clips, chunk_frames, rows):
    """Clips' rows in groups of at least `rows`: few large products, bounded memory."""
    group, count = [], 0
    for tokens, motion in clips:
        group.append(_training_rows(tokens, motion, chunk_frames))
        count += len(group[-1][0])
        if count >= rows:
            yield group
            group, count = [], 0
    if count:
        yield group


def fit(
    train,
    validation,
    error,
    chunk_frames=10,
    lambdas=LAMBDAS,
    components=COMPONENTS,
):
    """Fit on train clips; choose lambda on validation clips.

    Args:
      train, validation: lists of (tokens [S, A] standardised at 12.5 Hz, motion [T, F]
        raw).
      error: (prediction [T, F], truth [T, F]) -> number, the mean of which over
        validation clips is least at the chosen lambda (`lve_mm`).
      lambdas: penalties on weights of standardised features, per row.

    Returns:
      `Ridge`.

    Raises:
      ValueError: no clip, tokens or motion of the wrong shape, or a chunk that is no
        whole number of tokens.
    """
    if chunk_frames < 2 or chunk_frames % mo.FRAMES_PER_TOKEN:
        raise ValueError(f"chunk_frames is {chunk_frames}; expected even, at least 2")
    if not train or not validation:
        raise ValueError(
            f"ridge needs train and validation clips; {len(train)} and "
            f"{len(validation)} came"
        )
    mean, axes = principal_axes([motion for _, motion in train], components)
    centred = [(tokens, np.asarray(motion) - mean[None]) for tokens, motion in train]
    weights_at, mean_x, mean_y = _equations(centred, axes, chunk_frames)
    back = axes.T
    best, errors = None, {}
    for penalty in lambdas:
        weights = weights_at(penalty)
        candidate = Ridge(
            weights=_to_motion(weights, back).astype(np.float32),
            offset=(_to_motion(mean_y[None], back)[0] + np.tile(mean, chunk_frames)),
            token_mean=mean_x.astype(np.float32),
            chunk_frames=chunk_frames,
            penalty=penalty,
            errors=errors,
        )
        scores = [error(predict(candidate, t, len(m)), m) for t, m in validation]
        errors[penalty] = float(np.mean(scores))
        if best is None or errors[penalty] < errors[best.penalty]:
            best = candidate
    return best


def _solve(gram, cross, penalty):
    regularised = gram.copy()
    regularised[np.diag_indices_from(regularised)] += penalty
    factor = scipy.linalg.cho_factor(regularised, overwrite_a=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, cross, check_finite=False)


def _to_motion(values, back):
    """[P, C n] in PCs to [P, C F]."""
    return (values.reshape(len(values), -1, len(back)) @ back).reshape(len(values), -1)


def predict(ridge, tokens, frames):
    """Motion [frames, F] of a clip's standardised base tokens [S, A], chunk by chunk.

    A frame depends on the tokens of its chunk and the four before, on nothing later.
    The frames after the last whole chunk are read from the window of the same size that
    ends with the clip's last token: one with tokens missing was never trained on.
    """
    tokens = _check(tokens, frames)
    chunk_tokens = ridge.chunk_frames // mo.FRAMES_PER_TOKEN
    covered = -(-frames // mo.FRAMES_PER_TOKEN)
    starts = np.arange(0, covered, chunk_tokens)
    # A window at the end slides back to where its tokens are: training saw no gaps.
    placed = np.minimum(starts, max(covered - chunk_tokens, 0))
    features = windows(tokens, placed, ridge.chunk_frames) - ridge.token_mean[None]
    chunks = (features @ ridge.weights + ridge.offset[None]).astype(np.float32)
    chunks = chunks.reshape(len(starts), ridge.chunk_frames, mo.F)
    skipped = mo.FRAMES_PER_TOKEN * (starts - placed)  # frames of the chunk before
    new = [chunk[skip:] for chunk, skip in zip(chunks, skipped, strict=True)]
    return np.concatenate([np.zeros((0, mo.F), np.float32), *new])[:frames]
