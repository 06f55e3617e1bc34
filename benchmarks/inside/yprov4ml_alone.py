"""Imports yprov4ml 3.2.8 without torch, lightning and fvcore, which none of the functions measured here calls.

As released it does not import on Python 3.11: `prov2card` has a syntax error there. It only makes HTML cards.
"""

import importlib.machinery
import sys
import types

_EMPTY = ("torch", "torchvision", "lightning", "fvcore", "yprov4ml.prov2card")


class _Anything(type):
    """A class whose attributes are such classes."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {"__class_getitem__": classmethod(lambda made, _: made)})


class _Empty(types.ModuleType):
    """A module that has every name."""

    __path__ = ()

    def __getattr__(self, name):
        return getattr(_Anything("any", (), {}), name)


class _Finder:
    """Finds an empty module wherever one of `_EMPTY` is asked for."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in _EMPTY or name.split(".")[0] in _EMPTY:
            return importlib.machinery.ModuleSpec(name, _Finder, is_package=True)
        return None

    @staticmethod
    def create_module(spec):
        return _Empty(spec.name)

    @staticmethod
    def exec_module(module):
        pass


sys.meta_path.insert(0, _Finder)

import yprov4ml  # noqa: E402

__all__ = ["yprov4ml"]
