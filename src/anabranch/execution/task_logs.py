"""Log records of tasks in a process that is not ours alone: only those go to the flow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from anabranch.context import current_context
from anabranch.execution.remote_logs import packed_record

Take = Callable[[object, bytes], bool]
"""Takes a packed record of the engine that it belongs to, None where that is not known."""

_OF_ENGINES = frozenset({"distributed", "dask", "ray", "tornado", "asyncio", "bokeh"})
_LISTENING: list[logging.Handler] = []


class TaskLogHandler(logging.Handler):
    """Hands records of code that runs in a call on to the call's flow."""

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        try:
            engine = current_context().engine
            if engine is None and record.name.partition(".")[0] in _OF_ENGINES:
                return
            record.taken_by_flow = self._take(engine, packed_record(record))
        except Exception:
            self.handleError(record)


def listen_to_calls(take: Take) -> None:
    """Have records of calls go to `take`, and no more to the handlers that were here before."""
    if _LISTENING:
        return
    handler = TaskLogHandler(take)
    _LISTENING.append(handler)
    own_level = logging.root.level
    for other in logging.root.handlers:
        other.addFilter(
            lambda record: (
                not getattr(record, "taken_by_flow", False) and record.levelno >= own_level
            )
        )
    logging.root.handlers.insert(0, handler)


def note_levels(levels: Mapping[str, int]) -> None:
    """Let pass what the flow's own loggers let pass."""
    for name, level in levels.items():
        logger = logging.getLogger(name or None)
        if name.partition(".")[0] not in _OF_ENGINES and (
            logger.level == logging.NOTSET or level < logger.level
        ):
            logger.setLevel(level)
