"""Cells of a sweep: each is one point, one plain command and one directory."""

import fcntl
import functools
import hashlib
import inspect
import json
import operator
import os
import pathlib
import re
import runpy
import sys
from typing import NamedTuple

from absl import flags
from ml_collections import config_flags

TRAIN, ADAPT = "toktalk_jax.train", "toktalk_jax.adapt"
EVALUATE = "toktalk_jax.evaluate"


class Cell(NamedTuple):
    """One point of a sweep.

    Attributes:
      name: of its directory; point: {flat key: value}; values: {swept key: value} with
        the config's own value of keys that this point leaves alone.
      command: arguments after `python -m`, the module first.
      workdir: where it writes; config: the config that its command leads to.
    """

    name: str
    point: dict
    values: dict
    command: tuple
    workdir: pathlib.Path
    config: dict

    @property
    def log(self):
        """The file of what its command says."""
        return pathlib.Path(f"{self.workdir}.log")

    @property
    def argv(self):
        """The command for this interpreter."""
        return [sys.executable, "-m", *self.command]


class Sweep(NamedTuple):
    """A sweep: what must run before its cells ([] or [one training]), and its cells."""

    before: list
    cells: list


def read_sweep(spec, overrides=(), out="", base="", model=""):
    """`Sweep` of FILE:GENERATOR or FILE:ARGUMENT:GENERATOR.

    Where every point changes `sample.*` alone, one training serves all: the cells score
    it on the validation clips.

    Args:
      overrides: --config.key=value flags for every cell; out: directory of the cells;
        base: frozen base of an adapter sweep; model: a trained run to score in place
        of a new one.

    Raises:
      ValueError, OSError: names the file, generator, key or cell that is wrong.
    """
    file, argument, generator = split_spec(spec)
    points = list(_generator(file, generator)())
    if not points:
        raise ValueError(f"{generator} of {file} yields no point")
    config_flag = f"--config={file}" + (f":{argument}" if argument else "")
    plain = read_config([config_flag, *overrides])
    swept = list(dict.fromkeys(key for point in points for key in point))
    sampling = bool(swept) and all(key.startswith("sample.") for key in swept)
    if model and not sampling:
        raise ValueError("--model is for sweeps of sample.* alone; this one trains")
    trainer = TRAIN if "method" in plain else ADAPT
    if base and trainer == TRAIN:
        raise ValueError(f"--base is for adapters; {file} trains a model of its own")
    out = pathlib.Path(out or default_out(spec))
    before, extra = [], [f"--base={base}"] if base else []
    if sampling:
        workdir = pathlib.Path(model or out / "model")
        row = "stream" if plain["method"] == "toktalk" else plain["method"]
        extra = [f"--workdir={workdir}", f"--rows={row}", "--split=validation"]
        if not model:
            command = (TRAIN, config_flag, *overrides, f"--workdir={workdir}")
            before = [Cell("model", {}, {}, command, workdir, plain)]
    module, target = (EVALUATE, "out") if sampling else (trainer, "workdir")
    cells = {}
    for number, point in enumerate(points):
        where = f"{generator}, point {number} {point}"
        given = [config_flag, *overrides, *(flag(*item) for item in point.items())]
        config = _config_of(point, given, where)
        name = cell_name(point)
        if name in cells:
            raise ValueError(f"{where}: the cell {name} comes twice")
        command = (module, *given, *extra, f"--{target}={out / name}")
        values = {key: value_at(config, key) for key in swept}
        cells[name] = Cell(name, point, values, command, out / name, config)
    return Sweep(before, list(cells.values()))


def _config_of(point, given, where):
    """The config behind a point's flags, which must not have changed its values."""
    config = read_config(given, where)
    for key, value in point.items():
        if (read := value_at(config, key)) != value:
            raise ValueError(
                f"{where}: {key} is {value!r}, a {type(value).__name__}; as a flag "
                f"it would be {read!r}, a {type(read).__name__}: write it so"
            )
    return config


def split_spec(spec):
    """(file, config argument or "", generator) of a sweep's name.

    Raises:
      ValueError: it is not of that form.
    """
    file, *rest = spec.split(":")
    if not 1 <= len(rest) <= 2 or not all([file, *rest]):
        known = ", ".join(generators(file)) if pathlib.Path(file).is_file() else ""
        raise ValueError(
            f"{spec!r} names no sweep; expected FILE:GENERATOR or "
            f"FILE:ARGUMENT:GENERATOR{'; ' + file + ' has ' + known if known else ''}"
        )
    return file, rest[0] if len(rest) == 2 else "", rest[-1]


def default_out(spec):
    """runs/<config>-<sweep>."""
    file, argument, generator = split_spec(spec)
    parts = [pathlib.Path(file).stem, argument, generator]
    return pathlib.Path("runs") / _safe("-".join(part for part in parts if part))


def generators(file):
    """{name: function} of the sweeps in a config file."""
    found = runpy.run_path(file)
    return {k: v for k, v in found.items() if k.startswith("sweep_") and callable(v)}


def _generator(file, name):
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(f"no config file at {file}")
    known = generators(file)
    if name not in known:
        raise ValueError(
            f"{file} has no sweep {name!r}; it has {', '.join(known) or 'none'}"
        )
    if inspect.signature(known[name]).parameters:
        raise ValueError(f"{name} of {file} takes arguments; a sweep takes none")
    return known[name]


