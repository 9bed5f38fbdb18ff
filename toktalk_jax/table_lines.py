"""A line of one of the paper's tables: its fields, its training config, its row's key.

A row's key is a hash of all that the row is made from but the dataset's path.
"""

from toktalk_jax import provenance, style_gains
from toktalk_jax import rows as table_rows
from toktalk_jax import task as tasks
from toktalk_jax.evaluation import references
from toktalk_jax.training import checkpoints

# Fields of a line, and what they are where it does not say.
LINE = {
    "label": None,  # unique in its table
    "block": "",  # the heading that it stands under
    "data": None,  # key of config.datasets
    "method": "stream",  # a name of `rows.ROWS`, but "files"
    "run": "",  # block of the config that it is trained by; "": the config itself
    "train": {},  # overrides of that
    "adapter": {},  # overrides of config.adapter_run, for method "adapter"
    "sample": {},  # overrides of config.sample, for scoring alone
    "style": "another_clip",
    "scored": "all",
    "match_std": False,  # choose the temperature by std_ratio on validation clips
    "timed": 0,  # chunks to time
    "probes": False,  # linear probes of the tokens, where the dataset holds its sound
    "gains": False,  # measure `style_gains.rank_correlations`, unscored
    "unscored": False,  # no more than what is measured beside the scores
    "seeds": (0,),
    "paper": "",  # name of its row in the paper's table
    "reason": "",  # why it cannot be run at all
}
# Blocks of the config that are no part of its own training.
BLOCKS = ("datasets", "table", "adapter_run", "faceformer_run")
TEMPERATURES = (0.3, 0.6, 1.0, 1.4)  # tried to match the truth's std


def check(given):
    """A line's dict with its defaults.

    Raises:
      ValueError: an unknown field, or one that is missing; names it.
    """
    line = {**LINE, **given}
    unknown = sorted(set(given) - set(LINE))
    if unknown or line["label"] is None or not (line["data"] or line["reason"]):
        raise ValueError(
            f"a table's line is {given}; unknown fields {unknown}; expected label, "
            f"data (or reason), and fields out of {sorted(LINE)}"
        )
    known = [name for name in table_rows.ROWS if name != "files"]
    if line["method"] not in known:
        raise ValueError(
            f"line {line['label']!r} has method {line['method']!r}; expected one of "
            f"{known}"
        )
    return line


def check_choices(config, line):
    """Refuse what would only be found wrong when the line's training is over.

    Raises:
      ValueError: a dataset, block, style, part or sampling key that is none.
    """
    if line["reason"]:
        return
    choices = {
        "data": (line["data"], config.datasets),
        "run": (line["run"] or "the config", ("the config", "faceformer_run")),
        "style": (line["style"], references.STYLES),
        "scored": (line["scored"], tasks.SCORED),
    }
    for name, (found, expected) in choices.items():
        if found not in expected:
            raise ValueError(
                f"line {line['label']!r} has {name} {found!r}; expected one of "
                f"{[*expected]}"
            )
    run = config[line["run"]] if line["run"] else config
    overridden = {
        "sample": run.sample,
        "train": run,
        "adapter": config.get("adapter_run", {}),
    }
    for name, block in overridden.items():
        if unknown := [key for key in line[name] if not _holds(block, key)]:
            raise ValueError(
                f"line {line['label']!r} overrides {unknown} in {name!r}; expected "
                f"dotted keys of {sorted(block)}"
            )


def _holds(block, key):
    """Whether a block of the config has a dotted key."""
    first, _, rest = key.partition(".")
    if first not in block:
        return False
    return not rest or (hasattr(block[first], "items") and _holds(block[first], rest))


def run_config(config, line, seed):
    """The training config of a line and seed; its dataset is still a path."""
    run = config[line["run"]] if line["run"] else config
    run = run.copy_and_resolve_references().unlock()
    for block in BLOCKS:
        if block in run:
            del run[block]
    run.dataset = config.datasets[line["data"]]
    run.seed = seed
    run.update_from_flattened_dict(line["train"])
    return run


def row_key(config, line, seed):
    """12 hex digits of all that a row is made from, but for paths."""
    run = run_config(config, line, seed)
    run.sample.update(line["sample"])
    method, fields = line["method"], ("data", "method", "scored", "timed", "probes")
    made = {"seed": seed, "table": config.table.to_dict()}
    if method in table_rows.UNTRAINED:  # no network's setting is any of theirs
        made["chunk"] = run.sample.chunk_seconds
        made["fit"] = table_rows.UNTRAINED[method]
        return provenance.digest({**made, **{name: line[name] for name in fields}})
    made["run"] = checkpoints.computing(run.to_dict())
    made["shown"] = references.FRAMES
    fields += ("style", "match_std", "gains")
    if line["match_std"]:
        made["temperatures"] = TEMPERATURES
    if line["unscored"]:
        made["unscored"] = True
    if line["gains"]:
        made["ladder"] = style_gains.LEVELS, style_gains.CLIPS, style_gains.SAID
    if method == "adapter":
        adapter = adapter_config(config, line, line["data"], seed)
        made["adapter"] = checkpoints.computing(adapter.to_dict())
    return provenance.digest({**made, **{name: line[name] for name in fields}})


def adapter_config(config, line, dataset, seed):
    """The config of a line's adapter."""
    found = config.adapter_run.copy_and_resolve_references().unlock()
    found.dataset, found.seed = dataset, seed
    found.update_from_flattened_dict(line["adapter"])
    return found
