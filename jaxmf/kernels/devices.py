"""One solver's work on several local devices; with one device, arrays and functions are returned unchanged."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmf.data.checks import is_positive_integer

AXIS = "devices"


def check_devices(name: str, devices: int) -> None:
    """Raise a ValueError unless this is a positive number of devices that the process has; `name` is the solver's."""
    if not is_positive_integer(devices):
        raise ValueError(f"{name}: devices must be a positive integer, not {devices!r}")
    if devices > 1 and devices > jax.local_device_count():
        raise ValueError(
            f"{name}: devices={devices}, but JAX has {jax.local_device_count()} here. Each may be a core of the CPU: "
            f"call jax.config.update('jax_num_cpu_devices', {devices}) before anything else uses JAX."
        )


def replicate(tree: Any, devices: int) -> Any:
    """Copy the arrays to all devices."""
    return tree if devices == 1 else jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def unreplicate(tree: Any, devices: int) -> Any:
    """Return the first device's copy of replicated arrays."""
    return tree if devices == 1 else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def shard(tree: Any, devices: int, spec: PartitionSpec) -> Any:
    """In a compiled program: split the arrays over the devices along the axis that `spec` names."""
    return tree if devices == 1 else jax.lax.with_sharding_constraint(tree, NamedSharding(_mesh(devices), spec))


def shard_map(function: Callable[..., Any], devices: int, specs: Any) -> Callable[..., Any]:
    """Run the function on every device, each with its shards of the arguments; results must be replicated."""
    if devices == 1:
        return function
    return jax.shard_map(function, mesh=_mesh(devices), in_specs=specs, out_specs=PartitionSpec(), check_vma=False)


def all_gather(tree: Any, devices: int) -> Any:
    """In `shard_map`: concatenate the arrays of all devices along their first axis."""
    return tree if devices == 1 else jax.tree.map(lambda rows: jax.lax.all_gather(rows, AXIS, tiled=True), tree)


def ppermute(tree: Any, devices: int) -> Any:
    """In `shard_map`: receive the next device's arrays; the last device receives those of the first."""
    ring = [(device, (device - 1) % devices) for device in range(devices)]
    return tree if devices == 1 else jax.tree.map(lambda rows: jax.lax.ppermute(rows, AXIS, ring), tree)


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
