"""Values and their intervals as a picture: one panel per metric, nothing ranked."""

import itertools
import pathlib

COLUMNS = 4


def write(path, blocks):
    """Write a PNG of values and intervals; returns its path.

    Args:
      blocks: list of (title, names from the top, {panel's title: an
        `intervals.Interval`, None, or the numbers of its training seeds, of each
        name}), drawn below each other.
    """
    from matplotlib.figure import Figure  # slow to import, and only a report draws

    blocks = blocks or [("no clip was scored", [], {})]
    deep = [max(1, -(-len(panels) // COLUMNS)) for _, _, panels in blocks]
    high = [
        (0.2 * len(names) + 0.8) * lines + 0.4
        for (_, names, _), lines in zip(blocks, deep, strict=True)
    ]
    figure = Figure((4 * COLUMNS, sum(high)), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=high)
    for part, lines, (title, names, panels) in zip(
        parts[:, 0], deep, blocks, strict=True
    ):
        part.suptitle(title, fontsize=12, x=0.005, ha="left")
        places = part.subplots(lines, COLUMNS, squeeze=False, sharey=True).flat
        for axes, panel in itertools.zip_longest(places, panels):
            if panel is None:
                axes.set_axis_off()
                continue
            axes.set_title(panel, fontsize=9)
            _draw(axes, panels[panel])
            axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return pathlib.Path(path)


def _draw(axes, values):
    """A point and its interval per row, from the top; None leaves its place empty."""
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.3)
    for height, found in enumerate(values):
        if isinstance(found, list):
            axes.plot(found, [height] * len(found), "o", color="tab:green", ms=4)
            continue
        if found is None or found.value is None:
            continue
        if found.low is not None:
            ends = [found.low, found.high]
            axes.plot(ends, [height, height], color="tab:blue", lw=1.5)
        axes.plot(found.value, height, "o", color="tab:blue", ms=4)
