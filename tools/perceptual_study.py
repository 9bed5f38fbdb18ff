"""A perceptual study: three methods beside the recording, ranked by people.

    python -m tools.perceptual_study make STUDY --truth truth --method ours=a \\
        --method plain=b --method mean=c            # folders of takes, one per clip
    python -m tools.perceptual_study serve STUDY --port 8000       # extra [study]
    python -m tools.perceptual_study analyse STUDY  # results.md, .json, .png
    python -m tools.perceptual_study simulate --raters 20 --clips 15 --strength 0.5

As in the paper's section 4.3: every rater sees each clip's recording and the methods
without names, in an order of their own, and ranks them for lip synchronisation and for
likeness of style, asked in the rater's own order too. Answers lie in
STUDY/answers.sqlite and survive a reload of the page and a restart of the server. A
folder of takes holds one take per clip: CLIP.npz or CLIP/motion.npz as
`toktalk_jax.sample` leaves them; clips that all folders hold are used. `simulate` tells
how many raters and clips it takes to see a preference.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import secrets
import sqlite3

from toktalk_jax.training import logs
from tools import study_results, study_server

MOST = 8  # methods, as the page names them by letters
SPARE = 2  # frames that a take may lack of the recording, a token's
QUESTIONS = (
    "Lip synchronisation: whose lips fit the sound best?",
    "Style: whose way of moving is most like the recording's?",
)


def takes_of(folder):
    """{clip: path} of a folder of takes."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder of takes at {folder}")
    found = {path.stem: path for path in folder.glob("*.npz")}
    return found | {path.parent.name: path for path in folder.glob("*/motion.npz")}


def make(out, truth, methods, *, head=None, seed=0, size=320, render=None):
    """Render a study's videos and write study.json; what is rendered is kept.

    Args:
      out: folder; truth: folder of takes; methods: {name: folder of takes}.
      head: the user's FLAME file; None: the stand-in.
      render: (path of the mp4, path of the take, path of the take with the sound,
        `flame.assets.Head`, size), for tests.

    Returns:
      dict of study.json: methods, questions, seed, clips {clip: {method: video}}, the
      videos named so that nothing tells the method.

    Raises:
      ValueError: fewer than three methods or more than the page has letters for, no
        clip that all folders hold, takes that are not of one recording, of another
        face or without its sound, a size that no video has, or a folder that holds a
        study of other takes, clips, sizes or a seed of its own. Nothing is written.
    """
    from toktalk_jax.flame import assets
    from tools import compare_video

    if not 3 <= len(methods) <= MOST or "truth" in methods:
        raise ValueError(
            f"the methods are {sorted(methods)}; give three or more, at most {MOST}, "
            "none called truth"
        )
    folders = {"truth": takes_of(truth)} | {m: takes_of(f) for m, f in methods.items()}
    clips = sorted(set.intersection(*(set(found) for found in folders.values())))
    if not clips:
        held = {name: sorted(found)[:3] for name, found in folders.items()}
        raise ValueError(f"no clip is in all folders; they hold {held} ...")
    compare_video.check_size(size)
    face = assets.load_head(head)
    for clip in clips:
        _check_takes({name: found[clip] for name, found in folders.items()}, face)
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    wanted = {
        **{"methods": sorted(methods), "questions": list(QUESTIONS), "seed": seed},
        **{"size": size, "head": f"{face.name} {face.hash()}"},
        "takes": {name: _hash(found, clips) for name, found in folders.items()},
    }
    study = _described(out / "study.json", clips, wanted)
    render = render or _render
    for clip, videos in study["clips"].items():
        for method, video in videos.items():
            if not (out / video).exists():
                source = folders[method][clip]
                render(out / video, source, folders["truth"][clip], face, size)
    return study


def _check_takes(paths, face):
    """Refuse takes of a clip that cannot be shown, or not in time with its sound.

    Raises:
      ValueError: one has another frame rate, another length than the recording or
        another face, or the recording has no sound.
    """
    from toktalk_jax import motion as mo
    from toktalk_jax import takes

    found = {name: takes.read(path) for name, path in paths.items()}
    wanted = len(found["truth"].motion)
    for name, take in found.items():
        if take.fps != mo.FPS:
            raise ValueError(
                f"{paths[name]} has {take.fps:g} frames a second; expected {mo.FPS}: "
                "resample its motion first"
            )
        if abs(len(take.motion) - wanted) > SPARE:
            raise ValueError(
                f"{paths[name]} has {len(take.motion)} frames, the recording {wanted}"
            )
        if take.face_model not in (None, face.name):
            raise ValueError(
                f"{paths[name]} is of face model {take.face_model!r}, but the head is "
                f"{face.name!r}; --head names the FLAME file that it was made with"
            )
    if found["truth"].audio is None:
        raise ValueError(
            f"{paths['truth']} holds no sound; a rater must hear the recording"
        )


