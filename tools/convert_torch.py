r"""Convert weights between PyTorch and this project, either way, by the files' names.

    python -m tools.convert_torch model.safetensors params.npz
    python -m tools.convert_torch flow.pt params.npz --prefix decoder.estimator.
    python -m tools.convert_torch model.pt runs/ported --like small
    python -m tools.convert_torch small model.safetensors

PyTorch files are state dicts, .pt (or .pth, .ckpt) and .safetensors, of a velocity
field, style encoder or adapter, or of several under the prefixes "velocity.", "style."
and "adapter."; names as in `toktalk_jax/torch_names.py`. Only tensors are read
(weights_only): no pickled code runs. Ours are a .npz of parameters with "/"-joined
names or, as a source, a run's workdir, a bundle or a shipped name. With --like the
result is a bundle folder that `sample` takes, its config, statistics and tokenizer
those of another.
"""

import argparse
import pathlib
import pickle

import numpy as np
from flax import traverse_util

from toktalk_jax import torch_port

PICKLED = (".pt", ".pth", ".ckpt", ".bin")
TORCH = (*PICKLED, ".safetensors")


def read_torch(path, prefix=""):
    """A state dict of NumPy arrays in f32 from a PyTorch file.

    Args:
      prefix: only tensors whose name starts with it are taken, without it.

    Raises:
      ValueError: the file holds something else than tensors, or none with the prefix.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        import torch

        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds objects beside tensors; only tensors are read, and no "
                "pickled code runs: save the model's state_dict()"
            ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    state = state.get("state_dict", state)
    others = [k for k, v in state.items() if not hasattr(v, "detach")]
    if others:
        raise ValueError(
            f"{path} is no state dict: {others[:5]} are not tensors; save the model's "
            "state_dict() and convert that"
        )
    taken = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if not taken:
        names = sorted(state)[:5]
        raise ValueError(f"no name in {path} starts with {prefix!r}; it holds {names}")
    return {k: v.detach().float().numpy() for k, v in taken.items()}


def write_torch(state, path):
    """Write a state dict of NumPy arrays as .safetensors or .pt."""
    import torch

    path = pathlib.Path(path)
    state = {k: torch.tensor(np.asarray(v)) for k, v in state.items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)


def read_params(source):
    """Parameters from a .npz, or from a run, bundle or shipped name."""
    if pathlib.Path(source).suffix == ".npz":
        with np.load(source) as file:
            return traverse_util.unflatten_dict({**file}, sep="/")
    from toktalk_jax.training import checkpoints

    return checkpoints.load(source).params


def write_params(params, path):
    """Write parameters as a .npz with "/"-joined names, as bundles hold them."""
    flat = traverse_util.flatten_dict(params, sep="/")
    with open(path, "wb") as file:
        np.savez(file, **flat)


def write_bundle(params, folder, like):
    """Write a bundle: these parameters with config, stats, tokenizer of `like`.

    Networks that `params` lacks are those of `like`.

    Raises:
      ValueError: the parameters are not of the sizes in the config; lists all.
    """
    from toktalk_jax.training import checkpoints

    bundle = checkpoints.load(like)
    if not {*params} <= {*bundle.params}:
        params = {"velocity": params}  # a lone network is the decoder
    params = {**bundle.params, **params}
    came, wanted = (
        {k: v.shape for k, v in traverse_util.flatten_dict(tree, sep="/").items()}
        for tree in (params, bundle.params)
    )
    wrong = [
        f"  {k} is {came.get(k)}, expected {wanted.get(k)}"
        for k in sorted({*came, *wanted})
        if came.get(k) != wanted.get(k)
    ]
    if wrong:
        raise ValueError(
            f"the weights do not fit the config of {like}:\n" + "\n".join(wrong)
        )
    meta = {**bundle.meta, "hash": checkpoints.params_hash(params)}
    meta["converted_from"] = "PyTorch"
    checkpoints.export(bundle._replace(params=params, meta=meta), folder)


def convert(source, out, prefix="", like=""):
    """Convert one file; the direction follows from the suffixes.

    Raises:
      ValueError: the names fit no direction, or the tensors no network.
      FileExistsError: `out` is there already.
    """
    source, out = str(source), pathlib.Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or choose another name")
    reading, writing = (pathlib.Path(p).suffix in TORCH for p in (source, out))
    if reading == writing or not (writing or like or out.suffix == ".npz"):
        raise ValueError(
            f"{source} to {out}: one side is a PyTorch file {TORCH}, the other a .npz, "
            "or with --like a new bundle folder"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if writing:
        write_torch(torch_port.to_torch(read_params(source)), out)
    else:
        params = torch_port.from_torch(read_torch(source, prefix))
        if like:
            write_bundle(params, out, like)
        else:
            write_params(params, out)


def main(argv=None):
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("source", help="what to convert: see the module's docstring")
    p.add_argument("out", help="what to write; its suffix decides")
    p.add_argument("--prefix", default="", help="of the tensors' names, cut off")
    p.add_argument("--like", default="", help="run or bundle whose config to use")
    args = p.parse_args(argv)
    try:
        convert(args.source, args.out, args.prefix, args.like)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from None
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
