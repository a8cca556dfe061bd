"""Trees of ai.onnx.ml: all rows walk all trees at once, one level per step.

A tree is arrays over its places, inner nodes and leaves alike; a leaf is its own child.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.ir.constant import Constant
from kopt.targets.lowering.ml import ML
from kopt.targets.lowering.ml_score import TRANSFORMS, labels_of, rows_of, transformed, two_classes
from kopt.targets.lowering.registry import Array, LoweringContext, lowers

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER", "LEAF")
_MEMBER, _LEAF = _MODES.index("BRANCH_MEMBER"), _MODES.index("LEAF")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


@dataclass(frozen=True)
class Forest:
    """Trees as arrays; one entry per place unless said otherwise.

    Attributes:
        features: the column a node looks at.
        splits: what it compares the column with.
        modes: how, as a position in the list of modes; leaves have the last.
        yes: the place to go to where the comparison holds.
        no: the place to go to where it does not.
        missing: whether NaN goes to ``yes``.
        roots: (trees,) places.
        weights: (places, targets); zero where a place says nothing of a target.
        votes: (places, targets) whether a place says anything of a target.
        members: (places, most members) values of sets, NaN where there are fewer.
    """

    features: np.ndarray
    splits: np.ndarray
    modes: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    missing: np.ndarray
    roots: np.ndarray
    weights: np.ndarray
    votes: np.ndarray
    members: np.ndarray | None = None

    def depth(self) -> int:
        """The number of steps from the roots to the deepest leaf, or -1 where a tree has a cycle."""
        level, steps = np.unique(self.roots), 0
        while True:
            level = level[self.modes[level] != _LEAF]
            if not level.size:
                return steps
            steps += 1
            if steps > len(self.modes):
                return -1
            level = np.unique(np.concatenate([self.yes[level], self.no[level]]))


def _holds(forest: Forest, x: Array, place: Array) -> Array:
    """Whether the comparison at each row's place in each tree holds.  x: (rows, features), place: (rows, trees)."""
    value = jnp.take_along_axis(x, jnp.asarray(forest.features)[place], 1)
    split, mode = jnp.asarray(forest.splits)[place], jnp.asarray(forest.modes)[place]
    known = sorted(set(forest.modes.tolist()) - {_LEAF})
    compared = {
        0: lambda: value <= split,
        1: lambda: value < split,
        2: lambda: value >= split,
        3: lambda: value > split,
        4: lambda: value == split,
        5: lambda: value != split,
        _MEMBER: lambda: jnp.any(value[..., None] == jnp.asarray(forest.members)[place], -1),
    }
    result = compared[known[0]]()
    for number in known[1:]:
        result = jnp.where(mode == number, compared[number](), result)
    return (result | (jnp.isnan(value) & jnp.asarray(forest.missing)[place])) if forest.missing.any() else result


def leaves_of(ctx: LoweringContext, forest: Forest, x: Array) -> Array:
    """The leaf of each row in each tree: (rows, trees) places."""
    steps = forest.depth()
    if steps < 0:
        raise ctx.unsupported("a tree has a cycle")
    if forest.features.size and not 0 <= forest.features.min() <= forest.features.max() < x.shape[1]:
        raise ctx.unsupported(f"a tree looks at feature {forest.features.max()} of {x.shape[1]}")
    start = jnp.broadcast_to(jnp.asarray(forest.roots, np.int32), (x.shape[0], len(forest.roots)))
    if not steps:
        return start
    yes, no = jnp.asarray(forest.yes), jnp.asarray(forest.no)
    return lax.fori_loop(0, steps, lambda _, place: jnp.where(_holds(forest, x, place), yes[place], no[place]), start)


def gathered(forest: Forest, place: Array, aggregate: str) -> Array:
    """Over the trees, what the leaves say of each target: (rows, targets)."""
    weights = jnp.asarray(forest.weights)[place]
    if aggregate in ("SUM", "AVERAGE"):
        total = jnp.sum(weights, 1)
        return total / len(forest.roots) if aggregate == "AVERAGE" else total
    said = jnp.asarray(forest.votes)[place]
    worst = np.asarray(np.inf if aggregate == "MIN" else -np.inf, forest.weights.dtype)
    held = jnp.where(said, weights, worst)
    best = jnp.min(held, 1) if aggregate == "MIN" else jnp.max(held, 1)
    return jnp.where(jnp.any(said, 1), best, 0)


