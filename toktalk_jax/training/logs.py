"""Metrics to JSONL, TensorBoard and Weights & Biases; one writer per run."""

import contextlib
import json
import os
import pathlib
import secrets
import time

import numpy as np

from toktalk_jax.training import parallel


class Writer:
    """Appends to `<workdir>/metrics.jsonl`, TensorBoard and Weights & Biases.

    A line is {"step": int, "time": unix seconds, name: value, ...}. On resume, lines
    after the restored step are dropped, so that the log reads as one uninterrupted run.

    Args:
      step: that the run starts from.
      project: of Weights & Biases (WANDB_MODE=offline works); "": none.
      config: dict, shown there.

    Raises:
      ValueError: a project is named and wandb is not installed.
    """

    def __init__(self, workdir, step=0, project="", config=None):
        from tensorboardX import SummaryWriter  # needs no TensorFlow

        self.path = pathlib.Path(workdir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _truncate_after(self.path, step)
        self._wandb = _start_wandb(self.path.parent, project, config)
        self._file = self.path.open("a")
        self._board = SummaryWriter(
            str(self.path.parent / "tensorboard"), purge_step=step + 1
        )

    def scalars(self, step, values):
        """Write a dict of name -> number at `step`."""
        values = {k: float(np.asarray(v)) for k, v in values.items()}
        row = {"step": int(step), "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, int(step))
        if self._wandb:
            self._wandb.log(values, step=int(step))

    def picture(self, step, name, path):
        """Show a PNG file under a name."""
        import matplotlib.image

        pixels = matplotlib.image.imread(path)[..., :3]
        self._board.add_image(name, pixels, int(step), dataformats="HWC")
        if self._wandb:
            import wandb

            self._wandb.log({name: wandb.Image(str(path))}, step=int(step))

    def page(self, step, name, path):
        """Show an HTML file under a name, where there is a board that can."""
        if self._wandb:
            import wandb

            html = wandb.Html(path.read_text(), inject=False)
            self._wandb.log({name: html}, step=int(step))

    def close(self):
        """Flush and close all of them."""
        self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


@contextlib.contextmanager
def opened(workdir, config, step):
    """The `Writer` of a run's config, closed at the end; None where another writes."""
    if not parallel.is_writer():
        yield None
        return
    with contextlib.closing(
        Writer(workdir, step, config.wandb, config.to_dict())
    ) as writer:
        yield writer


def _start_wandb(workdir, project, config):
    if not project:
        return None
    try:
        import wandb
    except ImportError:
        raise ValueError(
            f"config.wandb is {project!r}, but wandb is not installed; pip install "
            "wandb, or set config.wandb to nothing"
        ) from None
    kept = workdir / "wandb_run"  # a resumed run goes on in the same curves
    if not kept.exists():
        write_whole(kept, secrets.token_hex(4))
    return wandb.init(
        project=project,
        dir=str(workdir),
        name=workdir.name,
        id=kept.read_text(),
        resume="allow",
        config=config,
    )


def read_jsonl(path):
    """Rows of a JSONL file; a torn last line (a killed writer) is left out."""
    rows = []
    for line in pathlib.Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_whole(path, text):
    """Write a text file whole, or leave it as it was before; returns its path."""
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _truncate_after(path, step):
    if path.exists():
        rows = [row for row in read_jsonl(path) if row["step"] <= step]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
