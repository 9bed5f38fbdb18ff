"""What a tokenizer's embeddings tell: linear probes for pitch, energy and voicing.

A probe is a ridge regression from one standardised token to a property of its 80 ms of
sound, fitted on train clips, its penalty chosen on validation clips, scored on others.
What a linear probe cannot find may still be there; what it finds is easy to use.
"""

import numpy as np

from toktalk_jax import motion as mo

CELL = round(mo.SAMPLE_RATE / mo.TOKEN_HZ)  # samples of a token
LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
PERIODIC = 0.15  # below this YIN's normalised difference calls a cell voiced
PERHAPS = 0.35  # lenient: voiced speech stays below, white noise does not
SILENT = 1e-3  # rms of a cell that has no pitch, of full scale
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def properties(audio):
    """What is said in each token's cell of sound.

    Args:
      audio: [L] int16 at 16 kHz.

    Returns:
      {"pitch": [S] log2 of Hz, NaN where unvoiced; "energy": [S] dB of full scale;
      "voicing": [S] 1 or 0}, S = ceil(L / 1280).
    """
    cells = _cells(audio)
    hz = pitch(cells)
    return {
        "pitch": np.log2(hz),
        "energy": 20 * np.log10(_rms(cells) + 1e-5),
        "voicing": np.isfinite(hz).astype(np.float64),
    }


def _cells(audio):
    """Sound [S, 1280] of each token."""
    sound = np.asarray(audio, np.float32) / 32768
    return np.pad(sound, (0, -len(sound) % CELL)).reshape(-1, CELL)


def _rms(cells):
    return np.sqrt((cells**2).mean(1))


def voiced(audio):
    """Whether anything in sound [L], int16 at 16 kHz, may have a pitch."""
    return bool(np.isfinite(pitch(_cells(audio), PERHAPS)).any())


def pitch(cells, periodic=PERIODIC):
    """Fundamental frequency [S] in Hz of cells of sound [S, 1280]; NaN where unvoiced.

    YIN (de Cheveigne and Kawahara 2002): the first dip of the cumulative-mean
    normalised difference under `periodic`, refined by a parabola.
    """
    first, last = int(mo.SAMPLE_RATE / HIGHEST_HZ), int(mo.SAMPLE_RATE / LOWEST_HZ)
    span = CELL - last - 1
    head = cells[:, :span]
    difference = np.stack(
        [
            ((head - cells[:, lag : lag + span]) ** 2).sum(1)
            for lag in range(1, last + 2)
        ],
        axis=1,
    ).astype(np.float64)
    lags = np.arange(1, last + 2)
    normal = difference * lags / np.maximum(difference.cumsum(1), 1e-12)
    hz = np.array([_first_dip(row, first, last, periodic) for row in normal])
    return np.where(_rms(cells) < SILENT, np.nan, hz)


def _first_dip(normal, first, last, periodic):
    """Hz of a cell from its normalised difference at lags 1, 2, ..."""
    dip = first
    while dip < last and normal[dip - 1] >= periodic:
        dip += 1
    if dip == last:
        return np.nan
    while dip < last and normal[dip] < normal[dip - 1]:
        dip += 1
    before, here, after = normal[dip - 2 : dip + 1]
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend > 0 else 0.0
    return mo.SAMPLE_RATE / (dip + np.clip(shift, -0.5, 0.5))


def probe(train, held, clips):
    """Scores of the probes on clips, all of which hold their sound.

    Args:
      train, held, clips: lists of `data.pipeline.Clip` with `tokens` and `audio`.

    Returns:
      {"probe pitch R2", "probe energy R2", "probe voicing AUC"}, and where clips of
      every part are labelled, with two emotions or more, {"probe emotion accuracy"} of
      a clip's mean token.

    Raises:
      ValueError: a clip without sound; says what exports it.
    """
    parts = [_rows(part) for part in (train, held, clips)]
    found = {}
    for name in ("pitch", "energy"):
        (x, y), (hx, hy), (tx, ty) = (_finite(part, name) for part in parts)
        predicted = _ridge(x, y, hx, hy)(tx)
        rest = ((predicted - ty) ** 2).sum() / ((ty - ty.mean()) ** 2).sum()
        found[f"probe {name} R2"] = float(1 - rest)
    (x, y), (hx, hy), (tx, ty) = (_finite(part, "voicing") for part in parts)
    found["probe voicing AUC"] = area_under_curve(_ridge(x, y, hx, hy)(tx), ty)
    labels = {clip.emotion for clip in train} - {-1}
    labelled = [
        [clip for clip in part if clip.emotion in labels]
        for part in (train, held, clips)
    ]
    if len(labels) > 1 and all(labelled):
        found["probe emotion accuracy"] = _emotion(labelled, sorted(labels))
    return found


def _rows(clips):
    """(tokens [N, A], {property: [N]}) of all cells of clips."""
    if silent := [clip.clip_id for clip in clips if clip.audio is None]:
        raise ValueError(
            f"{len(silent)} clips hold no sound, such as {silent[0]}; export the "
            "dataset with --with_audio"
        )
    told = [properties(clip.audio) for clip in clips]
    lengths = [
        min(len(c.tokens), len(t["energy"])) for c, t in zip(clips, told, strict=True)
    ]
    pairs = list(zip(told, lengths, strict=True))
    tokens = [c.tokens[:n] for c, n in zip(clips, lengths, strict=True)]
    values = {k: np.concatenate([t[k][:n] for t, n in pairs]) for k in told[0]}
    return np.concatenate(tokens).astype(np.float64), values


def _finite(part, name):
    tokens, values = part
    kept = np.isfinite(values[name])
    return tokens[kept], values[name][kept]


def _ridge(x, y, held_x, held_y):
    """Function of tokens [N, A] by ridge regression of y, [N] or [N, classes]."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    gram, cross = centred.T @ centred / len(x), centred.T @ (y - mean_y) / len(x)
    solved = [np.linalg.solve(gram + r * np.eye(len(gram)), cross) for r in RIDGES]
    predict = lambda w, rows: (rows - mean_x) @ w + mean_y  # noqa: E731
    errors = [((predict(w, held_x) - held_y) ** 2).mean() for w in solved]
    best = solved[int(np.argmin(errors))]
    return lambda rows: predict(best, rows)


def area_under_curve(scores, labels):
    """Chance that a labelled cell scores above an unlabelled one (ROC area)."""
    from scipy.stats import rankdata

    positive = labels > 0.5
    count, others = positive.sum(), (~positive).sum()
    if not count or not others:
        return float("nan")
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def _emotion(parts, labels):
    """Accuracy of a linear classifier of a clip's mean token."""

    def rows(part):
        hot = np.array([[clip.emotion == k for k in labels] for clip in part], float)
        return np.stack([clip.tokens.mean(0) for clip in part]).astype(float), hot

    (x, y), (hx, hy), (tx, ty) = map(rows, parts)
    return float((_ridge(x, y, hx, hy)(tx).argmax(1) == ty.argmax(1)).mean())
