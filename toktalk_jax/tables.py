"""Fill one of the paper's tables: keep the rows that are there, make the others.

A config file that has a function `table_N` beside its `get_config` describes table N:
the function yields one dict per line, fields out of `table_lines.LINE`. A row's key
holds no path, so a kept row is found again on a machine that has neither data nor runs;
a row that is missing is trained, scored and kept. Where the data is there, a kept row
of other data, or of other regions of the face, counts as missing.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib

import numpy as np
from ml_collections import ConfigDict

from toktalk_jax import latency, provenance, style_gains, table_lines
from toktalk_jax import rows as table_rows
from toktalk_jax import task as tasks
from toktalk_jax.evaluation import probes, results, scoring, tables
from toktalk_jax.flame import assets
from toktalk_jax.training import checkpoints


def fill(number, config, module, *, runs, kept, known=None, train=True):
    """([`tables.Line`], [claims]) of a table, making what is missing.

    Args:
      config: from the module's `get_config`: a training config with the further
        `table_lines.BLOCKS`.
      module: the config's module, with `table_N` and, if it has any, `claims_N`.
      runs: directories whose subdirectories are searched for finished runs; new ones
        go into the first. kept: directory of the rows; known: another, of rows that
        are read and never written, or None.
      train: whether to train what is missing; False: such a line says so.

    Raises:
      ValueError: no such table in the module, or a line that is malformed.
    """
    describe = describer(module, number)
    # Each folder once; kept has the last word.
    read = dict.fromkeys(path for path in (known, kept) if path)
    rows = {row.key: row for path in read for row in results.load_rows(path)}
    rows.pop("", None)  # of no table
    lines = []
    for given in describe():
        line = table_lines.check(given)
        if any(other.label == line["label"] for other in lines):
            raise ValueError(f"table {number} has two lines {line['label']!r}")
        table_lines.check_choices(config, line)
        found, missing = [], {}  # reason: the seeds that it keeps away
        for seed in () if line["reason"] else line["seeds"]:
            row, reason = _row(config, line, seed, rows, runs, kept, train)
            if row is not None:
                found.append(row)
            else:
                missing.setdefault(reason, []).append(str(seed))
        names = ("label", "block", "paper")
        lines.append(
            tables.Line(
                **{name: line[name] for name in names},
                rows=tuple(found),
                reason=line["reason"] or _reason(missing, line["seeds"]),
            )
        )
    return lines, list(getattr(module, f"claims_{number}", list)())


def describer(module, number):
    """The function that describes a table.

    Raises:
      ValueError: the module has none.
    """
    found = getattr(module, f"table_{number}", None)
    if found is None:
        raise ValueError(
            f"{module.__name__} has no table_{number}(); expected a generator of "
            "lines as in configs/grid_lines.py"
        )
    return found


def _reason(missing, seeds):
    """One text of {reason: seeds}; which seeds, where it is not all of them."""
    return "; ".join(
        reason
        if len(kept_away) == len(seeds)
        else f"seed{'s' * (len(kept_away) > 1)} {', '.join(kept_away)}: {reason}"
        for reason, kept_away in missing.items()
    )


def _row(config, line, seed, known, runs, kept, train):
    """(the kept or new row, "") or (None, why there is none)."""
    key = table_lines.row_key(config, line, seed)
    run = table_lines.run_config(config, line, seed)
    row, facts = known.get(key), _facts(run.dataset)
    if row is not None and facts and (other := _other(row, run, facts)):
        words = f"the kept row {key} is of other {other}"
        print(f"{line['label']}: {words}", flush=True)
        if (pathlib.Path(kept) / f"{key}.json").is_file():  # never written over
            return None, f"{words}; remove it, or name a folder for yours: --out DIR"
        row = None
    # A key does not know of sound that an export brought later.
    if row is not None and not (_unprobed(row, line) and facts.get("with_audio")):
        return row, ""
    if not facts:
        return None, f"no dataset at {run.dataset} (config.datasets.{line['data']})"
    workdir = finished(run, runs)
    if workdir is None and row is not None:
        return row, ""
    if workdir is None:
        if not train:
            return None, f"no finished run in {', '.join(map(str, runs))}"
        workdir = _train(run, line, runs)
    print(f"scoring {line['label']}, seed {seed} ({workdir})", flush=True)
    try:
        made = _score(config, line, run, workdir, runs)
        results.write_row(kept, made)
    except (ValueError, ImportError, OSError) as error:  # it costs no other line
        print(f"{line['label']}, seed {seed}: {error}", flush=True)
        return row, "" if row is not None else f"not scored: {error}"
    known[key] = made
    return made, ""


def _other(row, run, facts):
    """What of a kept row is not as it would be made now: "data", "regions" or ""."""
    if row.data and row.data != provenance.identity(run.dataset):
        return "data"
    face = tuple((k, facts[k]) for k in ("face_model", "face_hash") if k in facts)
    now = _regions(face, run.head)
    return "regions" if now not in (None, row.regions) else ""


@functools.cache
def _regions(face, path):
    """`region_hashes` of a dataset's head; None where its FLAME file is not here."""
    try:
        return scoring.region_hashes(assets.head_of(dict(face), path))
    except (ValueError, OSError):
        return None


def _unprobed(row, line):
    return line["probes"] and not any(name.startswith("probe") for name in row.measured)


def _facts(dataset):
    """metadata.json of a dataset, the first of several; {} where there is none."""
    path = pathlib.Path(dataset.split(",")[0]) / "metadata.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def finished(run, runs):
    """The workdir of a finished run of this config on the same data, or None."""
    wanted = checkpoints.computing(run.to_dict())
    for directory in runs:
        for path in sorted(pathlib.Path(directory).glob("*/config.json")):
            same = checkpoints.computing(json.loads(path.read_text())) == wanted
            if same and _on_data(path.parent, run.dataset):
                return path.parent
    return None


