"""What raters say: mean ranks, Friedman's test, pairwise comparisons (paper 4.3).

Every answer ranks all methods on one clip for one question. Friedman's blocks are the
rater's rankings, as in the paper; as one rater's rankings are not independent, the test
on the raters' mean ranks, one block a rater, stands beside it. So it is of the pairs.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES, LEVEL = 2000, 0.95


class Pair(NamedTuple):
    """Wilcoxon's signed-rank test of two methods' ranks, Holm-corrected.

    Attributes:
      better, worse: methods, by mean rank; p: over all rankings, corrected for all
        pairs; p_raters: the same over raters' mean ranks, None with one rater.
      preferred: share of rankings that put `better` before `worse`.
    """

    better: str
    worse: str
    p: float
    p_raters: float | None
    preferred: float


class Result(NamedTuple):
    """One question.

    Attributes:
      methods: names, best mean rank first; ranks: mean rank of each; low, high: its
        bootstrap interval over raters (None with one rater).
      shares: [methods, ranks] how often a method had each rank.
      chi2, p: Friedman over all rankings; chi2_raters, p_raters: over raters' means
        (None with fewer than two raters, or where all agree on a tie).
      pairs: list of `Pair`; raters, rankings: how many.
    """

    methods: list
    ranks: list
    low: list
    high: list
    shares: np.ndarray
    chi2: float | None
    p: float | None
    chi2_raters: float | None
    p_raters: float | None
    pairs: list
    raters: int
    rankings: int


def analyse(answers, methods, seed=0):
    """`Result` of one question.

    Args:
      answers: list of (rater, ranks) with ranks {method: 1 is best}, each method once.
      methods: three or more names.

    Raises:
      ValueError: fewer than three methods or two rankings, or a ranking that is none.
    """
    if len(methods) < 3 or len(answers) < 2:
        raise ValueError(
            f"{len(methods)} methods and {len(answers)} rankings; Friedman's test "
            "takes three methods and two rankings"
        )
    wanted = list(range(1, len(methods) + 1))
    for rater, ranks in answers:
        if sorted(ranks) != sorted(methods) or sorted(ranks.values()) != wanted:
            raise ValueError(
                f"rater {rater!r} ranks {ranks}; expected each of {wanted} once"
            )
    raters = sorted({rater for rater, _ in answers})
    table = np.array([[ranks[m] for m in methods] for _, ranks in answers], float)
    means = np.array(
        [
            table[[rater == r for r, _ in answers]].mean(0)  # [methods]
            for rater in raters
        ]
    )
    order = np.argsort(table.mean(0), kind="stable")
    low, high = _interval(means, seed)
    share = np.array([[(table[:, m] == r).mean() for r in wanted] for m in order])
    return Result(
        methods=[methods[k] for k in order],
        ranks=table.mean(0)[order].tolist(),
        low=None if low is None else low[order].tolist(),
        high=None if high is None else high[order].tolist(),
        shares=share,
        **dict(zip(("chi2", "p"), _friedman(table), strict=True)),
        **dict(zip(("chi2_raters", "p_raters"), _friedman(means), strict=True)),
        pairs=_pairs(table, means, [methods[k] for k in order], order),
        raters=len(raters),
        rankings=len(answers),
    )


def _interval(means, seed):
    """Percentile interval of the mean rank over resampled raters, [methods] each."""
    if len(means) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    drawn = means[rng.integers(len(means), size=(RESAMPLES, len(means)))].mean(1)
    tail = 50 * (1 - LEVEL)
    return np.percentile(drawn, [tail, 100 - tail], axis=0)


def _friedman(blocks):
    """(chi2, p) over blocks [n, methods]; (None, None) where it is undefined."""
    if len(blocks) < 2:
        return None, None
    with np.errstate(divide="ignore", invalid="ignore"):
        found = stats.friedmanchisquare(*blocks.T)
    if not np.isfinite(found.statistic):
        return None, None
    return float(found.statistic), float(found.pvalue)


def _pairs(table, means, names, order):
    """Every pair of methods, tested on the differences of their ranks.

    Of all rankings [n, methods], and of the raters' means, where there are two.
    """
    places = list(itertools.combinations(range(len(order)), 2))

    def tested(blocks, method):
        found = [blocks[:, order[i]] - blocks[:, order[j]] for i, j in places]
        return holm([_wilcoxon(difference, method) for difference in found])

    over_all = tested(table, "approx")  # ranks hold ties
    over_raters = tested(means, "auto") if len(means) > 1 else [None] * len(places)
    return [
        Pair(
            *(names[i], names[j], p, p_raters),
            preferred=float((table[:, order[i]] < table[:, order[j]]).mean()),
        )
        for (i, j), p, p_raters in zip(places, over_all, over_raters, strict=True)
    ]


def _wilcoxon(difference, method):
    if not difference.any():
        return 1.0  # no block prefers either, of which SciPy says NaN
    return float(stats.wilcoxon(difference, method=method).pvalue)


def holm(values):
    """Holm's step-down correction of p values, in their order (Holm 1979)."""
    order = np.argsort(values)
    scaled = np.array(values)[order] * (len(values) - np.arange(len(values)))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def simulate(strengths, raters, clips, seed=0):
    """Rankings of raters with a known preference (Plackett and Luce).

    Args:
      strengths: {method: log of how often it wins}; equal ones are never preferred.

    Returns:
      list of (rater, ranks), as `analyse` takes them.
    """
    rng = np.random.default_rng(seed)
    names = list(strengths)
    noise = rng.gumbel(size=(raters, clips, len(names)))
    place = (-(noise + np.array(list(strengths.values())))).argsort(-1).argsort(-1) + 1
    return [
        (f"simulated-{r}", dict(zip(names, map(int, place[r, c]), strict=True)))
        for r in range(raters)
        for c in range(clips)
    ]


