"""Where a vendor's shared library lies, and loading it.

On the machine itself (root "/") the dynamic linker decides, as it does for every other program: LD_LIBRARY_PATH, the
linker's cache, the default folders. Below another root nothing of the machine is looked at: a directory that contains
a stand-in for the library is a whole node. Source: ld.so(8), and the folders where distributions and vendors' images
install (Debian's multiarch names, the lib64 of the others, the folder that NVIDIA's container toolkit fills).

A library that was loaded from a path is the one that a binding's own `CDLL(name)` finds afterwards in this process,
provided that it carries that name inside (SONAME).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

_MULTIARCH = f"{os.uname().machine}-linux-gnu"
#: Relative to a root that is not "/", in the order of the search.
FOLDERS = (
    f"usr/lib/{_MULTIARCH}", "usr/lib64", "usr/lib", f"lib/{_MULTIARCH}", "lib64", "lib",
    "usr/local/nvidia/lib64", "usr/local/lib64", "usr/local/lib",
)


def find(root: str, name: str, first: Sequence[str] = ()) -> str:
    """What to give to `dlopen` for the library `name` (`libnvidia-ml.so.1`); "" when there is none below the root.

    `first`: folders to look at before all others, with or without a leading slash, always below the root
    (`opt/rocm/lib`). For root "/" the answer is `name` itself unless one of these has it: whether the linker finds it
    only loading shows.
    """
    machine = os.path.realpath(root) == "/"
    for folder in (*first, *(() if machine else FOLDERS)):
        path = os.path.join(root, folder.lstrip("/"), name)
        if os.path.isfile(path):
            return os.path.abspath(path)
    return name if machine else ""


def load(root: str, name: str, first: Sequence[str] = ()) -> ctypes.CDLL:
    """Load it. Raises OSError when there is none or it cannot be loaded."""
    path = find(root, name, first)
    if not path:
        raise OSError(f"there is no {name} below {root}")
    return ctypes.CDLL(path)
