"""Limit the number of members of a sweep that run at once, by the memory that they take."""

import warnings

import jax

from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.sweeps.batches import Batch, Shared, set_up_batch
from jaxmf.training.state import Prepared


def memory_limit(max_memory: int | None, device: jax.Device) -> int | None:
    """Return `max_memory`, or else 80 % of an accelerator's memory, in bytes; None for no limit."""
    if max_memory is not None or device.platform == "cpu":
        return max_memory
    stats = device.memory_stats()
    return int(0.8 * stats["bytes_limit"]) if stats and "bytes_limit" in stats else None


def check_kept(limit: int, shapes: dict[Model, Params], groups: dict[Model, list[int]]) -> None:
    """Raise ValueError if the parameters of all members take more than `limit` bytes; `groups` has them by model."""
    total = sum(num_bytes(shapes[model]) * len(members) for model, members in groups.items())
    if total > limit:
        raise ValueError(
            f"sweep: the parameters of all {sum(map(len, groups.values()))} members take {_readable(total)}, more than "
            f"max_memory {_readable(limit)}: use keep='best', or a larger max_memory"
        )


def within(limit: int, shared: Shared, batch: Batch, data: Prepared, workers: int) -> tuple[Shared, int]:
    """Reduce the workers, and then the members at once, until batches of the widest model fit.

    One batch per worker must stay within `limit` bytes. Returns `shared` with the number of members at once, and the
    number of workers.
    """
    requested = shared.max_width, workers
    while (needed := _memory(shared, batch, data)) * workers > limit:
        if workers > 1:
            workers = max(1, min(workers - 1, limit // needed))
        elif shared.max_width > 1:
            width = max(1, min(shared.max_width // 2, shared.max_width * limit // needed))
            shared, batch = shared._replace(max_width=width), batch._replace(width=width, members=batch.members[:width])
        else:
            raise ValueError(
                f"sweep: one member takes {_readable(needed)}, more than max_memory {_readable(limit)}: use a smaller "
                "rank, or a larger max_memory"
            )
    if (shared.max_width, workers) != requested:
        warnings.warn(
            f"sweep: to stay below {_readable(limit)}, {shared.max_width} of {len(shared.members)} members run at once "
            f"in {workers} worker(s), not {requested[0]} in {requested[1]}",
            stacklevel=5,
        )
    return shared, workers


def num_bytes(shapes: Params) -> int:
    """Return the size in bytes of parameters of these shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _memory(shared: Shared, batch: Batch, data: Prepared) -> int:
    """Return the bytes on the device that a batch takes, as XLA reports them: arguments, results and temporaries."""
    program, *arguments = set_up_batch(shared, batch, data)
    usage = program.lower(*arguments, 0).compile().memory_analysis()  # type: ignore[attr-defined]
    size: int = usage.argument_size_in_bytes + usage.output_size_in_bytes + usage.temp_size_in_bytes
    return size


def _readable(size: float) -> str:
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    return next((f"{size / unit:.1f} {name}" for name, unit in units if size >= unit), f"{size:.0f} bytes")
