"""The tensors of each network: names, shapes and forms in PyTorch and in Flax.

The naming table behind `torch_port`. Names on the PyTorch side are those of CosyVoice's
causal decoder for the velocity field (`down_blocks.0.1.0.attn1.to_q.weight`) and those
of `tools/torch_reference` for the style encoder and the adapter. Flax names here carry
the number of each layer, stacked as they are in the parameters themselves.
"""

import re
from typing import NamedTuple

NETWORKS = ("velocity", "style", "adapter")


class Tensor(NamedTuple):
    """One tensor of a network, on both sides.

    Attributes:
      torch, flax: its names; layers that Flax stacks carry their number in the path.
      shape: on the PyTorch side; a dimension is a number or (factor, symbol), the
        symbol standing for a size that the tensors agree on.
      kind: key of `torch_port.FORMS`.
    """

    torch: str
    flax: str
    shape: tuple
    kind: str

    def flax_shape(self):
        """The shape on the Flax side."""
        return {
            "linear": lambda s: s[::-1],
            "point": lambda s: s[1::-1],
            "conv": lambda s: s[::-1],
            "transposed": lambda s: (s[2], s[0], s[1]),
            "vector": lambda s: s,
        }[self.kind](self.shape)


def torch_table(state):
    """[Tensor] of the network that these PyTorch names belong to.

    Raises:
      ValueError: they belong to none.
    """
    if any(k.startswith(("down_blocks.", "mid_blocks.", "up_blocks.")) for k in state):
        return velocity_table(
            _count(state, r"down_blocks\.(\d+)\."),
            _count(state, r"(?:down|mid|up)_blocks\.\d+\.1\.(\d+)\."),
            _count(state, r"mid_blocks\.(\d+)\."),
        )
    if any(k.startswith("convs.") for k in state):
        return style_table()
    if any(k.startswith("encoder.") for k in state):
        return adapter_table(_count(state, r"encoder\.(\d+)\."))
    raise ValueError(_unknown("state dict", state))


def flax_table(flat):
    """[Tensor] of the network that these Flax names belong to.

    Raises:
      ValueError: they belong to none.
    """
    if any(k.startswith(("down_", "mid/", "up_")) for k in flat):
        return velocity_table(
            _count(flat, r"down_(\d+)/"),
            _count(flat, r".*transformer/blocks/(\d+)/"),
            _count(flat, r"mid/(\d+)/"),
        )
    if any(k.startswith("conv_") for k in flat):
        return style_table()
    if any(k.startswith("encoder/") for k in flat):
        return adapter_table(_count(flat, r"encoder/blocks/(\d+)/"))
    raise ValueError(_unknown("parameter tree", flat))


def _count(names, pattern):
    found = [re.match(pattern, name) for name in names]
    return 1 + max((int(m[1]) for m in found if m), default=-1)


def _unknown(what, names):
    return (
        f"the {what} holds none of the networks {NETWORKS}; the first of {len(names)} "
        f"names are {sorted(names)[:5]}"
    )


def velocity_table(levels, blocks, mids):
    """Tensors of a velocity field of `levels` levels, `blocks` transformer blocks a
    stage and `mids` middle stages."""
    width = [(1, f"channels[{i}]") for i in range(levels)]
    first, last, hidden = width[0], width[-1], (4, "channels[0]")
    stage = lambda *names: _stage(*names, hidden, blocks)  # noqa: E731
    out = [
        *_dense("time_mlp.linear_1", "time_in", (1, "input"), hidden),
        *_dense("time_mlp.linear_2", "time_out", hidden, hidden),
    ]
    for i in range(levels):
        before = width[i - 1] if i else (1, "input")
        end = i == levels - 1
        out += stage(f"down_blocks.{i}", f"down_{i}", before, width[i])
        name = f"down_blocks.{i}.2" + ("" if end else ".conv")
        out += _conv(name, f"down_{i}_resample", width[i], width[i])
    for i in range(mids):
        out += stage(f"mid_blocks.{i}", f"mid/{i}", last, last)
    for i in range(levels):
        end = i == levels - 1
        wide, narrow = width[levels - 1 - i], width[max(levels - 2 - i, 0)]
        twice = (2, wide[1])
        out += stage(f"up_blocks.{i}", f"up_{i}", twice, narrow)
        layer, suffix = (_conv, "") if end else (_transposed, ".conv")
        out += layer(f"up_blocks.{i}.2{suffix}", f"up_{i}_resample", narrow, narrow)
    return [
        *out,
        *_conv("final_block.block.0", "final_block/conv", first, first),
        *_norm("final_block.block.2", "final_block/norm", first),
        *_dense("final_proj", "final", first, (1, "out_dim"), kind="point"),
    ]


