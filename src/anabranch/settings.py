"""Settings: from the environment, then `[tool.anabranch]` in pyproject.toml, then config.toml.

A process that sets none pays for none: the readers load where there is something to read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anabranch.errors import SettingError

PREFIX = "ANABRANCH_"


class Settings(BaseModel):
    """What can be set. Times are in seconds."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".anabranch")
    """Where config.toml is looked for, and the store is kept."""
    database_url: str | None = None
    """The store, where it is not the file `anabranch.db` in `home`: sqlite:/// or postgresql://."""
    durability: Literal["relaxed", "strict"] = "relaxed"
    """Whether what is recorded is on the disk before others are told of it."""
    task_runner: str = "threads"
    logging_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    progress: bool = True
    """Whether a live display shows on a terminal."""
    cancel_grace: float = Field(default=5.0, ge=0, le=3600)
    """How long a cancelled run gets to stop."""
    result_storage: str | None = None
    """A folder or an fsspec URL for results that are kept; None for `<home>/storage`."""
    result_inline_limit: int = Field(default=65536, ge=0)
    """Bytes up to which a result is kept beside the record of its run."""
    result_serializer: str = "pickle"


class Given(NamedTuple):
    """A setting's value as it was written, and where."""

    value: Any
    source: str


def load_settings() -> Settings:
    """The settings of this process; raises `SettingError` for a value that will not do."""
    return checked_settings(given_settings())


def checked_settings(given: Mapping[str, Given]) -> Settings:
    """The settings with these values; raises `SettingError`."""
    if not given:
        return Settings.model_construct()  # the defaults, unchecked
    try:
        return Settings(**{name: value for name, (value, _) in given.items()})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        value, source = given[name]
        raise SettingError(name, value, source, problem["msg"]) from None


def given_settings() -> dict[str, Given]:
    """What is set anywhere, each from the place that wins."""
    given: dict[str, Given] = {}
    home = os.environ.get(PREFIX + "HOME")
    folder = Path(home) if home else Path.home() / ".anabranch"
    _add(given, _table(folder / "config.toml"), str(folder / "config.toml"))
    pyproject = Path("pyproject.toml")
    tool = _table(pyproject, containing="tool.anabranch").get("tool", {})
    _add(given, tool.get("anabranch", {}), str(pyproject.absolute()))
    for name in Settings.model_fields:
        value = os.environ.get(PREFIX + name.upper())
        if value is not None:
            if name == "logging_level":
                value = value.upper()
            given[name] = Given(value, f"the environment variable {PREFIX}{name.upper()}")
    return given


def _table(path: Path, containing: str = "") -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    if containing not in text:
        return {}
    import tomllib  # only where there is something to read

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(str(path), "", str(path), f"it is not TOML: {error}") from None


def _add(given: dict[str, Given], table: Mapping[str, Any], source: str) -> None:
    for name, value in table.items():
        if name not in Settings.model_fields:
            known = ", ".join(Settings.model_fields)
            raise SettingError(name, value, source, f"there is no such setting; known: {known}")
        given[name] = Given(value, source)
