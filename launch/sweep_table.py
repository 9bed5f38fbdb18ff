"""The results of a sweep: CSV, Markdown and a plot of parallel coordinates."""

import csv
import json
import math

from launch import sweep_cells
from toktalk_jax.training import logs

LAST = ("loss", "gradient_norm", "step_ms")  # and every validation_*
PREFIX = "validation_"
CARD = "card_"  # of an adapter's report card, on the split that the card names
# What the plot shows first of many results; it has room for four.
SHOWN = ("loss", "lve_mm", "mouth_gap_r", "fdd_1e5m", "std_ratio")
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def write(out, cells):
    """Write table.csv, table.md and, if any cell has a result, table.png.

    Args:
      out: directory; cells: `sweep_cells.Cell`s.

    Returns:
      Their paths.
    """
    rows = [row(cell) for cell in cells]
    columns = list(dict.fromkeys(name for found in rows for name in found))
    # Metrics stand last in the order of their names, whichever cell had them first.
    fixed = [name for name in columns if _plain(name)]
    columns = fixed + sorted(name for name in columns if not _plain(name))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    body = [columns, ["---"] * len(columns)]
    body += [[_text(found.get(name, "")) for name in columns] for found in rows]
    text = "".join("| " + " | ".join(line) + " |\n" for line in body)
    paths = [out / "table.csv", logs.write_whole(out / "table.md", text)]
    swept = list(cells[0].values)
    return paths + plot(out / "table.png", rows, swept, results_of(columns)[:4])


def results_of(columns):
    """Columns to judge cells by: validation metrics at their best, cards, or the loss.

    An adapter's loss is none: cells may weigh its terms differently.
    """
    for prefix in (f"best_{PREFIX}", PREFIX, CARD, "loss"):
        if found := [name for name in columns if name.startswith(prefix)]:
            break
    known = [prefix + name for name in SHOWN]
    return [n for n in known if n in found] + [n for n in found if n not in known]


def _plain(name):
    return not name.startswith((PREFIX, f"best_{PREFIX}", CARD))


def row(cell):
    """{column: value} of a cell: what was swept, how far it came, what came out."""
    found = dict(cell.values) | {"status": sweep_cells.status(cell)}
    if cell.command[0] == sweep_cells.EVALUATE:
        return found | _scores(cell)
    path = cell.workdir / "metrics.jsonl"
    lines = logs.read_jsonl(path) if path.is_file() else []
    found |= {"steps": lines[-1]["step"] if lines else 0}
    found |= {"wall_s": round(wall_seconds(lines), 1)}
    names = [
        *LAST,
        *sorted({n for line in lines for n in line if n.startswith(PREFIX)}),
    ]
    for name in names:
        if values := [line[name] for line in lines if name in line]:
            found[name] = values[-1]
            if name.startswith(PREFIX):
                found[f"best_{name}"] = best(name.removeprefix(PREFIX), values)
    return found | _card(cell)


def _scores(cell):
    path = cell.workdir / "evaluation.json"
    if not path.is_file():
        return {}
    metrics = json.loads(path.read_text())["rows"][0]["metrics"]
    return {f"{PREFIX}{name}": found["value"] for name, found in metrics.items()}


def _card(cell):
    """Scores through the adapter and over its base's own; {} where there is no card."""
    path = cell.workdir / "card.json"
    if cell.command[0] != sweep_cells.ADAPT or not path.is_file():
        return {}
    card = json.loads(path.read_text())
    found = {f"{CARD}{name}": value for name, value in card["adapter"].items()}
    ratios = card["ratio"].items()
    found |= {f"{CARD}{name}_over_base": each["value"] for name, each in ratios}
    names = ("split", "align_explained", "added_share")
    return found | {name: card[name] for name in names}


