"""All of pmap: mesh, placement, the mapped step.

The state is replicated without a device axis and the batch is split over the mesh, so
metrics come out as scalars, Orbax saves the state as it is, and the step compiles once
(without the explicit placement, or with a stacked state, XLA compiles it twice). To
move to another parallelism, this is the one file to change.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def mesh():
    """One axis over this process's devices; its name is pmap's axis name."""
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def replicate(tree):
    """Put a pytree on every device, without a leading device axis."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def split(batch):
    """Host arrays [B, ...] to device arrays [devices, B / devices, ...].

    Raises:
      ValueError: B is not divisible by the number of devices.
    """
    devices = jax.local_device_count()
    size = len(next(iter(batch.values())))
    if size % devices:
        raise ValueError(
            f"a batch of {size} does not divide over {devices} devices; "
            "choose batch_size as a multiple"
        )
    sharding = NamedSharding(mesh(), PartitionSpec(AXIS))
    batch = {
        k: v.reshape(devices, size // devices, *v.shape[1:]) for k, v in batch.items()
    }
    return jax.device_put(batch, sharding)


def mapped_step(step):
    """pmap a step `(state, batch, key) -> (state, metrics)`; the state is donated.

    The step sums over `AXIS` itself; state and metrics come out equal on all devices.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=(0,),
    )
