"""PyTorch names and shapes; conversion both ways, bitwise; mistakes all named."""

import jax
import numpy as np
import pytest

from toktalk_jax import models, torch_names, torch_port
from toktalk_jax.models import layers

A, K = 12, 6
SHAPES = [(1, 4, 56), (1,), (1, 4, A), (1, 4, K)]


def field(channels):
    model = models.VelocityField(
        channels=channels, blocks_per_stage=2, mid_blocks=3, heads=2, head_dim=8
    )
    return model, SHAPES


NETWORKS = {
    "two levels": field((16, 16)),
    "one level": field((16,)),
    "three widths": field((8, 24, 16)),
    "style": (models.StyleEncoder(width=K, hidden=16, heads=2), [(1, 10, 56)]),
    "adapter": (
        models.Adapter(out_dim=9, width=16, depth=3, heads=2, feed_forward=24),
        [(1, 4, 7)],
    ),
}


def random_params(name, seed=0):
    model, shapes = NETWORKS[name]
    arguments = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
    tree = jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), tree)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_round_trip_is_bitwise_in_both_directions(name):
    params = random_params(name)
    state = torch_port.to_torch(params)
    assert_same(torch_port.from_torch(state), params)
    assert_same(torch_port.to_torch(torch_port.from_torch(state)), state)
    assert sum(a.size for a in state.values()) == sum(
        a.size for a in jax.tree.leaves(params)
    )


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"style"}))  # which stacks none
def test_layers_that_are_not_stacked_have_the_same_torch_names(name):
    params = random_params(name)
    apart = layers.unstack(params)
    assert jax.tree.structure(apart) != jax.tree.structure(params)
    assert_same(torch_port.to_torch(apart), torch_port.to_torch(params))


def test_the_port_and_the_networks_stack_the_same_modules():
    assert torch_port.STACKED == layers.STACKED


def test_a_tree_of_networks_goes_under_prefixes():
    tree = {"velocity": random_params("one level"), "style": random_params("style")}
    state = torch_port.to_torch(tree)
    assert "velocity.final_proj.weight" in state and "style.convs.3.bias" in state
    assert_same(torch_port.from_torch(state), tree)
    del state["style.convs.3.bias"], state["velocity.final_proj.bias"]
    with pytest.raises(ValueError, match=r"(?s)velocity:.*final_proj.*style:.*convs.3"):
        torch_port.from_torch({**state, "stray": np.zeros(1)})


def test_paper_size_has_the_tensors_of_the_public_decoder():
    """Counts and names of network-facts 1.6 and 1.8."""
    sizes = {"input": 824, "out_dim": 56, "heads * head_dim": 512}
    sizes |= {"channels[0]": 256, "channels[1]": 256}
    number = lambda d: d if isinstance(d, int) else d[0] * sizes[d[1]]  # noqa: E731
    shapes = {
        t.torch: tuple(map(number, t.shape))
        for t in torch_names.velocity_table(2, 4, 12)
    }
    assert len(shapes) == 1042
    assert sum(int(np.prod(s)) for s in shapes.values()) == 82_904_888
    expected = {
        "time_mlp.linear_1.weight": (1024, 824),
        "down_blocks.0.0.mlp.1.weight": (256, 1024),
        "down_blocks.0.0.block1.block.0.weight": (256, 824, 3),
        "mid_blocks.11.0.block2.block.2.bias": (256,),
        "up_blocks.1.0.res_conv.weight": (256, 512, 1),
        "down_blocks.0.1.0.attn1.to_q.weight": (512, 256),
        "up_blocks.0.1.3.attn1.to_out.0.weight": (256, 512),
        "mid_blocks.0.1.2.ff.net.0.proj.weight": (1024, 256),
        "mid_blocks.0.1.2.ff.net.2.bias": (256,),
        "down_blocks.0.2.conv.weight": (256, 256, 3),
        "down_blocks.1.2.weight": (256, 256, 3),
        "up_blocks.0.2.conv.weight": (256, 256, 4),
        "up_blocks.1.2.weight": (256, 256, 3),
        "final_block.block.2.weight": (256,),
        "final_proj.weight": (56, 256, 1),
    }
    assert {k: shapes.get(k) for k in expected} == expected


def test_one_error_lists_every_key_that_does_not_fit():
    state = torch_port.to_torch(random_params("two levels"))
    query = "mid_blocks.1.1.0.attn1.to_q.weight"
    up = "up_blocks.0.2.conv.weight"
    state[query] = np.zeros((15, 16))
    state[up] = state[up].transpose(2, 0, 1)
    state["down_blocks.0.1.0.norm2.weight"] = np.zeros(16)
    state["mid_blocks.2.1.1.attn1.to_k.bias"] = np.zeros(16)
    del state["time_mlp.linear_1.bias"], state["final_proj.weight"]
    with pytest.raises(ValueError) as info:
        torch_port.from_torch(state)
    lines = str(info.value).splitlines()[1:]
    assert sorted(line.strip() for line in lines) == [
        f"misshapen: {query} is (15, 16), expected (16, 16)",
        f"misshapen: {up} is (4, 16, 16), expected (16, 16, 4)",
        "missing: final_proj.weight",
        "missing: time_mlp.linear_1.bias",
        "unmatched: down_blocks.0.1.0.norm2.weight",
        "unmatched: mid_blocks.2.1.1.attn1.to_k.bias",
    ]


def test_parameters_that_do_not_fit_are_listed_too():
    params = random_params("two levels")
    params["mid"]["residual"]["shortcut"]["kernel"] = np.zeros((3, 16, 17), "f4")
    params["down_0"]["residual"].pop("time")
    params["extra"] = {"bias": np.zeros(2)}
    with pytest.raises(ValueError) as info:
        torch_port.to_torch(params)
    lines = [line.strip() for line in str(info.value).splitlines()[1:]]
    wrong = "misshapen: mid/{}/residual/shortcut/kernel is (16, 17), expected (16, 16)"
    assert sorted(lines) == [
        *(wrong.format(i) for i in range(3)),
        "missing: down_0/residual/time/bias",
        "missing: down_0/residual/time/kernel",
        "unmatched: extra/bias",
    ]


def test_names_of_no_network_are_refused():
    with pytest.raises(ValueError, match="holds none of the networks"):
        torch_port.from_torch({"encoder_proj.weight": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="holds none of the networks"):
        torch_port.to_torch({"dense": {"kernel": np.zeros((2, 2))}})
    with pytest.raises(ValueError, match="stand beside"):
        torch_port.to_torch({"velocity": {}, "opt": {}})
