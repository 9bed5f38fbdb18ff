"""Adapters: a frozen base stays frozen, training sees what a stream sees."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from configs import adapter as adapter_config
from configs import grid
from tests import tiny_corpus
from toktalk_jax import (
    adapt,
    adapter_card,
    evaluate,
    models,
    sample,
    table_lines,
    tables,
)
from toktalk_jax import motion as mo
from toktalk_jax.baselines import linear_map
from toktalk_jax.data import builder, pipeline, windows
from toktalk_jax.models.adapter import adapt_clip
from toktalk_jax.tokenizers.mel_rvq import MelRVQ
from toktalk_jax.training import (
    adapter_steps,
    adapters,
    checkpoints,
    optim,
    parallel,
    steps,
)
from tools import bench_adapter, compare_adapters


def export(out, tiny_dataset, foreign, change=lambda clip: clip):
    """A dataset of the tiny base's tokens, and foreign ones."""
    own = MelRVQ.load(tiny_dataset / "tokenizer_state.npz")

    def read(on_skip, each):
        for k in each(range(20)):
            yield change(tiny_corpus.clip(k, 40))

    about = {"corpus": "tiny", "head_joint": "neck", "face_model": "stand_in"}
    builder.export(
        read, out, own, about=about, foreign=foreign, shards=tiny_corpus.SHARDS
    )
    if foreign:
        foreign.save(out / "foreign_state.npz")
    return out


@pytest.fixture(scope="module")
def pair(tiny_dataset, tmp_path_factory):
    """A paired dataset: both are mel_rvq, of other codebooks."""
    out = tmp_path_factory.mktemp("pair") / "d"
    return export(out, tiny_dataset, tiny_corpus.tokenizer(1))


@pytest.fixture(scope="module")
def base(tiny_run):
    return checkpoints.load(tiny_run)


def settings(pair, **changes):
    config = adapter_config.get_config("smoke")
    config.dataset = str(pair)
    config.train.decay = "constant"  # a cosine depends on the last step
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def trained(pair, tiny_run, tmp_path_factory):
    """(workdir, report card) of a smoke training."""
    workdir = tmp_path_factory.mktemp("adapter") / "run"
    return workdir, adapt.adapt(settings(pair), tiny_run, workdir)


@pytest.fixture
def brief(monkeypatch):
    """Report cards without rows: `trained` has a whole one, which takes a minute."""

    def write(config, base, bundle, adapter, workdir):
        clips = pipeline.evaluation_clips(config.dataset, "test", stats=bundle.stats)
        card = adapter_card.align_error(adapter, bundle, clips)
        card |= {"adapter_hash": adapter.meta["hash"], "steps": adapter.meta["step"]}
        (workdir / "card.json").write_text(json.dumps(card))
        return card

    monkeypatch.setattr(adapter_card, "write", write)


def ready(pair, base, **changes):
    """(config, state, step function, a batch) of an adapter's training."""
    config = settings(pair, **changes)
    data, facts, mean, std = adapt._open(config, base)
    clips = adapt.paired(data.clips, mean, std, 0, 0)
    network = models.build_adapter(config.adapter.to_dict(), facts["base_dim"])
    own = jax.jit(network.init)(jax.random.key(1), jnp.zeros((1, 8, len(mean))))
    params = {"adapter": own["params"], **jax.tree.map(jnp.array, base.params)}
    optimiser = optim.freeze(
        optim.adam(1e-2, 1.0), params, adapter_steps.LIVE, adapter_steps.FROZEN
    )
    networks = models.build(base.config["model"], base.config["style"])
    parts = {
        "models": (*networks, network),
        "weights": np.asarray(base.stats.live, np.float32),
        "options": adapt._options(config, facts["chunk_tokens"]),
    }
    batch = next(
        pipeline.batches(
            clips,
            seed=0,
            batch_size=config.batch_size,
            window_lengths=(20,),
            style_frames=(10, 30),
            adapter_window=(config.adapter.context_tokens, facts["chunk_tokens"]),
        )
    )
    return (
        steps.init_state(params, optimiser, adapter_steps.TRAINED),
        optimiser,
        parts,
        batch,
    )


