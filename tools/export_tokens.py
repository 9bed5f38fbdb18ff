"""Export a corpus: sound to token embeddings, with face motion, as TFRecord shards.

    python -m tools.export_tokens --corpus performer --seconds 60 --tokenizer mel_rvq \
        --out data/performer
    python -m tools.export_tokens --corpus grid --source DIR --tokenizer lyra \
        --weights lyra_v2 --augment 2 --out data/grid_lyra
    python -m tools.export_tokens --corpus grid --source DIR --tokenizer whisper \
        --causal --out data/grid_whisper

Interrupted, it goes on where it was when it is called again with the same arguments.

Capacity. Hours of sound per hour on two CPU cores, measured by `bench_tokenizers` in
clips of 3 s: mel_rvq 430, lyra 160, mimi 23, wav2vec2 and hubert 12, whisper 10 (each
clip padded to 30 s: clips of 30 s cost no more), whisper --causal 1.4. Computed for a
GPU that sustains 20 TFLOP/s, from some 150 GFLOP/s of those cores: mimi 3,000, wav2vec2
and hubert 1,500, whisper 1,300 in clips of 3 s. Megabytes of f32 embeddings and codes
per hour of sound: 3.6e3 * rate_hz * 4 * (dim + num_codes) / 1e6, so mimi and mel_rvq
94, lyra 79, whisper tiny 276, wav2vec2 and hubert 553; motion adds 20, loudness and
phonemes 1, sound 115.
"""

import argparse
import functools
import itertools
import pathlib
import shlex

import numpy as np
from absl import logging
from tqdm import tqdm

import toktalk_jax
from toktalk_jax import host_memory
from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import load
from toktalk_jax.tokenizers.ahead import Ahead
from tools.export_sources import CORPORA, TRACKED

STATE, FOREIGN_STATE = "tokenizer_state.npz", "foreign_state.npz"
SHIPPED_STATE = pathlib.Path(toktalk_jax.__file__).parent / "checkpoints/small" / STATE
PATHS = ("out", "source", "weights", "foreign_weights", "foreign_state", "head")
PATHS += ("landmark_map", "tokenizer_state", "faces_of")
FIT_TOKENS = 20_000  # fewer leave most rows of the later codebooks unused
DEAD_METRES = 1e-5


def mel_rvq_tokenizer(args, read):
    """`MelRVQ` from --tokenizer_state, fitted by --fit_tokenizer, or as shipped."""
    from toktalk_jax.data import spool
    from toktalk_jax.tokenizers import mel_rvq

    state = pathlib.Path(args.out) / STATE
    if args.fit_tokenizer and not state.exists():
        nothing = lambda clip_id, reason: None  # noqa: E731
        more = _fit_speech(args.fit_performer, args.seed)
        clips = itertools.chain(read(nothing), more)
        tasks = spool.jobs(clips, args.augment, args.seed, nothing)
        waves = (make().audio for _, split, make in tasks if split == "train")
        return mel_rvq.fit(waves, seed=args.seed, min_tokens=FIT_TOKENS)
    if args.fit_tokenizer:
        return mel_rvq.MelRVQ.load(state)  # fitted before the interruption
    if not args.tokenizer_state and not SHIPPED_STATE.exists():
        raise FileNotFoundError(
            f"no shipped tokenizer state at {SHIPPED_STATE}; give --tokenizer_state "
            "FILE, or --fit_tokenizer on a corpus of at least "
            f"{FIT_TOKENS / mo.TOKEN_HZ / 60:.0f} minutes"
        )
    return mel_rvq.MelRVQ.load(args.tokenizer_state or SHIPPED_STATE)


def _fit_speech(seconds, seed):
    """Clips of performer speech for the codebooks to see one voice more."""
    if not seconds:
        return ()
    from toktalk_jax.data.corpora import performer

    return performer.read(seconds, seed)


def make_tokenizer(args, read):
    """The tokenizer that the command line names, or its refusal."""
    if args.tokenizer == "mel_rvq" and not args.causal:
        return _widened(args, mel_rvq_tokenizer(args, read))
    return _load(args, SHIPPED_STATE)


def _load(args, state):
    name = args.tokenizer + (load.CAUSAL if args.causal else "")
    return _widened(args, load.load(name, args.weights, state, args.device))


def _widened(args, tokenizer):
    ahead = args.lookahead_tokens
    return Ahead(tokenizer, ahead) if ahead else tokenizer


def make_foreign(args):
    """The second tokenizer, or None.

    Raises:
      ValueError: options of a second tokenizer without one, or the same one twice.
    """
    if not args.foreign:
        if args.foreign_weights or args.foreign_state or args.foreign_causal:
            raise ValueError("--foreign_... options go with --foreign NAME")
        return None
    name = args.foreign + (load.CAUSAL if args.foreign_causal else "")
    state = args.foreign_state or SHIPPED_STATE
    try:
        return load.load(name, args.foreign_weights, state, args.device)
    except (ValueError, FileNotFoundError) as error:  # it tells of the first one's flag
        words = str(error).replace("--weights", "--foreign_weights")
        raise type(error)(words) from None


