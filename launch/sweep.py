r"""Run a sweep: one training per point, side by side here or under Slurm.

    python -m launch.sweep configs/base.py:sweep_learning_rate \
        --config.dataset DIR --run local --jobs 2
    python -m launch.sweep configs/small.py:smoke:sweep_temperature ... --dry_run
    python -m launch.sweep ... --run slurm --jobs 8 \
        --slurm partition=gpu --slurm gpus_per_node=1 --slurm timeout_min=600
    python -m launch.sweep ... --table        # what is there so far

A sweep is a generator of flat overrides beside its config; FILE:GENERATOR, or with a
config argument FILE:ARGUMENT:GENERATOR. Each cell is a plain command (--dry_run prints
them all, to copy or to pipe to bash) with a directory and a log under --out. The same
call again skips what is finished and goes on with the rest; a cell that fails stops no
other and is listed at the end (exit code 1). At the end, and by --table alone, the
results are written: table.csv, table.md and table.png.

A sweep that changes `sample.*` alone trains nothing anew: one model (--model, or one
training of the config as it is) is scored at each point on the validation clips.

Ctrl-C: local trainings save and end; jobs of Slurm stay, and the same call waits on.
"""

import argparse
import os
import pathlib
import shlex
import sys

from launch import sweep_cells, sweep_local, sweep_slurm, sweep_table


def main(argv=None):
    """Command line; returns the exit code."""
    options = _read_options(sys.argv[1:] if argv is None else argv)
    try:
        return _main(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 2


def _read_options(argv):
    parser = argparse.ArgumentParser(
        prog="python -m launch.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("sweep", help="FILE:GENERATOR or FILE:ARGUMENT:GENERATOR")
    add("--run", default="local", help="where: local (default) or slurm")
    add("--jobs", type=int, default=1, help="cells at a time")
    add("--out", default="", help="directory of the cells; runs/CONFIG-SWEEP")
    add("--base", default="", help="frozen base of a sweep of adapters")
    add("--model", default="", help="trained run to score, for sweeps of sample.*")
    add("--slurm", action="append", default=[], metavar="KEY=VALUE", help="of a job")
    add("--detach", action="store_true", help="submit to Slurm and return")
    add("--dry_run", action="store_true", help="print the commands, run nothing")
    add("--table", action="store_true", help="write the table of what is there")
    parser.epilog = "Further --config.KEY=VALUE flags go to every cell."
    options, rest = parser.parse_known_args(argv)
    options.overrides = []
    rest = iter(rest)
    for text in rest:
        if not text.startswith("--config."):
            parser.exit(2, f"sweep: unknown argument {text}; --help lists them\n")
        if "=" not in text and (value := next(rest, None)) is None:
            parser.exit(2, f"sweep: {text} needs a value\n")
        options.overrides.append(text if "=" in text else f"{text}={value}")
    return options


def _main(options):
    if options.run not in ("local", "slurm"):
        raise ValueError(f"--run is {options.run!r}; expected local or slurm")
    if options.jobs < 1:
        raise ValueError(f"--jobs is {options.jobs}; expected 1 or more")
    out = pathlib.Path(options.out or sweep_cells.default_out(options.sweep))
    sweep = sweep_cells.read_sweep(
        options.sweep,
        options.overrides,
        out=out,
        base=options.base,
        model=options.model,
    )
    every = [*sweep.before, *sweep.cells]
    if options.dry_run:
        for cell in every:
            print(shlex.join(["python", "-m", *cell.command]))
        return 0
    if options.table:
        _report(every)
        return _write_table(out, sweep)
    for cell in every:
        sweep_cells.check_data(cell)
    out.mkdir(parents=True, exist_ok=True)
    effective = os.access in os.supports_effective_ids
    if not os.access(out, os.W_OK, effective_ids=effective):
        raise PermissionError(f"--out: no permission to write to {out}")
    if options.run == "slurm":
        return _under_slurm(options, out, sweep)
    try:
        for cells in (sweep.before, sweep.cells):
            if todo := _todo(cells):
                sweep_local.run(todo, options.jobs)
            if cells is sweep.before and _report(cells):
                return 1  # nothing to score
    except KeyboardInterrupt:
        print("sweep: interrupted; the same command goes on", file=sys.stderr)
        return 130
    failed = _report(every)
    return _write_table(out, sweep) or failed


def _under_slurm(options, out, sweep):
    made = sweep_slurm.executor(options.slurm, options.jobs, out / "slurm")
    if options.detach and _todo(sweep.before):
        raise ValueError(
            "--detach: these cells score a model that is yet to be trained; train it "
            "first and give it with --model, or wait"
        )
    for cells in (sweep.before, sweep.cells):
        if not (todo := _todo(cells)):
            continue
        ids = sweep_slurm.submit(todo, made)
        jobs = " ".join(sorted({job.partition("_")[0] for job in ids.values()}))
        print(f"jobs: {jobs}", flush=True)
        if options.detach:
            here = ["python", "-m", "launch.sweep", options.sweep, *options.overrides]
            given = [
                f"--{k}={v}" for k in ("base", "model") if (v := getattr(options, k))
            ]
            print(shlex.join([*here, *given, f"--out={out}", "--table"]))
            return 0
        try:
            sweep_slurm.wait(todo, ids)
        except KeyboardInterrupt:
            print(f"sweep: the jobs go on; scancel {jobs} ends them", file=sys.stderr)
            return 130
        if cells is sweep.before and _report(cells):
            return 1
    failed = _report([*sweep.before, *sweep.cells])
    return _write_table(out, sweep) or failed


def _todo(cells):
    """Cells that are not finished; says which are."""
    todo = [cell for cell in cells if not sweep_cells.finished(cell)]
    if done := len(cells) - len(todo):
        print(f"{done} of {len(cells)} cells are finished already", flush=True)
    return todo


def _report(cells):
    """Say what did not finish, and why; returns whether there is any."""
    left = [(cell, sweep_cells.status(cell)) for cell in cells]
    left = [(cell, status) for cell, status in left if status != "finished"]
    for cell, status in left:
        line = f": {sweep_cells.last_line(cell)}" if status == "unfinished" else ""
        print(f"{status}: {cell.name}{line} ({cell.log})")
    return int(bool(left))


def _write_table(out, sweep):
    """Write and print the table; returns 0."""
    paths = sweep_table.write(out, sweep.cells)
    print(paths[1].read_text(), *paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
