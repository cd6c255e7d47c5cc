"""What a host is and how busy it was, as metadata of what is measured there."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Mapping
from typing import Any

from anabranch.bench.pyperf_library import load_pyperf
from anabranch.version import __version__

Metadata = Mapping[str, str | int | float]

FINGERPRINT = (
    "hostname",
    "cpu_model_name",
    "cpu_count",
    "memory_bytes",
    "python_version",
    "runner",
)
"""What has to be equal for two measurements to be of one kind."""


def host_metadata(runner: str) -> Metadata:
    """What pyperf notes of this host and process (processor, its governor if it can be read, load,
    Python, ...), and memory, packages and the task runner; raises `MissingExtraError`."""
    found: dict[str, Any] = load_pyperf().Run((1.0,)).get_metadata()  # the public way to it
    del found["mem_max_rss"]  # as it was before the benchmark
    import psutil  # pyright: ignore[reportMissingModuleSource]  # it comes with pyperf

    found["memory_bytes"] = int(psutil.virtual_memory().total)
    found["anabranch_version"] = __version__
    found["packages"] = ", ".join(_loaded_packages())
    found["runner"] = runner
    return found


def _loaded_packages() -> list[str]:
    """Names and versions of the installed packages of which a module is loaded."""
    loaded = {name.partition(".")[0] for name in list(sys.modules)}
    named = {package for name in loaded for package in _packages().get(name, ())}
    return [f"{name} {importlib.metadata.version(name)}" for name in sorted(named)]


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def differences(base: Metadata, current: Metadata) -> list[str]:
    """Such as `"cpu_count 8, now 2"`: in what of the fingerprint two measurements differ."""
    return [
        f"{name} {base.get(name, 'unknown')}, now {current.get(name, 'unknown')}"
        for name in FINGERPRINT
        if base.get(name) != current.get(name)
    ]