def open_work(args):
    """(read, tokenizer, foreign) of these arguments, in a worker process."""
    read, _ = CORPORA[args.corpus.partition(":")[0]](args, _head(args))
    kept = pathlib.Path(args.out) / STATE
    tokenizer = _load(args, kept if kept.exists() else SHIPPED_STATE)
    return read, tokenizer, make_foreign(args)


def _head(args):
    from toktalk_jax.flame.assets import load_head

    return load_head(None if args.head in ("", "stand_in") else args.head)


def dead_below(head):
    """[F] std under which a coefficient moves no vertex by more than 0.01 mm rms."""
    from toktalk_jax.flame.model import vertices

    step = 1e-3
    moved = np.asarray(vertices(head, step * np.eye(mo.F, dtype=np.float32)))
    rest = np.asarray(vertices(head, np.zeros(mo.F, np.float32)))
    furthest = np.linalg.norm(moved - rest[None], axis=-1).max(1) / step
    return DEAD_METRES / np.maximum(furthest, 1e-9)


def export(args):
    """Export as the command line says; returns the metadata."""
    from toktalk_jax.data import builder

    name = args.corpus.partition(":")[0]
    if name not in CORPORA:
        raise ValueError(f"--corpus is {name!r}; expected one of {sorted(CORPORA)}")
    if "hibari" in (args.tokenizer, args.foreign) and (
        name != "performer" or args.augment
    ):
        raise ValueError(
            "hibari tokens are the synthesizer's states while it speaks: they go with "
            "--corpus performer, and without --augment, which changes the voice"
        )
    if args.with_landmarks and (name not in TRACKED or args.perform_styles):
        raise ValueError(
            "--with_landmarks keeps what a tracker saw, which only --corpus "
            f"{' and '.join(TRACKED)} hold, without --perform_styles"
        )
    head = _head(args)
    read, facts = CORPORA[name](args, head)
    foreign = make_foreign(args)
    tokenizer = make_tokenizer(args, _with_progress(read, "fit tokenizer"))
    if foreign and foreign.hash == tokenizer.hash:
        raise ValueError("--foreign is the same tokenizer as --tokenizer")
    out = pathlib.Path(args.out)
    for made, name in ((tokenizer, STATE), (foreign, FOREIGN_STATE)):
        made = made.inner if isinstance(made, Ahead) else made
        if made and made.name == "mel_rvq":
            _keep_state(made, out / name)
    about = {"corpus": args.corpus, "head_joint": "neck", **facts}
    about |= {"face_model": head.name, "face_hash": head.hash()}
    if args.device != "cpu":  # its sums differ in the last bits
        about["device"] = args.device
    return builder.export(
        _with_progress(read, "export"),
        out,
        tokenizer,
        about=about,
        dead_below=dead_below(head),
        augment=args.augment,
        seed=args.seed,
        with_audio=args.with_audio,
        with_landmarks=args.with_landmarks,
        strict=args.strict,
        shards=_shards(args.shards),
        run=_beam(args, read, tokenizer, foreign) if args.runner == "beam" else None,
        foreign=foreign,
    )


def _with_progress(read, label):
    def shown(items):
        return tqdm(items, desc=label, unit="clip", mininterval=1)

    return lambda on_skip, each=iter: read(on_skip, lambda items: each(shown(items)))


def _shards(text):
    """{split: count} of "8,2,2"."""
    counts = text.split(",")
    if len(counts) != 3 or not all(c.isdecimal() and int(c) > 0 for c in counts):
        raise ValueError(
            f"--shards is {text!r}; expected how many each of train, validation and "
            "test has, such as 8,2,2"
        )
    return dict(zip(("train", "validation", "test"), map(int, counts), strict=True))


def _beam(args, read, tokenizer, foreign):
    """What makes the shards under Apache Beam."""
    from toktalk_jax.data import beam

    # By this module's own name: workers cannot import what ran as __main__.
    from tools.export_tokens import open_work as work

    if args.fit_cache:
        raise ValueError(
            "--fit_cache does not go with --runner beam: each worker fits the clips "
            "that it reads"
        )
    if args.device != "cpu" and not args.pipeline_options:
        raise ValueError(
            "--runner beam on this machine has a process per core, which would share "
            f"{args.device}; say --pipeline_options, or leave out --runner"
        )
    flags = shlex.split(args.pipeline_options)
    there = argparse.Namespace(**vars(args))
    for name in PATHS:  # a worker may stand in another folder
        given = getattr(args, name)
        if given and (name == "out" or pathlib.Path(given).exists()):
            setattr(there, name, str(pathlib.Path(given).resolve()))
    return beam.runner(functools.partial(work, there), read, tokenizer, flags, foreign)


