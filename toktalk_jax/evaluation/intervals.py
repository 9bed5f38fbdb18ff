"""From clips to a row: pooled values with intervals over clips, speakers and seeds.

Every metric of a clip is a vector of sums (a plain mean is value and 1), so a value is
a function of sums over clips and a bootstrap is one matrix product. Clips of one
speaker are alike: where there are three speakers or more, whole speakers are resampled.
Two rows are paired: both see the same resampled clips.

Few are resampled with care: of n one fewer is drawn (Rao and Wu 1988), and deviations
are stretched to Student's t of n - 1, so that the interval of a plain mean is Student's
and that of a ratio keeps its skew. Where a row was trained from several seeds its value
is their mean, and Student's interval over the seeds (Welch's for two rows) is added in
squares to either side (MOVER, Zou and Donner 2008): three are too few to resample.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from toktalk_jax.evaluation import head_motion

RESAMPLES = 1000
LEVEL = 0.95
LEAST_SPEAKERS = 3  # of fewer the clips are resampled, and nothing is said of speakers
# Motion and gaps below are rounding of float32 vertices and sums, not motion.
_STILL_MM = 1e-4
_STILL_RELATIVE = 1e-6


class Interval(NamedTuple):
    """A value with its 95 % interval; what is undefined is None, never NaN.

    Attributes:
      value: None where it is undefined (no clip, or a ratio of a face that stands
        still); low, high: None too where there are fewer than two clips.
      clips: how many clips stand behind it.
    """

    value: float | None
    low: float | None
    high: float | None
    clips: int


def _excess(sums):
    border_p, inside_p, border_c, inside_c, frames = np.moveaxis(sums, -1, 0)
    moves = np.minimum(inside_p, inside_c) > _STILL_MM * frames
    return np.where(moves, border_p / inside_p * inside_c / border_c, np.nan)


def _std_ratio(sums):
    moves = sums[..., 1] > _STILL_MM**2 * sums[..., 2]
    return np.where(moves, np.sqrt(sums[..., 0] / sums[..., 1]), np.nan)


def _correlation(sums):
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    var_x, var_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    moves = (var_x > _STILL_RELATIVE * xx / n) & (var_y > _STILL_RELATIVE * yy / n)
    return np.where(moves, (xy / n - x * y / n**2) / np.sqrt(var_x * var_y), np.nan)


def _root_mean(sums):
    return np.sqrt(sums[..., 0] / sums[..., 1])


def _gain(sums):
    at_peaks, peaks, anywhere, frames = np.moveaxis(sums, -1, 0)
    return at_peaks / peaks - anywhere / frames


# Pooled sums of two are a total and a count, unless named here.
_POOLS = {
    "boundary_excess": _excess,
    "boundary_excess_whole": _excess,
    "std_ratio": _std_ratio,
    "mouth_gap_r": _correlation,
    "tracked_gap_r": _correlation,
    "lve_rms_mm": _root_mean,
    "head_speed_w1": lambda s: head_motion.wasserstein(s, head_motion.SPEED_EDGES),
    "head_accel_w1": lambda s: head_motion.wasserstein(
        s, head_motion.ACCELERATION_EDGES
    ),
    "head_beat_gain": _gain,
}


def clip_sums(score, metric):
    """[M] sums of one clip's score: its own sums, or (value, 1) for a plain mean."""
    value = score[metric]
    return np.asarray(value if np.ndim(value) else (value, 1.0), np.float64)


