"""An adapter's report card: its tokens, its faces beside the base's, its cost."""

import functools
import json
import time

import jax
import numpy as np

from toktalk_jax.evaluate import evaluate
from toktalk_jax.evaluation import intervals, report
from toktalk_jax.models.adapter import adapt_clip
from toktalk_jax.sample import make_sampler
from toktalk_jax.training import adapters, logs


def size(params):
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def align_error(adapter, bundle, clips):
    """Mean squared error of the adapted tokens, in standardised units, over clips.

    Returns:
      {"align_mse", and "align_explained", its share of the variance taken off 1}.
    """
    spec, chunk = adapters.spec(adapter, bundle), adapter.facts["chunk_tokens"]
    run = jax.jit(
        functools.partial(
            adapt_clip,
            spec.model,
            chunk_tokens=chunk,
            context_tokens=spec.context_tokens,
        )
    )
    error = spread = count = 0.0
    longest = max(len(clip.foreign) for clip in clips)
    longest = -(-longest // chunk) * chunk
    for clip in clips:
        own = adapters.standardised(clip, adapter.mean, adapter.std).foreign
        frames = min(len(own), len(clip.tokens))
        after = longest - len(own)
        tokens = np.pad(own, ((spec.context_tokens, after), (0, 0)))[None]
        valid = (np.arange(tokens.shape[1]) >= spec.context_tokens)[None]
        made = np.asarray(run(spec.params, tokens, valid))[0, :frames]
        error += np.square(made - clip.tokens[:frames]).sum()
        spread += np.square(clip.tokens[:frames]).sum()
        count += made.size
    return {
        "align_mse": float(error / count),
        "align_explained": float(1 - error / spread),
    }


def added_ms(adapter, bundle, rounds=60):
    """Milliseconds of a chunk (n = 20) without and with the adapter, p50, in turns.

    Returns:
      {"chunk_ms", "chunk_ms_adapted", "added_share"} and "added_between", the 95 %
      bootstrap interval of that share over the rounds.
    """
    samplers = [
        make_sampler(bundle, None, before, num_steps=20) for before in (None, adapter)
    ]
    key = jax.random.key(0)[None]
    style = np.zeros((1, bundle.config["style"]["width"]), np.float32)
    streams = [sampler.init(key, style) for sampler in samplers]
    times = [[], []]
    for k in range(rounds + 2):
        for i, sampler in enumerate(samplers):
            tokens = np.zeros((1, sampler.chunk_tokens, sampler.width), np.float32)
            begin = time.perf_counter()
            streams[i], motion = sampler.step(streams[i], tokens)
            jax.block_until_ready(motion)
            spent = 1e3 * (time.perf_counter() - begin)
            jax.block_until_ready(streams[i])  # the prefill, before the next tokens
            if k >= 2:  # after the compile
                times[i].append(spent)
    base, both = (float(np.median(t)) for t in times)
    added = np.subtract(times[1], times[0])
    drawn = np.random.default_rng(0).integers(rounds, size=(1000, rounds))
    shares = np.median(added[drawn], 1) / base
    return {
        "chunk_ms": base,
        "chunk_ms_adapted": both,
        "added_share": float(np.median(added)) / base,
        "added_between": np.quantile(shares, (0.025, 0.975)).tolist(),
    }


def write(config, base, bundle, adapter, workdir):
    """The report card as a dict, and as card.json and card.md in the workdir.

    Args:
      config: `configs/adapter.py`; base: where `bundle` was loaded from; adapter:
        `training.adapters.AdapterBundle`.
    """
    from ml_collections import ConfigDict

    from toktalk_jax.data import pipeline

    limit = config.report_clips or None
    clips = pipeline.evaluation_clips(
        config.dataset, config.report_split, stats=bundle.stats, limit=limit
    )
    sample = bundle.config["sample"]
    block = {"dataset": config.dataset, "head": config.head, "sample": sample}
    rows = evaluate(
        ConfigDict(block),
        base,
        rows=("stream", "adapter"),
        split=config.report_split,
        samples=1,
        limit=limit,
        adapter=workdir / "bundle",
    )
    title = f"adapter from {adapter.facts['foreign']['tokenizer']}"
    report.write_report(workdir, rows, title, rows[0].name, stem="evaluation")
    ratios = report.compare(rows, rows[0].name)[rows[1].name]
    card = {
        "base_hash": adapter.facts["base_hash"],
        "adapter_hash": adapter.meta["hash"],
        "from": adapter.facts["foreign"]["tokenizer"],
        "to": adapter.facts["base"]["tokenizer"],
        "lookahead_s": adapter.facts["foreign"]["lookahead_s"],
        "base_lookahead_s": adapter.facts["base"]["lookahead_s"],
        "parameters": size(adapter.params),
        "minutes": adapter.facts["seconds"] / 60,
        "steps": adapter.meta["step"],
        "clips": len(clips),
        "split": config.report_split,
        **align_error(adapter, bundle, clips),
        **added_ms(adapter, bundle),
        "base": {m: v.value for m, v in rows[0].values.items()},
        "adapter": {m: v.value for m, v in rows[1].values.items()},
        "ratio": {m: v._asdict() for m, v in ratios.items()},
    }
    logs.write_whole(workdir / "card.json", json.dumps(card, indent=1) + "\n")
    logs.write_whole(workdir / "card.md", text(card))
    return card


def text(card):
    """The report card as Markdown."""
    low, high = card["added_between"]
    lines = [
        f"# Adapter from {card['from']} to {card['to']}",
        "",
        f"{card['parameters'] / 1e6:.2f} M parameters, {card['steps']} steps on "
        f"{card['minutes']:.1f} min of paired speech; before base {card['base_hash']}. "
        f"Its tokens look {card['lookahead_s']:g} s ahead, the base's "
        f"{card['base_lookahead_s']:g} s.",
        "",
        f"Tokens: mean squared error {card['align_mse']:.3f} in standardised units, "
        f"{100 * card['align_explained']:.0f} % of the variance explained.",
        f"Time: {card['chunk_ms']:.1f} ms a chunk (n = 20) without, "
        f"{card['chunk_ms_adapted']:.1f} ms with it "
        f"({100 * card['added_share']:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]).",
        "",
        f"On {card['clips']} {card['split']} clips, streamed, one sample each, the "
        "same noise:",
        "",
        "| metric | base | adapter | ratio, paired by clip |",
        "| --- | --- | --- | --- |",
    ]
    for metric, base in card["base"].items():
        adapter = card["adapter"].get(metric)
        if base is not None and adapter is not None:
            # A metric whose sign may change has no ratio.
            ratio = card["ratio"].get(metric)
            ratio = report.cell(ratio and intervals.Interval(**ratio))
            lines.append(f"| {metric} | {base:.3f} | {adapter:.3f} | {ratio} |")
    return "\n".join(lines) + "\n"
