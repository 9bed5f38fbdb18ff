"""The model of a server: samplers of every size offered, compiled before `ready`.

Nothing here changes after `prepare`; all state of a session is in its row.
"""

import dataclasses
import logging
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from toktalk_jax import inputs, models
from toktalk_jax import motion as mo
from toktalk_jax.flame import arkit
from toktalk_jax.live import clip, face, golden, mouth, rows
from toktalk_jax.live.protocol import Offer, Settings
from toktalk_jax.sample import make_sampler
from toktalk_jax.tokenizers import hibari
from toktalk_jax.training import adapters, checkpoints

LOG = logging.getLogger("toktalk_jax.live")


class Key(NamedTuple):
    """One shape of solve: the tokenizer whose tokens come, C in frames, n."""

    source: str
    chunk_frames: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Source:
    """A way in: an adapter or None, the tokenizer if sound is heard through it."""

    adapter: object
    tokenizer: object
    mean: np.ndarray


class Engine:
    """One model, immutable after `prepare`.

    Attributes:
      bundle, sources {tokenizer's name: Source}, samplers {Key: Sampler}.
      batches: sizes of a batched solve, 1, 2, 4, ... up to the sessions allowed.
      offer: `protocol.Offer`; solve_ms: {Key: {batch: milliseconds}} once prepared.
      face: `face.Face` once prepared, None where the face is not the stand-in.
    """

    def __init__(
        self,
        checkpoint,
        adapter="",
        weights="",
        adapter_weights="",
        *,
        chunks,
        steps,
        max_sessions,
    ):
        """Read the model; compile nothing.

        Args:
          checkpoint, adapter: run, bundle folder or shipped name; adapter "": none.
          weights, adapter_weights: of the model's tokenizer and of the adapter's, where
            they need some; with an adapter the model's own may be missing.
          chunks: seconds; steps: counts; the first of each is the default.

        Raises:
          ValueError, FileNotFoundError, ImportError: says what does not fit.
        """
        self.bundle = checkpoints.load(checkpoint)
        checkpoints.expect_toktalk(self.bundle)
        self.sources, self._speaks, self.face = {}, False, None
        ways = [(None, weights)]
        if adapter:
            ways.append((adapters.load(adapter), adapter_weights))
        for each, files in ways:
            facts = inputs.heard_by(self.bundle, each)[0]
            spare = each is None and adapter and not files
            source = _source(self.bundle, each, files, bool(spare))
            self.sources[facts["tokenizer"]] = source
            self._speaks |= _speaks(facts)
        self.samplers = {
            Key(name, mo.chunk_frames(chunk), n): make_sampler(
                self.bundle,
                adapter=source.adapter,
                chunk_frames=mo.chunk_frames(chunk),
                num_steps=n,
            )
            for name, source in self.sources.items()
            for chunk in chunks
            for n in steps
        }
        self.batches = [1 << i for i in range((max_sessions - 1).bit_length() + 1)]
        self._styles = _styles(self.bundle)
        self.offer = self._offer(chunks, steps)
        self.solve_ms, self._blank = {}, {}

    def _offer(self, chunks, steps):
        default = "neutral" if "neutral" in self._styles else "none"
        settings = Settings(
            *(default, 1.0, float(self.bundle.config["sample"]["guidance"])),
            *(steps[0], mo.chunk_frames(chunks[0])),
        )
        sources = {
            name: (len(source.mean), source.tokenizer is not None)
            for name, source in self.sources.items()
        }
        sizes = tuple(mo.chunk_frames(c) for c in chunks)
        outputs = ("motion", "arkit") if face.known(self.bundle) else ("motion",)
        return Offer(
            *(sources, tuple(self._styles), sizes, tuple(steps), settings),
            *(self._speaks, outputs),
        )

    def prepare(self):
        """Compile every shape, time it, and reproduce the golden chunk.

        Yields:
          each Key when its shapes are compiled, so that a stop need not wait for all.

        Raises:
          RuntimeError: the golden chunk is not what this model gave.
        """
        if face.known(self.bundle):
            self.face = face.stand_in()
            self.arkit(np.zeros((1, mo.F), np.float32))  # one program for any length
        if self._speaks:
            mouth.warm_up()
        self._encode = _style_encoder(self.bundle)
        self.style(dataclasses.replace(self.offer.settings, style=_any_clip()))
        for key, sampler in self.samplers.items():
            self._blank[key] = self.open(key, self.offer.settings, 0)
            tokens = np.zeros((1, sampler.chunk_tokens, sampler.width), np.float32)
            self.solve_ms[key] = {}
            for size in self.batches:
                batch = [self.open(key, self.offer.settings, i) for i in range(size)]
                batch = batch, np.repeat(tokens, size, 0)
                self.solve(key, *batch)
                begin = time.perf_counter()
                self.solve(key, *batch)
                self.solve_ms[key][size] = 1e3 * (time.perf_counter() - begin)
                yield key
        golden.check(self)

    def open(self, key, settings, seed):
        """A new `rows.Row`."""
        stream = self.samplers[key].init(
            jax.random.key(np.uint32(seed))[None],
            self.style(settings),
            settings.guidance,
        )
        return rows.to_host(stream)[0]

    def row(self, row, before, key, settings, seed):
        """The row to go on with under new settings.

        Args:
          row: `rows.Row` under the key `before`, or None.

        Returns:
          that row restyled, where its state fits the new key, else a new one.
        """
        fits = row is not None and before.chunk_frames == key.chunk_frames
        if not fits or not rows.alike(row, self._blank[key]):
            return self.open(key, settings, seed)
        return rows.restyled(row, self.style(settings), settings.guidance)

    def solve(self, key, batch, tokens):
        """Solve one chunk of several sessions.

        Args:
          batch: `rows.Row`s; tokens: [len(batch), C / 2, A].

        Returns:
          (their rows, motion [len(batch), C, F]), on the host.
        """
        self.prefill(key, batch)
        sampler, count, size = self.samplers[key], len(batch), self._size(batch)
        stream = rows.to_device(batch, size, sampler)
        tokens = np.concatenate([tokens, np.repeat(tokens[:1], size - count, 0)])
        stream, motion = sampler.solve(stream, tokens)
        return rows.to_host(stream)[:count], np.array(motion)[:count]

    def prefill(self, key, batch):
        """Give those rows their history that lack it: twice a solve's work.

        Done ahead of the next chunk's tokens it is not waited for.
        """
        sampler = self.samplers[key]
        lacking = [row for row in batch if not rows.has_history(row, sampler)]
        lacking = list(dict.fromkeys(lacking))
        if lacking:
            stream = rows.to_device(lacking, self._size(lacking), sampler)
            history = jax.block_until_ready(sampler.ready(stream).history)
            rows.keep_histories(lacking, history)

    def _size(self, batch):
        return next(b for b in self.batches if b >= len(batch))

    def arkit(self, motion):
        """ARKit weights [T, 52] of motion [T, F]; compiled for any T."""
        return arkit.to_arkit(self.face.rig, motion)

    def style(self, settings):
        """Style vector [1, K] of settings: a name's, or an uploaded clip's."""
        if isinstance(settings.style, str):
            vector = self._styles[settings.style]
        else:
            motion = np.frombuffer(settings.style, np.float32).reshape(-1, mo.F)
            vector = self._encode(motion)
        return vector * np.float32(settings.style_strength)


