"""Plant mistakes in the package, one at a time, and report which the tests notice.

    python tests/mutate.py [NAME ...]

Each mutant is a copy of the package with one line changed, on which the tests of that code run until the first failure.
Without names all mutants run, which takes half an hour or more on two cores. Exit code 1 if fewer than 90 % are
noticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
TESTS = ("models", "solvers", "training", "data", "evaluate", "verify", "test_contracts.py")


class Mutant(NamedTuple):
    """A mistake: in a file of the package, the first text, which is there once, becomes the second.

    `tests` is the file that should notice it; without it those of `TESTS` are asked, the file's own first.
    """

    file: str
    right: str
    wrong: str
    tests: str = ""


BILINEAR, MODEL, FEATURES = "models/bilinear.py", "models/_objective.py", "models/features.py"
BASELINES = "models/baselines.py"
LEAVES, DRAWS = "models/leaves.py", "kernels/draws.py"
SGD, MINIBATCH, ALS, LOOP = "solvers/_sgd.py", "solvers/_minibatch.py", "solvers/_als.py", "training/loop.py"
SQUARES, TILES, EXACT = "kernels/normal_equations.py", "kernels/tiles.py", "solvers/_exact.py"
SLABS, MATCHED = "kernels/slabs.py", "solvers/matched.py"
SEEN, WHOLE, COMPARISONS = "models/seen.py", "models/whole_matrix.py", "models/_comparisons.py"
WATCHED, IMPLICIT = "training/_watched.py", "models/test_implicit.py"
LADDER, FAMILIES = "training/test_padded_sizes.py", "models/test_families.py"
MATCHINGS, DEVICES = "kernels/_matchings.py", "kernels/devices.py"
BEST, TOP, FOLD = "recommend/_best.py", "recommend/test_top.py", "recommend/test_fold.py"
PROMISES, KEPT = "models/promises.py", "models/test_promises.py"
HALVES, NUMBERS = "solvers/test_als.py", "solvers/test_als_numbers.py"
RANKINGS, WITNESSES = "evaluate/test_rankings.py", "verify/test_witnesses.py"
# The tests of a file that has none of its name: they run first, as most mistakes are noticed there, in seconds.
OBJECTIVE = ["models/test_objective.py"]
OWN = {
    BILINEAR: [*OBJECTIVE, "verify/test_gradients.py", WITNESSES],
    MODEL: OBJECTIVE,
    LEAVES: [*OBJECTIVE, "solvers/test_minibatch.py", "solvers/test_sgd.py"],
    "metrics.py": [*OBJECTIVE, "evaluate/test_errors.py", "training/test_fit.py"],
    LOOP: ["training/test_fit.py"],
    SQUARES: [HALVES, NUMBERS],
    TILES: [HALVES],
    EXACT: [HALVES],
    SLABS: [HALVES],
    MATCHED: ["solvers/test_sgd.py", "models/test_context.py"],
    PROMISES: [KEPT],
}
MUTANTS = {
    "loss: not squared": Mutant(BILINEAR, "predict(params, ratings)) ** 2", "predict(params, ratings))"),
    "predict: item bias twice": Mutant(
        BILINEAR, 'rating = rating + rows["bias"][index]', 'rating = rating + item["bias"][items]'
    ),
    "predict: items for users": Mutant(
        BILINEAR, 'user["factors"][users] * item["factors"][items]', 'user["factors"][items] * item["factors"][items]'
    ),
    "gradient: sign of the pull": Mutant(BILINEAR, 'out["factors"] -= 2', 'out["factors"] += 2'),
    "gradient: missing 2": Mutant(BILINEAR, 'out["bias"] -= 2', 'out["bias"] -= 1'),
    "gradient: forgotten λ_b": Mutant(BILINEAR, '"bias": bias_l2(hyper), "content"', '"bias": hyper.l2, "content"'),
    "gradient: forgotten λ of content": Mutant(BILINEAR, '"content": hyper.l2}', '"content": 0}'),
    "gradient: mask ignored": Mutant(
        BILINEAR, "segment_sum(error, index, num_rows)", "segment_sum(error / ratings.weight, index, num_rows)"
    ),
    "hvp: mask ignored": Mutant(BILINEAR, "    change *= ratings.weight\n", "", WITNESSES),
    "hvp: error forgotten": Mutant(
        BILINEAR, 'pull -= error[:, None] * moved_others["factors"][other_index]', "pull = pull", WITNESSES
    ),
    "hvp: users moved twice": Mutant(
        BILINEAR,
        'change += rows["bias"][index]',
        'change += 2 * rows["bias"][index]',
        WITNESSES,
    ),
    "embed: no biases of users": Mutant(BILINEAR, 'of_user = of_user + user["bias"]\n', "of_user = of_user\n"),
    "scores: of the first users": Mutant(
        "models/_scores.py",
        "jax.tree.map(lambda leaf: leaf[users], rows.user)",
        "jax.tree.map(lambda leaf: leaf[: len(users)], rows.user)",
    ),
    "minibatch: the background forgotten": Mutant(
        MINIBATCH,
        "beside(model, Params(trained, fixed), problem.weight, hyper)",
        "model.penalty(trained, problem.weight, hyper)",
    ),
    "sgd: no context": Mutant(
        MATCHED, "        cells.context,\n", "        jax.tree.map(lambda leaf: 0 * leaf, cells.context),\n"
    ),
    "penalty: content free": Mutant(BILINEAR, 'for name in ("factors", "content"):', 'for name in ("factors",):'),
    "design: bias left in the target": Mutant(BILINEAR, '        target = target - others["bias"][index]\n', ""),
    "design: content left in the items' target": Mutant(
        BILINEAR, "target = target - project(a, x, ratings.user, ratings.item)", "pass"
    ),
    "init: empty rows drawn": Mutant(BILINEAR, "jnp.where((n > 0)[:, None], ", "jnp.where((n >= 0)[:, None], "),
    "init: rank not masked": Mutant(BILINEAR, "fill_beyond_rank(rows, hyper.rank)", "rows"),
    "mean: weights ignored": Mutant(
        BILINEAR, "weighted_mean(ratings.value, ratings.weight)", "jnp.mean(ratings.value)"
    ),
    "damped bias: not damped": Mutant(
        BASELINES, "ratings.num_items) / (n_i + damping_item)", "ratings.num_items) / jnp.maximum(n_i, 1)"
    ),
    "content: padding overwrites": Mutant(FEATURES, ".add(x.value[items])", ".set(x.value[items])"),
    "content: pull without the error": Mutant(
        FEATURES, ".add(error[:, None] * x.value[ratings.item])", ".add(x.value[ratings.item])"
    ),
    "row weights: exponent ignored": Mutant(MODEL, "jnp.where(n > 0, n, 1) ** exponent", "jnp.where(n > 0, n, 1)"),
    "row weights: 0^0 = 0": Mutant(MODEL, "jnp.where(jnp.equal(exponent, 0), 1, 0)", "jnp.zeros(jnp.shape(exponent))"),
    "objective: mean for sum": Mutant(
        MODEL, "return total(ratings.weight * model.loss", "return jnp.mean(ratings.weight * model.loss"
    ),
    "objective: held-out counted": Mutant(MODEL, "return total(ratings.weight * model.loss", "return total(model.loss"),
    "update scale: bias rate ignored": Mutant(LEAVES, "one * (hyper.learning_rate_bias / hyper.learning_rate)", "one"),
    "update scale: rank not masked": Mutant(
        LEAVES, "jnp.where(jnp.broadcast_to(", "jnp.where(True | jnp.broadcast_to("
    ),
    "metrics: mean for weighted mean": Mutant("metrics.py", "*(weight * array for array in values)", "*values"),
    "metrics: no square root": Mutant("metrics.py", "jnp.sqrt(mse(", "(mse("),
    "metrics: no absolute value": Mutant("metrics.py", "jnp.abs(value - prediction)", "(value - prediction)"),
    "take: padding has weight": Mutant(
        "data/ratings.py", "weight=jnp.where(inside, gathered.weight, 0)", "weight=gathered.weight"
    ),
    "promises: the ridge is no factor": Mutant(
        PROMISES, "slope(trained), jax.tree.map(jnp.multiply, ridge, trained)", "slope(trained), slope(trained)", KEPT
    ),
    "promises: every share is the whole": Mutant(PROMISES, "    if not shared:\n", "    if True:\n", KEPT),
    "promises: forgotten of one's own numbers": Mutant(
        "models/trial.py", "jax.tree.leaves(hyper.extra))", "jax.tree.leaves(()))", KEPT
    ),
    "sgd: full penalty per rating": Mutant(MATCHED, "hyper.reg_exponent - 1)", "hyper.reg_exponent)"),
    "sgd: ascent": Mutant(SGD, "lambda scale: -rate * scale", "lambda scale: rate * scale"),
    "sgd: conflicting ratings": Mutant(
        MATCHINGS, "busy = user_busy[u] | item_busy[i] | full", "busy = user_busy[u] | full"
    ),
    "sgd: blocks of one group of items": Mutant(MATCHINGS, "[item] - user_group) % batch_size", "[item]) % batch_size"),
    "sgd: stale order": Mutant(
        SGD, "visiting_order(key, constants", "(lambda _, n, most: jnp.arange(most))(key, constants"
    ),
    "sgd: items stay on their device": Mutant(
        SGD, "item=ppermute(tables.item, options.devices)", "item=tables.item", "solvers/test_devices.py"
    ),
    "als: devices in turn instead of in rows": Mutant(
        DEVICES,
        "AXIS, tiled=True)",
        "AXIS).swapaxes(0, 1).reshape(-1, *rows.shape[1:])",
        "solvers/test_devices.py",
    ),
    "sgd: value clipping on held-out ratings": Mutant(SGD, "jnp.where(_per_row(w > 0, old), new, old)", "new"),
    "sgd: update clipping at half": Mutant(
        SGD, "rates, slope), options.clip_update)", "rates, pull), options.clip_update and options.clip_update / 2)"
    ),
    "sgd: schedule a step late": Mutant(SGD, "options.schedule(state[0])", "options.schedule(state[0] + 1)"),
    "minibatch: sum for mean": Mutant(MINIBATCH, "fit / jnp.where(size > 0, size, 1)", "fit"),
    "minibatch: whole penalty per step": Mutant(MINIBATCH, " + others / whole", " + others"),
    "minibatch: optimizer forgets": Mutant(MINIBATCH, "updates, state = update(", "updates, _ = update("),
    "minibatch: bias rate ignored": Mutant(
        MINIBATCH, "jax.tree.map(jnp.multiply, updates, update_scale(trained, hyper))", "updates"
    ),
    "als: λ doubled": Mutant(
        "models/least_squares.py",
        "getattr(trained, side))), num_rows) / 2",
        "getattr(trained, side))), num_rows)",
        HALVES,
    ),
    "als: users never solved": Mutant(
        ALS, 'for side in ("user", "item"):\n            half', 'for side in ("item",):\n            half'
    ),
    "als: weights not under a root": Mutant("solvers/_slabs.py", "root = jnp.sqrt(weight)", "root = (weight)", HALVES),
    "als: rows of fewer ratings unregularized": Mutant(
        SQUARES, "identity = np.eye(K.shape[-1], dtype=K.dtype)", "identity = 1e-6 * np.eye(K.shape[-1])", HALVES
    ),
    "als: no penalty is one of 1": Mutant(
        SQUARES, "ridge = jnp.where(weighted, ridge, 1)", "ridge = jnp.where(ridge == 0, 1, ridge)", NUMBERS
    ),
    "als: a ridge that the sums lose": Mutant(
        SQUARES, "return jnp.maximum(ridge, eps", "return jnp.where(True, ridge, eps", NUMBERS
    ),
    "als: steps in the units of the ratings": Mutant(
        SQUARES, "jax.lax.rsqrt(diagonal + ridge)", "jnp.ones_like(ridge)", NUMBERS
    ),
    "als: a long row by its last slab": Mutant(
        EXACT, "return A + dot(Xt, Xt.mT), b", "return dot(Xt, Xt.mT), b", HALVES
    ),
    "als: the slope by the penalty forgotten": Mutant(EXACT, "(-y * moved)", "(-0 * y * moved)", HALVES),
    "als: the slope by the start forgotten": Mutant(EXACT, "(y * (S - R))", "(0 * y * (S - R))", NUMBERS),
    "als: a lost ridge stays in the matrix": Mutant(SQUARES, "plus_diagonal(A, more)", "A", NUMBERS),
    "als: normal equations begin without a ridge": Mutant(EXACT, "ridge[..., None], 0)", "0 * ridge[..., None], 0)"),
    "rankings: blocks in the order of the first": Mutant(
        "evaluate/_positions.py",
        "users = slice(index * size, (index + 1) * size)",
        "users = slice(0, size)",
        RANKINGS,
    ),
    "als: a lost ridge pulls at the row": Mutant(EXACT, "jnp.where(S > R, before, z)", "z", NUMBERS),
    "als: a lost ridge lets the start go": Mutant(SQUARES, "b + more * start", "b", NUMBERS),
    "als: weights have no slope": Mutant(
        EXACT, "-jnp.sum(w * image * error)", "-jnp.sum((w > 0) * image * error)", HALVES
    ),
    "tiles: a slab too few": Mutant(
        TILES,
        "_slabs(longest, widths)",
        "_slabs(np.maximum(longest - 1, 0), widths)",
        HALVES,
    ),
    "tiles: as many cells as are in use": Mutant(
        TILES, "np.full((devices, -(-used // step) * step)", "np.full((devices, used)", LADDER
    ),
    "tiles: long rows by their first ratings": Mutant(
        SLABS, "sum(remainder >= width for width in narrow)", "0 * remainder", HALVES
    ),
    "als: the slope of a background forgotten": Mutant(
        EXACT, "slope = gather_rows(background.slope, part.rows, 0)", "slope = jnp.zeros_like(ridge)", FAMILIES
    ),
    "als: rows without ratings stay at 0": Mutant(
        SLABS, "tiles.ends[-1] if all_rows else tiles.ends[-2]", "tiles.ends[-2]", FAMILIES
    ),
    "als: the slope by a background forgotten": Mutant(
        EXACT, "by_curvature - dot(y.mT, z).astype(by_curvature.dtype)", "by_curvature", FAMILIES
    ),
    "row weights: cells of one's own side": Mutant(
        MODEL, "n_u + unobserved * ratings.num_items", "n_u + unobserved * ratings.num_users", FAMILIES
    ),
    "seen: held-out ratings too": Mutant("models/seen.py", "ratings.weight > 0", "ratings.weight >= 0", FAMILIES),
    "seen: all but a user's last": Mutant(
        SEEN, "(position < seen.first[user + 1]) &", "(position < seen.first[user + 1] - 1) &", FAMILIES
    ),
    "seen: repeated items twice": Mutant(SEEN, "& ~jnp.pad(repeated, (1, 0))", "", IMPLICIT),
    "unseen: drawn among all items": Mutant(
        SEEN,
        "uniform = _nth_unseen(seen, user[:, None], integers(key, free, num_draws))",
        "uniform = integers(key, free, num_draws)",
        IMPLICIT,
    ),
    "unseen: popular items as they come": Mutant(
        SEEN, "jnp.where(is_seen(seen, user[:, None], drawn), items, drawn)", "drawn", IMPLICIT
    ),
    "unseen: the expected number of one draw": Mutant(
        SEEN, "jnp.log(num_draws / jnp.maximum(free, 1)", "jnp.log(1 / jnp.maximum(free, 1)", IMPLICIT
    ),
    "ials: the sum over all cells by one side's Gram": Mutant(
        WHOLE, "_gram(left) * _gram(right)", "_gram(right) * _gram(right)", IMPLICIT
    ),
    "ials by hand: the other side's Gram": Mutant(
        WHOLE,
        "_times(left, _gram(right)), _times(right, _gram(left))",
        "_times(left, _gram(left)), _times(right, _gram(left))",
        IMPLICIT,
    ),
    "ials by hand: half the slope of all cells": Mutant(WHOLE, "leaf + 2 * hyper", "leaf + hyper", IMPLICIT),
    "ials by hand: biases of the wrong column": Mutant(WHOLE, "by_left, -1)", "by_left, -2)", IMPLICIT),
    "ials by hand: the Hessian's change of a Gram halved": Mutant(WHOLE, "change + change.T", "change", IMPLICIT),
    "ials by hand: the penalty of E forgotten": Mutant(
        WHOLE, "pull + 2 * hyper.l2 * jnp.sum(weight.item) / len(E) * E", "pull", IMPLICIT
    ),
    "als: shared leaves stay where they are": Mutant(
        ALS, "if jax.tree.leaves(params.trained.shared):", "if False:", IMPLICIT
    ),
    "bpr by hand: a sum for the mean over draws": Mutant(
        COMPARISONS,
        "jax.nn.sigmoid(s[:, 1:] - s[:, :1]) / (s.shape[1] - 1))",
        "jax.nn.sigmoid(s[:, 1:] - s[:, :1]))",
        IMPLICIT,
    ),
    "bpr by hand: the observed item's slope forgotten": Mutant(
        COMPARISONS, "[-of_drawn.sum(axis=1, keepdims=True), of_drawn]", "[0 * of_drawn[:, :1], of_drawn]", IMPLICIT
    ),
    "softmax by hand: the observed item's 1 forgotten": Mutant(
        COMPARISONS, "axis=1).at[:, 0].add(-1)", "axis=1)", IMPLICIT
    ),
    "softmax: the correction added": Mutant(COMPARISONS, "s - jnp.pad(", "s + jnp.pad(", IMPLICIT),
    "logistic by hand: every rating a 1": Mutant(COMPARISONS, ".add(-ratings.value)", ".add(-1)", IMPLICIT),
    "monitor: training items are candidates": Mutant(
        WATCHED, "jnp.where(row.hidden, jnp.finfo(score.dtype).min, score)", "score", IMPLICIT
    ),
    "monitor: held-out weights are trained on": Mutant(WATCHED, "train.weight > 0)", "train.weight >= 0)", IMPLICIT),
    "monitor: the lowest ranking is the best": Mutant(
        LOOP, "score = cost_sign(column) * row[column]", "score = row[column]", IMPLICIT
    ),
    "sweep: the lowest ranking is the best": Mutant(
        "sweeps/result.py", "cost_sign(column) * values", "values", IMPLICIT
    ),
    "minibatch: one draw for all batches": Mutant(
        MINIBATCH, "jax.random.fold_in(key, first)", "jax.random.fold_in(key, 0)", FAMILIES
    ),
    "fit: measured at the last step": Mutant(
        LOOP, "row = _measure(fit, reported)", "row = _measure(fit, params)", "training/test_result.py"
    ),
    "als: rows without weight stay where they are": Mutant(
        ALS,
        'solved.at[half.tiles.slot].get(mode="fill", fill_value=0), 0)',
        "solved.at[half.tiles.slot].get(), pack(like, num_rows))",
        NUMBERS,
    ),
    "draws: alike for all keys": Mutant(DRAWS, "numbers = hash32(numbers, word)", "pass"),
    "draws: the columns are one in other orders": Mutant(
        DRAWS, "hash32(hash32(row, salts[0][None]), salts[1][None])", "hash32(row, salts[0][None] & 255)"
    ),
    "draws: no tails": Mutant(DRAWS, "jax.lax.erf_inv(jnp.clip(uniform, -limit, limit))", "uniform"),
    "minibatch: batches of padding are steps": Mutant(MINIBATCH, "first < num_ratings", "first >= 0", LADDER),
    "minibatch: padding in the order": Mutant(
        MINIBATCH, "shuffle(key, num_ratings, size)", "shuffle(key, size, size)", LADDER
    ),
    "sgd: empty matchings in the order": Mutant(
        SGD, "shuffle(key, num_matchings, most)", "shuffle(key, most, most)", LADDER
    ),
    "total: a sum that padding changes": Mutant(
        "metrics.py",
        "return total(sums) if sums.shape[-1] > 1 else jnp.sum(sums, axis=-1)",
        "return jnp.sum(sums, axis=-1)",
        LADDER,
    ),
    "ladder: padding has weight": Mutant(
        "data/ratings.py",
        "np.pad(np.asarray(ratings.weight), (0, more))",
        "np.resize(np.asarray(ratings.weight), size)",
    ),
    "fingerprints: of padding too": Mutant(
        "training/_fingerprints.py", "np.asarray(leaf)[:end]", "np.asarray(leaf)", LADDER
    ),
    "als: converges at once": Mutant(ALS, "converged = change < tol * _block_norms(after)", "converged = change > 0"),
    "loop: best is the last": Mutant(LOOP, "improved = finite & (", "improved = finite | ("),
    "loop: patience off by one": Mutant(
        LOOP, "epoch - best.epoch >= options.patience", "epoch - best.epoch > options.patience"
    ),
    "loop: one key for all epochs": Mutant(LOOP, "jax.random.fold_in(fit.key, epoch), fit.model", "fit.key, fit.model"),
    "loop: divergence kept": Mutant(
        LOOP, "return _either(finite, after, halted)", "return _either(True, after, halted)"
    ),
    "loop: min_delta ignored": Mutant(LOOP, "(score < best.score - options.min_delta)", "(score < best.score)"),
    "sweep: the sweep's own key, whatever the seed": Mutant(
        "sweeps/plan.py",
        "key if member.seed is None else jax.random.fold_in(key, member.seed)",
        "key",
        "training/test_sweep.py",
    ),
    "init: one draw for both sides": Mutant(
        BILINEAR,
        'rows_of("item", drawn[len(n_u) :], n_i)',
        'rows_of("item", drawn[: len(n_i)], n_i)',
        "models/test_objective.py",
    ),
    "shell: the seed of the fit ignored": Mutant(
        "shell/jobs.py", "fit(jax.random.key(seed)", "fit(jax.random.key(0)", "test_jobs.py"
    ),
    "top_n: groups as they come": Mutant(BEST, "chosen = jnp.sort(chosen, axis=-1)", "pass", TOP),
    "top_n: padding is an item": Mutant(BEST, "jnp.where(inside, scores[:, tail:], lowest)", "scores[:, tail:]", TOP),
    "top_n: ratings taken as sorted": Mutant(
        "recommend/top.py", 'rated = rated[np.argsort(train.user, kind="stable")]', "pass", TOP
    ),
    "top_n: no mean for an unknown user": Mutant(
        "recommend/top.py", "means, means.dtype.type(mean))}", "means, means.dtype.type(0))}", TOP
    ),
    "fold_in: new items known at once": Mutant(
        "recommend/fold.py", "early = observed.item < first_new_item", "early = observed.item >= 0", FOLD
    ),
    "fold_in: a user's sum for their mean": Mutant("recommend/grow.py", "(total / count)", "total", FOLD),
    "similar: products for cosines": Mutant(
        "recommend/similar.py", "rows[nonzero] / norm[nonzero]", "rows[nonzero]", "recommend/test_similar.py"
    ),
    "folds: the data's weights forgotten": Mutant(
        "sweeps/batches.py",
        "train=replace(train, weight=whole * weight)",
        "train=replace(train, weight=weight)",
        "training/test_sweep.py",
    ),
    "align: weights stay those of the other pairs": Mutant(
        "data/_extension.py", '("rating", "timestamp", "weight")', '("rating", "timestamp")', "data/test_weights.py"
    ),
    "confidence: a value of 1 / (c - 1)": Mutant(
        "data/_weights.py", "rating=(1 + excess) / excess", "rating=1 / excess", "data/test_weights.py"
    ),
    "random_per_user: in the order of the data": Mutant(
        "data/splits.py",
        "generator(seed).permutation(len(data)), data.user",
        "np.arange(len(data)), data.user",
        "data/test_splits.py",
    ),
    "leave_last: one too few": Mutant(
        "data/splits.py", "position >= n - held_out", "position > n - held_out", "data/test_splits.py"
    ),
    "implicit: users avoid what they like": Mutant(
        "data/_synthetic.py", "np.exp(-taste)", "np.exp(taste)", "data/test_datasets.py"
    ),
    "extend: ratings taken as sorted": Mutant(
        "data/_extension.py", "earlier = np.sort(numbered(", "earlier = (numbered(", "recommend/test_extend.py"
    ),
    "leakage: equal times are before": Mutant(
        "evaluate/audit.py", "future < last[test_user]", "future <= last[test_user]", "evaluate/test_audit.py"
    ),
    "leakage: pairs taken as sorted": Mutant("evaluate/audit.py", "np.sort(pair)", "pair", "evaluate/test_audit.py"),
    "rankings: seen pairs stay": Mutant(
        "evaluate/_setting.py", "unseen = ~among(pair, hidden)", "unseen = pair >= 0", RANKINGS
    ),
    "rankings: ties in full": Mutant(
        "evaluate/_measures.py", "hits = total((high - low) / tied)", "hits = total(above < k)", RANKINGS
    ),
    "rankings: ties of auc in full": Mutant(
        "evaluate/_measures.py", "(tied - relevant_tied) / 2", "(tied - relevant_tied)", RANKINGS
    ),
    "rankings: map over all relevant": Mutant(
        "evaluate/_measures.py", "total(precisions / tied), np.minimum(R, k)", "total(precisions / tied), R", RANKINGS
    ),
    "rankings: padding covers items": Mutant("evaluate/_positions.py", "hidden[len(users) :] = True", "pass", RANKINGS),
    "predict: a program for every number of pairs": Mutant(
        "evaluate/errors.py", "np.arange(padded_size(n))", "np.arange(n)", "evaluate/test_errors.py"
    ),
    "probes: weights of padding": Mutant(
        "verify/_probes.py",
        "perturbed(trained, random), without_padding(case)",
        "perturbed(trained, random), case.ratings",
        "verify/test_ladder.py",
    ),
    "hessian: target in the curvature": Mutant(
        "verify/curvature.py", "slope(v, jnp.zeros_like(target), 0.0)", "slope(v, target, 0.0)", WITNESSES
    ),
    "complex step: another direction": Mutant(
        "verify/_taylor.py", "jax.lax.complex(x, _IMAGINARY * v)", "jax.lax.complex(x, _IMAGINARY * x)", WITNESSES
    ),
    "differences: a wrong weight": Mutant(
        "verify/_differences.py", "{-1: -1 / 2, 1: 1 / 2}", "{-1: -1 / 2, 1: 1 / 3}", WITNESSES
    ),
    "stationarity: above the highest": Mutant(
        "verify/_stationarity.py", 'table["objective"].min() - 1', 'table["objective"].max() - 1', WITNESSES
    ),
    "mutants: nothing planted": Mutant(
        "verify/_mutants.py", "_one_leaf, 0, lambda leaf: -leaf", "_one_leaf, 0, lambda leaf: leaf", WITNESSES
    ),
}


def noticed(mutant: Mutant) -> bool:
    """Whether a test fails on a copy with this mistake; its own tests run first."""
    own = OWN.get(mutant.file, [f"{Path(mutant.file).parent}/test_{Path(mutant.file).name}"])
    asked = [mutant.tests] if mutant.tests else dict.fromkeys([*own, *TESTS])
    tests = [f"tests/{test}" for test in asked if (ROOT / "tests" / test).exists()]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for part in ("jaxmf", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "jaxmf" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.right) != 1:
            raise ValueError(f"{mutant.file} has {text.count(mutant.right)} times: {mutant.right}")
        path.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
        tests.append("--ignore=tests/solvers/test_watchdog.py")  # takes minutes to look for deadlocks in JAX
        # In one process: the workers of pytest-xdist would finish their files after the first failure.
        command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-qx", "-m", "not realdata", *tests]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{mutant} broke more than a test:\n{done.stdout[-2000:]}")
        return done.returncode == 1


def main(names: list[str]) -> int:
    """Run the mutants, print those that no test noticed, and the share of the others."""
    chosen = {name: MUTANTS[name] for name in names or MUTANTS}
    verdicts = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(noticed, chosen.values())
        for name, verdict in tqdm(zip(chosen, found, strict=True), total=len(chosen), unit="mutant"):
            verdicts.append(verdict)
            if not verdict:
                tqdm.write(f"survived: {name}")
    share = sum(verdicts) / len(verdicts)
    print(f"{sum(verdicts)} of {len(verdicts)} mutants noticed ({share:.0%})")
    return int(share < 0.9)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