def to_markdown(results):
    """The report of {question: `Result`}."""
    text = ["# Perceptual study", ""]
    for question, r in results.items():
        text += [f"## {question}", "", f"{r.rankings} rankings by {r.raters} raters."]
        text += ["", "| method | mean rank | 95 % over raters | first |"]
        text += ["| --- | --- | --- | --- |"]
        for k, name in enumerate(r.methods):
            ends = "-" if r.low is None else f"{r.low[k]:.2f} to {r.high[k]:.2f}"
            first = f"{100 * r.shares[k, 0]:.0f} %"
            text.append(f"| {name} | {r.ranks[k]:.2f} | {ends} | {first} |")
        text += ["", _friedman_line("over all rankings", r.chi2, r.p)]
        text += ["", _friedman_line("over raters' means", r.chi2_raters, r.p_raters)]
        text += ["", "Pairs by Wilcoxon's signed-rank test, Holm-corrected.", ""]
        text += ["| better | worse | preferred | p, rankings | p, raters' means |"]
        text += ["| --- | --- | --- | --- | --- |"]
        for pair in r.pairs:
            share = f"{100 * pair.preferred:.0f} %"
            sure = "-" if pair.p_raters is None else f"{pair.p_raters:.2g}"
            line = (pair.better, pair.worse, share, f"{pair.p:.2g}", sure)
            text.append(f"| {' | '.join(line)} |")
        text.append("")
    return "\n".join(text)


def _friedman_line(blocks, chi2, p):
    if chi2 is None:
        return f"Friedman {blocks}: undefined."
    return f"Friedman {blocks}: chi2 = {chi2:.2f}, p = {p:.2g}."


def plot(path, results):
    """How often each method had each rank, one panel a question (paper, Figure 4)."""
    from matplotlib.figure import Figure

    figure = Figure((5 * len(results), 2.6), layout="tight")
    for k, (question, r) in enumerate(results.items()):
        axes = figure.add_subplot(1, len(results), k + 1)
        left = np.zeros(len(r.methods))
        for rank in range(len(r.methods)):
            shade = 0.25 + 0.6 * rank / max(len(r.methods) - 1, 1)
            width = 100 * r.shares[:, rank]
            axes.barh(
                *(r.methods, width),
                left=left,
                color=str(shade),
                edgecolor="white",
                label=f"rank {rank + 1}",
            )
            left += width
        axes.invert_yaxis()
        axes.set_title(question, fontsize=9)
        axes.set_xlabel("% of rankings", fontsize=8)
        axes.tick_params(labelsize=8)
        if k == 0:
            axes.legend(fontsize=7, ncols=len(r.methods), loc="lower left")
    figure.savefig(path, dpi=110, metadata={"Software": None})
