"""The paper's tables from kept rows: Markdown, JSON, a plot, and the paper's claims.

A line of a table is one method, trained from one seed or several; its value is the mean
over the seeds, its interval over clips and seeds. The paper's numbers stand in columns
of their own, marked with their corpus. A line that was not run says why.
"""

import dataclasses
import json
import pathlib

from toktalk_jax.evaluation import (
    claim_text,
    intervals,
    metrics,
    paper,
    plot,
    report,
    results,
)
from toktalk_jax.evaluation.claims import check_claim
from toktalk_jax.training.logs import write_whole

TITLES = {
    2: "Table 2: audio representations",
    3: "Table 3: variants, baselines and styles",
    4: "Table 4: latency of the first frame",
    5: "Table 5: chunk size by Euler steps",
}
_ERRORS = ("mve_mm", "lve_mm", "fdd_1e5m", "mod_mm", "energy_score", "mouth_gap_r")
COLUMNS = {
    2: (*_ERRORS, "std_ratio"),
    3: (*_ERRORS, "std_ratio", "jitter", "boundary_excess"),
    4: (),
    5: (
        *("mve_mm", "lve_mm", "energy_score", "jitter", "jitter_inside"),
        *("boundary_excess", "boundary_excess_whole", "std_ratio"),
    ),
}


