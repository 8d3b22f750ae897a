"""How many members of a sweep run at once, by the memory that they take."""

import warnings

import jax

from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.sweeps.batches import Batch, Shared, set_up_batch
from jaxmf.training.state import Prepared


def memory_limit(max_memory: int | None, device: jax.Device) -> int | None:
    """`max_memory`, or else what an accelerator has to spare; None for no bound."""
    if max_memory is not None or device.platform == "cpu":
        return max_memory
    stats = device.memory_stats()
    return int(0.8 * stats["bytes_limit"]) if stats and "bytes_limit" in stats else None


def check_kept(limit: int, shapes: dict[Model, Params], groups: dict[Model, list[int]]) -> None:
    """ValueError if the parameters of all members, by their programs, take more than so many bytes."""
    total = sum(num_bytes(shapes[model]) * len(numbers) for model, numbers in groups.items())
    if total > limit:
        raise ValueError(
            f"sweep: the parameters of all {sum(map(len, groups.values()))} members take {_readable(total)}, more than "
            f"max_memory {_readable(limit)}: use keep='best', or a larger max_memory"
        )


def within(limit: int, shared: Shared, batch: Batch, data: Prepared, workers: int) -> tuple[Shared, int]:
    """As many members at once, and as many workers, as `limit` bytes allow, judged by a batch of the widest model."""
    asked = shared.most, workers
    while (needed := _memory(shared, batch, data)) * workers > limit:
        if workers > 1:
            workers = max(1, min(workers - 1, limit // needed))
        elif shared.most > 1:
            most = max(1, min(shared.most // 2, shared.most * limit // needed))
            shared, batch = shared._replace(most=most), batch._replace(width=most, members=batch.members[:most])
        else:
            raise ValueError(
                f"sweep: one member takes {_readable(needed)}, more than max_memory {_readable(limit)}: use a smaller "
                "rank, or a larger max_memory"
            )
    if (shared.most, workers) != asked:
        warnings.warn(
            f"sweep: to stay below {_readable(limit)}, {shared.most} of {len(shared.members)} members at once in "
            f"{workers} worker(s), not {asked[0]} in {asked[1]}",
            stacklevel=5,
        )
    return shared, workers


def num_bytes(shapes: Params) -> int:
    """Size of parameters of these shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _memory(shared: Shared, batch: Batch, data: Prepared) -> int:
    """Bytes on the device that the program of this batch takes, by XLA's own account: arguments, results and work."""
    program, *arguments = set_up_batch(shared, batch, data)
    found = program.lower(*arguments, 0).compile().memory_analysis()  # type: ignore[attr-defined]
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def _readable(size: float) -> str:
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    return next((f"{size / unit:.1f} {name}" for name, unit in units if size >= unit), f"{size:.0f} bytes")
