"""A take: what sampling leaves behind. motion.npz, a report and a page to watch."""

import json
import pathlib

import numpy as np

from toktalk_jax import motion as mo


def timing_summary(chunks, chunk_frames):
    """p50, p95 of the whole chunk in ms, and the real-time factor (work / media)."""
    total = np.array([c["tokenise_ms"] + c["solve_ms"] for c in chunks])
    media_ms = chunk_frames / mo.FPS * 1e3
    return {
        "chunks": len(chunks),
        "chunk_ms_p50": float(np.percentile(total, 50)),
        "chunk_ms_p95": float(np.percentile(total, 95)),
        "solve_ms_p50": float(np.median([c["solve_ms"] for c in chunks])),
        "real_time_factor": float(total.mean() / media_ms),
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
