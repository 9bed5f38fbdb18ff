"""Orbax checkpoints of a run in progress: which are kept, and whether they are sound.

A step's folder is whole or absent (Orbax renames it last); what was damaged afterwards
is found by the checksums that are saved with it.
"""

import contextlib
import pathlib
import shutil
import sys
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as keep

from toktalk_jax.training import parallel


class Checkpointer:
    """Orbax manager of one workdir, on every process of a run.

    Args:
      last: how many of the newest steps to keep; best: how many besides, of those that
        were saved with the lowest `metric`.
      frozen: top-level parts of the params that are the base's: neither saved nor
        restored.
    """

    def __init__(self, workdir, last=2, best=0, metric="", frozen=()):
        self._frozen, self._metric = frozen, metric
        self.path = (pathlib.Path(workdir) / "checkpoints").resolve()
        value = lambda metrics: metrics[metric]  # noqa: E731
        policies = [keep.LatestN(last)]
        if best:
            policies.append(
                keep.BestN(
                    get_metric_fn=value,
                    reverse=True,  # the lowest last, where BestN looks for the best
                    n=best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy(policies),
            best_fn=value if best else None,
            best_mode="min",
            create=True,
        )
        self._manager = ocp.CheckpointManager(self.path, options=options)

    def latest(self):
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def best(self):
        """The kept step with the lowest metric, or None."""
        if not self._metric:
            return None
        self._manager.wait_until_finished()
        return self._manager.best_step()

    def save(self, state, seed, metrics=None):
        """Save a TrainState and the seed of its data in the background.

        Args:
          metrics: numbers of its evaluation, among them the `metric` of this manager.
        """
        items = self._items(state)
        run = {name: int(getattr(state, name)) for name in ("skipped", "in_a_row")}
        json = {"step": int(state.step), "seed": seed, "run": run, "sums": _sums(items)}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                **{
                    k: ocp.args.StandardSave(parallel.shared(v))
                    for k, v in items.items()
                },
                **{k: ocp.args.JsonSave(v) for k, v in json.items()},
            ),
            metrics=metrics if metrics and self._metric in metrics else None,
        )

    def restore(self, state):
        """(newest sound state, placed like `state`, its seed), or (state, None).

        A damaged step is moved to `<workdir>/corrupt`, and the one before is tried.

        Raises:
          ValueError: the newest step holds parameters of other shapes.
        """
        while (step := self.latest()) is not None:
            try:
                found = self.read(state, step)
                reason = ""
            except _OtherModel as error:
                raise ValueError(str(error)) from None
            except (PermissionError, MemoryError):
                raise  # says nothing about the checkpoint
            except Exception as error:  # whatever Orbax meets in a torn file
                reason = str(error).strip().partition("\n")[0] or repr(error)
            if parallel.all_say(not reason):
                return found
            self._set_aside(step, reason)
        return state, None

    def read(self, state, step):
        """(the state of one step, placed like `state`, its seed).

        Raises:
          ValueError: it is damaged, or of another model.
        """
        items = self._items(state)
        self._check_shapes(step, items)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, parallel.shared(items))
        names = [n for n in ("step", "seed", "run", "sums") if self._has(step, n)]
        read = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{k: ocp.args.StandardRestore(v) for k, v in abstract.items()},
                **{k: ocp.args.JsonRestore() for k in names},
            ),
        )
        items = {name: parallel.own(read[name]) for name in items}
        if "sums" in names and (torn := _differing(_sums(items), read["sums"])):
            raise ValueError(f"the checksums of {', '.join(torn[:3])} differ")
        run = read["run"] if "run" in names else {}
        # Placed as a fresh state is, or the next step would compile anew.
        counts = {
            name: jax.device_put(np.int32(value), state.step.sharding)
            for name, value in {"step": read["step"], **run}.items()
        }
        return state.replace(
            params={**state.params, **items["params"]},
            ema=items["ema"],
            opt=items["opt"],
            **counts,
        ), read["seed"]

    def _items(self, state):
        own = {k: p for k, p in state.params.items() if k not in self._frozen}
        return {"params": own, "ema": state.ema, "opt": state.opt}

    def _has(self, step, name):
        return (self.path / str(step) / name).is_dir()

    def _check_shapes(self, step, items):
        with ocp.StandardCheckpointer() as reader:
            saved = reader.metadata(self.path / str(step) / "params").item_metadata.tree
        name = lambda tree: {  # noqa: E731
            jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        old, new = name(saved), name(items["params"])
        changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
        if changed:
            k = changed[0]
            raise _OtherModel(
                f"{self.path}/{step} is a checkpoint of another model: {k} is "
                f"{old.get(k)}, expected {new.get(k)} ({len(changed)} differ); choose "
                "another --workdir"
            )

    def _set_aside(self, step, reason):
        aside = self.path.parent / "corrupt" / str(step)
        if parallel.is_writer():
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.move(self.path / str(step), aside)
        parallel.wait_for_all("set aside")
        self._manager.reload()
        before = self.latest()
        if parallel.is_writer():
            print(
                f"checkpoint {step} is damaged ({reason}); it is kept in {aside}, and "
                + (f"step {before} is used" if before else "the run starts anew"),
                file=sys.stderr,
                flush=True,
            )

    def close(self):
        """Wait for the save in flight and release the manager."""
        with contextlib.closing(self._manager):
            self._manager.wait_until_finished()


class _OtherModel(ValueError):
    """A checkpoint whose parameters have other names or shapes."""


def _sums(items):
    """{path: CRC-32 of the leaf's bytes} of a pytree of arrays."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): zlib.crc32(
            np.ascontiguousarray(leaf).tobytes()
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(items)
    }


def _differing(found, wanted):
    return sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
