"""What is known of a flow run and a task run: the records that hooks, `runtime` and logs show."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from dataclasses import dataclass, field
from typing import Any

_ADJECTIVES = [
    "amber",
    "brisk",
    "calm",
    "clear",
    "cobalt",
    "copper",
    "coral",
    "crisp",
    "dapper",
    "deep",
    "eager",
    "early",
    "fair",
    "fleet",
    "fluent",
    "gentle",
    "glad",
    "golden",
    "green",
    "hardy",
    "hidden",
    "high",
    "honest",
    "jade",
    "keen",
    "kind",
    "late",
    "light",
    "lively",
    "lucid",
    "mellow",
    "mild",
    "misty",
    "mossy",
    "nimble",
    "noble",
    "northern",
    "olive",
    "pale",
    "patient",
    "placid",
    "plain",
    "proud",
    "quick",
    "quiet",
    "rapid",
    "russet",
    "sandy",
    "serene",
    "shady",
    "silent",
    "silver",
    "sleek",
    "slow",
    "smooth",
    "solid",
    "southern",
    "steady",
    "still",
    "stout",
    "sunny",
    "swift",
    "tidal",
    "tidy",
    "tranquil",
    "upper",
    "vast",
    "velvet",
    "vivid",
    "warm",
    "western",
    "wide",
    "wild",
    "winding",
    "young",
]
_NOUNS = [
    "alder",
    "arroyo",
    "bank",
    "basin",
    "bay",
    "beaver",
    "bend",
    "brook",
    "canal",
    "cascade",
    "cove",
    "crane",
    "creek",
    "current",
    "dam",
    "delta",
    "dipper",
    "drift",
    "eddy",
    "egret",
    "estuary",
    "falcon",
    "fen",
    "ferry",
    "fjord",
    "ford",
    "gorge",
    "gravel",
    "grebe",
    "gull",
    "harbor",
    "heron",
    "inlet",
    "island",
    "jetty",
    "kingfisher",
    "lagoon",
    "lake",
    "levee",
    "lock",
    "loon",
    "marsh",
    "meadow",
    "meander",
    "mill",
    "minnow",
    "moor",
    "otter",
    "oxbow",
    "perch",
    "pier",
    "pike",
    "plover",
    "pond",
    "pool",
    "rapids",
    "reed",
    "reef",
    "ridge",
    "riffle",
    "river",
    "salmon",
    "sandbar",
    "shoal",
    "shore",
    "slough",
    "sluice",
    "snipe",
    "spring",
    "stream",
    "swan",
    "tern",
    "thicket",
    "tide",
    "trout",
    "tributary",
    "valley",
    "wader",
    "weir",
    "wharf",
    "willow",
]


def run_name() -> str:
    """A name that people can say, such as `"quiet-heron"`; not unique."""
    drawn = int.from_bytes(os.urandom(4), "big")
    noun, adjective = divmod(drawn, len(_ADJECTIVES))
    return f"{_ADJECTIVES[adjective]}-{_NOUNS[noun % len(_NOUNS)]}"


def id_prefix() -> int:
    """A random start for the ids of one engine: 128 bits, the low 48 left for a count."""
    return uuid.uuid4().int >> 48 << 48


def run_id(prefix: int, key: int) -> str:
    """The id of a run as a UUID: the engine's random prefix and the run's number in it."""
    digits = f"{prefix | key:032x}"  # as str(uuid.UUID(int=...)), in a third of its time
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One run of a flow. `parameters` stay in the flow's own process."""

    id: str
    name: str
    flow_name: str
    tags: frozenset[str] = frozenset()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    parent_task_run_id: str | None = None
    parent_flow_run_id: str | None = None
    run_count: int = 1
    start_time: dt.datetime | None = None

    def without_parameters(self) -> FlowRun:
        """The same run for a worker process, which asks for the parameters if it needs them."""
        return FlowRun(
            self.id,
            self.name,
            self.flow_name,
            self.tags,
            {},
            self.parent_task_run_id,
            self.parent_flow_run_id,
            self.run_count,
            self.start_time,
        )


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One run of a task: a call, with all its attempts. Times are UTC, `seconds` the last attempt's."""

    id: str
    name: str
    task_name: str
    task_key: str
    flow_run_id: str | None
    tags: frozenset[str]
    run_count: int
    map_id: str | None = None
    map_index: int | None = None
    start_time: dt.datetime | None = None
    seconds: float | None = None
