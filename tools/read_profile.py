r"""Read a profile without TensorBoard: what ran, in which scope, and what stood still.

    python -m toktalk_jax.train --config configs/small.py ... --profile_steps=10:20
    python -m tools.read_profile runs/small/profile --top 20 --json profile.json

Three parts. First the share of the profiled steps that went into compute, into waiting
for input while nothing was computed, and into neither (idle); with several devices, the
mean over them. Then the scopes, of `jax.named_scope` and Flax modules: a scope holds
those indented under it; its backward pass stands beside its forward pass. Then single
operations by the time that is their own: a loop's total holds its body's, its own time
does not. What runs at once on several threads or streams adds up in the last two parts,
and counts once in the first.
"""

import argparse
import collections
import json
import pathlib

import numpy as np

from tools import xplane

LEAST = 0.01  # share of a scope that is printed


def merged(spans):
    """Disjoint spans that cover the same, sorted."""
    out = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def length(spans):
    """Summed length of spans."""
    return sum(end - start for start, end in spans)


def clipped(spans, window):
    """The parts of spans inside a window (start, end)."""
    first, last = window
    inside = ((max(start, first), min(end, last)) for start, end in spans)
    return [(start, end) for start, end in inside if start < end]


def shares(trace):
    """Where the profiled steps went: a dict of shares, and of their number and time.

    They begin with the first annotation of the host and end with the last operation.
    `input` is waiting for it while nothing is computed; what is waited for behind a
    running step is `input_hidden`, and part of `compute`.
    """
    host = trace.steps + trace.waits
    spans = [(op.start, op.end) for op in trace.ops]
    window = min(host or spans)[0], max(end for _, end in trace.steps + spans)
    waits = merged(clipped(trace.waits, window))
    found = []
    for device in sorted({op.device for op in trace.ops}):
        here = [(op.start, op.end) for op in trace.ops if op.device == device]
        busy = merged(clipped(here, window))
        either = length(merged(busy + waits))
        found.append((length(busy), either - length(busy), length([window]) - either))
    whole = length([window])
    compute, waiting, idle = np.mean(found, 0) / whole
    return {
        "steps": len(trace.steps),
        "devices": len(found),
        "step_ms": whole / 1e6 / max(len(trace.steps), 1),
        "compute": float(compute),
        "input": float(waiting),
        "idle": float(idle),
        "input_hidden": float(length(waits) / whole - waiting),
    }


def own_times(ops):
    """[(op, ns of its own)]: without what nests inside it on its track.

    An operation without a scope, such as a loop's counter, gets the scope around it.
    """
    out, open_ops = [], []  # open_ops: places in `out`, outermost first
    order = sorted(ops, key=lambda op: (op.device, op.track, op.start, -op.end))
    for op in order:
        track = op.device, op.track
        while open_ops:
            around = out[open_ops[-1]][0]
            if (around.device, around.track) == track and around.end > op.start:
                break
            open_ops.pop()
        if open_ops:
            around, own = out[open_ops[-1]]
            inside = min(op.end, around.end) - op.start
            out[open_ops[-1]] = around, own - inside
            if not op.scope:
                op = op._replace(scope=around.scope, backward=around.backward)
        open_ops.append(len(out))
        out.append((op, op.end - op.start))
    return out


def by_operation(timed, top):
    """The `top` operations of most own time: [{name, scope, ms, own_ms, ...}]."""
    table = collections.defaultdict(lambda: [0.0, 0.0, 0])
    for op, own in timed:
        row = table[op.name, op.scope, op.backward]
        row[0] += op.end - op.start
        row[1] += own
        row[2] += 1
    whole = sum(own for _, own in timed)
    order = sorted(table.items(), key=lambda item: -item[1][1])
    return [
        {
            "name": name,
            "scope": "/".join(scope),
            "backward": backward,
            "ms": total / 1e6,
            "own_ms": own / 1e6,
            "count": count,
            "share": own / whole,
        }
        for (name, scope, backward), (total, own, count) in order[:top]
    ]


def by_scope(timed, depth):
    """Time in each scope and in what it holds: [{scope, forward_ms, backward_ms, ...}].

    Outer scopes come before inner ones, longer before shorter.
    """
    table = collections.defaultdict(lambda: [0.0, 0.0])
    for op, own in timed:
        scope = op.scope[:depth] or ("(no scope)",)
        for last in range(1, len(scope) + 1):
            table[scope[:last]][op.backward] += own
    whole = sum(own for _, own in timed)

    def rank(scope):
        return [(-sum(table[scope[:i]]), scope[:i]) for i in range(1, len(scope) + 1)]

    return [
        {
            "scope": "/".join(scope),
            "forward_ms": table[scope][0] / 1e6,
            "backward_ms": table[scope][1] / 1e6,
            "share": sum(table[scope]) / whole,
        }
        for scope in sorted(table, key=rank)
    ]


def summary(trace, top=20, depth=3):
    """Everything that is printed, as a JSON-ready dict."""
    timed = own_times(trace.ops)
    return {
        **shares(trace),
        "scopes": by_scope(timed, depth),
        "operations": by_operation(timed, top),
    }


def show(found):
    """Print a `summary`."""
    print(
        f"{found['steps']} steps of {found['step_ms']:.2f} ms on {found['devices']} "
        f"device(s): compute {found['compute']:.1%}, input {found['input']:.1%}, idle "
        f"{found['idle']:.1%}; input waited for behind compute "
        f"{found['input_hidden']:.1%}"
    )
    print(f"\n{'scope':44} {'forward ms':>11} {'backward ms':>12} {'share':>7}")
    for row in found["scopes"]:
        if row["share"] >= LEAST:
            *outer, name = row["scope"].split("/")
            print(
                f"{'  ' * len(outer) + name:44.44} {row['forward_ms']:11.2f} "
                f"{row['backward_ms']:12.2f} {row['share']:7.1%}"
            )
    print(
        f"\n{'own ms':>9} {'total ms':>9} {'count':>7} {'share':>6}  operation, scope"
    )
    for row in found["operations"]:
        print(
            f"{row['own_ms']:9.2f} {row['ms']:9.2f} {row['count']:7} "
            f"{row['share']:6.1%}  {row['name']}, {row['scope'] or '(no scope)'}"
            f"{' backward' if row['backward'] else ''}"
        )


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("directory", help="of the profile, or an .xplane.pb file")
    p.add_argument("--top", type=int, default=20, help="operations to list")
    p.add_argument("--depth", type=int, default=3, help="of the scopes")
    p.add_argument("--json", default="", help="file to write")
    args = p.parse_args(argv)
    try:
        path = xplane.find(args.directory)
        found = {"file": path.name, **summary(xplane.read(path), args.top, args.depth)}
    except (OSError, ValueError) as error:
        raise SystemExit(f"read_profile: {error}") from None
    show(found)
    if args.json:
        out = pathlib.Path(args.json)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
