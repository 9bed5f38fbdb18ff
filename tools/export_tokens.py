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
94, lyra 79, whisper tiny 276, wav2vec2 and hubert 553; motion adds 20, sound 115.
"""

import argparse
import dataclasses
import hashlib
import itertools
import pathlib

import numpy as np
from absl import logging
from tqdm import tqdm

import toktalk_jax
from toktalk_jax import motion as mo
from toktalk_jax.tokenizers import load

STATE = "tokenizer_state.npz"
SHIPPED_STATE = pathlib.Path(toktalk_jax.__file__).parent / "checkpoints/small" / STATE
FIT_TOKENS = 20_000  # fewer leave most rows of the later codebooks unused
DEAD_METRES = 1e-5


def performer_corpus(args, head):
    """(read, facts) of the performer: made on the spot, split by style seed."""
    from toktalk_jax.data.corpora import performer

    _refuse_other_head(head)
    facts = {
        "split_rule": "by style seed",
        "source_fps": mo.FPS,
        "asked_seconds": args.seconds,
    }

    def read(on_skip, each=iter):
        return each(performer.read(args.seconds, args.seed))

    return read, facts


def _refuse_other_head(head, what="the performer"):
    if head.name != "stand_in":
        raise ValueError(
            f"--head does not go with {what}: its motion is made for the "
            f"stand-in's expressions, not for those of {head.name!r}"
        )


def facegood_corpus(args, head):
    """(read, facts) of FACEGOOD's animation, on the stand-in head."""
    from toktalk_jax.data.corpora import facegood

    _refuse_other_head(head, "facegood")
    facts = {"split_rule": "by clip, seeded", "source_fps": 30}
    facts["source"] = _fingerprint(_source(args))

    def read(on_skip, each=iter):
        return facegood.read(_source(args), on_skip, each)

    return read, facts


def ravdess_corpus(args, head):
    """(read, facts) of RAVDESS with a tracker's coefficients."""
    from toktalk_jax.data.corpora import ravdess

    _want_head(args)
    facts = {"split_rule": "by actor, seeded", "source_fps": mo.FPS}
    facts["source"] = _fingerprint(_source(args))

    def read(on_skip, each=iter):
        return ravdess.read(_source(args), on_skip, each)

    return read, facts


def hdtf_tfhp_corpus(args, head):
    """(read, facts) of HDTF and TFHP, as an LMDB or as folders."""
    from toktalk_jax.data.corpora import hdtf_tfhp

    _want_head(args)
    facts = {
        "split_rule": "by speaker: the lists in the folder, or seeded 460/64/64",
        "source_fps": mo.FPS,
        "head_joint": hdtf_tfhp.HEAD_JOINT,
        "source": _fingerprint(_source(args)),
    }

    def read(on_skip, each=iter):
        return hdtf_tfhp.read(_source(args), on_skip, each, args.seed)

    return read, facts


def _source(args):
    if not args.source or not pathlib.Path(args.source).is_dir():
        raise ValueError(
            f"--corpus {args.corpus} needs --source, its folder; {args.source!r} is "
            "none"
        )
    return args.source


