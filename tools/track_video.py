"""Track real video: its sound, and its face as motion on a head.

    python -m tools.track_video talk.mp4 --model face_landmarker.task --out tracks
    python -m tools.track_video videos/ --one_person --model ... --out tracks

Of each video: DIR/PERSON/CLIP.wav (16 kHz mono), CLIP.npz (motion at 25 fps, and what
it came from), CLIP.png (what was tracked and what was fitted), and a line in
DIR/tracks.jsonl. PERSON is the video's folder under the one given, else the video
itself. `export_tokens --corpus tracked --source DIR` goes on from there. Called again,
it leaves alone what is done.

MediaPipe finds 478 landmarks in every frame; size and pose are taken out of them, and
what they move from the face at rest is fitted to the head by least squares
(`flame/fit.py`). The face at rest is the median of quiet frames with closed lips.
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import soundfile
from tqdm import tqdm

from toktalk_jax import motion as mo
from toktalk_jax.data.corpora.grid_talker import neck_of_pose
from toktalk_jax.flame import fit, landmarks
from toktalk_jax.training import logs
from tools.video_reader import Track, face_landmarker, track

VIDEOS = (".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".webm", ".avi", ".m4v")
QUIET_DB = -35.0  # below the video's loud moments: a mouth that may rest
RULES = "1"  # raise it with every change that moves a track
CLOSED_SHARE = 0.3  # of the quiet frames, those with the closest lips
FEWEST = 5  # quiet frames; with fewer, all frames are looked at


def quiet_frames(audio, frames):
    """[frames] bool: 35 dB or more under the video's loud moments."""
    whole = np.zeros(frames * mo.SAMPLES_PER_FRAME)
    whole[: len(audio)] = audio[: len(whole)]
    level = np.sqrt((whole.reshape(frames, -1) ** 2).mean(1))
    return level <= np.percentile(level, 95) * 10 ** (QUIET_DB / 20)


def resting_face(points, quiet):
    """[478, 3] median of the quiet frames with the closest lips; points aligned."""
    if quiet.sum() < FEWEST:
        quiet = np.ones_like(quiet)
    gap = landmarks.inner_lip_gap(points)
    return np.median(points[quiet & (gap <= np.quantile(gap[quiet], CLOSED_SHARE))], 0)


def fit_tracks(tracks, rig):
    """For each track of one person (`fit.Fit`, lips [T, 40, 3], aligned, rest).

    Lips are the tracked ones carried to the head, unfitted; `aligned` [T, 478, 3] are
    the points without size and pose, and the [478, 3] of them at rest.
    """
    cuts = np.cumsum([len(t.points) for t in tracks])[:-1]
    aligned = landmarks.take_out_pose(
        np.concatenate([t.points for t in tracks]), fit.still_landmarks(rig.rest)
    )
    usable = np.concatenate([t.detected for t in tracks])
    quiet = np.concatenate([quiet_frames(t.audio, len(t.points)) for t in tracks])
    rest = resting_face(aligned[usable], quiet[usable])
    neck = neck_of_pose(np.concatenate([t.turn for t in tracks]))
    for own, turn in zip(np.split(aligned, cuts), np.split(neck, cuts), strict=True):
        lips = landmarks.carry(own, rest, rig.rest)[:, list(landmarks.LIPS)]
        yield fit.fit_landmarks(rig, own, rest, neck=turn), lips, own, rest


def facts_of(track, found, lips, rig):
    """What a track's line in tracks.jsonl says of it."""
    still = fit.Fit(found.motion, found.target, rig.rest[None])
    gaps = [landmarks.inner_lip_gap(p) for p in (found.target, found.fitted)]
    moving = min(gap.std() for gap in gaps) > 1e-6
    return {
        "video": track.path.name,
        "frames": len(lips),
        "dropped": int((~track.detected).sum()),
        "residual_mm": round(found.residual_mm(), 3),
        "still_mm": round(still.residual_mm(), 3),
        "gap_r": round(float(np.corrcoef(*gaps)[0, 1]), 4) if moving else None,
    }


