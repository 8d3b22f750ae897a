"""The work of one solver spread over several devices of this process."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmf.data.checks import is_positive_integer

AXIS = "devices"


def check_devices(name: str, devices: int) -> None:
    """ValueError unless so many local devices can work for this solver."""
    if not is_positive_integer(devices):
        raise ValueError(f"{name}: devices must be a positive integer, not {devices!r}")
    if devices > 1 and devices > jax.local_device_count():
        raise ValueError(
            f"{name}: devices={devices}, but JAX has {jax.local_device_count()} here. Each may be a core of the CPU: "
            f"call jax.config.update('jax_num_cpu_devices', {devices}) before anything else uses JAX."
        )


def replicate(tree: Any, devices: int) -> Any:
    """The arrays on all of so many devices, if it is more than one."""
    return tree if devices == 1 else jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def unreplicate(tree: Any, devices: int) -> Any:
    """The arrays on the first of so many devices."""
    return tree if devices == 1 else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def shard(tree: Any, devices: int, spec: PartitionSpec) -> Any:
    """In a compiled program: the arrays cut along the axis that `spec` names, a share on each device."""
    return tree if devices == 1 else jax.lax.with_sharding_constraint(tree, NamedSharding(_mesh(devices), spec))


def shard_map(function: Callable[..., Any], devices: int, specs: Any) -> Callable[..., Any]:
    """The function on each of so many devices, with its shares of the arguments; the results are alike on all."""
    if devices == 1:
        return function
    return jax.shard_map(function, mesh=_mesh(devices), in_specs=specs, out_specs=PartitionSpec(), check_vma=False)


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))


def all_gather(tree: Any, devices: int) -> Any:
    """The rows of all devices, one after another."""
    return tree if devices == 1 else jax.tree.map(lambda rows: jax.lax.all_gather(rows, AXIS, tiled=True), tree)


def ppermute(tree: Any, devices: int) -> Any:
    """What the next device has; the last gets that of the first."""
    ring = [(device, (device - 1) % devices) for device in range(devices)]
    return tree if devices == 1 else jax.tree.map(lambda rows: jax.lax.ppermute(rows, AXIS, ring), tree)