def _hash(takes, clips):
    """12 hex digits of the files of a method's takes: answers are to what was shown."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(hashlib.sha256(takes[clip].read_bytes()).digest())
    return digest.hexdigest()[:12]


def _described(kept, clips, wanted):
    """study.json, new or as it was: its videos keep their names."""
    if kept.exists():
        study = json.loads(kept.read_text())
        other = [name for name, value in wanted.items() if study.get(name) != value]
        if set(study["clips"]) != set(clips):
            other.append("clips")
        if other:
            raise ValueError(
                f"{kept} is another study ({study['methods']}, {len(study['clips'])} "
                f"clips) than the one asked for: other {', '.join(other)}; choose "
                "another folder"
            )
        return study
    videos = {
        clip: {m: f"{secrets.token_hex(8)}.mp4" for m in ("truth", *wanted["methods"])}
        for clip in clips
    }
    study = wanted | {"clips": videos}
    logs.write_whole(kept, json.dumps(study, indent=1) + "\n")
    return study


def _render(path, take, sound, head, size):
    """One head with the recording's sound, as an mp4."""
    from toktalk_jax import takes
    from tools import compare_video

    found, heard = takes.read(take), takes.read(sound)
    pictures = (
        picture
        for (picture,) in compare_video.draw_heads(
            found.motion[None], head, found.head_joint, size
        )
    )
    compare_video.encode(
        path, pictures, len(found.motion), heard.audio, heard.sample_rate
    )


def load(folder):
    """study.json of a folder.

    Raises:
      ValueError: there is none; says what makes one.
    """
    path = pathlib.Path(folder) / "study.json"
    if not path.is_file():
        raise ValueError(f"no study at {folder}; make one: perceptual_study make")
    return json.loads(path.read_text())


def analyse(folder):
    """{question: `study_results.Result`}, also as results.md, .json and .png."""
    folder, study = pathlib.Path(folder), load(folder)
    database = folder / "answers.sqlite"
    results = {}
    for question in study["questions"]:
        answers = study_server.read(database, question)
        try:
            results[question] = study_results.analyse(answers, study["methods"])
        except ValueError as error:
            raise ValueError(f"{question}: {error}") from error
    text = study_results.to_markdown(results)
    plain = {
        question: result._asdict()
        | {
            "shares": result.shares.tolist(),
            "pairs": [pair._asdict() for pair in result.pairs],
        }
        for question, result in results.items()
    }
    logs.write_whole(folder / "results.md", text + "\n")
    logs.write_whole(folder / "results.json", json.dumps(plain, indent=1) + "\n")
    study_results.plot(folder / "results.png", results)
    return results


def power(raters, clips, strength, trials=200, level=0.05):
    """Share of simulated studies that find the best of three methods.

    Args:
      strength: log odds by which it beats each of two equal others in a pair.
    """
    found = 0
    for seed in range(trials):
        answers = study_results.simulate(
            {"a": strength, "b": 0.0, "c": 0.0}, raters, clips, seed
        )
        result = study_results.analyse(answers, ["a", "b", "c"])
        sure = result.p is not None and result.p < level
        found += sure and result.methods[0] == "a"
    return found / trials


def _parser():
    parser = argparse.ArgumentParser(
        "python -m tools.perceptual_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("make", help="render the videos")
    p.add_argument("study", help="folder to write")
    p.add_argument("--truth", required=True, help="folder of recorded takes")
    p.add_argument("--method", action="append", default=[], help="NAME=FOLDER; thrice")
    p.add_argument("--head", help="FLAME file; default: the stand-in")
    p.add_argument("--seed", type=int, default=0, help="of the orders")
    p.add_argument("--size", type=int, default=320, help="pixels of a video")
    p = commands.add_parser("serve", help="ask people")
    p.add_argument("study")
    p.add_argument("--host", default="127.0.0.1", help="interface to listen on")
    p.add_argument("--port", type=int, default=8000)
    p = commands.add_parser("analyse", help="results.md, results.json, results.png")
    p.add_argument("study")
    p = commands.add_parser("simulate", help="what a study of this size would find")
    p.add_argument("--raters", type=int, default=20)
    p.add_argument("--clips", type=int, default=15)
    p.add_argument("--strength", type=float, default=0.5, help="log odds of a pair")
    return parser


def main(arguments=None):
    """Command line."""
    flags = _parser().parse_args(arguments)
    try:
        _run(flags)
    except (ValueError, OSError, ImportError, sqlite3.Error) as error:
        raise SystemExit(f"perceptual_study: {error}") from None


def _run(flags):
    if flags.command == "make":
        unnamed = [m for m in flags.method if "=" not in m]
        if unnamed:
            raise ValueError(f"--method {unnamed[0]}; expected NAME=FOLDER")
        pairs = [m.split("=", 1) for m in flags.method]
        named = collections.Counter(name for name, _ in pairs)
        if twice := [name for name, count in named.items() if count > 1]:
            raise ValueError(f"--method {twice[0]}= comes {named[twice[0]]} times")
        methods = dict(pairs)
        more = {"head": flags.head, "seed": flags.seed, "size": flags.size}
        study = make(flags.study, flags.truth, methods, **more)
        print(f"{len(study['clips'])} clips of {study['methods']} in {flags.study}")
    elif flags.command == "serve":
        serve(flags.study, flags.host, flags.port)
    elif flags.command == "analyse":
        print(study_results.to_markdown(analyse(flags.study)))
    else:
        share = power(flags.raters, flags.clips, flags.strength)
        print(
            f"{flags.raters} raters, {flags.clips} clips, log odds {flags.strength}: "
            f"the better method is found in {100 * share:.0f} % of studies"
        )


def serve(folder, host, port):
    """Serve a study until interrupted.

    Raises:
      ImportError: Starlette or uvicorn is not installed; names the extra.
    """
    study = load(folder)
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ImportError(f"{error}; install this project with [study]") from None
    application = study_server.application(folder, study)
    print(f"http://{host}:{port}", flush=True)
    uvicorn.run(application, host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main()
