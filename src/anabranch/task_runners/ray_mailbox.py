"""How a flow and its calls on Ray talk while these run: an actor, and the words that go by it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anabranch.execution.claims import Claims, Granted
from anabranch.execution.cluster_calls import versions

ReplyTo = tuple[str, str, str]
"""Name and namespace of the actor, and the label of the mailbox."""


class Said(NamedTuple):
    """From a worker: a frame, counted for a call if it is one's."""

    worker: str
    key: int | None
    frame: bytes


class EndedOnSeat(NamedTuple):
    """From a worker: the frame that tells a call's end, and a list with its value's reference if that
    is to stay."""

    worker: str
    key: int | None
    frame: bytes
    boxed: list[Any] | None


class Broke(NamedTuple):
    """From a worker: a call that it was given could not be run."""

    key: int
    attempt: int
    error: BaseException


class Offered(NamedTuple):
    """From a worker: a sitter is there."""

    worker: str
    number: int


class Given(NamedTuple):
    """A call for a seat; `values` are references in a list, so that they travel as such."""

    key: int
    attempt: int
    token: str
    constants: str | None
    data: bytes
    values: list[Any]


class Leave(NamedTuple):
    """A seat that nobody needs any more."""

    number: int


class Over(NamedTuple):
    """To a worker: the flow is over."""


class PostOffice:
    """The actor through which flows and their calls talk while these run: a mailbox for each runner
    that is open. It takes a second to start, so flows of one process share it."""

    def __init__(self) -> None:
        self._mailboxes: dict[str, Mailbox | None] = {}

    async def do(self, label: str, what: str, *given: Any) -> Any:
        """Call this method of the mailbox with this label."""
        if label not in self._mailboxes:
            self._mailboxes[label] = Mailbox()
        mailbox = self._mailboxes[label]
        if mailbox is None:  # the flow is over, and nobody looks at what this gives but who listens
            return [Over()] if what == "told" else []
        return await getattr(mailbox, what)(*given)

    async def lives(self) -> None:
        """Answers whoever wants to know."""

    async def close(self, label: str) -> None:
        """Have who listens at this mailbox know that its flow is over."""
        mailbox, self._mailboxes[label] = self._mailboxes.get(label), None
        if mailbox is not None:
            mailbox.close()


class Mailbox:
    """Between one open runner and its calls."""

    def __init__(self) -> None:
        self._posts: list[Any] = []
        self._posted = asyncio.Event()
        self._boxes: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self._things: defaultdict[str, asyncio.Future[Any]] = defaultdict(_unknown)
        self._claims = Claims()

    async def versions(self) -> Any:
        """Those of the process that it runs in."""
        return versions()

    async def keep(self, token: str, boxed: list[Any]) -> None:
        """Hold what many calls share: a reference in a list."""
        self._things[token].set_result(boxed)

    async def thing(self, token: str) -> list[Any]:
        """What many calls share, once it is there."""
        return await self._things[token]

    async def claim(self, group: int, worker: str) -> Granted | None:
        """See `Claims.claim`."""
        return self._claims.claim(group, worker)

    async def strike(self, keys: Mapping[int, Sequence[int]]) -> dict[int, tuple[str | None, int]]:
        """See `Claims.strike`."""
        return {group: self._claims.strike(group, some) for group, some in keys.items()}

    async def settle(self, group: int, place: int) -> None:
        """See `Claims.settle`."""
        self._claims.settle(group, place)

    async def post(self, post: Any) -> None:
        """Take what a worker tells the flow, one of the above."""
        self._posts.append(post)
        self._posted.set()

    async def posts(self) -> list[Any]:
        """What workers have told, once there is any."""
        await self._posted.wait()
        self._posted.clear()
        posts, self._posts = self._posts, []
        return posts

    def close(self) -> None:
        """The flow is over."""
        self._posted.set()
        for box in self._boxes.values():
            box.put_nowait(Over())

    async def tell(self, worker: str, words: Any) -> None:
        """Take what the flow tells a worker."""
        self._boxes[worker].put_nowait(words)

    async def told(self, worker: str) -> list[Any]:
        """What the flow has told this worker, once there is any."""
        box = self._boxes[worker]
        words = [await box.get()]
        while not box.empty():
            words.append(box.get_nowait())
        return words


def _unknown() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()
