"""Rows of adapters beside each other: which losses make one, and how much speech.

    python -m tools.compare_adapters runs/whisper_* --out configs/results/adapters

Each argument is a finished workdir of `toktalk_jax.adapt`. OUT.json keeps their rows
(a row of the same adapter is replaced, all others stay), OUT.md is the table, OUT.png
the picture: error over that of the base from its own tokens, and the data curve.
"""

import argparse
import json
import pathlib

from toktalk_jax.evaluation import intervals, report
from toktalk_jax.training import logs

METRICS = ("lve_mm", "mve_mm", "energy_score", "mouth_gap_r", "std_ratio")
RATIOS = ("lve_mm", "mve_mm", "energy_score", "std_ratio")  # of r it says nothing
# What makes a row another one, and a table another one.
GROUP = ("from", "to", "base_hash", "split", "clips")
IDENTITY = (*GROUP, "name", "minutes", "steps", "settings")
ORDER = ("untrained", "linear map", "align", "flow", "flow + align")
ORDER += ("flow + align + distill", "distill, no faces")


def name_of(config):
    """What an adapter was trained by, from its run's config.json.

    Returns:
      such as "flow + align", "linear map", "untrained".
    """
    if config["adapter"]["kind"] == "linear":
        return "linear map"
    if not config["total_steps"]:
        return "untrained"
    train = config["train"]
    losses = " + ".join(k for k in ("flow", "align", "distill") if train[k])
    return losses + (", no faces" if train["faces"] == "base" else "")


def settings_of(config):
    """What tells adapters of the same losses apart, from a run's config.json.

    Returns:
      such as "weights 1 + 0.5, 4 x 64, window 25, seed 0": the weights of the losses
      that its name lists, depth by width, tokens before a chunk.
    """
    adapter, train = config["adapter"], config["train"]
    size = f"window {adapter['context_tokens']}, seed {config['seed']}"
    if adapter["kind"] == "linear":
        return size
    size = f"{adapter['depth']} x {adapter['width']}, {size}"
    weights = [f"{train[k]:g}" for k in ("flow", "align", "distill") if train[k]]
    return f"weights {' + '.join(weights)}, {size}" if config["total_steps"] else size


def row_of(run):
    """One row from a workdir.

    Raises:
      ValueError: the directory holds no report card; says what makes one.
    """
    run = pathlib.Path(run)
    files = ("card.json", "config.json", "adapter.json")
    missing = [name for name in files if not (run / name).is_file()]
    if missing:
        raise ValueError(
            f"{run} has no {missing[0]}; give workdirs that "
            "python -m toktalk_jax.adapt has finished"
        )
    card, config, facts = (json.loads((run / name).read_text()) for name in files)
    name = name_of(config)
    kept = ("from", "to", "base_hash", "adapter_hash", "parameters", "steps", "split")
    kept += ("clips", "align_explained", "added_share")
    return {
        "name": name,
        "settings": settings_of(config),
        **{key: card[key] for key in kept},
        "lookahead_s": [facts[side]["lookahead_s"] for side in ("foreign", "base")],
        "minutes": 0.0 if name == "untrained" else round(card["minutes"], 1),
        "base": {m: card["base"][m] for m in METRICS},
        "adapter": {m: card["adapter"][m] for m in METRICS},
        "ratio": {m: card["ratio"][m] for m in RATIOS},
    }


def merge(rows, kept=()):
    """All rows, new ones in place of kept ones of the same identity, in table order."""
    found = {tuple(row[k] for k in IDENTITY): row for row in [*kept, *rows]}
    place = {name: k for k, name in enumerate(ORDER)}
    return sorted(
        found.values(),
        key=lambda r: (
            *(r["to"], r["from"], r["base_hash"], r["split"], r["clips"]),
            *(place.get(r["name"], len(ORDER)), r["name"]),
            *(r["minutes"], r["steps"], r["settings"]),
        ),
    )


