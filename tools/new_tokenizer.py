r"""Begin a tokenizer of your own: a file that works, its test, its name in the loader.

    python -m tools.new_tokenizer moshi --rate_hz 12.5 --dim 512
    python -m pytest tests/test_tokenizer_moshi.py

Written: toktalk_jax/tokenizers/NAME.py, tests/test_tokenizer_NAME.py, and NAME's entry
in toktalk_jax/tokenizers/load.py. The new file is a complete causal tokenizer with a
network of one matrix; put your own where it says so, and keep the test green. Then:

    python -m tools.export_tokens ... --tokenizer BASE --foreign NAME \
        --foreign_weights FOLDER --out data/pair
    python -m toktalk_jax.adapt --config configs/adapter.py:tokens=NAME \
        --config.dataset data/pair --base small --workdir runs/NAME_to_small
"""

import argparse
import keyword
import pathlib
import re

from toktalk_jax import motion as mo

ROOT = pathlib.Path(__file__).resolve().parent.parent

TOKENIZER = '''"""{Name}: ... (say what it is, its source and its licence).

{rate_hz:g} Hz, {dim}-d; causal. A token reads the {samples} samples of its own cell
and as many before it.
"""

import hashlib
import pathlib

import numpy as np

from toktalk_jax import motion as mo
from toktalk_jax.tokenizers.stream import check_wave

SAMPLES = {samples}  # of a token's cell
WEIGHTS = "{name}.npz"  # holds "analysis" [2 * SAMPLES, {dim}]
SOURCE = "where its weights are published"


class {Name}:
    """Sound to embeddings, and the same as a stream.

    Attributes:
      hash: 12 hex digits over the weights: a dataset and a model name it.
    """

    name = "{name}"
    rate_hz = {rate_hz!r}
    dim = {dim}
    num_codes = 0  # above 0 there are encode(wave) -> [S, Q] and decode(codes) too
    sample_rate = mo.SAMPLE_RATE
    batch = 1  # above 1 there is many(waves), for clips of like length
    lookahead_s = 0.0  # infinite if it reads the whole clip

    def __init__(self, folder):
        """Load the weights.

        Raises:
          FileNotFoundError: they are not there; says which, and where from.
        """
        path = pathlib.Path(folder) / WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(
                f"{name} needs {{path}}, which is not there; take it from "
                f"{{SOURCE}}, and name its folder with --weights"
            )
        with np.load(path, allow_pickle=False) as file:
            self._analysis = file["analysis"].astype(np.float32)
        if self._analysis.shape != (2 * SAMPLES, self.dim):
            raise ValueError(
                f"{{path}}: analysis is {{self._analysis.shape}}; expected "
                f"{{(2 * SAMPLES, self.dim)}}"
            )
        self.hash = hashlib.sha256(self._analysis.tobytes()).hexdigest()[:12]

    def _network(self, cell):
        """One token [{dim}] of a cell and what came before it [2 * SAMPLES].

        Put your network here. Whatever state it keeps belongs to the stream.
        """
        return np.tanh(cell @ self._analysis)

    def stream(self):
        """A fresh utterance: object with push(samples) and flush() -> [s, {dim}]."""
        return _Stream(self._network, self.dim)

    def embed(self, wave):
        """Sound [L] f32 in [-1, 1] at 16 kHz -> embeddings [S, {dim}] f32."""
        stream = self.stream()
        return np.concatenate([stream.push(wave), stream.flush()])


class _Stream:
    def __init__(self, network, dim):
        self._network = network
        self._sound = np.zeros(SAMPLES, np.float32)  # what came before, then the rest
        self._none = np.zeros((0, dim), np.float32)

    def push(self, samples):
        """Samples [L] f32, any L -> embeddings [s, dim] that became complete."""
        self._sound = np.concatenate([self._sound, check_wave(samples)])
        tokens = []
        while len(self._sound) >= 2 * SAMPLES:
            tokens.append(self._network(self._sound[: 2 * SAMPLES])[None])
            self._sound = self._sound[SAMPLES:]
        return np.concatenate([self._none, *tokens])

    def flush(self):
        """Embeddings [s, dim] of the last, partial cell, padded with silence."""
        rest = len(self._sound) - SAMPLES
        return self.push(np.zeros(SAMPLES - rest, np.float32)) if rest else self._none
'''