def test_the_base_stays_bitwise_and_the_gradient_goes_through_it(pair, base):
    """With the flow's loss alone the adapter moves: its gradient came through."""
    state, optimiser, parts, batch = ready(pair, base, **{"train.align": 0.0})
    before = jax.tree.map(np.array, state.params)
    step = parallel.mapped_step(
        functools.partial(adapter_steps.train_step, optimiser=optimiser, **parts)
    )
    state = parallel.replicate(state)
    key = parallel.replicate(jax.random.key(0))
    for _ in range(3):
        state, metrics = step(state, parallel.split(batch), key)
    for name in ("velocity", "style"):
        jax.tree.map(
            np.testing.assert_array_equal, before[name], dict(state.params)[name]
        )
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()),
        before["adapter"],
        state.params["adapter"],
    )
    assert min(jax.tree.leaves(moved)) > 0 and metrics["gradient_norm"] > 0
    largest = max(x.size for x in jax.tree.leaves(state.params["adapter"]))
    assert max(x.size for x in jax.tree.leaves(state.opt)) == largest


def test_losses_do_not_depend_on_the_number_of_devices(pair, base):
    state, _, parts, batch = ready(pair, base, **{"train.distill": 1.0})
    base_params = {name: state.params[name] for name in ("velocity", "style")}
    loss = functools.partial(
        adapter_steps.losses, base=base_params, key=jax.random.key(3), **parts
    )

    def over(devices):
        shaped = {
            k: v.reshape(devices, -1, *v.shape[1:]) for k, v in dict(batch).items()
        }
        run = jax.vmap(
            lambda b: loss(state.params["adapter"], batch=b), axis_name="batch"
        )
        total, found = jax.jit(run)(shaped)
        return [float(x.sum()) for x in (total, *found.values())]

    np.testing.assert_allclose(over(1), over(2), rtol=1e-5)
    assert len(over(1)) == 4


def test_same_tokens_leave_nothing_to_align_or_distill(pair, base):
    """A map that copies the base's own tokens has both losses at zero."""
    state, _, parts, batch = ready(pair, base, **{"train.distill": 1.0})
    before, after = parts["options"].context_tokens, parts["options"].chunk_tokens
    around = [(0, 0), (before, after), (0, 0)]
    batch["foreign"] = np.pad(batch["tokens"], around)
    batch["foreign_offset"] = np.zeros_like(batch["foreign_offset"])
    width = batch["tokens"].shape[-1]
    kernel = jnp.zeros((3, width, width)).at[2].set(jnp.eye(width))
    copy = {"conv": {"kernel": kernel, "bias": jnp.zeros(width)}}
    parts["models"] = (*parts["models"][:2], models.LinearMap(width))
    base_params = {name: state.params[name] for name in ("velocity", "style")}
    one = {k: v[None] for k, v in batch.items()}
    run = lambda b: adapter_steps.losses(  # noqa: E731
        copy, base_params, b, jax.random.key(0), **parts
    )
    _, found = jax.vmap(run, axis_name="batch")(one)
    assert found["align"][0] < 1e-10 and found["distill"][0] < 1e-10
    assert found["flow"][0] > 0.1


