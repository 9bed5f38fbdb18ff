"""A report on rows: Markdown tables, JSON and a plot. See `results` for the rows."""

import itertools
import json
import pathlib

from toktalk_jax.evaluation import intervals, metrics, plot
from toktalk_jax.evaluation.results import to_json
from toktalk_jax.training.logs import write_whole

# What stands together in a table and in the plot; every metric is in one of them.
TABLES = {
    "Error": (
        *("mve_mm", "rmse_mm", "mse_mm2", "lve_mm", "lve_l2sq", "lve_rms_mm"),
        *("mod_mm", "energy_score", "tracked_lip_mm"),
    ),
    "Dynamics": (
        *("std_ratio", "fdd_1e5m", "fdd_signed", "fdd_xyzsum", "brow_fdd", "jitter"),
        *("jitter_inside", "boundary_excess", "boundary_excess_whole"),
    ),
    "Timing and head": (
        *("mouth_gap_r", "tracked_gap_r", "closure", "silence_mm", "head_speed_w1"),
        *("head_accel_w1", "head_beat", "head_beat_gain"),
    ),
}
_SIGNED = (
    "fdd_signed",
    "head_beat_gain",
    "mouth_gap_r",
    "tracked_gap_r",
)  # a ratio of these says nothing
BETTER = {
    "low": "lower is better",
    "high": "higher is better",
    "one": "1 is truth's",
    "zero": "0 is truth's",
}
ARROWS = {"low": "↓", "high": "↑", "one": "→ 1", "zero": "→ 0"}


def compare(rows, reference):
    """Paired ratio of every other row to the one named `reference`, per metric.

    Returns:
      {row name: {metric: `intervals.Interval`}}; a row that shares no clip is left out,
      and so are metrics whose sign may change.

    Raises:
      ValueError: no row, or more than one, has the reference's name.
    """
    found = [row for row in rows if row.name == reference]
    if len(found) != 1:
        names = [row.name for row in rows]
        raise ValueError(f"{len(found)} rows are named {reference!r}; rows: {names}")
    base = found[0]
    return {
        row.name: {
            metric: intervals.paired(row.scores, base.scores, metric)
            for metric in row.values
            if metric in base.values and metric not in _SIGNED
        }
        for row in rows
        if row is not base and row.scores.keys() & base.scores.keys()
    }


def cell(value, clips=None):
    """An `intervals.Interval`; with its clips, where they are not the `clips` given."""
    if value is None or value.value is None:
        return "-"
    text = f"{value.value:.3f}"
    if value.low is not None:
        text += f" [{value.low:.3f}, {value.high:.3f}]"
    if clips not in (None, value.clips):
        text += f" ({value.clips} clips)"
    return text


def grid(head, lines):
    """Lines of a Markdown table."""
    body = [head, ["---"] * len(head), *lines]
    return ["| " + " | ".join(line) + " |" for line in body]


def alike(row, other):
    """Whether one table may hold both: the same clips' truth, face and regions.

    The motion is the same where corpus, its fit and the frames scored are; tokens may
    be others. What an older row does not name is not compared.
    """
    named = ("corpus", "speakers", "vocabulary", "head", "scored")
    both = row.regions.keys() & other.regions.keys()
    return (
        all(getattr(row, n) == getattr(other, n) for n in named)
        and all(row.regions[name] == other.regions[name] for name in both)
        and (not row.data or not other.data or _truth(row) == _truth(other))
    )


def _truth(row):
    """What the motion that a row was scored against came from."""
    names = ("corpus", "source", "talkers", "split_rule", "seed", "augment")
    names += ("perform_styles", "motion_fit", "faces_of")
    return [{name: part.get(name) for name in names} for part in row.data]


def _groups(rows):
    """{(title, subtitle): rows that one table may hold}, in the order of the rows."""
    groups = []
    for row in rows:
        for group in groups:
            if all(alike(row, member) for member in group):
                group.append(row)
                break
        else:
            groups.append([row])
    return {_head_of(group): group for group in groups}


def scored_on(row):
    """Corpus, speakers, vocabulary and part of the clips, for a heading."""
    acted = any(part.get("perform_styles") for part in row.data)
    acted = acted or row.corpus == "performer"
    speakers = f"{row.speakers} {'style' if acted else 'speaker'}"
    speakers += "s" * (row.speakers != 1)
    if acted:  # one talker's sound, moved by rules: no speaker of that style exists
        speakers += " of the procedural performer"
    part = "" if row.scored == "all" else f", {row.scored.replace('_', ' ')} of clips"
    return f"{row.corpus}: {speakers}, {row.vocabulary}{part}"


def _head_of(rows):
    regions = dict(sorted(item for row in rows for item in row.regions.items()))
    hashes = ", ".join(f"{name} {code}" for name, code in regions.items())
    row = rows[0]
    return (
        scored_on(row),
        f"Face: {row.head}, head pose zeroed but in head_*; vertex hashes: {hashes}.",
    )