def _on_data(workdir, dataset):
    """Whether a finished run was trained on a dataset of this description."""
    kept = workdir / "bundle/dataset.json"
    if not kept.is_file():
        return False
    described = json.loads(kept.read_text())
    before = described.get("directories", [described])
    now = provenance.identity(dataset)
    # Tokens of a second tokenizer are nothing that a base was trained on.
    return len(before) == len(now) and all(
        old.get(name) == value
        for old, new in zip(before, now, strict=True)
        for name, value in new.items()
        if name != "foreign"
    )


def _train(run, line, runs):
    from toktalk_jax import train

    made = checkpoints.computing(run.to_dict()), provenance.identity(run.dataset)
    name = f"{line['data']}-{provenance.digest(made)}"
    workdir = pathlib.Path(runs[0]) / name
    print(f"training {line['label']}, seed {run.seed}: {workdir}", flush=True)
    train.train(ConfigDict(run.to_dict()), workdir)
    return workdir


def _adapter(config, line, run, workdir, runs):
    """The workdir of a line's adapter, trained if it is missing."""
    from toktalk_jax import adapt

    made = table_lines.adapter_config(config, line, run.dataset, run.seed)
    base = checkpoints.load(workdir).meta["hash"]
    made_from = checkpoints.computing(made.to_dict()), provenance.identity(run.dataset)
    name = f"adapter-{provenance.digest([base, *made_from])}"
    out = pathlib.Path(runs[0]) / name
    if not (out / "card.json").is_file():
        print(f"training {line['label']}, seed {run.seed}: {out}", flush=True)
        adapt.adapt(made, workdir, out)
    return out


def _score(config, line, run, workdir, runs):
    """The row of a line from its finished run."""
    before = ""
    if line["method"] == "adapter":
        before = _adapter(config, line, run, workdir, runs)
    scored = ConfigDict(run.to_dict())
    scored.sample.update(line["sample"])
    options = {
        "seed": run.seed,
        "samples": config.table.samples,
        "limit": config.table.limit or None,
        "style": line["style"],
        "scored": line["scored"],
    }
    notes = []
    if line["match_std"]:
        held = tasks.prepare(
            scored, workdir, adapter=before, **options | {"split": "validation"}
        )
        temperature, words = matched_temperature(held, line["method"])
        scored.sample.temperature = temperature
        notes.append(words)
    task = tasks.prepare(scored, workdir, adapter=before, **options)
    measured = {}
    if line["timed"]:
        measured, words = latency.first_chunk(task, line["timed"])
        notes += words
    if line["match_std"]:
        measured["temperature"] = temperature
    if line["probes"]:
        told, words = _probes(task)
        measured, notes = measured | told, notes + words
    if line["gains"]:
        measured |= style_gains.rank_correlations(task)
    if line["gains"] or line["unscored"]:
        # One sample of what is measured; gains are of the performer's own styles.
        shown = "of the performer, gain by gain" if line["gains"] else task.style
        told = dataclasses.replace(task, samples=1, style=shown)
        row = results.Row(scores={}, **provenance.facts(told, line["method"]))
    else:
        streams = line["method"] == "stream"
        control = table_rows.borderless(task) if streams else None
        row = table_rows.score(task, line["method"], control=control)
    undefined = [name for name, value in measured.items() if not np.isfinite(value)]
    if undefined:
        notes.append(f"undefined: {', '.join(undefined)}")
    return dataclasses.replace(
        row,
        measured={k: v for k, v in measured.items() if k not in undefined},
        note="; ".join([row.note, *notes]),
        key=table_lines.row_key(config, line, run.seed),
    )


def _probes(task):
    """(what `probes.probe` finds, notes): none where clips hold no sound."""
    parts = task.train, task.held(), task.clips
    if any(clip.audio is None for part in parts for clip in part):
        return {}, ["no probes: the dataset holds no sound, export it --with_audio"]
    return probes.probe(*parts), []


def matched_temperature(task, method="stream"):
    """(temperature at which samples move as much as the truth, what was found).

    By linear interpolation of `std_ratio` between neighbours of
    `table_lines.TEMPERATURES`, one sample of each clip; the one that comes nearest
    where no two enclose 1.

    Raises:
      ValueError: `std_ratio` is undefined at one of them.
    """
    tried, found = table_lines.TEMPERATURES, []
    for temperature in tried:
        settings = {**task.settings, "temperature": temperature}
        one = dataclasses.replace(task, settings=settings, samples=1)
        row = table_rows.score(one, method)
        ratio = row.values["std_ratio"].value if "std_ratio" in row.values else None
        if ratio is None:
            raise ValueError(
                f"std_ratio is undefined at temperature {temperature} on "
                f"{len(row.scores)} {task.split} clips ({len(row.skipped)} skipped): "
                "there is no motion to match"
            )
        found.append(ratio)
    steps = zip(tried, found, tried[1:], found[1:], strict=False)
    for low, below, high, above in steps:
        if min(below, above) <= 1 <= max(below, above) and below != above:
            share = (1 - below) / (above - below)
            words = f"temperature matched on {task.split} clips"
            return round(low + share * (high - low), 3), words
    at = int(np.argmin(np.abs(np.array(found) - 1)))
    return tried[at], (
        f"not matched: std_ratio on {task.split} clips is {found[at]:.3f} at "
        f"temperature {tried[at]}, the nearest to 1 of {tried}"
    )


def module_of(named):
    """The Python module of a config file, named with its arguments or without."""
    path = named if pathlib.Path(named).is_file() else str(named).partition(":")[0]
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
