r"""Animate a wav, a text or token embeddings with a trained model, chunk by chunk.

    python -m toktalk_jax.sample --wav speech.wav --out out
    python -m toktalk_jax.sample --text "Hello there." --style warm --out out
    python -m toktalk_jax.sample --text "Hello." --adapter hibari_to_small --out out
    python -m toktalk_jax.sample --tokens reply.npz --workdir runs/base \
        --config configs/base.py --config.sample.num_steps=5 --out out

Sound is pushed in pieces of one chunk, as a microphone would deliver it. Written to
--out: motion.npz, report.json, report.md and, where there is sound, watch.html.

motion.npz: motion [T, 56] f32 raw coefficients (expression 0-49, jaw and neck
axis-angle in radians), fps 25, head_joint "neck" or "root", face_model, chunk_frames,
seed, checkpoint (hash of the weights), style (its name); audio [L] i16 and sample_rate
where there is sound.

A token .npz: tokens [S, A] f16 or f32, rate_hz, tokenizer (its name); optionally audio
[L] i16 at 16 kHz. A style .npz: motion [R, 56] raw coefficients at 25 fps, R >= 10 (a
motion.npz is one).
"""

import json
import pathlib
import time

import jax
import numpy as np
from absl import app, flags, logging

from toktalk_jax import command_line, models, takes
from toktalk_jax import motion as mo
from toktalk_jax.inputs import heard_by, load_style, load_tokenizer, load_tokens
from toktalk_jax.streaming import Sampler
from toktalk_jax.tokenizers import hibari
from toktalk_jax.training import adapters, checkpoints


def make_sampler(bundle, settings=None, adapter=None, **options):
    """`Sampler` of a bundle.

    Args:
      settings: `sample` block of a config (chunk_seconds, context_frames, num_steps,
        guidance, known, grid, temperature); None: the bundle's own.
      adapter: `training.adapters.AdapterBundle` for tokens of another tokenizer.
      options: overrides of `Sampler`'s own arguments, for instance chunk_frames.

    Raises:
      ValueError: the bundle is of another method, or the adapter of another base.
    """
    checkpoints.expect_toktalk(bundle)
    settings = dict(bundle.config["sample"] if settings is None else settings)
    arguments = {"chunk_frames": mo.chunk_frames(settings.pop("chunk_seconds"))}
    arguments |= settings
    if bundle.config["train"]["objective"] == "regression":
        # A regressor is the same network evaluated once, from zero noise, at t = 0.
        arguments |= {"num_steps": 1, "guidance": 0.0, "temperature": 0.0}
    if adapter is not None:
        arguments["adapter"] = adapters.spec(adapter, bundle)
    network, _ = models.build(bundle.config["model"], bundle.config["style"])
    return Sampler(
        network, bundle.params["velocity"], bundle.stats, **(arguments | options)
    )