def pool(metric, sums):
    """The number of summed `clip_sums` [..., M] -> [...]; NaN where undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric in _POOLS:
            return _POOLS[metric](sums)
        return sums[..., 0] / sums[..., 1]


@functools.lru_cache(maxsize=8)  # a table asks for the same thousands of times
def resample_counts(units, resamples=RESAMPLES, seed=0):
    """[resamples, units] how often each came in units - 1 draws with replacement.

    Read-only: who asks again is given the same array.
    """
    rng, share = np.random.default_rng(seed), np.full(units, 1 / units)
    counts = rng.multinomial(max(units - 1, 1), share, size=resamples)
    counts.flags.writeable = False
    return counts


def interval(scores, metric, seed=0, resamples=RESAMPLES):
    """Pooled value of one row.

    Args:
      scores: {clip_id: dict of `scoring.score_clip`, its "speaker" if known}, or a
        list of those, one for each training seed; clips that skipped the metric are
        left out and not counted.
      metric: a name of `metrics.DEFINITIONS`; of a correlation the interval is that of
        Fisher's z, which does not leave -1 to 1.
    """
    if _POOLS.get(metric) is not _correlation:
        return _bootstrap(lambda v: v[0], [scores], metric, seed, resamples)
    most = 1 - 1e-9  # of 1 itself z is infinite
    z = _bootstrap(
        lambda v: np.arctanh(np.clip(v[0], -most, most)),
        *([scores], metric, seed, resamples),
    )
    ends = (None if end is None else float(np.tanh(end)) for end in z[:3])
    return Interval(*ends, z.clips)


def paired(
    scores,
    reference,
    metric,
    kind="ratio",
    seed=0,
    resamples=RESAMPLES,
    same_seeds=False,
):
    """Ratio or difference of two rows on the clips that both scored.

    Args:
      scores, reference: as in `interval`, of the two rows.
      kind: "ratio" (scores / reference) or "difference" (scores - reference).
      same_seeds: whether seed k of both is one training, only sampled otherwise: the
        two are then paired seed by seed, and what a seed is worth cancels.

    Raises:
      ValueError: unknown kind, the rows share no clip, or seeds that cannot be paired.
    """
    if kind not in ("ratio", "difference"):
        raise ValueError(f"kind is {kind!r}; expected 'ratio' or 'difference'")
    if same_seeds and len(_seeds(scores)) != len(_seeds(reference)):
        raise ValueError(
            f"{len(_seeds(scores))} and {len(_seeds(reference))} seeds are no pairs"
        )
    ours, theirs = _seeds(scores)[0], _seeds(reference)[0]
    if ours and theirs and not ours.keys() & theirs.keys():
        raise ValueError(
            f"the two rows share no clip (first ids: {min(ours)!r}, {min(theirs)!r}); "
            "pair rows of the same split"
        )

    def compare(values):
        with np.errstate(divide="ignore", invalid="ignore"):
            if kind == "ratio":
                return values[0] / values[1]
            return values[0] - values[1]

    rows = [scores, reference]
    return _bootstrap(compare, rows, metric, seed, resamples, same_seeds)


def _seeds(scores):
    return [scores] if isinstance(scores, dict) else list(scores)


def _clips_with(metric, rows):
    """Ids of clips that every row scored, sorted: no row's own order matters."""
    return sorted(
        clip
        for clip in set.intersection(*(set(row) for row in rows))
        if all(metric in row[clip] for row in rows)
    )


def _bootstrap(number, rows, metric, seed, resamples, same_seeds=False):
    """Interval of number([value of each row]) over clips or speakers, and seeds."""
    rows = [_seeds(row) for row in rows]
    clips = _clips_with(metric, [one for row in rows for one in row])
    if not clips:
        return Interval(None, None, None, 0)
    # [seeds, clips, M] of each row
    sums = [
        np.stack([[clip_sums(one[clip], metric) for clip in clips] for one in row])
        for row in rows
    ]
    found = [pool(metric, s.sum(1)) for s in sums]  # [seeds] of each row
    value = float(number([v.mean() for v in found]))
    if not np.isfinite(value):
        return Interval(None, None, None, len(clips))
    units = _units([rows[0][0][clip].get("speaker") for clip in clips])
    count = units.max() + 1
    drawn = resample_counts(count, resamples, seed)[:, units]
    values = number([pool(metric, drawn @ s).mean(0) for s in sums])
    values = values[np.isfinite(values)]  # a draw of still clips alone is undefined
    if count < 2 or not len(values):
        return Interval(value, None, None, len(clips))
    tail = 50 * (1 - LEVEL)
    ends = np.percentile(values, [tail, 100 - tail])
    stretch = stdtrit(count - 1, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2)
    clip_width = stretch * np.maximum([value - ends[0], ends[1] - value], 0)
    below, above = np.hypot(clip_width, _seed_width(number, found, same_seeds))
    return Interval(value, float(value - below), float(value + above), len(clips))


def _units(speakers):
    """[clips] index of what is resampled: the clip's speaker, or the clip itself."""
    names = sorted(set(map(str, speakers)))
    if None in speakers or len(names) < LEAST_SPEAKERS:
        return np.arange(len(speakers))
    return np.array([names.index(str(speaker)) for speaker in speakers])


def _seed_width(number, found, same_seeds):
    """Half the interval over training seeds; 0 where no row has several.

    Args:
      found: the values [seeds] of each row.
    """
    if same_seeds:
        parts = [number(found)]
    else:
        middle = [v.mean() for v in found]
        parts = [
            number([*middle[:k], values, *middle[k + 1 :]])
            for k, values in enumerate(found)
        ]
    parts = [part for part in parts if np.size(part) > 1]
    if not parts:
        return 0.0
    variances = np.array([part.var(ddof=1) / len(part) for part in parts])
    if not variances.any():
        return 0.0
    counts = np.array([len(part) for part in parts])
    freedom = variances.sum() ** 2 / (variances**2 / (counts - 1)).sum()
    return float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variances.sum()))
