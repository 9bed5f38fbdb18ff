"""Where a tokenizer's weights are: a local folder, or a hub id that is fetched once."""

import hashlib
import pathlib


def find(weights, files, tokenizer, source):
    """Folder that holds the weights.

    Args:
      weights: what --weights names: a folder, or a hub id such as "kyutai/mimi".
      files: names that must be there; of alternatives, a tuple, any one.
      tokenizer, source: for the message: whose weights, and where they come from.

    Returns:
      pathlib.Path of a local folder.

    Raises:
      FileNotFoundError: no such folder, a file missing in it, or a hub out of reach.
        Names the file, its source and the option.
    """
    folder = pathlib.Path(weights)
    if not folder.is_dir():
        folder = _fetch(str(weights), files, tokenizer, source)
    for wanted in files:
        names = (wanted,) if isinstance(wanted, str) else wanted
        if not any((folder / name).is_file() for name in names):
            raise FileNotFoundError(
                f"{tokenizer} needs {folder / names[0]}, which is not there"
                f"{_instead(names)}; take it from {source} and name its folder with "
                "--weights"
            )
    return folder


def _instead(names):
    return f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""


def _fetch(hub_id, files, tokenizer, source):
    wanted = [f for one in files for f in ((one,) if isinstance(one, str) else one)]
    reason = "there is no such folder, and it is not a hub id (owner/name)"
    if hub_id.count("/") == 1 and not hub_id.startswith((".", "/", "~")):
        try:
            from huggingface_hub import snapshot_download

            first = [one if isinstance(one, str) else one[0] for one in files]
            folder = pathlib.Path(snapshot_download(hub_id, allow_patterns=first))
            if all((folder / name).is_file() for name in first):
                return folder
            return pathlib.Path(snapshot_download(hub_id, allow_patterns=wanted))
        except Exception as error:  # the hub's own errors share no base class
            reason = f"there is no such folder, and the hub said: {_short(error)}"
    raise FileNotFoundError(
        f"{tokenizer} needs {', '.join(wanted)} in {hub_id!r}: {reason}; take them "
        f"from {source} and name their folder with --weights"
    )


def _short(error):
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def load_all(model_class, folder, unused=()):
    """A transformers model from its folder, every one of its weights read.

    Args:
      unused: names of weights that may be missing, because nothing reads them.

    Raises:
      ValueError: weights are missing or misshapen; transformers alone would draw them
        at random.
    """
    model, told = model_class.from_pretrained(folder, output_loading_info=True)
    missing = sorted({*told["missing_keys"]} - {*unused})
    missing += [str(key) for key in told.get("mismatched_keys", ())]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} weights of {model_class.__name__}, for "
            f"example {', '.join(missing[:3])}: they are another model's"
        )
    return model.eval()


def first_of(folder, names):
    """The first of alternative files that is there."""
    return next(folder / name for name in names if (folder / name).is_file())


def hash_files(paths, *settings):
    """12 hex digits over files' bytes and whatever else decides the tokens."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def need(module, tokenizer):
    """Import a module that the base package does not bring.

    Raises:
      ImportError: it is not installed; names the extra.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the {tokenizer} tokenizer runs on {module}, which is not installed "
            f"({error}); install this project with the [tokenizers] extra"
        ) from error
