"""Takes the log lines of a run into the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

from anabranch.events import LogWritten


class StoreHandler(logging.Handler):
    """Hands on the lines that say which run they are of, if that is one of ours."""

    def __init__(
        self, is_ours: Callable[[str], bool], take: Callable[[LogWritten], object]
    ) -> None:
        super().__init__()
        self._is_ours = is_ours
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        flow_run_id: str | None = getattr(record, "flow_run_id", None)
        if flow_run_id is None or not self._is_ours(flow_run_id):
            return
        try:
            text = record.getMessage()
            label: str | None = getattr(record, "run_label", None)
            if label is not None:
                text = text.removeprefix(f"{label} | ")
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            if record.exc_text:
                text = f"{text}\n{record.exc_text}"
            self._take(
                LogWritten(
                    record.created,
                    record.levelno,
                    record.name,
                    text,
                    flow_run_id,
                    getattr(record, "task_run_id", None),
                    getattr(record, "task_run_name", None)
                    or getattr(record, "flow_run_name", None),
                )
            )
        except Exception:
            self.handleError(record)


@contextmanager
def logs_stored(
    is_ours: Callable[[str], bool], take: Callable[[LogWritten], object]
) -> Generator[None]:
    """While the block runs, lines of runs that are ours go to `take` too."""
    handler = StoreHandler(is_ours, take)
    logger = logging.getLogger("anabranch")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
