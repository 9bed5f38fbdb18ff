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
import os
import pathlib
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.spatial.transform import Rotation, Slerp
from tqdm import tqdm

from toktalk_jax import motion as mo
from toktalk_jax.data.corpora.grid_talker import neck_of_pose
from toktalk_jax.data.schema import MIN_SECONDS, BadClip
from toktalk_jax.flame import fit, landmarks
from tools.video_reader import face_landmarker, read_frames, read_sound

VIDEOS = (".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MAX_LOST = 0.2  # share of frames without a face above which a video is skipped
QUIET_DB = -35.0  # below the video's loud moments: a mouth that may rest
CLOSED_SHARE = 0.3  # of the quiet frames, those with the closest lips
FEWEST = 5  # quiet frames; with fewer, all frames are looked at


class Track(NamedTuple):
    """A video as the tracker saw it, at 25 fps.

    Attributes:
      path: the video.
      audio: [L] at 16 kHz; sample 0 is the start of frame 0.
      points: [T, 478, 3] pixels, x to the subject's left, y up, z to the camera;
        frames without a face are filled in from their neighbours.
      turn: [T, 3] rotation vector of the head in the camera's frame.
      detected: [T] False where there was no face.
    """

    path: pathlib.Path
    audio: np.ndarray
    points: np.ndarray
    turn: np.ndarray
    detected: np.ndarray


def track(path, find):
    """`Track` of a video.

    Args:
      find: `face_landmarker`.

    Raises:
      BadClip: it is no video, too short, or shows no face too often.
    """
    audio, start = read_sound(path)
    times, found, last = [], [], -1
    for time, rgb in read_frames(path):
        last = max(round(1e3 * time), last + 1)  # the tracker wants them to rise
        times.append(time - start)
        found.append(find(rgb, last))
    lost = sum(face is None for face in found)
    if lost > MAX_LOST * len(found):
        raise BadClip(f"there is no face in {lost} of its {len(found)} frames")
    end = times[-1] + np.median(np.diff(times)) if len(times) > 1 else 0.0
    frames = int(min(end, len(audio) / mo.SAMPLE_RATE) * mo.FPS + 0.5)
    if frames < MIN_SECONDS * mo.FPS:
        raise BadClip(f"{frames / mo.FPS:.2f} s long, shorter than {MIN_SECONDS} s")
    points, turn, detected = at_25_fps(np.array(times), found, frames)
    return Track(path, audio, points, turn, detected)


def at_25_fps(times, found, frames):
    """What was found at `times`, at the middle of each 40 ms from 0 on.

    Args:
      times: [n] s at which a frame begins to be shown.
      found: n pairs of points and rotation, or None.

    Returns:
      (points [frames, 478, 3], rotation vectors [frames, 3], detected [frames]).
    """
    period = np.median(np.diff(times))
    there = np.flatnonzero([face is not None for face in found])
    middle = times[there] + period / 2
    points = np.stack([found[k][0] for k in there])
    turns = Rotation.from_matrix(np.stack([found[k][1] for k in there]))
    wanted = (np.arange(frames) + 0.5) / mo.FPS
    inside = np.clip(wanted, middle[0], middle[-1])
    upper = np.clip(np.searchsorted(middle, inside), 1, len(middle) - 1)
    share = (inside - middle[upper - 1]) / (middle[upper] - middle[upper - 1])
    share = share[:, None, None]
    mixed = (1 - share) * points[upper - 1] + share * points[upper]
    nearest = np.abs(wanted[:, None] - middle[None]).min(1)
    detected = nearest <= 0.51 * max(period, 1 / mo.FPS)
    return mixed, Slerp(middle, turns)(inside).as_rotvec(), detected


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
    stem.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(f"{stem}.wav", track.audio, mo.SAMPLE_RATE)
    temporary = stem.with_name(f"{stem.name}.{os.getpid()}.tmp.npz")
    np.savez(
        temporary,
        motion=fit.smooth(found.motion, fit.bounds_of(head)),
        unfiltered=found.motion,
        lips=lips.astype(np.float32),
        detected=track.detected,
        fps=np.float32(mo.FPS),
        face_hash=np.array(head.hash()),
        facts=np.array(json.dumps(facts)),
        key=np.array(key),
    )
    temporary.replace(f"{stem}.npz")


def done(stem, key):
    """The facts of a clip that was tracked before from the same file, or None."""
    try:
        with np.load(f"{stem}.npz", allow_pickle=False) as kept:
            return json.loads(str(kept["facts"])) if str(kept["key"]) == key else None
    except Exception:  # not there, or a damaged zip, which may raise anything
        return None


def videos_under(source, one_person):
    """[(person, video)] of a file or folder, sorted.

    Raises:
      FileNotFoundError: there is none.
    """
    source = pathlib.Path(source)
    if source.is_file():
        return [(source.stem, source)]
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEOS)
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


def track_group(stems, args, head, rig, key):
    """Track and write the videos of {stem: video} that are not yet done.

    Returns:
      ({stem: facts}, [(video, reason)]).
    """
    keys = {
        stem: f"{key} {args.one_person} {path.stat().st_size}"
        for stem, path in stems.items()
    }
    kept = {stem: done(stem, keys[stem]) for stem in stems}
    if all(kept.values()):
        return kept, []
    tracks, skipped, facts = {}, [], {}
    for stem, path in stems.items():
        try:
            with face_landmarker(args.model) as find:
                tracks[stem] = track(path, find)
        except BadClip as error:
            skipped.append((path, str(error)))
    fits = fit_tracks([*tracks.values()], rig) if tracks else ()
    for (stem, one), (found, lips, *aligned) in zip(tracks.items(), fits, strict=True):
        facts[stem] = facts_of(one, found, lips, rig)
        if not args.no_pictures:
            from tools import track_overlay

            track_overlay.draw(stem, one, found, *aligned, head, rig, facts[stem])
        write(stem, one, found, lips, facts[stem], keys[stem], head)
    return facts, skipped


def run(args):
    """Track as the command line says; returns ({stem: facts}, [(video, reason)])."""
    from toktalk_jax.flame.assets import load_head

    head = load_head(args.head or None)
    where = landmarks.load_map(head, args.landmark_map or None)
    rig = fit.prepare(head, where)
    with face_landmarker(args.model):
        pass  # say what is missing before anything is read
    model = hashlib.sha256(pathlib.Path(args.model).read_bytes()).hexdigest()[:12]
    key = f"{fit.version(head, where)} {model}"
    out, facts = pathlib.Path(args.out), {}
    videos = videos_under(args.source, args.one_person)
    groups, skipped = groups_of(videos, out, args.one_person)
    with tqdm(total=len(videos), desc="track", unit="video") as bar:
        for stems in groups:
            # A landmarker follows one face through one video.
            more, bad = track_group(stems, args, head, rig, key)
            facts |= more
            skipped += bad
            bar.update(len(stems))
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"clip": stem.relative_to(out).as_posix(), **facts[stem]})
        for stem in sorted(facts)
    ]
    (out / "tracks.jsonl").write_text("".join(f"{line}\n" for line in lines))
    reasons = [json.dumps({"clip": str(p), "reason": why}) for p, why in skipped]
    (out / "skipped.jsonl").write_text("".join(f"{line}\n" for line in reasons))
    return facts, skipped


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
