"""What comes from the libraries of the extra `bench`: whether they are there, and pyperf's quantiles,
which are private there."""

from __future__ import annotations

from typing import Any

from anabranch.errors import MissingExtraError


def load_pyperf() -> Any:
    """The module; raises `MissingExtraError`."""
    try:
        import pyperf  # pyright: ignore[reportMissingTypeStubs]  # 50 ms, and not installed everywhere
    except ImportError as error:
        raise MissingExtraError("A benchmark", "pyperf", "anabranch[bench]") from error
    return pyperf


def require_matplotlib() -> None:
    """Raise `MissingExtraError` unless plots can be drawn."""
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]  # as above; wanted: whether it is there
    except ImportError as error:
        raise MissingExtraError("A plot", "matplotlib", "anabranch[bench]") from error


def student_t(degrees: int) -> float:
    """The quantile of Student's t distribution that bounds 95 %."""
    from pyperf import _utils  # pyright: ignore[reportMissingTypeStubs]  # as above

    table: Any = _utils
    return float(table.tdist95conf_level(degrees))