def wall_seconds(lines):
    """Seconds of training behind the rows of a metrics.jsonl.

    The times of rows are told apart, but a row that has `step_ms` counts no more than
    its own steps took: pauses between a run and its resumption are left out.
    """
    total, step, time = 0.0, 0, None
    for line in lines:
        since = line["time"] - time if time is not None else math.inf
        took = line.get("step_ms", math.inf) * (line["step"] - step) / 1e3
        took = min(since, took) if line["step"] > step else since
        total += took if math.isfinite(took) else 0.0
        step, time = line["step"], line["time"]
    return total


def best(metric, values):
    """The best of a metric's values, whichever way is better for it."""
    from toktalk_jax.evaluation.metrics import DEFINITIONS

    values = [value for value in values if value is not None and math.isfinite(value)]
    if not values:
        return math.nan
    way = DEFINITIONS.get(metric, ("", "low", ""))[1]
    if way == "high":
        return max(values)
    target = {"one": 1.0, "zero": 0.0}.get(way)
    return min(values, key=lambda v: v if target is None else abs(v - target))


def _text(value):
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def plot(path, rows, swept, results):
    """Draw one line per cell through its swept values and its results.

    Coloured by the first result; cells that are not finished are dashed. Returns
    [path], or [] where no cell has every result.
    """
    shown = [
        found
        for found in rows
        if results and all(math.isfinite(_number(found.get(n))) for n in results)
    ]
    if not shown:
        return []
    from matplotlib.figure import Figure  # slow to import, and only the plot draws

    names = [*swept, *results]
    scales = [_scale([found[name] for found in shown]) for name in names]
    figure = Figure((1.5 + 2.2 * len(names), 4.5), layout="constrained")
    axes = figure.subplots()
    _lines(axes, shown, names, scales, len(swept))
    for x, (_, ticks) in enumerate(scales):
        axes.axvline(x, color="0.7", zorder=0)
        for height, label in ticks:
            place = {"xytext": (6, 3), "textcoords": "offset points"}
            axes.annotate(label, (x, height), bbox=LABEL, **place)
    axes.set_xticks(range(len(names)), [_axis(name) for name in names])
    axes.set_xlim(-0.3, len(names) - 0.4)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return [path]


def _lines(axes, shown, names, scales, swept):
    """One line per row, through its heights; the first `swept` axes are settings."""
    from matplotlib import colormaps

    for i, found in enumerate(shown):
        pairs = zip(names, scales, strict=True)
        heights = [place(found[name]) for name, (place, _) in pairs]
        # Cells that share a value would lie on one line; apart they can be followed.
        apart = 0.06 * (i / max(1, len(shown) - 1) - 0.5)
        axes.plot(
            range(len(names)),
            [h + apart * (x < swept) for x, h in enumerate(heights)],
            color=colormaps["viridis"](heights[swept]),
            linestyle="-" if found["status"] == "finished" else "--",
            marker="o",
            markersize=4,
        )


def _axis(name):
    for prefix, plain in ((PREFIX, ""), (CARD, ""), ("best_", "best "), (".", ".\n")):
        name = name.replace(prefix, plain)
    return name


def _number(value):
    return float(value) if isinstance(value, (int, float)) else math.nan


def _scale(values):
    """(value -> height in 0..1, [(height, label)]) of an axis.

    Numbers are placed by value, by its logarithm where they span a decade; anything
    else in the order it came.
    """
    unique = list(dict.fromkeys(values))
    numbers = all(isinstance(v, (int, float)) for v in unique)
    if not numbers or isinstance(unique[0], bool):
        places = {v: (i + 0.5) / len(unique) for i, v in enumerate(unique)}
        return places.get, [(places[v], str(v)) for v in unique]
    low, high = min(unique), max(unique)
    grow = math.log if low > 0 and high >= 10 * low else float

    def place(value):
        return (
            (grow(value) - grow(low)) / (grow(high) - grow(low)) if high > low else 0.5
        )

    labelled = sorted(unique) if len(unique) <= 8 else [low, high]
    ticks = [(place(value), f"{value:.4g}") for value in labelled]
    return place, _apart(ticks)


def _apart(ticks):
    """Ticks without those whose label would lie over the one before; ends are kept."""
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick[0] - kept[-1][0] >= 0.05:
            kept.append(tick)
    return kept