def _fingerprint(folder):
    """12 hex digits over the names and sizes of a corpus' files, and its lists' lines.

    So an export that goes on is refused when it would go on with another corpus.
    """
    folder, digest = pathlib.Path(folder), hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.name == "lock.mdb":  # a reader's, not the corpus'
            continue
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name} {path.stat().st_size}\n".encode())
        if path.suffix in (".txt", ".json"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _want_head(args):
    if not args.head:
        raise ValueError(
            f"--corpus {args.corpus} holds coefficients of a head model that nobody "
            "may ship: name its file with --head FLAME.pkl, or say --head stand_in if "
            "they are the stand-in's"
        )


def grid_corpus(args, head):
    """(read, facts) of GRID: tracked faces, or the performer acting its sound."""
    from toktalk_jax.data.corpora import grid
    from toktalk_jax.flame import fit

    rule = args.corpus.partition(":")[2] or "clip"
    if not args.source:
        raise ValueError("--corpus grid needs --source, a talker's folder or several")
    cache = args.fit_cache or pathlib.Path(args.out).with_name("fit_cache")

    def read(on_skip, each=iter):
        clips = grid.read(
            args.source,
            on_skip,
            split=rule,
            cache=cache,
            head=head,
            progress=lambda ids: tqdm(ids, desc="fit faces", unit="clip"),
            each=each,
        )
        if args.perform_styles:
            return _performed(clips, args.perform_styles, args.seed, on_skip)
        return clips

    facts = {
        "split_rule": f"grid by {rule}",
        "source_fps": mo.FPS,
        "talkers": grid.source_hashes(args.source),
    }
    if args.perform_styles:
        _refuse_other_head(head)
        facts["corpus"] = "grid_performer"
        return read, facts | {"perform_styles": args.perform_styles}
    return read, facts | {"motion_fit": fit.version(head)}


def _performed(clips, styles, seed, on_skip):
    """The same sound, acted by the performer in one of `styles` styles.

    A style keeps the split that it has in the performer's own corpus, so what is held
    out there is held out here.
    """
    from toktalk_jax.data.corpora import performer

    rule = performer.SPLITS
    of_split = {
        split: [k for k in range(styles) if rule[k % len(rule)] == split]
        for split in set(rule)
    }
    if not all(of_split.values()):
        raise ValueError(f"--perform_styles is {styles}; give at least {len(rule)}")
    for clip in clips:
        draw = int.from_bytes(hashlib.sha256(clip.clip_id.encode()).digest()[:4], "big")
        choice = of_split[clip.split]
        style = choice[draw % len(choice)]
        try:
            motion = performer.perform_words(
                clip.audio, clip.phonemes, performer.draw_style(style), [seed, draw]
            )
        except ValueError as error:
            on_skip(clip.clip_id, str(error))
            continue
        yield dataclasses.replace(
            clip,
            speaker_id=f"style-{style:03d}",
            corpus="grid_performer",
            motion=motion,
        )


CORPORA = {
    "performer": performer_corpus,
    "grid": grid_corpus,
    "hdtf_tfhp": hdtf_tfhp_corpus,
    "ravdess": ravdess_corpus,
    "facegood": facegood_corpus,
}


def mel_rvq_tokenizer(args, read):
    """`MelRVQ` from --tokenizer_state, fitted by --fit_tokenizer, or as shipped."""
    from toktalk_jax.data import spool
    from toktalk_jax.tokenizers import mel_rvq

    state = pathlib.Path(args.out) / STATE
    if args.fit_tokenizer and not state.exists():
        every = lambda on_skip: itertools.chain(  # noqa: E731
            read(on_skip), _fit_speech(args.fit_performer, args.seed)
        )
        tasks = spool.jobs(every, args.augment, args.seed, lambda clip_id, reason: None)
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
        return mel_rvq_tokenizer(args, read)
    name = args.tokenizer + (load.CAUSAL if args.causal else "")
    return load.load(name, args.weights, SHIPPED_STATE, args.device)


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
    from toktalk_jax.flame.assets import load_head

    name = args.corpus.partition(":")[0]
    if name not in CORPORA:
        raise ValueError(f"--corpus is {name!r}; expected one of {sorted(CORPORA)}")
    if args.tokenizer == "hibari" and (name != "performer" or args.augment):
        raise ValueError(
            "hibari tokens are the synthesizer's states while it speaks: they go with "
            "--corpus performer, and without --augment, which changes the voice"
        )
    head = load_head(None if args.head in ("", "stand_in") else args.head)
    read, facts = CORPORA[name](args, head)
    tokenizer = make_tokenizer(args, _with_progress(read, "fit tokenizer"))
    out = pathlib.Path(args.out)
    if args.tokenizer == "mel_rvq":
        _keep_state(tokenizer, out / STATE)
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
        strict=args.strict,
    )


def _with_progress(read, label):
    def each(clips):
        return tqdm(clips, desc=label, unit="clip", mininterval=1)

    return lambda on_skip: read(on_skip, each)


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
        "facegood",
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
    p.add_argument("--seed", type=int, default=0, help="of performer and augmentation")
    p.add_argument("--head", default="", help="FLAME file, or stand_in")
    return p


def main(argv=None):
    """Entry point."""
    args = parser().parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # TFDS warns of its own deprecations
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
