"""Going on with a run that stopped: finding it, making sure that nobody else has it, owning it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anabranch.context import RunContext
from anabranch.errors import (
    AlreadyCompletedError,
    MissingParameterError,
    NotARootError,
    NotResumableError,
    OtherFlowError,
    StillOwnedError,
)
from anabranch.flow_parameters import load_parameters
from anabranch.recorded import Recorded, RecordedCall
from anabranch.results.signing import load_secret, verify
from anabranch.runs import id_prefix
from anabranch.settings import load_settings
from anabranch.store.database import Database
from anabranch.store.opening import open_store
from anabranch.store.queries import find_flow_run
from anabranch.store.recalling import recorded_calls
from anabranch.store.sessions import (
    LAPSE_SECONDS,
    Watch,
    bury,
    claim,
    close_session,
    sessions_of,
)
from anabranch.store.writer import StoreWriter

if TYPE_CHECKING:
    from anabranch.flows import Flow

logger = logging.getLogger("anabranch.runs")

LOOK_SECONDS = 1.0
"""Between two looks at an owner that cannot be seen from here."""


class Resumed(NamedTuple):
    """A run that this process owns now, and what it recorded so far."""

    call: RecordedCall
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    prefix: int
    writer: StoreWriter
    tags: frozenset[str]


class ResumeContext(RunContext):
    """Outside of any run, where a recorded one is to go on."""

    __slots__ = ("_outer", "_resumed")

    def __init__(self, resumed: Resumed, outer: RunContext) -> None:
        super().__init__(resumed.tags)
        self._resumed = resumed
        self._outer = outer

    @property
    def resumed(self) -> Resumed:
        return self._resumed

    @property
    def clock(self) -> Any:
        return self._outer.clock

    @property
    def subscribers(self) -> tuple[Any, ...]:
        return self._outer.subscribers


class _FlowRow(NamedTuple):
    id: int
    run_id: str
    parent: int | None
    name: str
    flow_name: str
    flow_key: str
    tags: str
    parameters: bytes | None
    not_resumable: str | None
    state_type: str
    attempt: int
    started: float | None


def resume_run(flow: Flow[..., Any], run_id: str, parameters: Mapping[str, Any]) -> Resumed:
    """Take over a run of this flow; see `Flow.resume` for what it raises."""
    settings = load_settings()
    strict = settings.durability == "strict"
    database = open_store(settings.database_url, settings.home, strict)
    try:
        secret = load_secret(settings.home)
        row = _found(database, run_id)
        _refuse(database, flow, row)
        args, kwargs = _parameters(flow, row, parameters, secret, database.url)
        _wait_for_owner(database, row)
        prefix = id_prefix()
        session = claim(database, f"{prefix >> 48:020x}", row.id, row.run_id, time.time())
        _refuse_completed(database, row, session)
        recorded = recorded_calls(database, secret, row.id)
    except BaseException:
        database.close()
        raise
    writer = StoreWriter(database, prefix, secret, strict, settings.result_inline_limit, session)
    call = RecordedCall(
        row.id,
        row.run_id,
        row.name,
        b"",
        False,
        row.started or 0.0,
        0.0,
        row.attempt,
        None,
        _nothing,
        partial(_handed_out, recorded),
    )
    return Resumed(call, args, kwargs, prefix, writer, frozenset(json.loads(row.tags)))


def _refuse_completed(database: Database, row: _FlowRow, session: int) -> None:
    """Its last owner may have completed it just before this one claimed it."""
    found = database.read("SELECT state_type FROM flow_run WHERE id = ?", (row.id,))
    if found[0][0] == "COMPLETED":
        with database.transaction() as transaction:
            close_session(transaction, session, time.time())
        raise AlreadyCompletedError(row.name)


def _handed_out(recorded: Recorded) -> Recorded:
    return recorded


def _nothing() -> None:
    """A run that goes on has no result yet."""


def _found(database: Database, given: str) -> _FlowRow:
    columns = ", ".join(_FlowRow._fields)
    row = find_flow_run(database, given).row
    return _FlowRow(*database.read(f"SELECT {columns} FROM flow_run WHERE id = ?", (row,))[0])


def _refuse(database: Database, flow: Flow[..., Any], row: _FlowRow) -> None:
    if row.parent is not None:
        root = database.read(
            "SELECT run_id FROM flow_run WHERE id = (SELECT root FROM flow_run WHERE id = ?)",
            (row.id,),
        )
        raise NotARootError(row.name, root[0][0])
    if row.state_type == "COMPLETED":
        raise AlreadyCompletedError(row.name)
    if row.flow_key != flow.key:
        raise OtherFlowError(row.name, row.flow_key, flow.key)
    if row.parameters is None:
        raise NotResumableError(row.name, row.not_resumable or "its parameters were not recorded")


def _parameters(
    flow: Flow[..., Any], row: _FlowRow, given: Mapping[str, Any], secret: bytes, where: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    assert row.parameters is not None  # refused before
    data = verify(secret, row.run_id, bytes(row.parameters), where)
    recorded, left_out = load_parameters(data)
    missing = [name for name in left_out if name not in given]
    if missing:
        raise MissingParameterError(row.name, missing)
    return flow.parameters.call_of({**recorded, **given})


def _wait_for_owner(database: Database, row: _FlowRow) -> None:
    """Until the last owner's session is closed, or has lapsed; raises `StillOwnedError`."""
    watch = Watch()
    told = False
    until = time.monotonic() + LAPSE_SECONDS + 2 * LOOK_SECONDS
    while True:
        alive = [each for each in sessions_of(database, row.id) if each.closed is None]
        alive = [each for each in alive if not _is_buried(database, watch, each)]
        if not alive:
            return
        owner = alive[0]
        if watch.is_seen_alive(owner) or time.monotonic() > until:
            raise StillOwnedError(row.name, owner.pid, owner.host)
        if not told:
            told = True
            logger.info(
                "%s was last run by process %d on %s, which cannot be seen from here: waiting "
                "%g s for a sign of life",
                row.name,
                owner.pid,
                owner.host,
                LAPSE_SECONDS,
            )
        time.sleep(LOOK_SECONDS)


def _is_buried(database: Database, watch: Watch, owner: Any) -> bool:
    if not watch.has_lapsed(owner):
        return False
    bury(database, owner, time.time())
    return True