def style_table():
    """Tensors of a style encoder."""
    hidden, twice = (1, "hidden"), (2, "width")
    widths = [(1, "input"), hidden, hidden, twice, twice]
    out = []
    for i in range(4):
        out += _conv(f"convs.{i}", f"conv_{i}", widths[i], widths[i + 1])
        if i < 3:
            out += _norm(f"norms.{i}", f"conv_{i}_norm", widths[i + 1])
    three = (3, "hidden")
    return [
        *out,
        Tensor(
            "layer.self_attn.in_proj_weight",
            "attention/qkv/kernel",
            (three, hidden),
            "linear",
        ),
        Tensor(
            "layer.self_attn.in_proj_bias", "attention/qkv/bias", (three,), "vector"
        ),
        *_dense("layer.self_attn.out_proj", "attention/out", hidden, hidden),
        *_dense("layer.linear1", "ff_in", hidden, hidden),
        *_dense("layer.linear2", "ff_out", hidden, hidden),
        *_norm("layer.norm1", "norm1", hidden),
        *_norm("layer.norm2", "norm2", hidden),
    ]


def adapter_table(depth):
    """Tensors of an adapter with `depth` transformer blocks."""
    width = (1, "width")
    out = _conv("conv", "conv", (1, "input"), width)
    for i in range(depth):
        out += _transformer(
            f"encoder.{i}", f"encoder/blocks/{i}", width, (1, "feed_forward")
        )
    return [
        *out,
        *_norm("norm", "norm", width),
        *_dense("out", "out", width, (1, "out_dim")),
    ]


def _stage(torch, flax, before, width, time, blocks):
    residual = f"{flax}/residual"
    out = [
        *_conv(f"{torch}.0.block1.block.0", f"{residual}/block1/conv", before, width),
        *_norm(f"{torch}.0.block1.block.2", f"{residual}/block1/norm", width),
        *_dense(f"{torch}.0.mlp.1", f"{residual}/time", time, width),
        *_conv(f"{torch}.0.block2.block.0", f"{residual}/block2/conv", width, width),
        *_norm(f"{torch}.0.block2.block.2", f"{residual}/block2/norm", width),
        *_dense(f"{torch}.0.res_conv", f"{residual}/shortcut", before, width, "point"),
    ]
    for i in range(blocks):
        name = f"{flax}/transformer/blocks/{i}"
        out += _transformer(f"{torch}.1.{i}", name, width, (4, width[1]))
    return out


def _transformer(torch, flax, width, feed_forward):
    inner = (1, "heads * head_dim")
    out = [*_norm(f"{torch}.norm1", f"{flax}/norm1", width)]
    for part in "qkv":
        name, path = f"{torch}.attn1.to_{part}", f"{flax}/attention/{part}"
        out += _dense(name, path, width, inner)[:1]  # no bias
    return [
        *out,
        *_dense(f"{torch}.attn1.to_out.0", f"{flax}/attention/out", inner, width),
        *_norm(f"{torch}.norm3", f"{flax}/norm2", width),
        *_dense(f"{torch}.ff.net.0.proj", f"{flax}/ff_in", width, feed_forward),
        *_dense(f"{torch}.ff.net.2", f"{flax}/ff_out", feed_forward, width),
    ]


def _dense(torch, flax, before, after, kind="linear"):
    shape = (after, before, 1) if kind == "point" else (after, before)
    return [
        Tensor(f"{torch}.weight", f"{flax}/kernel", shape, kind),
        Tensor(f"{torch}.bias", f"{flax}/bias", (after,), "vector"),
    ]


def _conv(torch, flax, before, after):
    return [
        Tensor(f"{torch}.weight", f"{flax}/kernel", (after, before, 3), "conv"),
        Tensor(f"{torch}.bias", f"{flax}/bias", (after,), "vector"),
    ]


def _transposed(torch, flax, before, after):
    return [
        Tensor(f"{torch}.weight", f"{flax}/kernel", (before, after, 4), "transposed"),
        Tensor(f"{torch}.bias", f"{flax}/bias", (after,), "vector"),
    ]


def _norm(torch, flax, width):
    return [
        Tensor(f"{torch}.weight", f"{flax}/scale", (width,), "vector"),
        Tensor(f"{torch}.bias", f"{flax}/bias", (width,), "vector"),
    ]
