"""All of pmap and of hosts: joining, mesh, placement, the mapped step.

The state is replicated without a device axis and the batch is split over the devices of
this process, so metrics come out as scalars and the step compiles once (without the
explicit placement, or with a stacked state, XLA compiles it twice). Every process holds
its own share of the batch; sums over `AXIS` run over the devices of all of them. To
move to another parallelism, this is the one file to change.

How far pmap reaches (the paper's model; numbers by `python -m tools.all_reduce`).

A step sums 86.9 M gradients, 348 MB in f32. A ring of n chips takes 2 (n - 1) (bytes /
n / bandwidth + latency) for it. Computing takes 18.7 GFLOP for a row of 60 frames, at
30% of the bf16 peak (assumed). The share that the sum has of a step of 32 rows a chip
when nothing hides it, and the rows a chip that make it 10% on the most chips of a line:

                                GB/s    n=8   n=32  n=128  n=512   rows
    H100, NVLink                 450    41%      -      -      -    200
    H100, 400 Gb/s InfiniBand     50    86%    87%    88%    90%   2717
    H100, 200 Gb/s InfiniBand     25    92%    93%    93%    94%   4703
    H100, 100 Gb/s Ethernet     12.5    96%    96%    97%    97%  10867
    L40S, PCIe 4                  32    78%      -      -      -   1000
    L40S, 100 Gb/s Ethernet     12.5    90%    91%    92%    93%   3978
    TPU v4, ICI                  270    24%    26%    28%    33%    143
    TPU v5p, ICI                 540    21%    23%    26%    35%    154

On one chip pmap costs nothing, and inside an NVLink host or a TPU slice it is enough:
the state is whole on every chip, but parameters, EMA and Adam's two moments are 1.4 GB,
and a few hundred rows a chip hide the sum. It stops being enough in three places.

- The network between hosts. Behind a NIC the sum is most of a step of 32 rows. First
  give a chip more to do between two sums: more rows, or several micro-batches summed
  before one all-reduce (k of them, a k-th of the sums). Gradients in bf16 halve the
  bytes. Then leave pmap's one flat axis: `jax.jit` over a mesh of two axes, ("host",
  "chip"), with `NamedSharding`, lets XLA scatter-sum inside the host, send an eighth
  of the bytes per NIC and gather again, and start sums while the backward pass, two
  thirds of the computing, still runs.
- Memory. A state is 20 bytes a parameter with gradients: from 4 G parameters on it
  outgrows a chip of 80 GB. Then shard moments, EMA and parameters over the chips
  (ZeRO, FSDP): a reduce-scatter and an all-gather, as many bytes as the all-reduce,
  and again `NamedSharding` of the state under jit. This file is what changes.
- The optimiser. 512 chips of 32 rows are 16,384 rows a step, 512 times the paper's
  batch. Past the critical batch size (McCandlish et al., 2018) more rows buy no fewer
  steps, whatever the links.
"""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
HOSTS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_hosts(detect=False):
    """Join the other processes of this run; call before anything touches a device.

    They are named by the three variables HOSTS, or by Slurm, where a step has several
    tasks. Otherwise this process is alone.

    Args:
      detect: ask JAX to find out, as on the hosts of a TPU pod or under MPI.

    Raises:
      ValueError: some of the three variables are missing, or no cluster is found.
    """
    given = [os.environ.get(name, "") for name in HOSTS]
    if any(given):
        if not all(given) or not (given[1] + given[2]).isdigit():
            raise ValueError(
                "to join hosts set all of "
                + ", ".join(f"{n}={v!r}" for n, v in zip(HOSTS, given, strict=True))
                + "; expected host:port and two numbers"
            )
        jax.distributed.initialize(given[0], int(given[1]), int(given[2]))
    elif detect or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"no cluster of hosts to join: {error}; set {', '.join(HOSTS)}"
            ) from error


def is_writer():
    """Whether this process writes logs, bundles and prints; one does."""
    return jax.process_index() == 0


def wait_for_all(name):
    """Return once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(value):
    """The writer's value (a number) on every process."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float64(value)))


def all_say(yes):
    """Whether every process says yes."""
    if jax.process_count() == 1:
        return bool(yes)
    return bool(multihost_utils.process_allgather(np.array(bool(yes))).all())


def check_batch(batch_size, accumulation=1):
    """Refuse a batch that does not divide over all devices and micro-batches.

    Raises:
      ValueError: names config.batch_size and what it must be a multiple of.
    """
    parts = jax.device_count() * accumulation
    if accumulation < 1 or batch_size % parts or batch_size < 1:
        raise ValueError(
            f"config.batch_size is {batch_size}, which does not divide over "
            f"{jax.device_count()} devices"
            + f" times config.train.accumulation {accumulation}" * (accumulation != 1)
            + f"; choose a multiple of {max(parts, 1)}"
        )


def mesh():
    """One axis over this process's devices; its name is pmap's axis name."""
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def replicate(tree):
    """Put a pytree on every device, without a leading device axis."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def split(batch):
    """This process's host arrays [b, ...] to device arrays [devices, b / devices, ...].

    Raises:
      ValueError: b is not divisible by the number of devices.
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


def shared(tree):
    """A replicated pytree as one array over all processes: how Orbax saves it."""
    if jax.process_count() == 1:
        return tree
    everywhere = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.host_local_array_to_global_array(
        tree, everywhere, PartitionSpec()
    )


def own(tree):
    """The inverse of `shared`: this process's copy."""
    if jax.process_count() == 1:
        return tree
    everywhere = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.global_array_to_host_local_array(
        tree, everywhere, PartitionSpec()
    )