def _array(ctx: LoweringContext, name: str, dtype: Any) -> np.ndarray:
    """A list or tensor attribute, whichever of the two the node has."""
    held = ctx.attr(f"{name}_as_tensor", ctx.attr(name))
    if isinstance(held, Constant):
        return held.array().reshape(-1)
    return np.asarray(held or (), dtype)


def _filled(ctx: LoweringContext, array: np.ndarray, count: int, name: str) -> np.ndarray:
    if array.size not in (0, count):
        raise ctx.unsupported(f"{name} has {array.size} entries for {count} nodes")
    return array if array.size else np.zeros(count, array.dtype)


def _listed_forest(ctx: LoweringContext, kind: str, targets: int) -> Forest:
    """The trees of TreeEnsembleRegressor and TreeEnsembleClassifier, whose nodes are (tree, number) and leaves are nodes."""
    trees, numbers = (_array(ctx, f"nodes_{name}", np.int64) for name in ("treeids", "nodeids"))
    count = len(trees)
    places = {key: place for place, key in enumerate(zip(trees.tolist(), numbers.tolist(), strict=True))}
    modes = np.asarray([_MODES.index(str(mode)) for mode in ctx.attr("nodes_modes")], np.int8)
    children = []
    for name in ("true", "false"):
        ids = _filled(ctx, _array(ctx, f"nodes_{name}nodeids", np.int64), count, name)
        found = [
            place if mode == _LEAF else places[tree, number]
            for place, (tree, number, mode) in enumerate(zip(trees.tolist(), ids.tolist(), modes.tolist(), strict=True))
        ]
        children.append(np.asarray(found, np.int32))
    yes, no = children
    inner = modes != _LEAF
    roots = np.setdiff1d(np.arange(count), np.concatenate([yes[inner], no[inner]]))
    if len(set(trees[roots].tolist())) != len(set(trees.tolist())):
        raise ctx.unsupported("a tree has no root")
    values = _array(ctx, f"{kind}_weights", np.float32)
    weights, votes = np.zeros((count, targets), values.dtype), np.zeros((count, targets), np.bool_)
    holders = (_array(ctx, f"{kind}_{name}", np.int64).tolist() for name in ("treeids", "nodeids", "ids"))
    for tree, number, target, value in zip(*holders, values, strict=True):
        weights[places[tree, number], target] += value
        votes[places[tree, number], target] = True
    features = _filled(ctx, _array(ctx, "nodes_featureids", np.int64), count, "features")
    missing = _filled(ctx, _array(ctx, "nodes_missing_value_tracks_true", np.int64), count, "missing values").astype(np.bool_)
    splits = _filled(ctx, _array(ctx, "nodes_values", np.float32), count, "splits")
    return Forest(np.where(inner, features, 0), splits, modes, yes, no, missing, roots, weights, votes)


@lowers("TreeEnsembleRegressor", domain=ML)
def tree_regressor(ctx: LoweringContext, x: Array) -> Array:
    """One f32 per target. Source: ai.onnx.ml TreeEnsembleRegressor-3."""
    targets = int(ctx.attr("n_targets", 1))
    x, forest = rows_of(x), _listed_forest(ctx, "target", targets)
    scores = gathered(forest, leaves_of(ctx, forest, x), str(ctx.attr("aggregate_function", "SUM")))
    base = _array(ctx, "base_values", np.float32)
    scores = scores + base if base.size else scores
    return transformed(ctx, scores.astype(np.float32), str(ctx.attr("post_transform", "NONE")))


