"""PyTorch state dicts to parameters and back, in NumPy; the round trip is bitwise.

Names are matched by `torch_names`. What else differs:

  linear       weight [out, in]          kernel [in, out]
  point        weight [out, in, 1]       kernel [in, out]: a 1x1 convolution
  conv         weight [out, in, taps]    kernel [taps, in, out]
  transposed   weight [in, out, taps]    kernel [taps, in, out]: see `layers.Upsample`
  norm         weight, bias              scale, bias
  attention    to_q, to_k, to_v          one kernel, side by side
  depth        one tensor per layer      layers stacked on leading axes (`nn.scan`)

Sizes are read off the tensors themselves, by majority, so that one misshapen tensor is
named as the odd one out.
"""

import collections
import re

import numpy as np

from toktalk_jax import torch_names

# `models.layers.STACKED`, named here again because this file needs no JAX.
STACKED = ("mid", "blocks")

FORMS = {  # kind: (PyTorch to Flax, Flax to PyTorch)
    "linear": (lambda w: w.T, lambda k: k.T),
    "point": (lambda w: w[..., 0].T, lambda k: k.T[..., None]),
    "conv": (lambda w: w.transpose(2, 1, 0), lambda k: k.transpose(2, 1, 0)),
    "transposed": (lambda w: w.transpose(2, 0, 1), lambda k: k.transpose(1, 2, 0)),
    "vector": (lambda v: v, lambda v: v),
}


def from_torch(state):
    """A state dict {name: array} to the parameters of the network that it holds.

    Names that start with "velocity.", "style." or "adapter." give the tree of those
    networks, as a checkpoint holds it. Arrays are anything `np.asarray` takes.

    Raises:
      ValueError: keys that belong to no layer, are missing or have another shape; one
        error lists them all.
    """
    state = {name: np.asarray(value) for name, value in state.items()}
    parts = _by_prefix(state)
    if parts:
        return _each(parts, state)
    tensors = torch_names.torch_table(state)
    _check(state, {t.torch: t.shape for t in tensors}, "state dict")
    flat = {t.flax: FORMS[t.kind][0](state[t.torch]) for t in tensors}
    return _stack(flat)


def to_torch(params):
    """Parameters of one network, or a tree of several, to a state dict of arrays.

    Inverse of `from_torch`.

    Raises:
      ValueError: as `from_torch`.
    """
    parts = {k: v for k, v in params.items() if k in torch_names.NETWORKS}
    if parts:
        if len(parts) < len(params):
            stray = sorted({*params} - {*parts})
            raise ValueError(f"networks {[*parts]} stand beside {stray}; which is it?")
        return {
            f"{network}.{name}": value
            for network, part in parts.items()
            for name, value in to_torch(part).items()
        }
    flat = _unstack(params)
    tensors = torch_names.flax_table(flat)
    _check(flat, {t.flax: t.flax_shape() for t in tensors}, "parameter tree")
    return {
        t.torch: np.ascontiguousarray(FORMS[t.kind][1](flat[t.flax])) for t in tensors
    }


def _by_prefix(state):
    """{network: its part of the names} where names carry a network's prefix."""
    parts = collections.defaultdict(dict)
    for name, value in state.items():
        network, _, rest = name.partition(".")
        if network in torch_names.NETWORKS:
            parts[network][rest] = value
    return parts


def _each(parts, state):
    """The tree of several networks, their errors joined."""
    stray = sorted(k for k in state if k.partition(".")[0] not in parts)
    errors, out = [f"  unmatched: {k}" for k in stray], {}
    for network, part in parts.items():
        try:
            out[network] = from_torch(part)
        except ValueError as error:
            errors.append(f"{network}: {error}")
    if errors:
        raise ValueError("\n".join(["the state dict does not fit:", *errors]))
    return out


# Checks.


def _check(arrays, shapes, what):
    """Raise one error that lists every name or shape that does not fit."""
    sizes = _sizes(arrays, shapes)
    lines = [f"  unmatched: {k}" for k in sorted({*arrays} - {*shapes})]
    lines += [f"  missing: {k}" for k in shapes if k not in arrays]
    for name, shape in shapes.items():
        if name not in arrays:
            continue
        wanted = tuple(d if isinstance(d, int) else d[0] * sizes[d[1]] for d in shape)
        if arrays[name].shape != wanted:
            came = arrays[name].shape
            lines.append(f"  misshapen: {name} is {came}, expected {wanted}")
    if lines:
        raise ValueError(
            f"the {what} does not fit ({len(lines)}):\n" + "\n".join(lines)
        )


def _sizes(arrays, shapes):
    """{symbol: size}, for each the value that most tensors agree on."""
    votes = collections.defaultdict(collections.Counter)
    for name, shape in shapes.items():
        came = arrays[name].shape if name in arrays else ()
        for i, wanted in enumerate(shape):
            if isinstance(wanted, int):
                continue
            factor, symbol = wanted
            votes[symbol]  # known even if no tensor tells it
            if len(came) == len(shape) and came[i] % factor == 0:
                votes[symbol][came[i] // factor] += 1
    return {s: (v.most_common(1) or [(0, 0)])[0][0] for s, v in votes.items()}


# Flax stacks layers on leading axes and fuses queries, keys and values.


def _unstack(params):
    """Nested parameters to {"mid/0/.../blocks/1/attention/q/kernel": array}."""
    flat = {}
    for path, array in _leaves(params):
        for name, leaf in _layers(path, np.asarray(array)):
            if re.search(r"/?blocks/\d+/attention/qkv/kernel$", name):
                for part, third in zip("qkv", np.array_split(leaf, 3, -1), strict=True):
                    flat[name.replace("/qkv/", f"/{part}/")] = third
            else:
                flat[name] = leaf
    return flat


def _leaves(tree, path=()):
    for key, value in tree.items():
        # Layers that are not stacked have a name each, "blocks_1" for "blocks/1".
        number = re.fullmatch(rf"({'|'.join(STACKED)})_(\d+)", key)
        here = (*path, *number.groups()) if number else (*path, key)
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value


def _layers(path, array):
    """(name, array) of each layer in one leaf; outer stacks are leading axes."""
    for i, key in enumerate(path):
        if key in STACKED and not (path[i + 1 : i + 2] or [""])[0].isdigit():
            for number, part in enumerate(np.atleast_1d(array)):
                for rest, leaf in _layers(path[i + 1 :], part):
                    yield "/".join((*path[: i + 1], str(number), rest)), leaf
            return
    yield "/".join(path), array


def _stack(flat):
    """Inverse of `_unstack`."""
    tree = {}
    for name, array in flat.items():
        *path, leaf = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = np.ascontiguousarray(array)
    return _merge(tree)


def _merge(node):
    if not isinstance(node, dict):
        return node
    node = {key: _merge(value) for key, value in node.items()}
    if all(key.isdigit() for key in node):
        return _pile([node[key] for key in sorted(node, key=int)])
    if {*"qkv"} <= {*node}:
        thirds = [node.pop(part)["kernel"] for part in "qkv"]
        node["qkv"] = {"kernel": np.concatenate(thirds, -1)}
    return node


def _pile(trees):
    if not isinstance(trees[0], dict):
        return np.stack(trees)
    return {key: _pile([tree[key] for tree in trees]) for key in trees[0]}
