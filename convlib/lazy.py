"""Modules that are imported at their first use: drawing and models cost seconds that most processes never need."""

import importlib
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """A module, and the packages above it, that are imported whenever something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)