def _source(bundle, adapter, weights, spare=False):
    """`Source`; a spare one goes without its tokenizer where that cannot be loaded."""
    facts = inputs.heard_by(bundle, adapter)[0]
    tokenizer = None
    if facts["tokenizer"] != "hibari" and facts["lookahead_s"] != float("inf"):
        try:
            tokenizer = inputs.load_tokenizer(bundle, weights, adapter)
        except (ValueError, OSError, ImportError) as error:
            if not spare:
                raise
            LOG.warning("sound reaches the adapter alone: %s", error)
    mean = bundle.stats.token_mean if adapter is None else adapter.mean
    return Source(adapter, tokenizer, mean)


def _speaks(facts):
    """Whether text can be said: the tokens are states of the installed voice."""
    if facts["tokenizer"] != hibari.Hibari.name:
        return False
    try:
        installed = hibari.Hibari().hash
    except ImportError as error:
        LOG.warning("text is not spoken here: %s", error)
        return False
    if (wanted := facts["tokenizer_hash"]) != installed:
        LOG.warning(
            "text is not spoken here: hibari-tts is of other weights (%s) than the "
            "model was trained with (%s)",
            *(installed, wanted),
        )
    return wanted == installed


def _styles(bundle):
    """{name: [1, K]}: none, and the shipped ones if the face is their performer's."""
    names = ["none"]
    if bundle.dataset["face_model"] == "stand_in":
        with np.load(checkpoints.SHIPPED / "small" / "styles.npz") as file:
            names += list(file)
    return {name: inputs.load_style(bundle, name) for name in names}


def _style_encoder(bundle):
    """motion [R, F] -> [1, K], one compile for every R up to 10 s."""
    _, encoder = models.build(bundle.config["model"], bundle.config["style"])

    @jax.jit
    def encode(params, z, mask):
        return encoder.apply({"params": params}, z, mask)[0]

    def run(motion):
        z = bundle.stats.normalise(motion) * bundle.stats.live
        room = clip.MAX_FRAMES - len(z)
        z = np.pad(z, [(0, room), (0, 0)])[None].astype(np.float32)
        mask = (np.arange(clip.MAX_FRAMES) < clip.MAX_FRAMES - room)[None]
        return np.asarray(encode(bundle.params["style"], jnp.asarray(z), mask))

    return run


def _any_clip():
    return np.zeros((inputs.MIN_STYLE_FRAMES, mo.F), np.float32).tobytes()
