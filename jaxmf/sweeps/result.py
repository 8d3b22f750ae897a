"""The result of a sweep: a table of its members, their histories, and the parameters that were kept."""

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
from jaxmf.training.options import cost_sign
from jaxmf.training.state import RUNNING, STATUS


@dataclass(frozen=True, repr=False)
class Sweep:
    """The fits of a sweep, in the order of its grid. It can be copied and pickled like a Fit.

    Attributes:
      table: one row per member, see `to_frame`.
      history: a tidy table with one row per member and epoch: `member`, the names of the grid, and the columns of
        `Fit.history`.
      rungs: which members were compared and selected, one row per rung and member: `rung`, `epochs`, `member`, `score`
        and `selected`. A sweep has one rung, a search by halving several.
      num_programs: number of programs needed, one per width of the factors and of the `vmap` (and per device).
      batch: number of members that ran at once under `vmap`.
      seconds: time from the first program to the last fit of this call, without the fits that were read from disk.
      compile_seconds: time spent on tracing and compiling, partly while other members ran; about 0 if all programs were
        compiled before.
      members, models, keys: what each member was fitted with.
      kept: member -> parameters, on the host.
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
        outcomes = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"<Sweep of {len(self.members)} members by {names}: {outcomes}>"

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy table with one row per member; the tables of several sweeps can be concatenated.

        Columns: `member`, `model`, `solver`, `rank`, the fields of `Hyper` (with the value that None stands for),
        `extra.NAME`, `seed` and `fold` (missing if the sweep has none), `status`, `epochs` (the number that ran),
        `epoch` (the epoch of the parameters: with `patience` the best on validation), the columns of `Fit.history` at
        that epoch, `seconds` (an equal share of the time of the batch), and `dtype`.
        """
        return self.table.copy()

    def best(self, metric: str | None = None) -> int:
        """Return the member with the best value of a metric, the first one among equals: the lowest, or of a ranking
        ("ndcg", "recall", "map", "auc") the highest.

        Args:
          metric: a column of `to_frame`, or for that of the validation ratings "rmse", "mae", "loss", or a ranking that
            was monitored. Default: the score that the sweep monitored, or the training loss if there were no validation
            ratings.

        Raises:
          ValueError: there is no such column, or no member has a finite value in it.
        """
        name = self.score if metric is None else metric
        column = name if name in self.table else f"valid_{name}"
        if column not in self.table or not pd.api.types.is_numeric_dtype(self.table[column]):
            numeric = self.table.select_dtypes("number").columns.tolist()
            raise ValueError(f"best: no metric {name!r}; expected one of {', '.join(numeric)}")
        values = self.table[column].to_numpy(float)
        if not np.isfinite(values).any():
            raise ValueError(f"best: no member has a finite {column}; see the column status of to_frame()")
        return int(np.where(np.isfinite(values), cost_sign(column) * values, np.inf).argmin())

    def params(self, member: int) -> Params:
        """Return the parameters of a member, at its own rank; raise ValueError if they were not kept."""
        self._check(member)
        if member not in self.kept:
            kept = f"only those of member {', '.join(map(str, self.kept))} were" if self.kept else "nor were any others"
            raise ValueError(
                f"params: those of member {member} were not kept, {kept}. Sweep with keep='all', or fit it: "
                f"jaxmf.fit(runs.key({member}), runs.model({member}), solver, ..., hyper=runs.hyper({member}))"
            )
        params: Params = jax.tree.map(jnp.asarray, self.kept[member])
        return params

    def model(self, member: int) -> Model:
        """Return the model of a member, at its rank."""
        self._check(member)
        return self.models[member]

    def hyper(self, member: int) -> Hyper:
        """Return the hyperparameters of a member."""
        self._check(member)
        return self.members[member].hyper

    def key(self, member: int) -> jax.Array:
        """Return the key of a member: `fold_in(key, seed)`, or the key of the sweep if the grid has no seed."""
        self._check(member)
        return self.keys[member]

    def summary(self, by: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Return the mean and standard error of every metric over seeds and folds, for each setting.

        Args:
          by: columns whose values make a setting; default: the names of the grid except `seed` and `fold`.

        Returns:
          one row per setting: the columns `by`, `num_members`, `num_diverged`, and for each metric its mean and, with
          the suffix `_se`, its standard error (sample standard deviation / √num_members; missing for one member). If
          the metric is missing for one member, so is the mean.

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
            raise ValueError(f"no member {member}; members are numbered from 0 to {len(self.members) - 1}")


def concatenate(sweeps: Sequence[Sweep], keep: str) -> Sweep:
    """Join sweeps into one with consecutive members; keep="best" keeps only the parameters of the best of all."""
    offsets = np.cumsum([0, *(len(sweep.members) for sweep in sweeps)]).tolist()

    def renumbered(name: str) -> pd.DataFrame:
        tables = (getattr(sweep, name) for sweep in sweeps)
        parts = [table.assign(member=table["member"] + offset) for table, offset in zip(tables, offsets, strict=False)]
        return pd.concat(parts, ignore_index=True)

    kept = {
        offset + n: params for sweep, offset in zip(sweeps, offsets, strict=False) for n, params in sweep.kept.items()
    }
    whole = Sweep(
        table=renumbered("table"),
        history=renumbered("history"),
        rungs=renumbered("rungs"),
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
    """Return the history, one row per member and epoch, and the table of members, of at most `epochs` epochs each."""
    histories, rows = [], []
    for index, (member, model, _, run_model) in enumerate(assignments):
        code, epoch, columns, *_ = results[index]
        history = pd.DataFrame({"member": index, **member.point, **columns})
        histories.append(history)
        status = "pruned" if code == RUNNING and len(history) < epochs else STATUS[code]
        ranks = (member.rank, member.hyper.rank, width(shapes[run_model].trained))
        hyper = member.hyper._replace(l2_bias=bias_l2(member.hyper))
        if hyper.learning_rate_bias is None:
            hyper = hyper._replace(learning_rate_bias=hyper.learning_rate)
        rows.append(
            {"member": index, "model": model.name, "solver": solver.name}
            | {"rank": next((int(rank) for rank in ranks if rank is not None), None)}
            | {name: float(value) for name in NUMBERS if (value := getattr(hyper, name)) is not None}
            | {f"extra.{name}": value for name, value in hyper.extra.items()}
            | {"seed": member.seed, "fold": member.fold, "status": status, "epochs": len(history), "epoch": epoch}
            | {name: results[index].at_epoch(name) for name in columns if name not in ("epoch", "seconds")}
            | {"seconds": columns["seconds"][-1], "dtype": str(jax.tree.leaves(shapes[run_model])[0].dtype)}
        )
    table = pd.DataFrame(rows)
    return pd.concat(histories, ignore_index=True), table.astype(dict.fromkeys(("rank", "seed", "fold"), "Int64"))
