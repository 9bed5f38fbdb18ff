"""The paper's claims, judged one by one by what the kept rows say."""

from toktalk_jax.evaluation import intervals, metrics, report

# Two lines are matched in a metric where they differ by no more, and each is no
# farther from the truth's.
MATCHED, FROM_TRUTH = 0.05, 0.1


def check_claim(lines, claim):
    """What the rows say to a claim.

    Args:
      claim: {"claim": words, "metric", "better": label} and either
        "worse": label, whose difference to better is judged by its interval; with
        "at_most_times": bound, their ratio by that bound instead; with "matched":
        metric, only where both have that one as the truth has it (MATCHED); or
        "at_least" or "at_most": bound, of a number measured beside the scores, which
        must keep to it for every seed.
        "why": {verdict: words}, what is known of a verdict's cause, or of what to
        mind where it "holds"; "ours": True of
        what the paper does not claim.

    Returns:
      the claim with "difference", better minus worse (or their ratio), paired by clip,
      and by seed where both lines are of the same weights, or "over_seeds" of a number
      that has a bound: its "mean", "least" and "most", which keep to it or do not;
      "seeds" of the lines; and "verdict": "holds" or "reversed" where the
      interval says so, else "not resolved"; "not run" where a line has no rows, "not
      comparable" where they are of other clips, faces, regions or definitions, "not
      scored" where no row has the number, "not matched".

    Raises:
      ValueError: it names no line, or a metric of which neither less nor more is good.
    """
    named = {line.label: line for line in lines}
    bounded = "worse" not in claim
    labels = [claim[name] for name in ("better", "worse") if name in claim]
    unknown = sorted(set(labels) - set(named))
    direction = metrics.DEFINITIONS.get(claim["metric"], ("", ""))[1]
    if unknown or not (bounded or direction in ("low", "high")):
        raise ValueError(
            f"claim {claim['claim']!r} names lines {unknown} that are not in "
            f"the table, or a metric without a direction ({claim['metric']})"
        )
    pair = [named[label] for label in labels]
    rows = [line.rows for line in pair]
    claim = {**claim, "difference": None, "seeds": [len(found) for found in rows]}
    if not all(rows):
        return {**claim, "verdict": "not run"}
    if bounded:
        return _check_bound(rows[0], claim)
    if not _comparable(*rows, claim["metric"]):
        return {**claim, "verdict": "not comparable"}
    if "matched" in claim and not _matched(*pair, claim["matched"]):
        return {**claim, "verdict": "not matched"}
    bound = claim.get("at_most_times")
    found = intervals.paired(
        *([row.scores for row in one] for one in rows),
        claim["metric"],
        kind="ratio" if bound else "difference",
        same_seeds=_same_weights(*rows),
    )
    if found.value is None:
        return {**claim, "verdict": "not scored"}
    verdict = "not resolved"
    if found.low is not None:
        ends = found.low - (bound or 0), found.high - (bound or 0)
        verdict = _verdict(*ends, direction)
    return {**claim, "verdict": verdict, "difference": found._asdict()}


def _verdict(low, high, direction):
    """What an interval of better less worse says, less being better if "low"."""
    if direction == "high":
        low, high = -high, -low
    return "holds" if high < 0 else "reversed" if low > 0 else "not resolved"


def _matched(ours, theirs, metric):
    found = [line.interval(metric) for line in (ours, theirs)]
    values = [one.value for one in found if one is not None]
    if len(values) < 2 or None in values:
        return False
    truth = {"one": 1.0, "zero": 0.0}[metrics.DEFINITIONS[metric][1]]
    off = max(abs(value - truth) for value in values)
    return off <= FROM_TRUTH and abs(values[0] - values[1]) <= MATCHED


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


def _check_bound(rows, claim):
    values = [row.measured.get(claim["metric"]) for row in rows]
    if None in values:
        return {**claim, "verdict": "not scored"}
    least, most = min(values), max(values)
    if "at_least" in claim:
        bound = claim["at_least"]
        kept, broken = least >= bound, most < bound
    else:
        bound = claim["at_most"]
        kept, broken = most <= bound, least > bound
    verdict = "holds" if kept else "reversed" if broken else "not resolved"
    mean = sum(values) / len(values)
    told = {"mean": mean, "least": least, "most": most}
    return {**claim, "verdict": verdict, "over_seeds": told}