def test_training_sees_what_a_stream_sees(trained, pair, base):
    """The tokens that the sampler's chunks keep are those of `adapt_clip`."""
    adapter = adapters.load(trained[0])
    sampler = sample.make_sampler(base, adapter=adapter, context_frames=40)
    clip = pipeline.evaluation_clips(pair, "test", stats=base.stats)[0]
    stream = sampler.init(jax.random.key(0)[None], np.zeros((1, 8), np.float32))
    for k in range(0, 20, sampler.chunk_tokens):
        stream, _ = sampler.step(stream, clip.foreign[None, k : k + 5])
    own = adapters.standardised(clip, adapter.mean, adapter.std).foreign[None]
    spec = adapters.spec(adapter, base)
    n = spec.context_tokens
    tokens = np.pad(own, ((0, 0), (n, 0), (0, 0)))
    valid = (np.arange(n + 20) >= n)[None]
    whole = jax.jit(adapt_clip, static_argnums=(0, 4, 5))(
        spec.model, spec.params, tokens, valid, 5, n
    )
    np.testing.assert_allclose(stream.tokens, whole, atol=2e-5)
    changed = tokens.copy()
    changed[:, n + 10 :] += 1
    moved = jax.jit(adapt_clip, static_argnums=(0, 4, 5))(
        spec.model, spec.params, changed, valid, 5, n
    )
    np.testing.assert_array_equal(moved[:, :10], whole[:, :10])
    assert np.abs(moved - whole)[:, 10:].max() > 0


def test_windows_hold_the_tokens_before_them(pair, base):
    config = settings(pair)
    data, _, mean, std = adapt._open(config, base)
    clips = adapt.paired(data.clips, mean, std, 0, 0)
    np.testing.assert_allclose(
        np.concatenate([c.foreign for c in clips]).std(0).mean(), 1, atol=0.05
    )
    batches = pipeline.batches(
        clips,
        seed=0,
        batch_size=8,
        window_lengths=(20,),
        style_frames=(10, 30),
        adapter_window=(7, 5),
    )
    early, offsets = 0, set()
    for _ in range(4):
        batch = next(batches)
        assert batch["foreign"].shape[1] == 7 + 10 + 5
        for row in range(8):
            first = batch["motion"][row, 0]
            (clip,) = (c for c in clips if (c.motion == first).all(1).any())
            at = int(np.flatnonzero((clip.motion == first).all(1))[0]) // 2
            # Chunks of five begin where a stream's do.
            inside = np.arange(at - at % 5 - 7, at - at % 5 + 15)
            wanted = np.zeros((22, 512), np.float32)
            there = (inside >= 0) & (inside < 20)
            wanted[there] = clip.foreign[inside[there]]
            np.testing.assert_array_equal(batch["foreign"][row], wanted)
            np.testing.assert_array_equal(batch["foreign_mask"][row], inside >= 0)
            assert batch["foreign_offset"][row] == at % 5
            early += at < 5
            offsets.add(at % 5)
    assert early and len(offsets) > 1


