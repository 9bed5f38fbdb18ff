"""FaceFormer against the paper's definition, its own gradient, and the trainer."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import optax
import pytest

from configs import faceformer as config
from toktalk_jax import adapt, evaluate, sample, train
from toktalk_jax import motion as mo
from toktalk_jax.baselines import faceformer
from toktalk_jax.data import pipeline
from toktalk_jax.training import checkpoints

A, S, PERIOD = 6, 10, 7
LIVE = np.arange(mo.F) != 49
MODEL = dict(width=8, heads=2, depth=2, feed_forward=12, period=PERIOD, before=1)
NETWORK = faceformer.FaceFormer(3, tuple(LIVE.tolist()), **MODEL)
STATS = mo.Stats(
    *(np.zeros(mo.F, "f4"), LIVE.astype("f4"), np.zeros(A, "f4"), np.ones(A, "f4"))
)
SUMS = functools.partial(
    faceformer.loss_sums, network=NETWORK, weights=LIVE.astype("f4")
)
gradient = jax.jit(jax.grad(SUMS, has_aux=True))
write = jax.jit(functools.partial(faceformer.write, NETWORK))
at_once = jax.jit(lambda params, *inputs: NETWORK.apply({"params": params}, *inputs))


def inputs():
    tokens = np.random.default_rng(0).normal(size=(4, S, A)).astype("f4")
    return tokens, np.array([0, 1, 2, 1], "i4")


@pytest.fixture(scope="module")
def params():
    """Parameters that all matter, where the output layer would start at zero."""
    rng = np.random.default_rng(1)
    build = lambda key: faceformer.build(  # noqa: E731
        {"model": MODEL, "train": {"token_drop": 0.0}}, key, STATS, "abc", LIVE
    )[0]
    shapes = jax.eval_shape(build, jax.random.key(0))
    return jax.tree.map(
        lambda x: (rng.normal(size=x.shape) / np.sqrt(x.shape[0])).astype("f4"), shapes
    )


def test_positions_repeat_with_the_period():
    table = faceformer.periodic_positions(8, PERIOD)
    assert table.shape == (PERIOD, 8)
    for t, i in itertools.product(range(PERIOD), range(4)):
        angle = t / 10000 ** (2 * i / 8)
        np.testing.assert_allclose(
            table[t, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-6
        )


def test_the_bias_counts_whole_periods_and_hides_the_future():
    found = np.asarray(faceformer.temporal_bias(np.arange(3, 20), np.arange(20), 4, 7))
    assert found.shape == (4, 17, 20)
    for h, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):  # ALiBi's of 4 heads
        for i, j in itertools.product(range(3, 20), range(20)):
            if j > i:
                assert found[h, i - 3, j] < -1e9
            else:
                expected = -slope * ((i - j) // 7)
                np.testing.assert_allclose(found[h, i - 3, j], expected, rtol=1e-6)


def dense(x, p):
    return x @ np.asarray(p["kernel"], "f8") + np.asarray(p.get("bias", 0.0), "f8")


def normed(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * np.asarray(p["scale"]) + np.asarray(p["bias"])


def attend(q, k, v, bias):
    """Multi-head attention of one clip; bias [N, Q, T] with -inf."""
    out = []
    for h, own in enumerate(bias):
        a, b, c = (np.split(x, len(bias), 1)[h] for x in (q, k, v))
        logits = a @ b.T / np.sqrt(a.shape[1]) + own
        weights = np.exp(logits - logits.max(1, keepdims=True))
        out.append(weights / weights.sum(1, keepdims=True) @ c)
    return np.concatenate(out, 1)


def by_the_paper(p, past, tokens, speaker):
    """One clip in float64: both attentions in full, with both biases."""
    T = 2 * len(tokens)
    i, j = np.arange(T)[:, None], np.arange(T)[None]
    slopes = np.array([2.0**-4, 2.0**-8])[:, None, None]
    causal = np.where(j <= i, -slopes * ((i - j) // PERIOD), -np.inf)
    aligned = np.where(np.arange(len(tokens))[None] == i // 2, 0.0, -np.inf)
    style = np.asarray(p["style"]["kernel"], "f8")[speaker]
    x = np.concatenate([np.zeros((1, 8)), dense(past[1:], p["past"])]) + style
    x = x + faceformer.periodic_positions(8, PERIOD)[np.arange(T) % PERIOD]
    # A convolution over each token and the one before it, oldest first.
    kernel, before = p["audio"]["kernel"], np.pad(tokens, ((1, 0), (0, 0)))[:-1]
    memory = before @ kernel[0] + tokens @ kernel[1] + p["audio"]["bias"]
    rng = np.random.default_rng(5)
    for layer in (p["layers_0"], p["layers_1"]):
        out = attend(*np.split(dense(x, layer["self_qkv"]), 3, 1), causal)
        x = normed(x + dense(out, layer["self_out"]), layer["norm1"])
        # Whatever makes queries and keys: one token is aligned with a frame.
        q, k = x @ rng.normal(size=(8, 8)), memory @ rng.normal(size=(8, 8))
        v = dense(memory, layer["cross_value"])
        heard = attend(q, k, v, np.stack([aligned] * 2))
        x = normed(x + dense(heard, layer["cross_out"]), layer["norm2"])
        h = np.maximum(dense(x, layer["ff_in"]), 0)
        x = normed(x + dense(h, layer["ff_out"]), layer["norm3"])
    return dense(x, p["head"]) * LIVE


def test_all_frames_at_once_are_the_papers(params):
    tokens, speaker = inputs()
    past = np.random.default_rng(2).normal(size=(4, 2 * S, mo.F)).astype("f4")
    found = at_once(params, past, tokens, speaker)
    for b in range(4):
        expected = by_the_paper(params, past[b], tokens[b], speaker[b])
        np.testing.assert_allclose(found[b], expected, atol=2e-5)


def test_frame_by_frame_equals_all_at_once_from_the_same_past(params):
    tokens, speaker = inputs()
    motion = np.asarray(write(params, tokens, speaker))
    past = np.concatenate([np.full_like(motion[:, :1], 9.0), motion[:, :-1]], 1)
    again = at_once(params, past, tokens, speaker)
    np.testing.assert_allclose(motion, again, atol=1e-5)
    assert motion[..., LIVE].std(1).min() > 1e-3 and not motion[..., ~LIVE].any()


def test_a_token_moves_no_frame_before_its_own(params):
    tokens, speaker = inputs()
    motion = np.asarray(write(params, tokens, speaker))
    for k in (0, 1, 4, S - 1):
        other = tokens.copy()
        other[:, k] += 1
        moved = np.abs(np.asarray(write(params, other, speaker)) - motion).max(2) > 0
        assert not moved[:, : 2 * k].any() and moved[:, 2 * k :].all()


def test_hearing_reaches_as_far_as_it_says():
    network = NETWORK.clone(before=2, after=1)
    tokens, speaker = inputs()
    audio = lambda x: network.apply({"params": p}, x, speaker, method="hear")[0]  # noqa: E731
    shape = (4, A, MODEL["width"])
    p = {"audio": {"kernel": np.ones(shape, "f4"), "bias": np.zeros(shape[-1], "f4")}}
    p["style"] = {"kernel": np.zeros((3, shape[-1]), "f4")}
    other = tokens.copy()
    other[:, 5] += 1
    moved = np.flatnonzero(np.abs(np.asarray(audio(other) - audio(tokens))[0]).max(1))
    np.testing.assert_array_equal(moved, np.arange(2 * 4, 2 * 8))


def test_dropout_is_of_a_row_wherever_it_lies():
    x, key = np.ones((4, 50, 40), "f4"), jax.random.key(0)
    index = np.array([7, 3, 9, 3])
    dropped = np.asarray(faceformer._dropped(key, index, x, 0.25))
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(dropped.mean((1, 2)), 1, atol=0.05)
    np.testing.assert_array_equal(dropped[1], dropped[3])
    assert (dropped[0] != dropped[1]).any()


def test_the_gradient_goes_through_time_as_jax_would_take_it(params, monkeypatch):
    batch = batch_of(*inputs())
    own, _ = gradient(params, batch, None)
    with monkeypatch.context() as patch:
        patch.setattr(faceformer, "_rollout", lambda *a: faceformer._forward(*a)[0])
        plain, _ = jax.jit(lambda *a: jax.grad(SUMS, has_aux=True)(*a))(
            params, batch, None
        )
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-6)


def batch_of(tokens, speaker, seed=4):
    """Every clip its own motion: slow, and of few components, as the width is small."""
    rng = np.random.default_rng(seed)
    slow = np.repeat(rng.normal(size=(len(tokens), S // 2, 3)), 4, 1)
    motion = slow @ rng.normal(size=(3, mo.F)) / np.sqrt(3)
    return dict(
        motion=motion.astype("f4"),
        tokens=tokens,
        speaker=speaker,
        mask=np.ones((len(tokens), 2 * S), bool),
        index=np.arange(len(tokens)),
    )


def test_padding_and_dead_coefficients_carry_no_loss(params):
    loss = jax.jit(lambda batch: SUMS(params, batch, None))
    batch = batch_of(*inputs())
    batch["mask"][1, 14:] = False
    total, (errors, count) = loss(batch)
    assert count == batch["mask"].sum() * LIVE.sum() and total == errors
    junk = {k: v.copy() for k, v in batch.items()}
    junk["tokens"][1, 7:] = 9.0
    junk["motion"][1, 14:] = 9.0
    junk["motion"][..., ~LIVE] = 9.0
    np.testing.assert_allclose(loss(junk)[0], total, rtol=1e-6)


def test_it_learns_few_clips_by_sound_and_style(params):
    """Two sounds by two speakers, four motions: deaf to either, half the error stays.

    From an output layer at zero, as training starts.
    """
    tokens, _ = inputs()
    tokens[2:] = tokens[:2]
    batch = batch_of(tokens, np.array([0, 0, 1, 1], "i4"))
    params = params | {"head": jax.tree.map(np.zeros_like, params["head"])}
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))

    @jax.jit
    def update(params, state, gradient):
        change, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, change), state

    trained, state, losses = params, optimiser.init(params), []
    for _ in range(400):
        slope, (errors, count) = gradient(trained, batch, None)
        trained, state = update(trained, state, slope)
        losses.append(float(errors / count))
    assert np.mean(losses[-20:]) < 0.15 * losses[0]
    motion = np.asarray(write(trained, tokens, batch["speaker"]))
    other = np.asarray(write(trained, tokens, 1 - batch["speaker"]))
    error = lambda m: np.square((m - batch["motion"])[..., LIVE]).mean()  # noqa: E731
    assert error(other) > 4 * error(motion)


def settings(dataset):
    c = config.get_config("smoke")
    c.dataset = str(dataset)
    return c


@pytest.fixture(scope="module")
def run(tiny_dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("faceformer") / "run"
    train.train(settings(tiny_dataset), workdir)
    return workdir


def test_an_interrupted_training_resumes_bitwise(
    tiny_dataset, run, tmp_path, monkeypatch
):
    batches = train.make_batches

    def interrupted(*arguments, **options):
        yield from itertools.islice(batches(*arguments, **options), 4)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "make_batches", interrupted)
        train.train(settings(tiny_dataset), tmp_path)
    assert checkpoints.load(tmp_path).meta["step"] == 3
    train.train(settings(tiny_dataset), tmp_path)
    resumed, whole = (checkpoints.load(w) for w in (tmp_path, run))
    assert resumed.meta["hash"] == whole.meta["hash"]
    assert whole.dataset["speakers"] == ["speaker-0", "speaker-1"]


def test_prediction_knows_its_speakers_and_no_neighbours(tiny_dataset, run):
    bundle = checkpoints.load(run / "bundle")
    clips = pipeline.evaluation_clips(str(tiny_dataset), "test", stats=bundle.stats)
    whole = faceformer.predict(bundle, clips)
    for clip, motion in zip(clips, whole, strict=True):
        frames = min(len(clip.motion), 2 * len(clip.tokens))
        assert motion.shape == (frames, mo.F) and np.isfinite(motion).all()
        np.testing.assert_allclose(motion[:, 49], bundle.stats.motion_mean[49])
    # Alone, and cut to fit another padding: the same frames.
    cut = dataclasses.replace(clips[0], tokens=clips[0].tokens[:8])
    (alone,) = faceformer.predict(bundle, [cut])
    np.testing.assert_allclose(alone, whole[0][:16], atol=1e-5)
    named = [
        dataclasses.replace(cut, speaker_id=name)
        for name in ("speaker-0", "speaker-1", "a stranger")
    ]
    first, second, stranger = faceformer.predict(bundle, named)
    np.testing.assert_array_equal(first, stranger)
    assert np.abs(first - second).max() > 1e-6


def test_evaluation_scores_it_beside_the_others(tiny_dataset, tiny_run, run):
    names = ("faceformer", "static", "truth")
    rows = evaluate.evaluate(settings(tiny_dataset), run, rows=names)
    assert tuple(row.name for row in rows) == names
    assert all(len(row.scores) == 3 and row.samples == 1 for row in rows)
    weights = f"ema at step 6, {checkpoints.load(run).meta['hash']}"
    assert [row.weights for row in rows] == [weights, "none", "none"]
    assert len({row.config_hash for row in rows}) == 2
    assert "its token, 0 before and 0 after (0.00 s ahead)" in rows[0].note
    for name in ("stream", "mean", "whole"):
        with pytest.raises(ValueError, match=f"'{name}' is of a run of toktalk, but"):
            evaluate.evaluate(settings(tiny_dataset), run, rows=(name,))
    with pytest.raises(ValueError, match="'faceformer' is of a run of faceformer, but"):
        evaluate.evaluate(settings(tiny_dataset), tiny_run, rows=names)


def test_its_weights_are_neither_sampled_nor_adapted(run):
    bundle = checkpoints.load(run)
    with pytest.raises(ValueError, match="evaluate --rows faceformer"):
        sample.make_sampler(bundle)
    from configs import adapter

    with pytest.raises(ValueError, match="of faceformer, a baseline"):
        adapt.check_config(adapter.get_config("smoke"), bundle)
