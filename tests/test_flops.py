"""Operations counted by hand, against the count of the traced function."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from configs import base
from toktalk_jax import flops, flow, models

PRODUCT = 2 * 8 * 8 * 8


def square(x):
    return x @ x


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def turns(count, x):
    return lax.scan(lambda x, _: (square(x), None), x, length=count)[0]


def nested(x):
    outer = lambda x, _: (turns(3, jnp.sin(x)), None)  # noqa: E731
    return lax.scan(outer, x, length=5)[0]


def branches(x):
    costs = (lambda x: x, square, functools.partial(turns, 3))
    return lax.switch(jnp.int32(x[0, 0]), costs, x)


def rematerialised(x):
    return jax.grad(lambda x: jax.checkpoint(lambda x: jnp.sin(square(x)))(x).sum())(x)


@jax.custom_vjp
def rule(x):
    return square(x)


rule.defvjp(lambda x: (square(x), x), lambda x, g: (g @ x @ x,))


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (square, 1),
        (jax.jit(square), 1),
        (functools.partial(turns, 7), 7),
        (nested, 15),
        (lambda x: lax.fori_loop(0, 4, lambda _, x: square(x), x), 4),
        (branches, 3),
        (rule, 1),
        (lambda x: jax.grad(lambda x: rule(x).sum())(x), 1 + 2),
        (rematerialised, 1 + 1 + 2),  # forward, forward again, a product a factor
        (lambda x: jax.nn.relu(x) + jnp.cumsum(x, 0), 0),
    ],
)
def test_products_of_8_by_8(function, products):
    assert flops.count(function, shaped(8, 8)) == products * PRODUCT


def test_batched_and_rectangular_products():
    def einsum(a, b):
        return jnp.einsum("bhts,bshd->bthd", a, b)

    B, H, T, S, D = 2, 3, 5, 7, 11
    found = flops.count(einsum, shaped(B, H, T, S), shaped(B, S, H, D))
    assert found == 2 * B * H * T * S * D


def test_a_gradient_is_three_forwards_less_the_first_layers_input():
    B, D, depth = 4, 16, 5

    def loss(params, x):
        for kernel in params:
            x = jnp.tanh(x @ kernel)
        return x.sum()

    arguments = [shaped(D, D)] * depth, shaped(B, D)
    layer = 2 * B * D * D
    assert flops.count(loss, *arguments) == depth * layer
    assert flops.count(jax.grad(loss), *arguments) == (3 * depth - 1) * layer
    assert flops.count(jax.grad(loss, (0, 1)), *arguments) == 3 * depth * layer


def test_convolutions():
    layout = dict(dimension_numbers=("NTC", "TIO", "NTC"))
    convolve = functools.partial(
        lax.conv_general_dilated, window_strides=(2,), padding="VALID", **layout
    )
    B, T, C, D, taps = 3, 41, 6, 10, 5
    out = (T - taps) // 2 + 1
    arguments = shaped(B, T, C), shaped(taps, C, D)
    forward = 2 * B * out * D * C * taps
    assert flops.count(convolve, *arguments) == forward
    grouped = functools.partial(convolve, feature_group_count=2)
    assert flops.count(grouped, arguments[0], shaped(taps, C // 2, D)) == forward // 2
    transposed = functools.partial(
        lax.conv_transpose, strides=(2,), padding="SAME", **layout
    )
    # Of 4 taps on a doubled rate, every other one meets an inserted zero.
    found = flops.count(transposed, shaped(B, T, C), shaped(4, C, D))
    assert found == 2 * B * (2 * T) * D * C * 2


def test_devices_add_up():
    devices = jax.local_device_count()
    mapped = jax.pmap(lambda x: lax.psum(square(x), "batch"), axis_name="batch")
    assert devices == 2
    assert flops.count(mapped, shaped(devices, 8, 8)) == devices * PRODUCT


def test_a_loop_of_unknown_length_is_refused():
    def search(x):
        return lax.while_loop(lambda x: x[0, 0] < 1, square, x)

    with pytest.raises(ValueError, match="1024 floating point operations a turn"):
        flops.count(search, shaped(8, 8))
    halve = lambda x: lax.while_loop(lambda x: x[0, 0] > 1, lambda x: x / 2, x)  # noqa: E731
    assert flops.count(halve, shaped(8, 8)) == 0


def by_hand(params, rows, attended):
    """FLOP of a velocity field: every kernel on the rows of its rate, and attention.

    Args:
      rows: {"full", "half", "time"} rows at either rate and of the time embedding.
      attended: {"full", "half"} pairs of frames that one layer's attention compares.
    """
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [part.key for part in path]
        if names[-1] != "kernel":
            continue
        full = names[0] in ("down_0", "up_1", "up_1_resample", "final_block", "final")
        rate = "full" if full else "half"
        is_time = names[0].startswith("time_") or names[-2] == "time"
        # Each output frame of an upsampling meets 2 of 4 taps: rows at the half rate.
        total += 2 * leaf.size * rows["time" if is_time else rate]
        if names[-2] == "qkv":
            layers, inner = (
                leaf.size // leaf.shape[-1] // leaf.shape[-2],
                leaf.shape[-1],
            )
            total += layers * 2 * 2 * (inner // 3) * attended[rate]
    return total


def test_the_paper_size_field_by_hand():
    """20 frames, both guidance branches: 3.55 GFLOP.

    Twice the parameters times all 40 rows would be 6.6: most layers run on 20.
    """
    config, T, branches = base.get_config(), 20, 2
    velocity, _ = models.build(config.model.to_dict(), config.style.to_dict())
    inputs = shaped(1, T, 56), shaped(1), shaped(1, T, 512), shaped(1, T, 256)
    params = jax.eval_shape(velocity.init, jax.random.key(0), *inputs)["params"]

    def field(params, *inputs):
        bound = lambda *x: velocity.apply({"params": params}, *x)  # noqa: E731
        return flow.guided(bound, jnp.ones(1))(*inputs)

    rows = {"full": branches * T, "half": branches * T // 2, "time": branches}
    attended = {"full": branches * T**2, "half": branches * (T // 2) ** 2}
    found = flops.count(field, params, *inputs)
    assert found == by_hand(params, rows, attended)
    assert 3.5e9 < found < 3.6e9
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 6.6e9 < 2 * size * rows["full"] < 6.7e9


@pytest.mark.parametrize(
    ("kind", "bf16", "f32"),
    [
        ("NVIDIA L4", 121, 60),
        ("NVIDIA L40S", 362, 183),
        ("NVIDIA A100-SXM4-40GB", 312, 156),
        ("NVIDIA A100 80GB PCIe", 312, 156),
        ("NVIDIA H100 80GB HBM3", 989, 494),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H200", 989, 494),
        ("TPU v5 lite", 197, 197),
        ("TPU v5", 459, 459),
        ("TPU v6 lite", 918, 918),
    ],
)
def test_published_peaks(kind, bf16, f32):
    device = SimpleNamespace(device_kind=kind)
    for dtype, expected in (("bfloat16", bf16), (jnp.float32, f32)):
        assert flops.peak(device, dtype) == (expected * 1e12, f"published for {kind}")


@pytest.mark.parametrize(
    "kind", ["cpu", "NVIDIA L40", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v4 lite"]
)
def test_other_devices_are_measured(kind, monkeypatch):
    monkeypatch.setattr(flops, "measured_peak", lambda *_: "measured")
    assert flops.peak(SimpleNamespace(device_kind=kind), "bfloat16") == "measured"


def test_full_precision_products_are_measured_where_published_ones_are_not(monkeypatch):
    monkeypatch.setattr(flops, "measured_peak", lambda *_: "measured")
    device = SimpleNamespace(device_kind="NVIDIA H200")
    with jax.default_matmul_precision("highest"):
        assert flops.peak(device, "float32") == "measured"


def test_the_peak_of_this_cpu():
    rate, source = flops.measured_peak(jax.devices()[0], "float32", seconds=0.1)
    assert 1e9 < rate < 1e14
    assert source.startswith("measured") and source.endswith("float32")