def test_the_loss_sees_the_tokens_that_a_stream_makes(trained, pair, base):
    """Wherever a window begins: by its alignment loss, of the clip's own chunks."""
    config = settings(pair)
    data, facts, mean, std = adapt._open(config, base)
    clip = adapt.paired(data.clips, mean, std, 0, 0)[0]
    spec = adapters.spec(adapters.load(trained[0]), base)
    n, c = spec.context_tokens, facts["chunk_tokens"]
    whole = adapt_clip(
        *(spec.model, spec.params),
        np.pad(clip.foreign, [(n, 0), (0, 0)])[None],
        (np.arange(n + 20) >= n)[None],
        *(c, n),
    )[0]
    networks = models.build(base.config["model"], base.config["style"])
    options = adapt._options(settings(pair, **{"train.flow": 0.0}), c)
    for start in (0, 6, 14):
        first = start // 2
        row = windows.row(
            *([clip], {clip.speaker_id: 0}, windows.same_speaker([clip]), 0, 20),
            **{"seed": 0, "style_frames": (10, 30), "style_reference": "same_window"},
            **{"blocks": (10,), "adapter_window": (n, c)},
        )
        row |= windows._target(clip, start, start + 20, 20)
        row |= windows._foreign(clip, start, 20, (n, c))
        batch = {k: np.asarray(v)[None, None] for k, v in row.items()}
        run = lambda b: adapter_steps.losses(  # noqa: E731
            spec.params,
            base.params,
            b,
            jax.random.key(0),
            models=(*networks, spec.model),
            weights=np.ones(mo.F),
            options=options,
        )[1]["align"]
        found = jax.vmap(run, axis_name="batch")(batch)
        wanted = np.square(whole - clip.tokens)[first : first + 10].mean()
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_run_leaves_its_card_and_resumes(trained, brief, pair, tiny_run, tmp_path):
    workdir, card = trained
    assert card == json.loads((workdir / "card.json").read_text())
    assert card["steps"] == 6 and card["clips"] == 2 and card["from"] == "mel_rvq"
    assert card["adapter"]["lve_mm"] > 0 and card["ratio"]["lve_mm"]["clips"] == 2
    assert "% of the variance" in (workdir / "card.md").read_text()
    assert (workdir / "evaluation.png").is_file()
    adapt.adapt(settings(pair, total_steps=3), tiny_run, tmp_path / "r")
    again = adapt.adapt(settings(pair), tiny_run, tmp_path / "r")
    assert again["adapter_hash"] == card["adapter_hash"]
    steps = [row["step"] for row in map(json.loads, open(tmp_path / "r/metrics.jsonl"))]
    assert steps == [2, 3, 4, 6]
    held = {p.name for p in (tmp_path / "r/checkpoints/6").iterdir()}
    assert {"params", "ema", "opt", "step", "seed"} <= held
    size = sum(p.stat().st_size for p in (workdir / "bundle").iterdir())
    assert size < 3e6 and not (workdir / "dataset.json").exists()
    with pytest.raises(ValueError, match="holds a run with another config.*align"):
        adapt.adapt(settings(pair, **{"train.align": 9.0}), tiny_run, tmp_path / "r")
    # Weights belong to the statistics of their tokens.
    stats = tmp_path / "r/foreign_stats.json"
    stats.write_text(before := stats.read_text().replace("0.", "1.", 1))
    (tmp_path / "r/bundle/meta.json").write_text('{"step": 3}')
    with pytest.raises(ValueError, match="another mean or standard deviation"):
        adapt.adapt(settings(pair), tiny_run, tmp_path / "r")
    assert stats.read_text() == before


def test_an_adapter_knows_its_base(trained, base, tmp_path):
    adapter = adapters.load(trained[0] / "bundle")
    other = base._replace(meta={**base.meta, "hash": "0123456789ab"})
    wanted = base.meta["hash"]
    with pytest.raises(ValueError, match=f"{wanted}, but the base has 0123456789ab"):
        sample.make_sampler(other, adapter=adapter)
    with pytest.raises(FileNotFoundError, match="no adapter at"):
        adapters.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoints.load(trained[0])