@lowers("TreeEnsembleClassifier", domain=ML)
def tree_classifier(ctx: LoweringContext, x: Array) -> tuple[Array, ...]:
    """The label of the highest score, and the scores. Source: ai.onnx.ml TreeEnsembleClassifier-3."""
    labels, name = labels_of(ctx, "classlabels_int64s"), str(ctx.attr("post_transform", "NONE"))
    x, forest = rows_of(x), _listed_forest(ctx, "class", len(labels))
    scores = gathered(forest, leaves_of(ctx, forest, x), "SUM").astype(np.float32)
    base = _array(ctx, "base_values", np.float32).astype(np.float32)
    ids = set(_array(ctx, "class_ids", np.int64).tolist())
    if len(labels) != 2 or len(ids) != 1:  # of two classes one may stand for both
        scores = scores + base if base.size else scores
        return jnp.asarray(labels)[jnp.argmax(scores, -1)], transformed(ctx, scores, name)
    if base.size > 1:
        raise ctx.unsupported("base values of two classes where the trees know one")
    score = scores[:, list(ids)] + (base[0] if base.size else np.float32(0))
    positive = bool((_array(ctx, "class_weights", np.float32) >= 0).all())
    chosen = jnp.where(score[:, 0] > (0.5 if positive else 0), labels[1], labels[0])
    return chosen, _both(ctx, score, name, positive)


def _both(ctx: LoweringContext, score: Array, name: str, positive: bool) -> Array:
    if name == "PROBIT":
        raise ctx.unsupported("PROBIT of one score for two classes")
    return two_classes(score, name, positive=positive)


@lowers("TreeEnsemble", domain=ML)
def tree_ensemble(ctx: LoweringContext, x: Array) -> Array:
    """One value per target, in x's type. Source: ai.onnx.ml TreeEnsemble-5."""
    x = jnp.asarray(x)
    forest = _indexed_forest(ctx, int(ctx.attr("n_targets", 1)))
    scores = gathered(forest, leaves_of(ctx, forest, x), _AGGREGATES[int(ctx.attr("aggregate_function", 1))])
    return transformed(ctx, scores.astype(x.dtype), TRANSFORMS[int(ctx.attr("post_transform", 0))])


def _indexed_forest(ctx: LoweringContext, targets: int) -> Forest:
    """The trees of TreeEnsemble: inner nodes and leaves are lists of their own; here leaves come behind the inner nodes."""
    inner_modes = _array(ctx, "nodes_modes", np.uint8).astype(np.int8)
    values, owners = _array(ctx, "leaf_weights", np.float32), _array(ctx, "leaf_targetids", np.int64)
    inner, leaves = len(inner_modes), len(values)
    own = np.arange(inner, inner + leaves)
    children = []
    for name in ("true", "false"):
        ids, is_leaf = (_filled(ctx, _array(ctx, f"nodes_{name}{part}", np.int64), inner, name) for part in ("nodeids", "leafs"))
        if (ids < 0).any() or (ids >= np.where(is_leaf, leaves, inner)).any():
            raise ctx.unsupported("a branch leads outside the tree")
        children.append(np.concatenate([np.where(is_leaf, inner + ids, ids), own]).astype(np.int32))
    weights, votes = np.zeros((inner + leaves, targets), values.dtype), np.zeros((inner + leaves, targets), np.bool_)
    weights[own, owners], votes[own, owners] = values, True
    splits = np.concatenate([_filled(ctx, _array(ctx, "nodes_splits", np.float32), inner, "splits"), np.zeros(leaves, values.dtype)])
    features = np.pad(_filled(ctx, _array(ctx, "nodes_featureids", np.int64), inner, "features"), (0, leaves))
    missing = np.pad(_filled(ctx, _array(ctx, "nodes_missing_value_tracks_true", np.int64), inner, "missing values"), (0, leaves))
    modes = np.concatenate([inner_modes, np.full(leaves, _LEAF, np.int8)])
    roots = _array(ctx, "tree_roots", np.int64)
    yes, no = children
    return Forest(features, splits, modes, yes, no, missing.astype(np.bool_), roots, weights, votes, _members(ctx, modes))


def _members(ctx: LoweringContext, modes: np.ndarray) -> np.ndarray | None:
    """The sets that nodes test for membership, from one list in which NaN ends each."""
    nodes = np.flatnonzero(modes == _MEMBER)
    if not nodes.size:
        return None
    flat = _array(ctx, "membership_values", np.float32)
    sets = [part[~np.isnan(part)] for part in np.split(flat, np.flatnonzero(np.isnan(flat)) + 1)]
    members = np.full((len(modes), max(1, *(len(part) for part in sets))), np.nan, flat.dtype)
    for node, part in zip(nodes, sets, strict=False):
        members[node, : len(part)] = part
    return members