ASSUMED = {
    4: "Mean, median (_p50) and 95th percentile (_p95) over first chunks, one by one. "
    "T_animation_ms is tokens to motion, an adapter inside; tokenise_ms is from the "
    "last 80 ms of a chunk's sound to its tokens. Assumed, as the paper states them: "
    f"TTFTB_ms, {paper.TTFTB_MS:.0f} ms to the first tokens of a chunk of "
    f"{paper.TTFTB_SECONDS} s, proportionally more of a longer one or for tokens "
    "beside its last, and "
    f"{paper.T_AUDIO_MS:.0f} ms to its sound (T_audio). chatbot_ms = TTFTB + "
    "max(T_audio, T_animation), its Equation 7, its tokens from the language model; "
    "voice_ms = the sound that is listened to (a chunk, and as far ahead as its tokens "
    "look beyond it), tokenise_ms and T_animation. No network and no painting is in "
    "either.",
}
ASSUMED[5] = ASSUMED[4]  # its cells are timed too


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
      label: unique within its table; block: the heading that it stands under.
      rows: `results.Row` of each training seed; empty where `reason` says why not.
      reason: why it was not run, or which seeds were not; paper: its row in the
        paper's table, or "".
    """

    label: str
    block: str
    rows: tuple = ()
    reason: str = ""
    paper: str = ""

    def interval(self, metric):
        """`intervals.Interval` over clips and seeds; None where nobody scored it."""
        scores = [row.scores for row in self.rows]
        if not any(metric in clip for row in scores for clip in row.values()):
            return None
        return intervals.interval(scores, metric)


def to_markdown(number, lines, claims=(), about=""):
    """The text of one table; `about` is a paragraph on its data and trainings."""
    printed, columns = paper.TABLES[number], COLUMNS[number]
    text = [f"# {TITLES[number]}", ""] + ([about, ""] if about else [])
    text += [
        "Value [95 % interval: bootstrap over clips, over speakers (or styles) where "
        "there are three or more, with Student's over the training seeds; of a line of "
        "one seed it says nothing of another training]. What is measured beside the "
        "scores has its least and most over the seeds. Of several samples of a clip "
        "the first is scored, by `energy_score` all. In italics the paper's own "
        f"numbers ({printed.corpus}; its MSE read as `mve_mm`): other data and another "
        "face, not to be ranked with ours."
    ]
    if number in ASSUMED:
        text += ["", ASSUMED[number]]
    for (block, facts), members in _groups(lines).items():
        text += ["", f"## {block}", ""] + ([facts, ""] if facts else [])
        text += _block(members, columns, printed)
    if claims:
        text += claim_text.to_markdown(claims)
    first = {line.label: line.rows[0] for line in lines if line.rows}
    if found := report.over_samples(first):
        text += ["", "## Over the samples of each clip (first seed)", "", *found]
    if columns:
        text += ["", "## Definitions", ""]
    for metric in columns:
        unit, better, words = metrics.DEFINITIONS[metric]
        better = report.BETTER[better]
        text += [f"- `{metric}` ({unit or 'no unit'}, {better}): {words}."]
    text += ["", "## Origins", "", *_origins(lines)]
    if missing := _missing(lines):
        text += ["", "## Not scored", "", *missing]
    if redefined := _redefined(lines):
        text += ["", "## Scored by other definitions", "", *redefined]
    return "\n".join(text) + "\n"


def _groups(lines):
    """{(block, what it was scored on): lines}; what was not run is with its block."""
    facts = {}  # of the first line of a block that was run
    for line in lines:
        if line.rows:
            facts.setdefault(line.block, _facts(line.rows[0]))
    groups = {}
    for line in lines:
        found = _facts(line.rows[0]) if line.rows else facts.get(line.block, "")
        groups.setdefault((line.block, found), []).append(line)
    return groups


def _facts(row):
    regions = ", ".join(f"{name} {code}" for name, code in sorted(row.regions.items()))
    timed = f" Timed on {row.device}." if "T_animation_ms" in row.measured else ""
    on = report.scored_on(row)
    return f"On {on}.{timed} Face {row.head}, vertices {regions}."


def _measured(lines):
    """Names of what was measured beside the scores, sorted, as kept rows have them."""
    return sorted({k for line in lines for row in line.rows for k in row.measured})


def _block(lines, columns, printed):
    more = _measured(lines)
    scored = any(row.scores for line in lines for row in line.rows)
    columns = columns if scored or not more else ()
    beside = printed.columns if any(line.paper for line in lines) else ()
    head = ["row", "seeds", "clips", "samples", *map(report.column, columns), *more]
    head += [] if columns or more else ["why there is none"]
    head += [f"*{name}*" for name in beside]
    body = []
    for line in lines:
        theirs = printed.rows.get(line.paper, (None,) * len(beside))
        clips = min([len(row.scores) for row in line.rows], default=0)
        cells = [report.cell(line.interval(metric), clips) for metric in columns]
        cells += [_mean([row.measured.get(key) for row in line.rows]) for key in more]
        if not line.rows:
            cells = [f"not run: {line.reason}", *[""] * (len(cells) - 1)]
        theirs = ["" if v is None else f"*{v:g}*" for v in theirs[: len(beside)]]
        samples = min([row.samples for row in line.rows], default=0)
        counts = [str(n or "-") for n in (len(line.rows), clips, samples)]
        body.append([line.label, *counts, *cells, *theirs])
    return report.grid(head, body)


def _missing(lines):
    """Why seeds of a line that stands in the table, or clips of a row, do not."""
    partial = [line for line in lines if line.rows and line.reason]
    seeds = [f"- {line.label}: {line.reason}" for line in partial]
    return seeds + [
        f"- {line.label}, seed {row.seed}: {clip}, {why}"
        for line in lines
        for row in line.rows
        for clip, why in row.skipped.items()
    ]


def _redefined(lines):
    """Rows whose metrics have been defined anew since: key and inputs do not tell."""
    return [
        f"- {line.label}, seed {row.seed}: {', '.join(sorted(row.redefined))}; remove "
        f"{row.hash()}.json and the table makes the row again"
        for line in lines
        for row in line.rows
        if row.redefined
    ]


def _mean(values):
    """Mean over seeds of what has no interval over clips, with its least and most."""
    values = [value for value in values if value is not None]
    text = f"{sum(values) / len(values):.4g}" if values else "-"
    if len(values) > 1:
        text += f" ({min(values):.4g} to {max(values):.4g})"
    return text


def _origins(lines):
    fields = ("weights", "seed", "commit", "config_hash", "dataset_hash", "device")
    body = [
        [
            line.label,
            row.hash(),
            *(str(getattr(row, name)) for name in fields),
            row.note,
        ]
        for line in lines
        for row in line.rows
    ]
    return report.grid(
        ["row", "file", *(f.replace("_", " ") for f in fields), "note"], body
    )


def to_json(number, lines, claims=()):
    """JSON-ready dict of one table."""
    printed = paper.TABLES[number]
    return {
        "table": number,
        "title": TITLES[number],
        "paper": {"corpus": printed.corpus, "columns": printed.columns},
        "lines": [
            {
                "label": line.label,
                "block": line.block,
                "reason": line.reason,
                "rows": [
                    {"file": f"{row.hash()}.json"}
                    | results.to_json(row, with_scores=False)
                    for row in line.rows
                ],
                "metrics": {
                    metric: found._asdict()
                    for metric in metrics.DEFINITIONS
                    if (found := line.interval(metric)) is not None
                },
                "paper": printed.rows.get(line.paper),
            }
            for line in lines
        ],
        "claims": list(claims),
    }


def write(directory, number, lines, claims=(), about=""):
    """Write `table_N.md`, `.json` and `.png`; returns the Markdown's path."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    claims = [check_claim(lines, claim) for claim in claims]
    content = to_json(number, lines, claims)
    text = json.dumps(content, indent=1, allow_nan=False, sort_keys=True) + "\n"
    write_whole(directory / f"table_{number}.json", text)
    plot.write(directory / f"table_{number}.png", list(panels(number, lines)))
    return write_whole(
        directory / f"table_{number}.md", to_markdown(number, lines, claims, about)
    )


def panels(number, lines):
    """Blocks of `plot.write`: scores by corpus, then what was measured beside them."""
    scored, measured = {}, {}
    for line in lines:
        if line.rows:
            title = report.scored_on(line.rows[0])
            if any(row.scores for row in line.rows):
                scored.setdefault(title, []).append(line)
            if keys := tuple(_measured([line])):
                measured.setdefault((title, keys), []).append(line)
    for title, members in scored.items() if COLUMNS[number] else ():
        names = [line.label for line in members]
        yield (
            *(title, names),
            {
                report.column(m): [line.interval(m) for line in members]
                for m in COLUMNS[number]
            },
        )
    for (title, keys), members in measured.items():
        found = [[_of_seeds(line, key) for key in keys] for line in members]
        names = [line.label for line in members]
        title += ", measured beside the scores"
        if len(members) == 1:  # one line of many numbers
            yield title, list(keys), {names[0]: found[0]}
        else:
            yield title, names, dict(zip(keys, zip(*found, strict=True), strict=True))


def _of_seeds(line, key):
    return [row.measured[key] for row in line.rows if key in row.measured]
