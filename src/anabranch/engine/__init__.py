"""The engine's rooms. What loads when it is first used stands here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anabranch.engine.cache_desk import CacheDesk as CacheDesk
    from anabranch.engine.desk import EngineDesk as EngineDesk
    from anabranch.engine.slot_keeper import SlotKeeper as SlotKeeper
    from anabranch.engine.tag_gate import TagGate as TagGate
    from anabranch.store.slots import open_slots as open_slots

_LAZY = {
    "CacheDesk": "anabranch.engine.cache_desk",
    "EngineDesk": "anabranch.engine.desk",  # only runs with worker processes need it: 7 ms
    "SlotKeeper": "anabranch.engine.slot_keeper",
    "TagGate": "anabranch.engine.tag_gate",
    "open_slots": "anabranch.store.slots",  # an adapter, for engines whose runs are not recorded
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
