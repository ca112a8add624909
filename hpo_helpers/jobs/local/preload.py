"""What to have imported before the first job."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import Any


def find_preload(train: Any) -> list[str]:
    """Return what a training function needs: its module, or those that a function of a notebook names.

    What the constant ``PRELOAD`` of such a module lists comes before it.
    """
    while isinstance(train, functools.partial):
        train = train.func
    modules = [module for used in _used_by(train) if (module := _module_of(used)) is not None]
    return [name for module in modules for name in (*getattr(module, "PRELOAD", ()), module.__name__)]


def _used_by(train: Any) -> list[Any]:
    """Return the function, or what it names of its surroundings where no other process can import it."""
    if _module_of(train) is not None or not hasattr(train, "__code__"):
        return [train]
    surroundings = train.__globals__
    return [surroundings[name] for name in train.__code__.co_names if name in surroundings]


def _module_of(thing: Any) -> types.ModuleType | None:
    """Return the module that defines it, if other processes can import that too."""
    module = thing if inspect.ismodule(thing) else sys.modules.get(getattr(thing, "__module__", None))
    importable = module is not None and module.__name__ != "__main__" and getattr(module, "__spec__", None)
    return module if importable else None


def check_preload(preload: Any) -> list[str]:
    """Return the names as a list; TypeError if they are none."""
    if isinstance(preload, str) or not all(isinstance(name, str) for name in preload):
        raise TypeError(f'preload must be a list such as ["module", "module:function"], got {preload!r}')
    return list(preload)
