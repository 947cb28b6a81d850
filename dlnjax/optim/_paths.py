"""Leaves by name: two trees are matched leaf by leaf along their paths, and errors name the leaf in one line.

Labels, axes and scales rarely come in exactly the params' node types: a dict beside a Flax State, a State of variables
beside a State of arrays, a prefix that speaks for a whole layer. What counts is the path to a leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.tree_util import GetAttrKey, KeyPath, keystr, tree_leaves_with_path

from dlnjax._types import PyTree

Path = tuple[str, ...]


def name(path: KeyPath) -> str:
    """The path as the user would index it."""
    return keystr(path) or "(the only leaf)"


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """``(name, leaf)`` in leaf order."""
    return [(name(path), leaf) for path, leaf in tree_leaves_with_path(tree)]


def _keys(path: KeyPath) -> Path:
    """The keys alone; the array inside a variable of Flax stands at the variable's own path."""
    inside = bool(path) and isinstance(path[-1], GetAttrKey) and path[-1].name == "value"
    return tuple(keystr((key,), simple=True) for key in (path[:-1] if inside else path))


def is_function(x: object) -> bool:
    """A function of the params, and not a model that can be called: that one is a tree."""
    return callable(x) and jax.tree_util.all_leaves([x])


def _is_empty(x: object) -> bool:
    return x is None or isinstance(x, optax.MaskedNode)


def matched(
    what: str, given: object, tree: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> list[Any]:
    """The entry of ``given`` for each leaf of ``tree``, in leaf order: that of its path or of the node above it.

    Args:
      what: the argument's name, for errors.
      given: one entry for all leaves, or a tree (or a prefix of one) of entries.
      tree: the params; a place that is None or masked needs no entry and may have one.
      is_leaf: what counts as an entry.

    Raises:
      ValueError: a leaf without an entry, an entry without a leaf.
    """
    entries = {_keys(path): (name(path), entry) for path, entry in tree_leaves_with_path(given, is_leaf)}
    used, out = set(), []
    for path, leaf in tree_leaves_with_path(tree, _is_empty):
        keys = _keys(path)
        places = [keys[:k] for k in range(len(keys), -1, -1) if keys[:k] in entries]
        used.update(places[:1])
        if _is_empty(leaf):
            used.update(keys_below for keys_below in entries if keys_below[: len(keys)] == keys)
        elif places:
            out.append(entries[places[0]][1])
        else:
            raise ValueError(f"{what} has no entry for the leaf {name(path)}; give one a leaf of the params")
    unused = [title for keys, (title, _) in entries.items() if keys not in used]
    if unused and jax.tree.leaves(tree):
        raise ValueError(f"{what} has an entry {unused[0]}, where the params have no leaf")
    return out


def check_alike(link: str, updates: PyTree, params: PyTree) -> None:
    """Refuse updates in another structure than the params, with the first leaf that differs."""
    if jax.tree.structure(updates) == jax.tree.structure(params):
        return
    given, wanted = ([title for title, _ in named_leaves(tree)] for tree in (updates, params))
    lacking = [title for title in wanted if title not in given]
    extra = [title for title in given if title not in wanted]
    if lacking:
        raise ValueError(f"{link}: the updates have no leaf {lacking[0]}, the params have; give one a leaf")
    if extra:
        raise ValueError(f"{link}: the updates have a leaf {extra[0]}, the params have none there")
    kinds = " and ".join(type(tree).__name__ for tree in (updates, params))
    raise ValueError(f"{link}: updates and params have the same leaves in different containers ({kinds})")
