"""Judged claims as text: a table of verdicts, and what is known of each."""

from toktalk_jax.evaluation import intervals, report


def to_markdown(claims):
    """Lines of text: the paper's claims, then those that the project adds ("ours").

    Args:
      claims: as `claims.check_claim` returns them.
    """
    text = []
    for title, ours in (("The paper's claims", False), ("Our own checks", True)):
        members = [claim for claim in claims if claim.get("ours", False) is ours]
        if not members:
            continue
        text += ["", f"## {title}"]
        run = [claim for claim in members if claim["verdict"] != "not run"]
        if run:
            text += ["", *_claim_table(run), *_whys(run)]
        text += _not_run([claim for claim in members if claim["verdict"] == "not run"])
    judged = sum(claim["difference"] is not None for claim in claims)
    if not judged:
        return text
    alone = (
        f"Each of the {judged} differences is judged alone at 95 %: of twenty "
        "comparisons where there is no difference, one is resolved by chance."
    )
    return [*text, "", alone]


def _claim_table(claims):
    head = ["claim", "metric", "better", "worse"]
    head += ["seeds", "better - worse", "verdict"]
    body = []
    for claim in claims:
        names = [claim[name] for name in ("claim", "metric", "better")]
        names.append(_against(claim))
        seeds = " and ".join(map(str, claim["seeds"]))
        body.append([*names, seeds, _found(claim), f"**{claim['verdict']}**"])
    return report.grid(head, body)


def _found(claim):
    """What was found: a difference, a ratio, or the number that keeps to a bound."""
    if told := claim.get("over_seeds"):
        text = f"is {told['mean']:.4g}"
        if claim["seeds"][0] > 1:
            text += f" (seeds {told['least']:.4g} to {told['most']:.4g})"
        return text
    if not claim["difference"]:
        return "-"
    text = report.cell(intervals.Interval(**claim["difference"]))
    return f"ratio {text}" if "at_most_times" in claim else text


def _against(claim):
    """What a claim's better line is compared with."""
    if "worse" not in claim:
        name = "at_least" if "at_least" in claim else "at_most"
        return f"{name.replace('_', ' ')} {claim[name]}"
    times = claim.get("at_most_times")
    return f"at most {times} times {claim['worse']}" if times else claim["worse"]


def _not_run(claims):
    """The claims that want a line that was not run; the line says why it was not."""
    groups = {}
    for claim in claims:
        pair = f"{claim['better']} against {_against(claim)}"
        metrics_of = groups.setdefault(claim["claim"], {}).setdefault(pair, [])
        metrics_of.append(f"`{claim['metric']}`")
    if not groups:
        return []
    lines = [
        f"- {words}: " + "; ".join(f"{p} ({', '.join(m)})" for p, m in pairs.items())
        for words, pairs in groups.items()
    ]
    return ["", "Not run, for want of a line above:", "", *lines]


def _whys(claims):
    """Why a claim that was asked does not hold, and what to mind where it does."""
    groups = {}
    for claim in claims:
        verdict = claim["verdict"]
        why = claim.get("why", {}).get(verdict)
        if why or verdict != "holds":
            pair = f"{claim['better']} against {_against(claim)}"
            words = why or "Why is not known."
            key = claim["claim"], claim["metric"], verdict, words
            groups.setdefault(key, []).append(pair)
    text = []
    for title, held in (
        ("What does not hold, and why:", False),
        ("What holds, with a reservation:", True),
    ):
        lines = [
            f"- {words}, `{metric}`, {'; '.join(pairs)}: {verdict}. {why}"
            for (words, metric, verdict, why), pairs in groups.items()
            if (verdict == "holds") is held
        ]
        text += ["", title, "", *lines] if lines else []
    return text