def groups_of(rows):
    """{values of GROUP: its rows}, in their order."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in GROUP), []).append(row)
    return groups


def to_markdown(rows):
    """The tables, one per pair of tokenizers and base."""
    text = [
        "# Adapters",
        "",
        "A score through the adapter over that of the base from its own tokens: the "
        "same clips, streamed, the same noise, one sample each; 95 % bootstrap "
        "intervals, paired by clip. Of the three errors less than 1 is better than the "
        "tokens that the base was trained on; `std_ratio` tells how much more the face "
        "moves. `mouth_gap_r` is the adapter's own, to be read beside the base's. "
        "Added: to a chunk's time at n = 20, measured beside other work unless its "
        "card says otherwise.",
    ]
    for (source, target, code, split, clips), members in groups_of(rows).items():
        base = ", ".join(f"{m} {members[0]['base'][m]:.3f}" for m in METRICS)
        text += ["", f"## {source} before a base on {target}, {code}", ""]
        ahead = " and ".join(f"{s:g}" for s in members[0]["lookahead_s"])
        text += [
            f"{clips} {split} clips. The tokenizers look {ahead} s ahead, within the "
            f"chunk. The base from its own tokens: {base}.",
            "",
        ]
        head = ["losses", "steps", "minutes", "tokens explained", *METRICS, "added"]
        text += [_line([*head, "settings"]), _line(["---"] * (len(head) + 1))]
        for r in members:
            facts = [r["name"], str(r["steps"]), f"{r['minutes']:.0f}"]
            facts += [f"{100 * r['align_explained']:.0f} %"]
            facts += [
                report.cell(intervals.Interval(**r["ratio"][m]))
                if m in RATIOS
                else f"{r['adapter'][m]:.3f}"
                for m in METRICS
            ]
            added = r["added_share"]
            facts += ["-" if added is None else f"{100 * added:+.1f} %", r["settings"]]
            text += [_line(facts)]
    return "\n".join(text) + "\n"


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def plot(path, rows):
    """A panel per table, and the data curve where minutes differ."""
    from matplotlib.figure import Figure

    groups = groups_of(rows)
    curves = {
        key: curve
        for key, found in groups.items()
        if len(curve := data_curve(found)) > 1
    }
    count = len(groups) + bool(curves)
    wide = min(count, 3)
    deep = -(-count // wide)
    figure = Figure((4.6 * wide, 3.6 * deep), layout="tight")
    for k, ((source, target, code, *_), members) in enumerate(groups.items()):
        axes = figure.add_subplot(deep, wide, k + 1)
        _losses(axes, members)
        axes.set_title(f"{source} to {target}, base {code[:6]}", fontsize=10)
    if curves:
        axes = figure.add_subplot(deep, wide, count)
        for (source, target, *_), curve in curves.items():
            _curve(axes, curve, f"{source} to {target}")
        axes.set_title("data curve", fontsize=10)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def data_curve(members):
    """Rows that differ in minutes alone, of the losses of which most there are."""
    kinds = {}
    for row in members:
        kind = row["name"], row["steps"], row["settings"]
        kinds.setdefault(kind, {})[row["minutes"]] = row
    best = max(kinds.values(), key=len, default={})
    return [best[minutes] for minutes in sorted(best)]


COLOURS = {"lve_mm": "tab:blue", "mve_mm": "tab:orange"}


def _losses(axes, members):
    for k, row in enumerate(members):
        for shift, (metric, colour) in zip((-0.12, 0.12), COLOURS.items(), strict=True):
            found = row["ratio"][metric]
            if found["low"] is not None:
                ends = [found["low"], found["high"]]
                axes.plot(ends, [k + shift] * 2, color=colour, lw=1.5)
            label = metric if k == 0 else None
            axes.plot(found["value"], k + shift, "o", color=colour, ms=4, label=label)
    labels = [
        f"{r['name']}\n{r['steps']} steps, {r['minutes']:.0f} min" for r in members
    ]
    axes.set_yticks(range(len(members)), labels, fontsize=7)
    axes.set_ylim(len(members) - 0.5, -0.5)
    axes.set_xscale("log")
    _ticks(axes.xaxis)
    axes.axvline(1, color="0.5", lw=1)
    axes.set_xlabel("error over the base's", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7)


def _curve(axes, curve, label):
    minutes = [row["minutes"] for row in curve]
    for metric, style in zip(COLOURS, ("-", "--"), strict=True):
        found = [row["ratio"][metric] for row in curve]
        values = [f["value"] for f in found]
        ends = [[abs(f["value"] - f[end]) for f in found] for end in ("low", "high")]
        axes.errorbar(
            *(minutes, values, ends),
            fmt="o" + style,
            capsize=3,
            label=f"{label}, {metric}",
        )
    axes.set_xscale("log")
    axes.set_xticks(minutes, [f"{m:.0f}" for m in minutes])
    axes.minorticks_off()
    axes.set_xlabel("minutes of paired speech", fontsize=8)
    axes.set_ylabel("error over the base's", fontsize=8)
    axes.grid(alpha=0.3)


def _ticks(axis):
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=(0.7, 0.8, 0.9, 1.1, 1.2, 1.5)))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_tick_params(which="both", labelsize=6)


def compare(runs, out):
    """Write OUT.json, OUT.md, OUT.png from runs and the rows that OUT.json holds.

    Returns:
      all rows.
    """
    out = pathlib.Path(out)
    kept = out.with_suffix(".json")
    before = json.loads(kept.read_text())["rows"] if kept.is_file() else []
    rows = merge(map(row_of, runs), before)
    if not rows:
        raise ValueError(f"no run was named and {kept} holds no row")
    out.parent.mkdir(parents=True, exist_ok=True)
    logs.write_whole(kept, json.dumps({"rows": rows}, indent=1) + "\n")
    logs.write_whole(out.with_suffix(".md"), to_markdown(rows))
    plot(out.with_suffix(".png"), rows)
    return rows


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", help="finished workdirs; none: redraw OUT")
    parser.add_argument("--out", default="configs/results/adapters", help="stem")
    args = parser.parse_args(arguments)
    try:
        rows = compare(args.runs, args.out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"compare_adapters: {error}") from None
    print(to_markdown(rows))


if __name__ == "__main__":
    main()
