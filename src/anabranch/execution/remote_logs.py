"""Log records of a child process: sent to its parent, and handled there as if made there."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping

from anabranch.errors import UnpicklableError
from anabranch.execution.pickling import dumps

_formatter = logging.Formatter()


def logger_levels() -> dict[str, int]:
    """The levels that are set in this process, by logger; the root logger's name is empty."""
    levels = {"": logging.root.level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            levels[name] = logger.level
    return levels


class ForwardingHandler(logging.Handler):
    """Hands each record on as bytes, its text made and its traceback formatted."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(packed_record(record))
        except Exception:
            self.handleError(record)


def forward_logs(levels: Mapping[str, int], send: Callable[[bytes], object]) -> None:
    """Send all records of this process to `send`, with the levels of another."""
    logging.root.handlers[:] = [ForwardingHandler(send)]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def handle_remote(data: bytes) -> None:
    """Give a record of another process to this one's handlers."""
    record = logging.makeLogRecord(pickle.loads(data))
    logging.getLogger(record.name).handle(record)


def packed_record(record: logging.LogRecord) -> bytes:
    attributes = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None}
    if record.exc_info and not record.exc_text:
        attributes["exc_text"] = _formatter.formatException(record.exc_info)
    try:
        return dumps(attributes, "A log record")
    except UnpicklableError:  # something of the user's in `extra`
        plain = (str, int, float, type(None))
        return pickle.dumps(
            {k: v if isinstance(v, plain) else repr(v) for k, v in attributes.items()}, 5
        )