def _tables(rows):
    """{title: its metrics that any of the rows scored}; none that would be empty."""
    scored = set().union(*(row.values for row in rows))
    tables = {
        title: [metric for metric in metrics if metric in scored]
        for title, metrics in TABLES.items()
    }
    return {title: used for title, used in tables.items() if used}


def _panels(rows):
    """`_tables` of values, as `plot.write` takes them."""
    names = [row.name for row in rows]
    return [
        (title, names, {column(m): [row.values.get(m) for row in rows] for m in used})
        for title, used in _tables(rows).items()
    ]


def column(metric):
    """A metric's head: its name, unit where the name lacks it, and what is good."""
    unit = metrics.DEFINITIONS[metric][0]
    told = unit == "mm" and metric.endswith("_mm")
    name = f"{metric} ({unit})" if unit and not told else metric
    return f"{name} {ARROWS[metrics.DEFINITIONS[metric][1]]}"


def _table(rows, used, ratios):
    """Lines of one table: values, then ratios {row: {metric: interval}} if any."""
    clips = {row.name: len(row.scores) for row in rows}
    lines = []
    for row in rows:
        cells = [cell(row.values.get(metric), len(row.scores)) for metric in used]
        lines.append([row.name, str(len(row.scores)), str(row.samples), *cells])
    text = grid(["row", "clips", "samples", *map(column, used)], lines)
    used = [m for m in used if any(m in found for found in ratios.values())]
    if used:
        lines = [
            [name, *(cell(found.get(metric), clips[name]) for metric in used)]
            for name, found in ratios.items()
        ]
        text += ["", *grid(["ratio", *used], lines)]
    return text


def _section(rows, reference):
    """Lines of every table of rows that belong together."""
    known = reference in [row.name for row in rows]
    ratios = compare(rows, reference) if known else {}
    text = []
    if ratios:
        text = ["", f"Ratios are to `{reference}`, paired by clip."]
    for title, used in _tables(rows).items():
        text += ["", f"### {title}", "", *_table(rows, used, ratios)]
    if found := over_samples({row.name: row for row in rows}):
        text += ["", "Over the samples of each clip:", "", *found]
    return text


def over_samples(rows):
    """Best, mean and spread over the samples of a clip, where there are several.

    Args:
      rows: {name: `results.Row`}.

    Returns:
      lines of a Markdown table; none where no row has several samples.
    """
    lines = [
        [name, metric, *(cell(found[k]) for k in ("best", "mean", "spread"))]
        for name, row in rows.items()
        for metric, found in row.over_samples.items()
    ]
    if not lines:
        return []
    head = ["row", "metric", "best sample", "mean over samples", "spread (std)"]
    return grid(head, lines)


def to_markdown(rows, title, reference=None):
    """The report's text: tables per set of clips, then definitions and origins."""
    text = [f"# {title}", "", "Value [95 % interval, bootstrap over clips]."]
    for head, members in _groups(rows).items():
        text += ["", f"## {head[0]}", "", head[1], *_section(members, reference)]
    text += ["", "## Definitions", ""]
    for metric in itertools.chain(*_tables(rows).values()):
        unit, better, words = metrics.DEFINITIONS[metric]
        text += [f"- `{metric}` ({unit or 'no unit'}, {BETTER[better]}): {words}."]
    text += ["", "## Origins", ""]
    names = ("weights", "seed", "commit", "config_hash", "dataset_hash", "device")
    lines = [[r.name, *(str(getattr(r, n)) for n in names), r.note] for r in rows]
    text += grid(["row", *(n.replace("_", " ") for n in names), "note"], lines)
    for row in rows:
        text += [
            f"- {row.name}: {c} not scored, {why}" for c, why in row.skipped.items()
        ]
    return "\n".join(text) + "\n"


def _ratios(rows, reference):
    """{set of clips: {row: {metric: interval}}} where the set has the reference."""
    groups = {
        head[0]: compare(members, reference)
        for head, members in _groups(rows).items()
        if reference in [row.name for row in members]
    }
    if not groups:
        names = [row.name for row in rows]
        raise ValueError(f"no row is named {reference!r}; rows: {names}")
    return {
        head: {
            name: {metric: value._asdict() for metric, value in found.items()}
            for name, found in ratios.items()
        }
        for head, ratios in groups.items()
    }


def write_report(directory, rows, title, reference=None, stem="report"):
    """Write `report.md`, `report.json` and `report.png`; returns their paths.

    Args:
      reference: name of a row; adds every row's paired ratio to it.
    """
    if not rows:
        raise ValueError("a report needs at least one row; none came")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    content = {"title": title, "rows": [to_json(row, False) for row in rows]}
    if reference is not None:
        content.update(ratio_to=reference, ratios=_ratios(rows, reference))
    text = json.dumps(content, indent=1, allow_nan=False, sort_keys=True)
    return (
        write_whole(directory / f"{stem}.md", to_markdown(rows, title, reference)),
        write_whole(directory / f"{stem}.json", text + "\n"),
        plot.write(directory / f"{stem}.png", _panels(rows)),
    )