def stream_audio(sampler, tokenizer, audio, key, style):
    """Push sound as it would arrive, one chunk of samples at a time.

    Raises:
      ValueError: the tokenizer looks ahead further than a chunk.

    Returns:
      (motion [T, 56] with T = ceil(L / 640), list of per-chunk dicts of milliseconds:
      tokenise, solve, and prefill for the next chunk).
    """
    piece = sampler.chunk_frames * mo.SAMPLES_PER_FRAME
    if tokenizer.lookahead_s * mo.SAMPLE_RATE > piece:
        raise ValueError(
            f"{tokenizer.name} looks {tokenizer.lookahead_s} s ahead, further than a "
            f"chunk of {piece / mo.SAMPLE_RATE:.2f} s: its model cannot stream sound. "
            "Export the dataset with --causal (or fewer --lookahead_tokens) and train "
            "on that, or give whole clips' embeddings with --tokens"
        )
    source, to_base = tokenizer.stream(), mo.ToTokenRate(tokenizer.rate_hz)

    def tokens():
        for start in range(0, len(audio), piece):
            begin = time.perf_counter()
            out = source.push(audio[start : start + piece])
            if start + piece >= len(audio):
                out = np.concatenate([out, source.flush()])
            out = to_base.push(out)
            yield out, (time.perf_counter() - begin) * 1e3

    motion, chunks = _solve(sampler, tokens(), key, style)
    return motion[: -(-len(audio) // mo.SAMPLES_PER_FRAME)], chunks


def stream_tokens(sampler, tokens, key, style):
    """Push base-rate tokens [S, A] chunk by chunk; as `stream_audio`."""
    size = sampler.chunk_tokens
    pieces = ((tokens[i : i + size], 0.0) for i in range(0, len(tokens), size))
    return _solve(sampler, pieces, key, style)


def _solve(sampler, pieces, key, style):
    stream = sampler.init(key[None], style)
    warm = np.zeros((1, sampler.chunk_tokens, sampler.width), np.float32)
    jax.block_until_ready(sampler.step(stream, warm))  # compile before the clock
    out, chunks = [], []
    for tokens, tokenise_ms in pieces:
        begin = time.perf_counter()
        stream, motion = sampler.push(stream, tokens[None])
        motion = [np.asarray(m[0]) for m in motion]
        if motion:
            solve_ms = (time.perf_counter() - begin) * 1e3
            jax.block_until_ready(stream)
            prefill_ms = (time.perf_counter() - begin) * 1e3 - solve_ms
            chunks.append(_spent(tokenise_ms, solve_ms, prefill_ms))
        out += motion
    begin = time.perf_counter()
    _, tail = sampler.flush(stream)
    if tail is not None:
        out.append(np.asarray(tail[0]))
        solve_ms = (time.perf_counter() - begin) * 1e3
        chunks.append(_spent(0.0, solve_ms, 0.0))
    return np.concatenate(out), chunks


def _spent(tokenise_ms, solve_ms, prefill_ms):
    return {
        "tokenise_ms": tokenise_ms,
        "solve_ms": solve_ms,
        "prefill_ms": prefill_ms,
    }


def sample(
    checkpoint,
    out,
    *,
    wav="",
    text="",
    tokens="",
    style="neutral",
    seed=0,
    weights="",
    settings=None,
    evaluation="",
    head="",
    adapter="",
):
    """Run one sample from the command line's values; returns the report.

    A checkpoint of a FLAME face without its file (`head`) still gives motion.npz; the
    page is then left out, and the report says why.

    Raises:
      ValueError, FileNotFoundError: inputs that cannot be animated; says why.
    """
    if sum(bool(x) for x in (wav, text, tokens)) != 1:
        raise ValueError("give exactly one of --wav, --text and --tokens")
    bundle = checkpoints.load(checkpoint)
    before = adapters.load(adapter) if adapter else None
    sampler = make_sampler(bundle, settings, before)
    heard = heard_by(bundle, before)[0]["tokenizer"]
    vector = load_style(bundle, style)
    key = jax.random.key(seed)
    if tokens:
        stream, audio = load_tokens(tokens, bundle, before)
        audio = None if audio is None else audio.astype(np.float32) / 32768
        motion, chunks = stream_tokens(sampler, stream, key, vector)
    elif text and heard == "hibari":
        spoken = _say(text)
        audio, stream = spoken.audio, mo.to_token_rate(spoken.states, hibari.RATE_HZ)
        motion, chunks = stream_tokens(sampler, stream, key, vector)
    else:
        audio = _speech(wav, text)
        tokenizer = load_tokenizer(bundle, weights, before)
        motion, chunks = stream_audio(sampler, tokenizer, audio, key, vector)
    report = {
        "input": wav or tokens or text,
        "seconds": len(motion) / mo.FPS,
        "checkpoint": str(checkpoint),
        "weights_hash": bundle.meta["hash"],
        "tokenizer": heard,
        "adapter": before and {"name": str(adapter), "hash": before.meta["hash"]},
        "style": style,
        "chunk_seconds": sampler.chunk_frames / mo.FPS,
        "num_steps": len(sampler.times) - 1,
        "guidance": float(sampler.guidance),
        "seed": seed,
        "device": str(jax.local_devices()[0]),
        "timing": takes.timing_summary(chunks, sampler.chunk_frames),
    }
    if evaluation:
        report["evaluation"] = json.loads(pathlib.Path(evaluation).read_text())
    shown = head_to_show(bundle, head)
    if shown is None:
        report["watch"] = (
            f"no page: the face model is {bundle.dataset['face_model']}; give --head"
        )
    takes.write(out, motion, sampler, bundle, report, audio, style, shown)
    return report


def head_to_show(bundle, path):
    """The head of a bundle's motion; None if it is a FLAME head and no file is given.

    Raises:
      ValueError: the file is of another head.
    """
    from toktalk_jax.flame import assets

    if not path and bundle.dataset["face_model"] != "stand_in":
        return None
    return assets.head_of(bundle.dataset, path)


def _speech(wav, text):
    if wav:
        from toktalk_jax.data.audio import read_audio

        return read_audio(wav)
    return _say(text).audio


def _say(text):
    from toktalk_jax.data.corpora.speech import say

    return say(text)


def main(argv):
    """Command line."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells its whole life at INFO
    f = flags.FLAGS
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    try:
        report = sample(
            f.workdir,
            f.out,
            wav=f.wav,
            text=f.text,
            tokens=f.tokens,
            style=f.style,
            seed=f.seed,
            weights=f.weights,
            settings=f.config.sample.to_dict() if f.config else None,
            evaluation=f.evaluation,
            head=f.head,
            adapter=f.adapter,
        )
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"sample: {error}") from None
    print((pathlib.Path(f.out) / "report.md").read_text())
    print(f"{f.out}/motion.npz holds {report['seconds']:.2f} s of motion")


def define_flags():
    """Flags of this entry point."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config", None, "config whose `sample` block replaces the checkpoint's own"
    )
    flags.DEFINE_string("workdir", "small", "run, bundle folder or shipped checkpoint")
    flags.DEFINE_string("wav", "", "sound to animate (any rate; mono or stereo)")
    flags.DEFINE_string("text", "", "text to speak and animate (needs [demo])")
    flags.DEFINE_string("tokens", "", ".npz of token embeddings")
    flags.DEFINE_string("style", "neutral", "shipped name, style .npz, or none")
    flags.DEFINE_string("weights", "", "weights of the tokenizer, where it needs some")
    flags.DEFINE_string(
        "adapter", "", "adapter in front of it: run, bundle folder or shipped name"
    )
    flags.DEFINE_string("head", "", "FLAME file of the checkpoint's face model")
    flags.DEFINE_string("out", "out", "directory to write")
    flags.DEFINE_integer("seed", 0, "seed of the noise")
    flags.DEFINE_string("evaluation", "", "evaluation.json to put into the report")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