def _keep_state(tokenizer, path):
    from toktalk_jax.tokenizers.mel_rvq import MelRVQ

    if path.exists():
        if (old := MelRVQ.load(path).hash) != tokenizer.hash:
            raise ValueError(
                f"{path} is another tokenizer state ({old}, now {tokenizer.hash}); use "
                "another --out"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    tokenizer.save(temporary)
    temporary.replace(path)


def parser():
    """The command line."""
    p = argparse.ArgumentParser(
        prog="export_tokens", description=__doc__.split("\n")[0]
    )
    p.add_argument(
        "--corpus",
        required=True,
        help="performer | grid | grid:words (held-out words) | hdtf_tfhp | ravdess | "
        "facegood | tracked (of tools/track_video.py) | sound (any speech)",
    )
    p.add_argument("--source", default="", help="folder of the corpus on disk")
    p.add_argument("--tokenizer", required=True, choices=sorted(load.NAMES))
    p.add_argument(
        "--weights", default="", help="folder or hub id of the tokenizer's weights"
    )
    p.add_argument("--device", default="cpu", help="cpu | cuda, of the tokenizer")
    p.add_argument(
        "--causal",
        action="store_true",
        help="re-encode the sound so far per chunk of 0.4 s, as a live stream would",
    )
    p.add_argument(
        "--lookahead_tokens",
        type=int,
        default=0,
        help="so many of the next tokens (80 ms each) beside each of --tokenizer's, as "
        "channels",
    )
    second = p.add_argument_group("a second tokenizer, for training an adapter")
    second.add_argument("--foreign", default="", choices=["", *sorted(load.NAMES)])
    second.add_argument("--foreign_weights", default="", help="as --weights")
    second.add_argument("--foreign_state", default="", help="as --tokenizer_state")
    second.add_argument("--foreign_causal", action="store_true", help="as --causal")
    p.add_argument("--out", required=True, help="dataset directory")
    state = p.add_mutually_exclusive_group()
    state.add_argument("--tokenizer_state", default="", help="mel_rvq codebooks, npz")
    state.add_argument(
        "--fit_tokenizer", action="store_true", help="fit mel_rvq on the train clips"
    )
    p.add_argument(
        "--fit_performer",
        type=float,
        default=0.0,
        help="with --fit_tokenizer: seconds of performer speech to fit on as well",
    )
    p.add_argument("--augment", type=int, default=0, help="copies of each train clip")
    p.add_argument("--with_audio", action="store_true", help="keep the sound")
    p.add_argument(
        "--with_landmarks",
        action="store_true",
        help="keep the tracked lips (grid, tracked): evaluate then scores against them",
    )
    p.add_argument("--strict", action="store_true", help="a bad clip is an error")
    p.add_argument("--seconds", type=float, default=60.0, help="of performer speech")
    p.add_argument(
        "--perform_styles",
        type=int,
        default=0,
        help="let the performer act the corpus' sound in so many styles (grid)",
    )
    p.add_argument(
        "--fit_cache",
        default="",
        help="folder that keeps fitted faces (default: fit_cache beside --out)",
    )
    p.add_argument(
        "--faces_of",
        default="",
        help="model that makes the faces of speech that has none (sound)",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="of performer, augmentation and --faces_of"
    )
    p.add_argument("--head", default="", help="FLAME file, or stand_in")
    p.add_argument(
        "--landmark_map",
        default="",
        help="where the tracker's landmarks lie on --head, from "
        "tools/build_landmark_map.py (grid)",
    )
    p.add_argument(
        "--shards",
        default="8,2,2",
        help="of train, validation and test; some 200 MB a shard read best",
    )
    p.add_argument(
        "--runner",
        default="local",
        choices=("local", "beam"),
        help="beam: the same work, and the same shards, by Apache Beam",
    )
    p.add_argument(
        "--pipeline_options",
        default="",
        help='Beam\'s, such as "--runner=FlinkRunner --flink_master=HOST:8081"; none: '
        "a process per core here. Every worker must see --source and --out, and have "
        "this repository on its PYTHONPATH",
    )
    return p


def main(argv=None):
    """Entry point."""
    args = parser().parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # TFDS warns of its own deprecations
    host_memory.keep_freed()  # tracked faces are fitted by XLA
    try:
        metadata = export(args)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"export_tokens: {error}") from None
    minutes = {split: f"{s / 60:.1f} min" for split, s in metadata["seconds"].items()}
    print(f"{args.out}: clips {metadata['clips']}, {minutes}")
    if metadata["skipped"]:
        print(f"skipped {metadata['skipped']}; reasons in {args.out}/skipped.jsonl")


if __name__ == "__main__":
    main()
