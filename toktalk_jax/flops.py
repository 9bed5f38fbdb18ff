"""Floating point operations of a function, and the most that a device can do a second.

XLA's cost analysis counts the body of a scan once, so a network of stacked layers looks
several times cheaper than it is. Here the traced function is walked. As in PaLM's model
FLOP (Chowdhery et al., 2022, appendix B), matrix products and convolutions count, a
multiplication and an addition each; norms, activations and softmaxes do not.
"""

import functools
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

# Device kind: TFLOP/s in bfloat16 and in float32 as JAX multiplies it by default (TF32
# on these GPUs, one bfloat16 pass on a TPU). Dense, so half of what a datasheet states
# "with sparsity". From NVIDIA's datasheets of the L4, L40S, A100, H100, H200 and HGX
# B200, and from cloud.google.com/tpu/docs on each version. A kind that no line names in
# full, such as a MIG slice, is measured.
PUBLISHED = {
    r"NVIDIA L4": (121, 60),
    r"NVIDIA L40S": (362, 183),
    r"NVIDIA A100(-SXM4|-PCIE|-PG509)?[- ]\d+GB( PCIe)?": (312, 156),
    r"NVIDIA H100 PCIe": (756, 378),
    r"NVIDIA H100 NVL|NVIDIA H200 NVL": (835, 417),
    r"NVIDIA H100 \d+GB HBM3|NVIDIA H200": (989, 494),  # SXM
    r"NVIDIA B200": (2250, 1100),
    r"TPU v4": (275, 275),
    r"TPU v5 lite|TPU v5e": (197, 197),
    r"TPU v5|TPU v5p": (459, 459),
    r"TPU v6 lite|TPU v6e": (918, 918),
}
BUSY_S = 0.02  # a product that takes this long keeps every core and unit busy


def count(function, *args):
    """Floating point operations of `function(*args)`, over all devices that it maps to.

    The greatest branch of a condition counts. What a rematerialised function computes
    again counts again: it is what the hardware does, not the model.

    Args:
      args: arrays or `jax.ShapeDtypeStruct`s; nothing is allocated, nothing runs.

    Raises:
      ValueError: products inside a `while_loop`, whose number of turns no trace tells.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr):
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation):
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_general(*(v.aval.shape for v in equation.invars), params)
    if name == "conv_general_dilated":
        return _convolution(equation.invars[1].aval, equation.outvars[0].aval, params)
    inner = [_count(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError(
            f"a while loop holds {sum(inner)} floating point operations a turn and "
            "nothing says how many turns; use lax.scan, or lax.fori_loop with bounds "
            "that are Python numbers"
        )
    return _turns(name, params) * sum(inner)


def _turns(name, params):
    """How often the function inside an equation runs."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # and pmap, which is one
        sizes = params["mesh"].shape
        return math.prod(sizes[axis] for axis in params["newly_manual_axes"])
    return 1


def _jaxprs(params):
    """Functions among an equation's parameters: of jit, scan, cond and others."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: hasattr(leaf, "eqns"))
    return [leaf for leaf in leaves if hasattr(leaf, "eqns")]


def _dot_general(left, right, params):
    (contracted, _), (batch, _) = params["dimension_numbers"]
    once = math.prod(left[i] for i in (*contracted, *batch))
    # Every element of the left meets every free element of the right.
    return 2 * math.prod(left) * (math.prod(right) // once)


def _convolution(kernel, out, params):
    """Products with the zeros that a transposed convolution puts between are none."""
    features = params["dimension_numbers"].rhs_spec[0]
    taps = kernel.size // kernel.shape[features]
    return 2 * out.size * taps // math.prod(params["lhs_dilation"])


def peak(device, dtype):
    """The most floating point operations a second of a device's matrix products.

    Args:
      device: a `jax.Device`; dtype: of the factors.

    Returns:
      (FLOP/s, where the number is from): published for known accelerators, at dense
      bfloat16 or at float32 as JAX multiplies by default; otherwise, and under another
      `jax_default_matmul_precision`, measured here, in about a second.
    """
    default = jax.config.jax_default_matmul_precision in (None, "default")
    column = {"bfloat16": 0, "float16": 0, "float32": 1}.get(jnp.dtype(dtype).name)
    for kind, rates in PUBLISHED.items():
        if default and column is not None and re.fullmatch(kind, device.device_kind):
            return rates[column] * 1e12, f"published for {device.device_kind}"
    return measured_peak(device, dtype)


def measured_peak(device, dtype, seconds=0.5):
    """As `peak`: the best of the square products that fit into `seconds`."""
    product, size, spent = jax.jit(jnp.matmul), 256, [0.0]
    while min(spent) < BUSY_S:
        size *= 2
        rng = np.random.default_rng(0)
        factor = jax.device_put(rng.random((size, size), np.float32), device)
        call = functools.partial(product, *2 * [factor.astype(dtype)])
        call().block_until_ready()  # compile
        spent = [_seconds(call) for _ in range(2)]
    while sum(spent) < seconds:
        spent.append(_seconds(call))
    rate = 2 * size**3 / min(spent)
    return rate, f"measured, {size} x {size} x {size} {jnp.dtype(dtype).name}"


def _seconds(call):
    begin = time.perf_counter()
    call().block_until_ready()
    return time.perf_counter() - begin
