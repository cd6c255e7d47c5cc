"""Artifacts: what a run shows of its work beside its result, kept with the record of the run.

Each function gives the artifact's id at once, and writes nothing itself: the run's recorder does.
So they can be called from sync and from async code alike; there the id can be awaited too.
"""

from __future__ import annotations

import json
import math
import re
import time
import uuid
from collections.abc import Generator
from typing import Any, Final

from anabranch.artifact_tables import Table, table_json
from anabranch.context import current_context
from anabranch.errors import MissingContextError, OptionError
from anabranch.events import ArtifactChanged, ArtifactMade

_KEY: Final = re.compile(r"[a-z0-9-]+")


class ArtifactId(str):
    """An artifact's id: a string, which async code may await as well."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, str]:
        return str(self)
        yield  # what makes this a generator


def create_table_artifact(
    table: Table, key: str | None = None, description: str | None = None
) -> ArtifactId:
    """Keep a table: a list of dicts, a dict of lists, a list of lists, or a frame of pandas or
    polars.

    What JSON does not know is kept as text; what is beyond 1 MB is left out, and counted. `key`
    names artifacts of one kind over many runs: lower-case letters, digits and dashes. `description`
    is Markdown. Raises `MissingContextError` outside of a run, `OptionError` for what is no table.
    """
    return _made("create_table_artifact", "table", key, description, table_json(table))


def create_markdown_artifact(
    markdown: str, key: str | None = None, description: str | None = None
) -> ArtifactId:
    """Keep a text in Markdown; raises as `create_table_artifact` does."""
    function = "create_markdown_artifact"
    return _made(function, "markdown", key, description, _text(function, "markdown", markdown))


def create_link_artifact(
    link: str,
    link_text: str | None = None,
    key: str | None = None,
    description: str | None = None,
) -> ArtifactId:
    """Keep a link, shown as `link_text`; raises as `create_table_artifact` does."""
    function = "create_link_artifact"
    data = json.dumps(
        {"link": json.loads(_text(function, "link", link)), "link_text": link_text or link}
    )
    return _made(function, "link", key, description, data)


def create_image_artifact(
    image_url: str, key: str | None = None, description: str | None = None
) -> ArtifactId:
    """Keep the address of an image; raises as `create_table_artifact` does."""
    function = "create_image_artifact"
    return _made(function, "image", key, description, _text(function, "image_url", image_url))


def create_progress_artifact(
    progress: float, key: str | None = None, description: str | None = None
) -> ArtifactId:
    """Keep how far something is, in percent from 0 to 100, for `update_progress_artifact`; raises as
    `create_table_artifact` does."""
    function = "create_progress_artifact"
    return _made(function, "progress", key, description, _progress(function, progress))


def update_progress_artifact(
    artifact_id: str, progress: float, description: str | None = None
) -> ArtifactId:
    """Change how far something is; the description stays where none is given.

    Works from any run on progress that any run has made. Raises `MissingContextError` outside of a
    run, `OptionError` for a progress out of its range.
    """
    function = "update_progress_artifact"
    data = _progress(function, progress)
    engine = current_context().engine
    if engine is None:
        raise MissingContextError(f"{function}()")
    engine.keep_artifact(ArtifactChanged(str(artifact_id), description, data, time.time()))
    return ArtifactId(artifact_id)


def _made(
    function: str, kind: str, key: str | None, description: str | None, data: str
) -> ArtifactId:
    if key is not None and not (isinstance(key, str) and _KEY.fullmatch(key)):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        raise OptionError(function, "key", key, "lower-case letters, digits and dashes")
    context = current_context()
    if context.engine is None:
        raise MissingContextError(f"{function}()")
    made = ArtifactId(uuid.uuid4())
    flow_run = context.flow_run
    context.engine.keep_artifact(
        ArtifactMade(
            str(made),
            key,
            kind,
            description,
            data,
            time.time(),
            None if flow_run is None else flow_run.id,
            context.task_run_id,
        )
    )
    return made


def _text(function: str, option: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(function, option, value, "a string")
    return json.dumps(value)


def _progress(function: str, progress: Any) -> str:
    numeric = isinstance(progress, int | float) and not isinstance(progress, bool)
    if not numeric or not math.isfinite(progress) or not 0 <= progress <= 100:
        raise OptionError(function, "progress", progress, "a number from 0 to 100")
    return json.dumps(float(progress))
