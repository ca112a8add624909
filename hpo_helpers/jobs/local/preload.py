"""What to have imported before the first job."""

import functools
import importlib
import operator
import sys
import types
from typing import Any


def find_preload(train: Any) -> list[str]:
    """Return the module of a training function, or those that one of a notebook names.

    What the constant ``PRELOAD`` of such a module lists comes before it.
    """
    used = [train]
    if _module_of(train) is None and isinstance(train, types.FunctionType):
        used = [train.__globals__.get(name) for name in train.__code__.co_names]
    modules = [module for thing in used if (module := _module_of(thing)) is not None]
    return [name for module in modules for name in (*getattr(module, "PRELOAD", ()), module.__name__)]


def preload(names: list[str]) -> None:
    """Import each ``"module"``, and call the function of each ``"module:function"``."""
    for name in names:
        module, _, function = name.partition(":")
        imported = importlib.import_module(module)
        if function:
            operator.attrgetter(function)(imported)()


def _module_of(thing):
    """Return the module that defines it, if other processes can import that too."""
    if isinstance(thing, functools.partial):
        thing = thing.func
    if not isinstance(thing, types.ModuleType):
        thing = sys.modules.get(getattr(thing, "__module__", None))
    importable = getattr(thing, "__spec__", None) and thing.__name__ != "__main__"
    return thing if importable else None
