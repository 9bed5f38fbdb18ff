"""What `export_tokens` reads: each corpus by its name on the command line.

An entry of `CORPORA` takes the parsed arguments and the head, and gives (read, facts):
`read` as `data.spool.encoded` wants it, and what metadata.json is to say of the corpus.
"""

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np
from tqdm import tqdm

from toktalk_jax import motion as mo


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
        "split_rule": hdtf_tfhp.split_rule(_source(args)),
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
    from toktalk_jax.flame import fit, landmarks

    where = None
    if args.landmark_map:
        where = landmarks.load_map(head, args.landmark_map)
    rule = args.corpus.partition(":")[2] or "clip"
    if not args.source:
        raise ValueError("--corpus grid needs --source, a talker's folder or several")
    cache = args.fit_cache or pathlib.Path(args.out).with_name("fit_cache")
    if args.runner == "beam":  # each worker fits the clips that it reads
        cache = None

    def read(on_skip, each=iter):
        clips = grid.read(
            args.source,
            on_skip,
            split=rule,
            cache=cache,
            head=head,
            progress=lambda ids: tqdm(ids, desc="fit faces", unit="clip"),
            each=each,
            landmark_map=where,
            with_landmarks=args.with_landmarks,
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
    return read, facts | {"motion_fit": fit.version(head, where)}


def tracked_corpus(args, head):
    """(read, facts) of what tools/track_video.py left."""
    from toktalk_jax.data.corpora import tracked

    facts = {"split_rule": "by person, or by clip", "source_fps": mo.FPS}
    facts["source"] = tracked.fingerprint(_source(args))

    def read(on_skip, each=iter):
        return tracked.read(_source(args), head.hash(), on_skip, each)

    return read, facts


def sound_corpus(args, head):
    """(read, facts) of speech without faces: those of --faces_of are drawn for it."""
    from toktalk_jax.data.corpora import sound
    from toktalk_jax.flame.assets import head_of
    from toktalk_jax.inputs import load_tokenizer
    from toktalk_jax.sample import make_sampler
    from toktalk_jax.training import checkpoints

    if not args.faces_of:
        raise ValueError(
            "--corpus sound needs --faces_of, the trained model whose faces it gets: "
            "a run, a bundle or a shipped name such as small"
        )
    bundle = checkpoints.load(args.faces_of)
    checkpoints.expect_toktalk(bundle)
    head_of(bundle.dataset, "" if head.name == "stand_in" else args.head)
    facts = {"split_rule": "by file, seeded", "source_fps": mo.FPS}
    facts |= {"source": _fingerprint(_source(args)), "faces_of": bundle.meta["hash"]}
    facts["head_joint"] = bundle.dataset.get("head_joint", "neck")

    def read(on_skip, each=iter):
        tools = load_tokenizer(bundle, args.weights), make_sampler(bundle)
        act = functools.partial(_act, bundle, *tools, seed=args.seed)
        return sound.read(_source(args), act, on_skip, each)

    return read, facts


# Which sample of a model the faces are: one that no score of it draws again.
ACTED = 1 << 20


def _act(bundle, tokenizer, sampler, clips, seed):
    """The clips with a sample of a model, without style, as their motion."""
    from toktalk_jax.data.dataset import Clip
    from toktalk_jax.evaluation import predict

    heard = []
    for clip in clips:
        tokens = mo.to_token_rate(tokenizer.embed(clip.audio), tokenizer.rate_hz)
        frames = min(
            mo.FRAMES_PER_TOKEN * len(tokens),
            -(-len(clip.audio) // mo.SAMPLES_PER_FRAME),
        )
        heard.append(
            Clip(
                **{name: getattr(clip, name) for name in ("clip_id", "speaker_id")},
                corpus=clip.corpus,
                motion=np.zeros((frames, mo.F), np.float32),
                tokens=bundle.stats.standardise(tokens),
                shape=clip.shape,
                codes=None,
            )
        )
    styles = np.zeros((len(clips), bundle.config["style"]["width"]), np.float32)
    acted = predict.streamed(sampler, heard, styles, seed=seed, sample=ACTED)
    pairs = zip(clips, acted, strict=True)
    return [dataclasses.replace(clip, motion=motion) for clip, motion in pairs]


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
            if not clip.phonemes:
                raise ValueError("its word times give no phonemes to perform")
            motion = performer.perform(
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
            lips=None,
        )


TRACKED = ("grid", "tracked")  # of these the tracked landmarks are there
CORPORA = {
    "performer": performer_corpus,
    "grid": grid_corpus,
    "hdtf_tfhp": hdtf_tfhp_corpus,
    "ravdess": ravdess_corpus,
    "facegood": facegood_corpus,
    "tracked": tracked_corpus,
    "sound": sound_corpus,
}