def write(stem, track, found, lips, facts, key, head):
    """CLIP.wav, then CLIP.npz under a temporary name: it is there when all is."""
    soundfile.write(f"{stem}.wav", track.audio, mo.SAMPLE_RATE)
    _save(
        f"{stem}.npz",
        motion=fit.smooth(found.motion, fit.bounds_of(head)),
        unfiltered=found.motion,
        lips=lips.astype(np.float32),
        detected=track.detected,
        fps=np.float32(mo.FPS),
        face_hash=np.array(head.hash()),
        facts=np.array(json.dumps(facts)),
        key=np.array(key),
    )


def _save(path, **arrays):
    temporary = pathlib.Path(f"{path}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def _kept(path, key):
    """The arrays of an npz that has this key, or nothing."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {**kept} if str(kept["key"]) == key else {}
    except Exception:  # not there, or a damaged zip, which may raise anything
        return {}


def videos_under(source, one_person):
    """[(person, video)] of a file or folder, sorted.

    Raises:
      FileNotFoundError: there is none.
    """
    source = pathlib.Path(source)
    if source.is_file():
        return [(source.stem, source)]
    found = sorted(
        p for p in source.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file()
    )
    if not found:
        raise FileNotFoundError(f"no video ({', '.join(VIDEOS)}) at {source}")
    named = []
    for path in found:
        parts = path.relative_to(source).parts
        alone = source.resolve().name if one_person else path.stem
        named.append((parts[0] if len(parts) > 1 else alone, path))
    return named


def groups_of(videos, out, one_person):
    """([{stem under `out`: video} that share a face at rest], [(video, reason)])."""
    groups, skipped, taken = {}, [], {}
    for person, path in videos:
        stem = out / person / path.stem
        if stem in taken:
            skipped.append((path, f"{taken[stem]} has the same name"))
            continue
        taken[stem] = path
        groups.setdefault(person if one_person else stem, {})[stem] = path
    return [*groups.values()], skipped


def _raw_place(out, stem):
    return pathlib.Path(out) / ".tracks" / stem.parent.name / f"{stem.name}.npz"


def seen(place, path, model, key):
    """`Track` of a video, or the reason (str) why there is none.

    Kept at `place`, so that a group of videos may be interrupted.
    """
    if kept := _kept(place, key):
        if "reason" in kept:
            return str(kept["reason"])
        return Track(path, *(kept[name] for name in Track._fields[1:]))
    try:
        with face_landmarker(model) as find:
            one = track(path, find)
        arrays = one._asdict()
        del arrays["path"]
    except (ValueError, ArithmeticError, LookupError) as error:  # of many libraries
        one = str(error)
        arrays = {"reason": np.array(one)}
    _save(place, key=np.array(key), **arrays)
    return one


def track_group(stems, args, head, rig, key):
    """Track and write the videos of {stem: video} that are not yet done.

    Returns:
      [(video, reason)] of those that cannot be used.
    """
    own = {s: f"{key} {path.stat().st_size} {path.name}" for s, path in stems.items()}
    # The face at rest is of all of them: a clip more or less makes another one.
    names = " ".join(sorted(own.values()))
    keys = {s: hashlib.sha256(f"{names} {own[s]}".encode()).hexdigest() for s in stems}
    raw = {s: _raw_place(args.out, s) for s in stems}
    refused = {s: kept for s in stems if "reason" in (kept := _kept(raw[s], own[s]))}
    if all(s in refused or _kept(f"{s}.npz", keys[s]) for s in stems):
        return [(stems[s], str(kept["reason"])) for s, kept in refused.items()]
    found = {s: seen(raw[s], path, args.model, own[s]) for s, path in stems.items()}
    skipped = [(stems[s], why) for s, why in found.items() if isinstance(why, str)]
    tracks = {s: one for s, one in found.items() if isinstance(one, Track)}
    if not tracks:
        return skipped
    fits = fit_tracks([*tracks.values()], rig)
    for (stem, one), (fitted, lips, *aligned) in zip(tracks.items(), fits, strict=True):
        facts = facts_of(one, fitted, lips, rig)
        stem.parent.mkdir(parents=True, exist_ok=True)
        if not args.no_pictures:
            from tools import track_overlay

            track_overlay.draw(stem, one, fitted, *aligned, head, rig, facts)
        write(stem, one, fitted, lips, facts, keys[stem], head)
    for stem in tracks:  # the reasons stay
        raw[stem].unlink()
    return skipped


def run(args):
    """Track as the command line says.

    Returns:
      ({stem: facts} of the videos asked for, [(video, reason)]).
    """
    from toktalk_jax.flame.assets import load_head

    head = load_head(args.head or None)
    where = landmarks.load_map(head, args.landmark_map or None)
    rig, out = fit.prepare(head, where), pathlib.Path(args.out)
    videos = videos_under(args.source, args.one_person)
    with face_landmarker(args.model):
        pass  # say what is missing before anything is read
    model = hashlib.sha256(pathlib.Path(args.model).read_bytes()).hexdigest()[:12]
    key = f"{RULES} {fit.version(head, where)} {model}"
    groups, skipped = groups_of(videos, out, args.one_person)
    try:
        with tqdm(total=len(videos), desc="track", unit="video") as bar:
            for stems in groups:
                skipped += track_group(stems, args, head, rig, key)
                bar.update(len(stems))
    finally:
        every = _list(out, skipped)
    asked = {stem for stems in groups for stem in stems}
    return {stem: facts for stem, facts in every.items() if stem in asked}, skipped


def _list(out, skipped):
    """Write tracks.jsonl, of all that was ever tracked here, and skipped.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    every = {}
    for path in sorted(out.glob("*/*.npz")):
        try:
            with np.load(path, allow_pickle=False) as kept:
                every[path.with_suffix("")] = json.loads(str(kept["facts"]))
        except Exception:  # not one of ours, or damaged: the corpus' reader says so
            continue
    lines = {
        "tracks": [
            {"clip": stem.relative_to(out).as_posix(), **facts}
            for stem, facts in every.items()
        ],
        "skipped": [{"clip": str(p), "reason": why} for p, why in skipped],
    }
    for name, rows in lines.items():
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        logs.write_whole(out / f"{name}.jsonl", text)
    return every


def main(argv=None):
    """Entry point."""
    p = argparse.ArgumentParser(
        prog="track_video", description=__doc__.split("\n")[0], epilog=__doc__
    )
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("source", help="a video, or a folder of videos")
    p.add_argument("--out", required=True, help="folder for what is tracked")
    p.add_argument("--model", default="face_landmarker.task", help="MediaPipe's file")
    p.add_argument("--head", default="", help="FLAME file; default: the stand-in")
    p.add_argument(
        "--landmark_map",
        default="",
        help="where the landmarks lie on --head, from tools/build_landmark_map.py",
    )
    p.add_argument(
        "--one_person",
        action="store_true",
        help="the videos of a folder show one person: one face at rest for all",
    )
    p.add_argument("--no_pictures", action="store_true", help="leave out CLIP.png")
    args = p.parse_args(argv)
    try:
        facts, skipped = run(args)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"track_video: {error}") from None
    for stem, found in facts.items():
        print(
            f"{stem.parent.name}/{stem.name}: {found['frames']} frames, "
            f"{found['dropped']} without a face; lips {found['residual_mm']} mm off "
            f"where a still face is {found['still_mm']}, gap r {found['gap_r']}"
        )
    if skipped:
        print(f"skipped {len(skipped)}; reasons in {args.out}/skipped.jsonl")
    if not facts:
        raise SystemExit("track_video: no video could be tracked")


if __name__ == "__main__":
    main()
