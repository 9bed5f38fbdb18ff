"""A take: what sampling leaves behind. motion.npz, a report and a page to watch."""

import json
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

from toktalk_jax import motion as mo


class Take(NamedTuple):
    """A motion file, as `read` finds it.

    Attributes:
      motion: [T, 56] f32 raw coefficients.
      fps: of the motion; 25 where the file does not tell.
      head_joint: joint of the last three coefficients, "neck" or "root".
      face_model: name of the head that they move, or None.
      chunk_frames: frames of a chunk, or None.
      audio: [L] f32 in [-1, 1], or None.
      sample_rate: of the audio, Hz.
      facts: text by name, of checkpoint, style and seed where the file tells them.
    """

    motion: np.ndarray
    fps: float
    head_joint: str
    face_model: str | None
    chunk_frames: int | None
    audio: np.ndarray | None
    sample_rate: int
    facts: dict


def read(path):
    """`Take` of a motion.npz, or of the folder that holds one.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no motion file; says what it lacks.
    """
    path = pathlib.Path(path)
    path = path / "motion.npz" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no motion file at {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            raw = dict(stored)
    except (ValueError, EOFError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole .npz file ({error})") from None
    if "motion" not in raw:
        raise ValueError(f"{path} holds no motion [T, {mo.F}]; it has {sorted(raw)}")
    motion = raw["motion"]
    if motion.ndim != 2 or motion.shape[1] != mo.F or not len(motion):
        raise ValueError(
            f"{path}: motion is {motion.shape}; expected [T, {mo.F}] with T > 0"
        )
    if not np.isfinite(motion).all():
        raise ValueError(f"{path}: motion holds NaN or Inf values")
    audio = raw.get("audio")
    if audio is not None and (
        audio.dtype != np.int16 or audio.ndim != 1 or not len(audio)
    ):
        raise ValueError(
            f"{path}: audio is {audio.dtype} {audio.shape}; expected [L] int16"
        )
    if (chunk := raw.get("chunk_frames")) is not None and (chunk.shape or chunk < 1):
        raise ValueError(f"{path}: chunk_frames is {chunk}; expected a count >= 1")
    return Take(
        motion=motion.astype(np.float32),
        fps=float(raw.get("fps", mo.FPS)),
        head_joint=str(raw.get("head_joint", "neck")),
        face_model=str(raw["face_model"]) if "face_model" in raw else None,
        chunk_frames=None if chunk is None else int(chunk),
        audio=None if audio is None else audio.astype(np.float32) / 32767,
        sample_rate=int(raw.get("sample_rate", mo.SAMPLE_RATE)),
        facts={
            key: str(raw[key]) for key in ("checkpoint", "style", "seed") if key in raw
        },
    )


def timing_summary(chunks, chunk_frames):
    """p50, p95 of a chunk in ms, and the real-time factor (work / media).

    The prefill for the next chunk is work, but nobody waits for it.
    """
    total = np.array([c["tokenise_ms"] + c["solve_ms"] for c in chunks])
    prefill = np.array([c["prefill_ms"] for c in chunks])
    media_ms = chunk_frames / mo.FPS * 1e3
    return {
        "chunks": len(chunks),
        "chunk_ms_p50": float(np.percentile(total, 50)),
        "chunk_ms_p95": float(np.percentile(total, 95)),
        "solve_ms_p50": float(np.median([c["solve_ms"] for c in chunks])),
        "prefill_ms_p50": float(np.median(prefill)),
        "real_time_factor": float((total + prefill).mean() / media_ms),
    }


def write(out, motion, sampler, bundle, report, audio=None, style="", head=None):
    """Write motion.npz, report.json, report.md and, with sound and head, watch.html."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    joint = bundle.dataset.get("head_joint", "neck")
    arrays = {
        "motion": motion.astype(np.float32),
        "fps": mo.FPS,
        "head_joint": joint,
        "face_model": bundle.dataset.get("face_model", "stand_in"),
        "chunk_frames": sampler.chunk_frames,
        "seed": report["seed"],
        "checkpoint": bundle.meta["hash"],
        "style": style,
    }
    if audio is not None:
        samples = np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)
        arrays |= {"audio": samples, "sample_rate": mo.SAMPLE_RATE}
    np.savez_compressed(out / "motion.npz", **arrays)
    text = json.dumps(report, indent=1, allow_nan=False)
    (out / "report.json").write_text(text + "\n")
    lines = ["# TokTalk sample", "", "| what | value |", "| --- | --- |"]
    flat = {**report, **report["timing"]}
    scores = flat.pop("evaluation", None)
    flat.pop("timing")
    lines += [f"| {k} | {short(v)} |" for k, v in flat.items()]
    lines += score_lines(scores) if scores else []
    (out / "report.md").write_text("\n".join(lines) + "\n")
    if audio is not None and head is not None:
        from toktalk_jax.page import write_page

        info = {k: short(v) for k, v in flat.items()}
        write_page(
            out / "watch.html",
            head,
            [("TokTalk", motion)],
            audio,
            title="TokTalk",
            info={**info, "chunk_frames": sampler.chunk_frames},
            head_joint=joint,
        )


def score_lines(scores):
    """The rows of an evaluation.json as a Markdown table, one metric a line."""
    rows = scores["rows"]
    names = [row["name"] for row in rows]
    lines = ["", f"## {scores['title']}", "", f"| metric | {' | '.join(names)} |"]
    lines.append("| --- |" + " --- |" * len(rows))
    for metric in sorted({m for row in rows for m in row["metrics"]}):
        cells = [row["metrics"].get(metric, {}).get("value") for row in rows]
        cells = ["-" if c is None else short(float(c)) for c in cells]
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return lines


def short(value):
    """Three digits of a float; anything else as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
