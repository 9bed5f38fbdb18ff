r"""Score a trained model on held-out clips, streamed as it serves.

    python -m toktalk_jax.evaluate --config configs/small.py \
        --config.dataset DIR --workdir runs/small --keep_row

Rows (--rows, joined by commas): stream (the model, one sample per clip, chunk by
chunk), mean (mean of --samples samples), whole (the same weights solved over the whole
clip), static (training mean face), ridge (ridge regression on the tokens that the
stream sees), adapter (as stream, from the foreign tokens of the dataset, through
--adapter), rules (the procedural performer, where sound and phonemes are known), truth
(the dataset's own motion: where its motion was fitted to tracked landmarks that it
holds, what the fit itself leaves), and of a run of another method the method's name
(faceformer: its motion of each clip). files scores the motion files of any other
system, one a clip, in the folder --motions. Written to the workdir: evaluation.json,
evaluation.md, evaluation.png, and with --keep_row one file per row under
configs/results/rows/.

    python -m toktalk_jax.evaluate --config configs/grid.py --table 5 [--runs DIR]

fills one of the paper's tables (2, 3, 4 or 5; --table again for more): rows that
are kept are read, missing ones are trained and scored; see `toktalk_jax/tables.py`.
Written to configs/results: table_N.md, table_N.json, table_N.png. --samples and --limit
are then the config's `table.samples` and `table.limit`.

--style says what the style encoder is shown: another_clip of the speaker (what a user
would give), none, same_window (the scored frames, as the paper's text has it),
first_half (of the scored clip; with --scored second_half), wrong_speaker, mean_offset
(no style, but the mean pose of the speaker's other clip added).
"""

import pathlib

from absl import app, flags, logging

from toktalk_jax import command_line, tables
from toktalk_jax import rows as table_rows
from toktalk_jax import task as tasks
from toktalk_jax.evaluation import references, report, results
from toktalk_jax.evaluation import tables as table_text

# Flags that a table's lines stand for.
OF_ROWS = ("workdir", "rows", "split", "seed", "style", "scored")
OF_ROWS += ("landmark_map", "adapter", "motions", "keep_row")
RESULTS = pathlib.Path(__file__).resolve().parent.parent / "configs/results"


def evaluate(config, workdir, *, rows, adapter="", motions="", **options):
    """Score a run; returns a list of `results.Row` in the order of `rows`.

    Args:
      config, workdir, adapter, motions, options: see `task.prepare`.
      rows: names out of `rows.ROWS`.

    Raises:
      ValueError: an unknown row, or a dataset that the model or the adapter was not
        made for.
    """
    unknown = [name for name in rows if name not in table_rows.ROWS]
    if unknown:
        known = tuple(table_rows.ROWS)
        raise ValueError(f"--rows holds {unknown}; expected names out of {known}")
    for name, given in (("adapter", adapter), ("files", motions)):
        if (name in rows) != bool(given):
            flag = "--motions" if name == "files" else "--adapter"
            raise ValueError(f"the row {name!r} and {flag} DIR go together")
    more = {"adapter": adapter, "motions": motions}
    task = tasks.prepare(config, workdir, **more, **options)
    for name in rows:
        table_rows.check(task, name)
    control = table_rows.borderless(task) if "whole" in rows else None
    return [
        table_rows.score(task, name, control=control if name == "stream" else None)
        for name in rows
    ]


def main(argv):
    """Command line."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells its whole life at INFO
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    with command_line.one_line_errors("evaluate"):
        for path in _tables() if flags.FLAGS.table else [_rows()]:
            print(path.read_text())


def _rows():
    """Score the rows that the command line names; returns the report's path."""
    f = flags.FLAGS
    if "sample" not in f.config:
        raise ValueError(
            "the config has no block 'sample'; expected that of the run, as "
            "configs/small.py"
        )
    names = tuple(f.rows.split(","))
    rows = evaluate(
        f.config,
        f.workdir,
        rows=names,
        split=f.split,
        samples=f.samples,
        seed=f.seed,
        limit=f.limit or None,
        landmark_map=f.landmark_map,
        adapter=f.adapter,
        motions=f.motions,
        style=f.style,
        scored=f.scored,
    )
    reference = "ridge" if "ridge" in names else None
    title = f"{rows[0].corpus}, {f.split} split, {pathlib.Path(f.workdir).name}"
    out = pathlib.Path(f.out or f.workdir)
    if not f.out and not out.is_dir():
        out = pathlib.Path("runs") / f.workdir  # a shipped name is no folder here
    # Before what may refuse a row: no score of the others is lost.
    written = report.write_report(out, rows, title, reference, stem="evaluation")[0]
    if f.keep_row:
        for row in rows:
            results.write_row(RESULTS / "rows", row)
    return written