def test_the_linear_map_finds_a_linear_relation(brief, pair, base, tiny_run, tmp_path):
    """And it is trained by the same command."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((3, 4, 6))

    def clip(count):
        foreign = rng.standard_normal((count, 4))
        padded = np.pad(foreign, ((2, 0), (0, 0)))
        tokens = sum(padded[k : k + count] @ mix[k] for k in range(3)) + 0.5
        names = dict.fromkeys(("clip_id", "speaker_id", "corpus"), "")
        return pipeline.Clip(
            **names, motion=None, tokens=tokens, shape=None, codes=None, foreign=foreign
        )

    params = linear_map.fit([clip(50) for _ in range(9)], [clip(30)])
    np.testing.assert_allclose(params["conv"]["kernel"], mix, atol=1e-3)
    held = clip(20)
    out = models.LinearMap(6).apply({"params": params}, held.foreign[None])[0]
    np.testing.assert_allclose(out, held.tokens, atol=1e-2)
    config = settings(pair, **{"adapter.kind": "linear", "total_steps": 0})
    card = adapt.adapt(config, tiny_run, tmp_path / "linear")
    untrained = adapt.adapt(settings(pair, total_steps=0), tiny_run, tmp_path / "none")
    assert card["steps"] == untrained["steps"] == 0
    assert card["align_mse"] < untrained["align_mse"]


def test_sound_alone_is_enough(brief, pair, base, tiny_run, tmp_path):
    """With sampled faces nothing of the real ones is looked at."""
    clips = pipeline.load(pair, "train", stats=base.stats).clips[:3]
    other = [dataclasses.replace(c, motion=c.motion + 1) for c in clips]
    a, b = (adapt.with_sampled_faces(base, c, 0) for c in (clips, other))
    for x, y, real in zip(a, b, clips, strict=True):
        np.testing.assert_array_equal(x.motion, y.motion)
        assert np.abs(x.motion - real.motion).max() > 0.1
    changes = {"train.faces": "base", "train.distill": 1.0, "train.flow": 0.0}
    card = adapt.adapt(settings(pair, **changes), tiny_run, tmp_path / "a")
    assert card["steps"] == 6


def test_minutes_choose_clips(pair, base):
    clips = pipeline.load(pair, "train", stats=base.stats).clips
    mean, std = pipeline.foreign_stats(pair)
    some = adapt.paired(clips, mean, std, 0.1, 0)
    assert 6 <= sum(len(c.motion) for c in some) / mo.FPS < 8
    assert [c.clip_id for c in some] == [
        c.clip_id for c in adapt.paired(clips, mean, std, 0.1, 0)
    ]
    assert len(adapt.paired(clips, mean, std, 0, 0)) == len(clips)


def test_sound_and_tokens_go_through_an_adapter(trained, tiny_run, base, tmp_path):
    """The foreign tokenizer hears the sound; a token file must be its own."""
    wave = tiny_corpus.clip(3, 40).audio
    soundfile.write(tmp_path / "a.wav", wave, mo.SAMPLE_RATE)
    run = functools.partial(
        sample.sample, tiny_run, tmp_path / "o", style="none", adapter=trained[0]
    )
    report = run(wav=str(tmp_path / "a.wav"))
    heard = np.load(tmp_path / "o/motion.npz")["motion"]
    assert report["adapter"]["hash"] == adapters.load(trained[0]).meta["hash"]
    tokens = tiny_corpus.tokenizer(1).embed(wave)
    facts = {"rate_hz": 12.5, "tokenizer": "mel_rvq"}
    np.savez(tmp_path / "t.npz", tokens=tokens, **facts)
    run(tokens=str(tmp_path / "t.npz"))
    read = np.load(tmp_path / "o/motion.npz")["motion"]
    np.testing.assert_allclose(read[: len(heard)], heard, atol=1e-5)
    np.savez(tmp_path / "t.npz", tokens=tokens[:, :7], **facts)
    with pytest.raises(ValueError, match="7 wide at 12.5 Hz; this model takes 512"):
        run(tokens=str(tmp_path / "t.npz"))
    np.savez(tmp_path / "t.npz", tokens=np.nan * tokens, **facts)
    with pytest.raises(ValueError, match="NaN"):
        run(tokens=str(tmp_path / "t.npz"))
    np.savez(tmp_path / "t.npz", tokens=tokens, rate_hz=40.0)
    with pytest.raises(ValueError, match="rate_hz is 40; mel_rvq makes 12.5 tokens"):
        run(tokens=str(tmp_path / "t.npz"))
    sound = np.zeros(2 * len(wave), np.int16)
    np.savez(tmp_path / "t.npz", tokens=tokens, audio=sound, **facts)
    with pytest.raises(ValueError, match="tokens cover 1.60 s of 3.19 s of audio"):
        run(tokens=str(tmp_path / "t.npz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": ""}, "--foreign NAME"),
        (
            {"tokens": "whisper"},
            "second tokenizer is mel_rvq, the config wants whisper",
        ),
        ({"train.window_frames": (24,)}, "multiples of the base's chunk of 10"),
        ({"train.faces": "none"}, "expected 'data' or 'base'"),
        ({"train.flow": -1.0}, "none below 0"),
        ({"adapter.kind": "linear"}, "takes total_steps 0, not 6"),
        ({"adapter.kind": "cnn"}, "expected 'transformer' or 'linear'"),
        ({"batch_size": 3}, "does not divide"),
        ({"adapter.width": 15}, "adapter.width is 15; expected an even multiple"),
        ({"adapter.heads": 0}, "adapter.heads is 0; expected at least 1"),
        ({"minutes": -1.0}, "minutes is -1.0; expected at least 0"),
        ({"report_split": "tset"}, "report_split is 'tset'.*it holds.*'test': 4"),
    ],
)
def test_bad_configs(pair, tiny_run, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        adapt.adapt(settings(pair, **changes), tiny_run, tmp_path / "run")


def test_a_regression_base_is_refused(pair, base):
    config = {**base.config, "train": {**base.config["train"]}}
    config["train"]["objective"] = "regression"
    with pytest.raises(ValueError, match="'regression'.*give a base of 'flow'"):
        adapt.check_config(settings(pair), base._replace(config=config))


def test_bad_data(pair, trained, tiny_dataset, tiny_run, base, tmp_path):
    with pytest.raises(ValueError, match="holds no second tokenizer"):
        adapt.adapt(settings(tiny_dataset), tiny_run, tmp_path / "run")
    ahead = tmp_path / "ahead"
    shutil.copytree(pair, ahead)
    facts = json.loads((ahead / "metadata.json").read_text())
    facts["foreign"]["lookahead_s"] = 1.0
    (ahead / "metadata.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="looks 1.0 s ahead.*--foreign_causal"):
        adapt.adapt(settings(ahead), tiny_run, tmp_path / "run")
    other = export(tmp_path / "other", tiny_dataset, tiny_corpus.tokenizer(2))
    config = settings(other)
    config.sample = base.config["sample"]
    with pytest.raises(ValueError, match="tokenizer_hash"):
        evaluate.evaluate(config, tiny_run, rows=("adapter",), adapter=trained[0])
    with pytest.raises(ValueError, match="go together"):
        evaluate.evaluate(config, tiny_run, rows=("adapter",))
    clip = pipeline.load(pair, "test", stats=base.stats).clips[0]
    mean, std = pipeline.foreign_stats(pair)
    short = dataclasses.replace(clip, foreign=clip.foreign[:5])
    with pytest.raises(ValueError, match="5 foreign tokens for 20.*do not cover"):
        adapters.standardised(short, mean, std)
    broken = dataclasses.replace(clip, foreign=clip.foreign * np.nan)
    with pytest.raises(ValueError, match="NaN or Inf"):
        adapters.standardised(broken, mean, std)
    wide = mo.Stats(*(np.zeros(n, "f4") for n in (56, 56, 9, 9)))
    with pytest.raises(ValueError, match="the adapter gives tokens 512 wide"):
        from toktalk_jax.streaming import Sampler

        network, _ = models.build(base.config["model"], base.config["style"])
        spec = adapters.spec(adapters.load(trained[0]), base)
        Sampler(network, base.params["velocity"], wide, adapter=spec)


def test_an_adapter_ships_with_its_card(trained, tmp_path):
    from tools import ship_adapter

    ship_adapter.main(
        [
            *("--workdir", str(trained[0]), "--name", "a_to_b", "--data", "Tones."),
            *("--command", "python -m toktalk_jax.adapt", "--out", str(tmp_path)),
        ]
    )
    shipped = adapters.load(tmp_path / "a_to_b")
    assert shipped.config["dataset"] == ""
    assert shipped.meta["hash"] == adapters.load(trained[0]).meta["hash"]
    text = (tmp_path / "a_to_b/MODEL_CARD.md").read_text()
    assert "Tones." in text and "lve_mm" in text and shipped.meta["hash"] in text
    with pytest.raises(FileNotFoundError, match="no adapter"):
        ship_adapter.main(
            ["--workdir", str(tmp_path), "--name", "x", "--data", "", "--out", "y"]
        )


def test_the_bench_measures_a_chunk_with_and_without(
    trained, tiny_run, tmp_path, capsys
):
    out = tmp_path / "b.json"
    args = ["--base", str(tiny_run), "--adapter", str(trained[0]), "--rounds", "3"]
    bench_adapter.main([*args, "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["chunk_ms"] > 0 and found["from"] == "mel_rvq"
    low, high = found["added_between"]
    assert low <= found["added_share"] <= high
    assert "added, paired by round" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="trained for a base with weights"):
        bench_adapter.main(["--base", "small", *args[2:]])
    with pytest.raises(SystemExit, match="--rounds is 1"):
        bench_adapter.main([*args[:4], "--rounds", "1"])


def test_rows_of_adapters_are_kept_and_drawn(trained, tmp_path):
    """A second call adds its rows, replaces its own, and keeps the others."""
    workdir, card = trained
    out = tmp_path / "results/adapters"
    (row,) = compare_adapters.compare([workdir], out)
    assert row["name"] == "flow + align"
    assert row["ratio"]["lve_mm"] == card["ratio"]["lve_mm"]
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    config = json.loads((other / "config.json").read_text())
    config["train"].update(flow=0.0, distill=1.0, align=0.0, faces="base")
    (other / "config.json").write_text(json.dumps(config))
    card["minutes"] += 5
    (other / "card.json").write_text(json.dumps(card))
    heavier = tmp_path / "heavier"
    shutil.copytree(workdir, heavier)
    config = json.loads((heavier / "config.json").read_text())
    config["train"]["align"] = 2.0
    (heavier / "config.json").write_text(json.dumps(config))
    rows = compare_adapters.compare([other, heavier, workdir], out)
    names = [(r["name"], r["settings"].partition(",")[0]) for r in rows]
    assert names == [
        ("flow + align", "weights 1 + 0.5"),
        ("flow + align", "weights 1 + 2"),
        ("distill, no faces", "weights 1"),
    ]
    table = out.with_suffix(".md").read_text()
    assert "2 test clips. The tokenizers look 0 and 0 s ahead" in table
    assert f"{card['ratio']['mve_mm']['value']:.3f}" in table
    assert out.with_suffix(".png").stat().st_size > 5000
    assert compare_adapters.compare([], out) == rows
    compare_adapters.main([str(workdir), "--out", str(out)])
    assert out.with_suffix(".md").read_text() == table
    with pytest.raises(SystemExit, match=r"no card\.json"):
        compare_adapters.main([str(tmp_path), "--out", str(out)])
    with pytest.raises(ValueError, match=r"no card\.json.*toktalk_jax\.adapt"):
        compare_adapters.compare([tmp_path], out)


def test_the_data_curve_is_of_rows_that_differ_in_minutes_alone():
    rows = [
        {"name": name, "steps": 5, "minutes": minutes, "settings": "4 x 64"}
        for name, minutes in (("flow", 40), ("align", 15), ("flow", 5), ("flow", 15))
    ]
    rows.append({**rows[0], "minutes": 10, "settings": "2 x 64"})
    curve = compare_adapters.data_curve(rows)
    assert [(r["name"], r["minutes"]) for r in curve] == [
        ("flow", 5),
        ("flow", 15),
        ("flow", 40),
    ]


def test_a_table_trains_the_adapter_of_its_line(brief, pair, tiny_run, tmp_path):
    """Once: its folder is found again by base, settings and data."""
    config = grid.get_config("smoke")
    config.datasets.whisper_to_lyra = str(pair)
    line = table_lines.check(
        {
            **{"label": "x", "data": "whisper_to_lyra", "method": "adapter"},
            **{"timed": 1, "unscored": True},
            "adapter": {"total_steps": 1, "report_clips": 1},
        }
    )
    run = table_lines.run_config(config, line, 0)
    row = tables._score(config, line, run, tiny_run, [tmp_path])
    (folder,) = tmp_path.iterdir()
    assert row.measured["T_animation_ms"] > 0 and not row.scores
    assert row.name == "adapter from mel_rvq" and "1 steps on" in row.note
    written = (folder / "card.json").stat().st_mtime_ns
    assert tables._adapter(config, line, run, tiny_run, [tmp_path]) == folder
    assert (folder / "card.json").stat().st_mtime_ns == written