TEST = '''"""{Name}: what every tokenizer here must do."""

import numpy as np
import pytest

from toktalk_jax.tokenizers import load
from toktalk_jax.tokenizers.{name} import SAMPLES, WEIGHTS, {Name}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with random weights in the true layout."""
    folder = tmp_path_factory.mktemp("{name}")
    rng = np.random.default_rng(0)
    analysis = 0.05 * rng.standard_normal((2 * SAMPLES, {Name}.dim))
    np.savez(folder / WEIGHTS, analysis=analysis.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def wave():
    return 0.1 * np.random.default_rng(1).standard_normal(20_011).astype(np.float32)


def test_tokens_cover_the_sound(weights, wave):
    tokenizer = load.load("{name}", str(weights))
    tokens = tokenizer.embed(wave)
    assert tokens.dtype == np.float32 and tokens.shape[1] == tokenizer.dim
    assert len(tokens) >= np.floor(len(wave) / 16_000 * tokenizer.rate_hz)
    assert np.isfinite(tokens).all() and tokens.std() > 1e-3
    assert tokenizer.hash == load.load("{name}", str(weights)).hash


@pytest.mark.parametrize("size", [1, 333, SAMPLES, 5_000])
def test_any_split_of_the_sound_gives_the_offline_tokens(weights, wave, size):
    tokenizer = {Name}(weights)
    stream = tokenizer.stream()
    some = wave[:4_000] if size == 1 else wave
    pieces = [stream.push(some[k : k + size]) for k in range(0, len(some), size)]
    found = np.concatenate([*pieces, stream.flush()])
    np.testing.assert_allclose(found, tokenizer.embed(some), atol=1e-6)


def test_later_sound_changes_no_earlier_token(weights, wave):
    tokenizer = {Name}(weights)
    count = 5
    changed = wave.copy()
    changed[count * SAMPLES :] *= -1
    before, after = tokenizer.embed(wave), tokenizer.embed(changed)
    np.testing.assert_array_equal(before[:count], after[:count])
    assert (before[count:] != after[count:]).any()


def test_missing_weights_name_themselves(tmp_path):
    with pytest.raises(FileNotFoundError, match="--weights"):
        load.load("{name}", str(tmp_path))
'''

LOADER = """def _{name}(weights, state, device):
    from toktalk_jax.tokenizers.{name} import {Name}

    if not weights:
        raise ValueError("the {name} tokenizer needs --weights FOLDER")
    return {Name}(weights)


"""


def make(root, name, rate_hz, dim):
    """Write the files of a new tokenizer under `root`; returns their paths.

    Raises:
      ValueError: a name that is no module's, or is taken; a rate whose cell is no whole
        number of samples.
      FileExistsError: a file is there already.
    """
    title = "".join(part.capitalize() for part in name.split("_"))  # none: None
    reserved = keyword.iskeyword(name) or keyword.iskeyword(title)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or reserved:
        raise ValueError(
            f"the name is {name!r}; expected lower-case letters, digits and _, as of a "
            "Python module"
        )
    samples = mo.SAMPLE_RATE / rate_hz if rate_hz > 0 else 0
    if rate_hz < mo.TOKEN_HZ or samples != round(samples):
        raise ValueError(
            f"--rate_hz is {rate_hz:g}; expected at least {mo.TOKEN_HZ}, and a divisor "
            f"of {mo.SAMPLE_RATE} Hz"
        )
    if dim < 1:
        raise ValueError(f"--dim is {dim}; expected at least 1")
    folder = root / "toktalk_jax/tokenizers"
    loader = folder / "load.py"
    text = loader.read_text()
    if f'"{name}":' in text:
        raise ValueError(f"there is a tokenizer named {name!r} already")
    values = dict(name=name, Name=title, rate_hz=rate_hz, dim=dim)
    values["samples"] = round(samples)
    files = {
        folder / f"{name}.py": TOKENIZER.format(**values),
        root / f"tests/test_tokenizer_{name}.py": TEST.format(**values),
    }
    for path in files:
        if path.exists():
            raise FileExistsError(f"{path} is there already; move it away first")
    before, after = text.split("_LOADERS = {\n")
    entries, rest = after.split("}\n", 1)
    entry = f'    "{name}": _{name},\n'
    files[loader] = (
        before + LOADER.format(**values) + f"_LOADERS = {{\n{entries}{entry}}}\n" + rest
    )
    for path, content in files.items():
        path.write_text(content)
    return [*files]


def main(argv=None):
    """Entry point."""
    p = argparse.ArgumentParser(
        prog="new_tokenizer",
        description=__doc__.split("\n")[0],
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("name", help="as a Python module: lower case")
    p.add_argument("--rate_hz", type=float, default=12.5, help="tokens a second")
    p.add_argument("--dim", type=int, default=512, help="width of an embedding")
    args = p.parse_args(argv)
    try:
        paths = make(ROOT, args.name, args.rate_hz, args.dim)
    except (ValueError, OSError) as error:
        raise SystemExit(f"new_tokenizer: {error}") from None
    for path in paths:
        print(path.relative_to(ROOT))
    print(f"next: python -m pytest tests/test_tokenizer_{args.name}.py")


if __name__ == "__main__":
    main()