def _tables():
    """Fill the tables that the command line names; yields each one's path."""
    from ml_collections import config_flags

    f = flags.FLAGS
    if unknown := [number for number in f.table if number not in table_text.TITLES]:
        raise ValueError(f"--table holds {unknown}; expected {[*table_text.TITLES]}")
    if idle := [name for name in OF_ROWS if f[name].present]:
        raise ValueError(
            f"--table does not read --{', --'.join(idle)}: the lines of a table, in "
            "its config, say what is scored"
        )
    module = tables.module_of(config_flags.get_config_filename(f["config"]))
    for number in f.table:
        tables.describer(module, number)
    for name in ("samples", "limit"):
        if f[name].present:
            f.config.table[name] = f[name].value
    check_settings(f.config, module, f.runs, f.out)
    out = pathlib.Path(f.out or RESULTS)
    about = module.about(f.config) if hasattr(module, "about") else ""
    for number in f.table:
        lines, claims = tables.fill(
            *(number, f.config, module),
            runs=[pathlib.Path(d) for d in f.runs],
            kept=out / "rows",
            known=RESULTS / "rows",
            train=f.train,
        )
        yield table_text.write(out, number, lines, claims, about)


def check_settings(config, module, runs, out):
    """Refuse what would end a table late, or write over the kept ones.

    Raises:
      ValueError: no sample, fewer clips than none, nowhere for new runs, or settings
        other than the module's own with no folder `out` of their own.
    """
    for name, least in (("samples", 1), ("limit", 0)):
        if config.table[name] < least:
            raise ValueError(f"--{name} is {config.table[name]}; expected {least}, up")
    if not runs:
        raise ValueError("--runs names no folder; new runs go into its first")
    any_data = {"datasets": None}
    if (
        not out
        and config.to_dict() | any_data != module.get_config().to_dict() | any_data
    ):
        raise ValueError(
            f"the tables of {module.__name__}'s own settings are kept, and these are "
            "others: name a folder for them, --out DIR"
        )


def define_flags():
    """Flags of this entry point."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, "its dataset and sample blocks")
    flags.DEFINE_string("workdir", "small", "run, bundle folder or shipped checkpoint")
    flags.DEFINE_string("rows", "stream,mean,whole,static,ridge", "rows to score")
    flags.DEFINE_enum(
        "split", "test", ["train", "validation", "test"], "clips to score"
    )
    flags.DEFINE_integer("samples", 8, "samples per clip of the stochastic rows")
    flags.DEFINE_integer("limit", 0, "only so many clips, spread over all; 0: all")
    flags.DEFINE_integer("seed", 0, "seed of the noise")
    flags.DEFINE_enum(
        "style", "another_clip", list(references.STYLES), "what the encoder is shown"
    )
    flags.DEFINE_enum("scored", "all", tasks.SCORED, "frames of a clip to score")
    flags.DEFINE_string(
        "out", "", "directory of the report; default: the workdir, or runs/NAME"
    )
    flags.DEFINE_string(
        "landmark_map", "", "for tracked lips on a head of your own (config.head)"
    )
    flags.DEFINE_string("adapter", "", "for the row adapter: run, bundle or name")
    flags.DEFINE_multi_integer("table", [], "fill the paper's table of this number")
    flags.DEFINE_list(
        "runs", ["runs/tables"], "where --table looks for runs; new ones: the first"
    )
    flags.DEFINE_bool("train", True, "whether --table trains what is missing")
    flags.DEFINE_string(
        "motions", "", "for the row files: a folder of motion files, CLIP.npz"
    )
    flags.DEFINE_bool("keep_row", False, "keep the rows in configs/results/rows")
    flags.mark_flag_as_required("config")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
