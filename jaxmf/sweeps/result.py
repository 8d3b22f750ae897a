"""What a sweep returns: a table of its members, their histories, and the parameters that were kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.models.leaves import width
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, bias_l2
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps.batches import Result
from jaxmf.sweeps.grid import NUMBERS, Assignment, Member
from jaxmf.training.state import RUNNING, STATUS


@dataclass(frozen=True, repr=False)
class Sweep:
    """The fits of a sweep, in the order of its grid. It can be copied and pickled, as a Fit.

    Attributes:
      table: one row per member, see `to_frame`.
      history: one row per member and epoch, a tidy table: `member`, the names of the grid, and the columns of
        `Fit.history`.
      rungs: who was compared and who went on, one row per rung and member: `rung`, `epochs`, `member`, `score` and
        `selected`; a sweep has one rung, a search by halving several.
      num_programs: programs that were needed, one per width of the factors and of the `vmap` (and per device).
      batch: members that ran at once under `vmap`.
      seconds: from the first program to the last fit, in this call; what was found on disk does not count.
      compile_seconds: spent tracing and compiling, partly while other members ran; about 0 where all programs were
        there already.
      members, models, keys: what each was fitted with.
      kept: parameters on the host, by member.
      score: the column that decides which member is best.
    """

    table: pd.DataFrame
    history: pd.DataFrame
    rungs: pd.DataFrame
    num_programs: int
    batch: int
    compile_seconds: float
    seconds: float
    members: tuple[Member, ...]
    models: tuple[Model, ...]
    keys: tuple[jax.Array, ...]
    kept: dict[int, Params]
    score: str

    def __repr__(self) -> str:
        names, counts = ", ".join(self.members[0].point), self.table["status"].value_counts()
        ends = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"<Sweep of {len(self.members)} members by {names}: {ends}>"

    def to_frame(self) -> pd.DataFrame:
        """One row per member, a tidy table; those of several sweeps concatenate.

        Columns: `member`, `model`, `solver`, `rank`, the numbers of `Hyper` (those not given as what they mean),
        `extra.NAME`, `seed` and `fold` (missing where the sweep has none), `status`, `epochs` that ran, `epoch` whose
        parameters these are (the best on validation with `patience`), the columns of `Fit.history` at that epoch,
        `seconds` (a share of what ran at once), and `dtype`.
        """
        return self.table.copy()

    def best(self, metric: str | None = None) -> int:
        """The member with the lowest value of a metric; the first of equals.

        Args:
          metric: a column of `to_frame`, or "rmse", "mae" or "loss" for those of the validation ratings. Default: what
            the sweep monitored, or the training loss if there were no validation ratings.

        Raises:
          ValueError: no such column, or no member with a finite value of it.
        """
        name = self.score if metric is None else metric
        column = name if name in self.table else f"valid_{name}"
        if column not in self.table or not pd.api.types.is_numeric_dtype(self.table[column]):
            numeric = self.table.select_dtypes("number").columns.tolist()
            raise ValueError(f"best: no metric {name!r}; expected one of {', '.join(numeric)}")
        values = self.table[column].to_numpy(float)
        if not np.isfinite(values).any():
            raise ValueError(f"best: no member has a finite {column}; see the column status of to_frame()")
        return int(np.where(np.isfinite(values), values, np.inf).argmin())

    def params(self, member: int) -> Params:
        """The parameters of a member, at its member rank; a ValueError if `keep` let go of them."""
        self._check(member)
        if member not in self.kept:
            kept = f"only those of member {', '.join(map(str, self.kept))}" if self.kept else "none"
            raise ValueError(
                f"params: those of member {member} were not kept, {kept}. Sweep with keep='all', or fit it: "
                f"jaxmf.fit(runs.key({member}), runs.model({member}), solver, ..., hyper=runs.hyper({member}))"
            )
        return jax.tree.map(jnp.asarray, self.kept[member])

    def model(self, member: int) -> Model:
        """The model of a member, at its rank."""
        self._check(member)
        return self.models[member]

    def hyper(self, member: int) -> Hyper:
        """The numbers of a member."""
        self._check(member)
        return self.members[member].hyper

    def key(self, member: int) -> jax.Array:
        """The key of a member: `fold_in(key, seed)`, or the sweep's member where the grid has no seed."""
        self._check(member)
        return self.keys[member]

    def summary(self, by: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Mean and standard error of every metric over seeds and folds, for each setting.

        Args:
          by: columns that say what a setting is; default: the names of the grid but `seed` and `fold`.

        Returns:
          one row per setting: the columns `by`, `num_members`, `num_diverged`, and for each metric its mean and, with
          the suffix `_se`, its standard error (sample standard deviation / √num_members; missing for one member). A
          member without a finite metric makes the setting's mean missing.

        Raises:
          ValueError: an unknown column.
        """
        if by is None:
            by = [name for name in self.members[0].point if name not in ("seed", "fold")]
        by = [by] if isinstance(by, str) else list(by)
        unknown = [name for name in by if name not in self.table]
        if unknown:
            raise ValueError(
                f"summary: no column {', '.join(unknown)}; expected some of {', '.join(map(str, self.table))}"
            )
        given = {*by, *self.members[0].point, "member", "epoch"}
        metrics = [str(name) for name in self.history if name not in given]
        groups = self.table.groupby(by or (lambda _: 0), sort=False, dropna=False)
        columns: dict[str, Any] = {"num_members": groups.size()}
        columns["num_diverged"] = groups["status"].agg(lambda status: int((status == "diverged").sum()))
        for name in metrics:
            columns[name] = groups[name].agg(lambda values: values.mean(skipna=False))
            columns[f"{name}_se"] = groups[name].agg(lambda values: values.sem(skipna=False))
        return pd.DataFrame(columns).reset_index(drop=not by)

    def _check(self, member: int) -> None:
        if not 0 <= member < len(self.members):
            raise ValueError(f"no member {member}; they are numbered from 0 to {len(self.members) - 1}")


def joined(sweeps: Sequence[Sweep], keep: str) -> Sweep:
    """Several sweeps as one, their members numbered through; keep="best" keeps the parameters of the best of all."""
    offsets = np.cumsum([0, *(len(sweep.members) for sweep in sweeps)]).tolist()

    def moved(name: str) -> pd.DataFrame:
        tables = (getattr(sweep, name) for sweep in sweeps)
        parts = [table.assign(member=table["member"] + first) for table, first in zip(tables, offsets, strict=False)]
        return pd.concat(parts, ignore_index=True)

    kept = {
        first + n: params for sweep, first in zip(sweeps, offsets, strict=False) for n, params in sweep.kept.items()
    }
    whole = Sweep(
        table=moved("table"),
        history=moved("history"),
        rungs=moved("rungs"),
        num_programs=max(sweep.num_programs for sweep in sweeps),
        batch=max(sweep.batch for sweep in sweeps),
        compile_seconds=sum(sweep.compile_seconds for sweep in sweeps),
        seconds=sum(sweep.seconds for sweep in sweeps),
        members=tuple(member for sweep in sweeps for member in sweep.members),
        models=tuple(model for sweep in sweeps for model in sweep.models),
        keys=tuple(key for sweep in sweeps for key in sweep.keys),
        kept=kept,
        score=sweeps[0].score,
    )
    return whole if keep == "all" or not kept else replace(whole, kept={whole.best(): kept[whole.best()]})


def tables(
    assignments: list[Assignment], solver: Solver, shapes: dict[Model, Params], results: dict[int, Result], epochs: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The history of all members, one row per epoch, and the table of members; `epochs` are the most that any ran."""
    histories, rows = [], []
    for number, (member, model, _, run_model) in enumerate(assignments):
        index, epoch, columns, *_ = results[number]
        history = pd.DataFrame({"member": number, **member.point, **columns})
        histories.append(history)
        status = "pruned" if index == RUNNING and len(history) < epochs else STATUS[index]
        ranks = (member.rank, member.hyper.rank, width(shapes[run_model].trained))
        hyper = member.hyper._replace(l2_bias=bias_l2(member.hyper))
        if hyper.learning_rate_bias is None:
            hyper = hyper._replace(learning_rate_bias=hyper.learning_rate)
        rows.append(
            {"member": number, "model": model.name, "solver": solver.name}
            | {"rank": next((int(rank) for rank in ranks if rank is not None), None)}
            | {name: float(value) for name in NUMBERS if (value := getattr(hyper, name)) is not None}
            | {f"extra.{name}": value for name, value in hyper.extra.items()}
            | {"seed": member.seed, "fold": member.fold, "status": status, "epochs": len(history), "epoch": epoch}
            | {name: results[number].at_epoch(name) for name in columns if name not in ("epoch", "seconds")}
            | {"seconds": columns["seconds"][-1], "dtype": str(jax.tree.leaves(shapes[run_model])[0].dtype)}
        )
    table = pd.DataFrame(rows)
    return pd.concat(histories, ignore_index=True), table.astype(dict.fromkeys(("rank", "seed", "fold"), "Int64"))
