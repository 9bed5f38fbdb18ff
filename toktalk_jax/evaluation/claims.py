"""The paper's claims, judged one by one by what the kept rows say."""

from toktalk_jax.evaluation import intervals, metrics, report


def check_claim(lines, claim):
    """What the rows say to a claim.

    Args:
      claim: {"claim": words, "metric", "better": label, "worse": label}, or, of a
        number measured beside the scores, {"claim", "metric", "better": label,
        "at_least": bound}, which holds if it does for every seed. Either may have a
        "why": {verdict: words}, what is known of a verdict's cause.

    Returns:
      the claim with "difference", better minus worse, paired by clip (and by seed,
      where both lines are of the same weights), over clips and seeds, "seeds" of both
      lines, and "verdict": "holds" or "reversed" where its interval leaves out 0, else
      "not resolved"; "not run" where a line has no rows, "not comparable" where they
      are of other corpora, faces, regions or definitions, or share no clip, "not
      scored" where no row has the number.

    Raises:
      ValueError: it names no line, or a metric of which neither less nor more is good.
    """
    named = {line.label: line for line in lines}
    bounded = "at_least" in claim
    labels = [claim["better"]] if bounded else [claim["better"], claim["worse"]]
    unknown = sorted(set(labels) - set(named))
    direction = metrics.DEFINITIONS.get(claim["metric"], ("", ""))[1]
    if unknown or not (bounded or direction in ("low", "high")):
        raise ValueError(
            f"claim {claim['claim']!r} names lines {unknown} that are not in "
            f"the table, or a metric without a direction ({claim['metric']})"
        )
    pair = [named[label].rows for label in labels]
    claim = {**claim, "difference": None, "seeds": [len(rows) for rows in pair]}
    if not all(pair):
        return {**claim, "verdict": "not run"}
    if bounded:
        return _check_bound(named[labels[0]], claim)
    if not _comparable(*pair, claim["metric"]):
        return {**claim, "verdict": "not comparable"}
    found = intervals.paired(
        *([row.scores for row in rows] for rows in pair),
        claim["metric"],
        kind="difference",
        same_seeds=_same_weights(*pair),
    )
    if found.value is None:
        return {**claim, "verdict": "not scored"}
    low, high = found.low, found.high
    if direction == "high" and low is not None:
        low, high = -high, -low
    verdict = "not resolved"
    if low is not None and high < 0:
        verdict = "holds"
    elif low is not None and low > 0:
        verdict = "reversed"
    return {**claim, "verdict": verdict, "difference": found._asdict()}


def _comparable(ours, theirs, metric):
    """Whether the rows of two lines share clips, and corpus, face and metric."""
    rows = (*ours, *theirs)
    clips = set.intersection(*(set(row.scores) for row in rows))
    today = metrics.DEFINITIONS[metric]
    meant = {tuple(row.redefined.get(metric, today)) for row in rows}
    same = len(meant) == 1 and all(report.alike(a, b) for a in ours for b in theirs)
    return bool(clips) and same


def _same_weights(ours, theirs):
    """Whether seed k of two lines is one training."""
    names = [[row.weights for row in rows] for rows in (ours, theirs)]
    return names[0] == names[1] and "none" not in names[0]


def _check_bound(line, claim):
    values = [row.measured.get(claim["metric"]) for row in line.rows]
    if None in values:
        return {**claim, "verdict": "not scored"}
    low, high = min(values), max(values)
    verdict = "holds" if low >= claim["at_least"] else "not resolved"
    if high < claim["at_least"]:
        verdict = "reversed"
    middle = sum(values) / len(values) - claim["at_least"]
    ends = (low - claim["at_least"], high - claim["at_least"])
    found = intervals.Interval(middle, *ends, clips=0)
    return {**claim, "verdict": verdict, "difference": found._asdict()}