def flag(key, value):
    """The command-line flag of an override, as ml_collections reads it back."""
    return f"--config.{key}={value}"


def read_config(arguments, where=""):
    """The dict that a trainer would see behind these --config flags.

    Raises:
      ValueError: names the flag, and `where` it came from.
    """
    argv, values = ["sweep", *arguments], flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, lock_config=True, sys_argv=argv
    )
    try:
        values(argv)
        return values.config.to_dict()
    except (flags.Error, OSError) as error:
        # A config file's own error ends a traceback.
        said = str(error).strip().splitlines()[-1]
    except (AttributeError, KeyError) as error:
        # ml_collections names the key and the nearest one that exists, quoted twice.
        said = str(error).replace("\\n", " ").replace("\\", "").strip("\"' ")
        name, _, nearest = said.partition("'")
        text = next(a for a in arguments if name in a.partition("=")[0])
        said = f"{text}: no such key.{nearest}"
    raise ValueError(f"{where}: {said}" if where else said)


def value_at(config, key):
    """Value of a dotted key in nested dicts."""
    return functools.reduce(operator.getitem, key.split("."), config)


def cell_name(point):
    """A readable, stable, filesystem-safe name of a point.

    Sorted, so that it does not depend on the order in which a generator names its keys.
    """
    parts = [f"{key}={_text(value)}" for key, value in sorted(point.items())]
    return _safe(",".join(parts)) or "as_configured"


def _text(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _safe(text):
    """`text` itself, or shortened and cleaned with a hash of what it was."""
    clean = re.sub(r"[^\w.+=,-]", "_", text, flags=re.ASCII)
    if clean == text and len(text) <= 150:
        return text
    return f"{clean[:140]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_data(cell):
    """Refuse a cell whose dataset is not there, before any starts.

    Raises:
      ValueError, FileNotFoundError: names the flag or the path.
    """
    dataset = cell.config["dataset"]
    if not dataset:
        raise ValueError("config.dataset is empty; give --config.dataset DIR")
    for path in dataset.split(","):
        if not (pathlib.Path(path) / "metadata.json").is_file():
            raise FileNotFoundError(
                f"config.dataset: no finished dataset at {path} (looked for "
                "metadata.json); make one with python -m tools.export_tokens"
            )


def finished(cell):
    """Whether a cell has nothing left to do.

    Raises:
      ValueError: its directory holds a run with another config.
    """
    if cell.command[0] == EVALUATE:
        return _scored(cell)
    kept = cell.workdir / "config.json"
    if not kept.is_file():
        return False
    from toktalk_jax.training import checkpoints

    asked = json.loads(json.dumps(cell.config))
    checkpoints.same_config(json.loads(kept.read_text()), asked, cell.workdir)
    if cell.command[0] == ADAPT and not (cell.workdir / "card.json").is_file():
        return False
    return _bundle_step(cell.workdir) >= cell.config["total_steps"]


def _bundle_step(workdir):
    meta = workdir / "bundle/meta.json"
    return json.loads(meta.read_text())["step"] if meta.is_file() else -1


def _scored(cell):
    """Whether the scores are there, by this very command and of the model as it is."""
    scores, told = cell.workdir / "evaluation.json", cell.workdir / "command.json"
    if not (scores.is_file() and told.is_file()):
        return False
    model = pathlib.Path(_option(cell, "workdir")) / "bundle/meta.json"
    fresh = not model.is_file() or model.stat().st_mtime <= scores.stat().st_mtime
    return fresh and json.loads(told.read_text()) == list(cell.command)


def _option(cell, name):
    return next(a.partition("=")[2] for a in cell.command if a.startswith(f"--{name}="))


def steps_done(cell):
    """The last step in a cell's metrics.jsonl, 0 if there is none."""
    from toktalk_jax.training import logs

    path = cell.workdir / "metrics.jsonl"
    rows = logs.read_jsonl(path) if path.is_file() else []
    return rows[-1]["step"] if rows else 0


def open_log(cell, suffix=""):
    """A cell's log, to append to; locked for as long as any process has it open.

    Raises:
      BlockingIOError: another process runs this cell.
    """
    cell.workdir.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(open(f"{cell.workdir}{suffix}.log", "ab"), fcntl.LOCK_EX)
    if cell.command[0] == EVALUATE:
        cell.workdir.mkdir(exist_ok=True)
        (cell.workdir / "evaluation.json").unlink(missing_ok=True)
        (cell.workdir / "command.json").write_text(json.dumps(cell.command))
    return file


def _locked(file, kind):
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        pass  # a file system without locks
    return file


def status(cell):
    """ "finished", "running", "unfinished" (its log says why) or "waiting"."""
    if finished(cell):
        return "finished"
    if not cell.log.is_file():  # not begun, or run by hand
        return "unfinished" if steps_done(cell) else "waiting"
    try:
        _locked(cell.log.open("rb"), fcntl.LOCK_SH).close()
    except BlockingIOError:
        return "running"
    return "unfinished"


def last_line(cell):
    """The last line of a cell's log that says anything."""
    if not cell.log.is_file():
        return "no log was written"
    with cell.log.open("rb") as file:
        file.seek(max(0, os.path.getsize(cell.log) - 10_000))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines[-1] if lines else "its log is empty"
