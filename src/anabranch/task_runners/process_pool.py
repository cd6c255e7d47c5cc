"""Child processes for calls: fed, read, replaced and ended by one thread."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic, time
from typing import NamedTuple

from anabranch.errors import Terminated
from anabranch.execution import messages
from anabranch.execution.calls import Call, CallsOfRuns
from anabranch.execution.portable import Packed, unpacked
from anabranch.execution.remote_logs import handle_remote
from anabranch.outcomes import FAILED, Outcome
from anabranch.task_runners.base import Capabilities, Inbox, OpenRunnerBase
from anabranch.task_runners.child import Child, Definitions, begun_of, lost, stopped
from anabranch.task_runners.forkserver import EXITED, FORKED, fork_server, give_back, how_it_ended
from anabranch.task_runners.ready_queue import ReadyQueue
from anabranch.task_runners.thread_pool import not_begun

WINDOW_SECONDS = 0.002
"""A child holds about so much work ahead,"""
WINDOW = 256
"""and at most so many calls."""
SHARES = 8
"""A child's share is given to it in so many parts, by turns with others."""
STUCK_SECONDS = 0.005
"""Calls behind one that takes longer are taken back where another child is idle."""
KILL_SECONDS = 1.0
"""From SIGTERM to SIGKILL."""
LEAVE_SECONDS = 1.0
"""How long children get to leave at the end."""
MOST_EXTRA = 8
"""Children beside `max_workers` that stand in for those whose calls wait; after that, calls run on
threads of children that wait, so that memory stays bounded however deep tasks nest."""


class Notice(NamedTuple):
    """What the engine tells a child."""

    child: Child
    data: bytes


Command = Sequence[Call] | set[int] | Notice
"""A launch, a cancellation, or a notice."""


class ProcessPool(OpenRunnerBase):
    """At most `max_workers` children at work, not counting those whose calls wait for others.

    All but the port's methods runs on the pool's own thread.
    """

    def __init__(self, inbox: Inbox, max_workers: int, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._inbox = inbox
        self._max_workers = max_workers
        self._queue = ReadyQueue()
        self._inner = ReadyQueue()  # calls of tasks, which have others waiting for them: come first
        self._again: deque[Call] = deque()  # taken back from children: they come before all
        self._commands: deque[Command] = deque()
        self._children: list[Child] = []
        self._unborn: deque[Child] = deque()  # asked of the server, in this order
        self._definitions = Definitions()
        self._outcomes: list[Outcome] = []
        self._mean = WINDOW_SECONDS  # seconds of a call, recent ones counting most
        self._closing = False
        self._server = fork_server()
        self._woken, self._waker = socket.socketpair()
        self._awake = False
        self._waking = threading.Lock()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(self._server.socket, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="anabranch-processes", daemon=True)
        self._thread.start()

    # -- the port -----------------------------------------------------------------------------------

    def launch(self, calls: Sequence[Call]) -> None:
        self._commands.append(calls)
        self._wake()

    def cancel(self, keys: Iterable[int]) -> None:
        self._commands.append(set(keys))
        self._wake()

    def running(self) -> Iterable[tuple[int, int]]:
        return [(call.key, call.attempt) for _, call in self._begun()]

    def abandoned(self) -> list[str]:
        return [
            f"{call.run_name} in child process {child.pid}"
            for child, call in self._begun()
            if call.key not in child.doomed
        ]

    def _begun(self) -> list[tuple[Child, Call]]:
        born = [child for child in list(self._children) if child.pid is not None]
        return [(child, begun.call) for child in born for begun in list(child.begun.values())]

    def close(self) -> None:
        """End all children, then the server; at most a few seconds."""
        self._closing = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        with self._waking:
            if self._awake:
                return
            try:
                self._waker.send(b"w")
            except OSError:  # closed, or full and so awake anyway
                pass
            self._awake = True  # last, since a signal's exception may come in between

    # -- the pool's thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_commands()
                self._feed()
                self._turn(self._patience())
            self._end_children()
        finally:
            self._selector.close()
            if self._children:
                self._server.close(LEAVE_SECONDS)
                for child in self._children:
                    child.close()
            else:
                give_back(self._server)
            self._woken.close()
            self._waker.close()

    def _turn(self, timeout: float | None) -> None:
        """Wait for something to happen, and deal with all of it."""
        server_spoke = False
        for key, events in self._selector.select(timeout):
            if key.fileobj is self._woken:
                self._sleep_again()
            elif key.fileobj is self._server.socket:
                server_spoke = True
            else:
                child: Child = key.data
                if events & selectors.EVENT_READ:
                    self._hear(child)
                if events & selectors.EVENT_WRITE:
                    self._send(child)
        if server_spoke:
            self._hear_server()
        self._see_to_the_dying()
        self._hand_over()

    def _sleep_again(self) -> None:
        try:
            self._woken.recv(64)
        except BlockingIOError:
            pass
        with self._waking:
            self._awake = False

    def _hand_over(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._inbox.finished(outcomes)

    def _patience(self) -> float | None:
        """Seconds until something is due that nobody tells of; None where nothing is."""
        times = [child.kill_at for child in self._children if child.kill_at is not None]
        soonest = max(0.0, min(times) - monotonic()) if times else None
        asked = any(child.asked_back and child.doomed for child in self._children)
        stuck = self._has_free_slot() and any(child.behind for child in self._children)
        if asked or stuck:
            soonest = STUCK_SECONDS if soonest is None else min(STUCK_SECONDS, soonest)
        return soonest

    def _has_free_slot(self) -> bool:
        return sum(child.busy for child in self._children) < self._max_workers

    # -- calls go out -------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Give calls to free children, make children while there are more, and then let those that
        are quick have some ahead."""
        while self._queue or self._inner or self._again:
            if self._has_free_slot():
                child = self._free_child()
                if child is None or not self._give_next(child, bool(child.waiting)):
                    break
                continue
            window = self._window()
            open_ones = [child for child in self._children if self._has_room(child, window)]
            if not open_ones:
                break
            for child in open_ones:
                for _ in range(min(max(1, window // SHARES), window - len(child.flying))):
                    if not self._give_next(child, False):
                        break
        if not (self._queue or self._inner or self._again) and self._has_free_slot():
            for child in self._children:
                main = child.main
                if child.behind and main and monotonic() - main.since > STUCK_SECONDS:
                    child.ask_back()
        for child in self._children:
            self._send(child)
        self._hand_over()

    def _window(self) -> int:
        """How many calls such as the next one a child is to hold."""
        call = self._again[0] if self._again else self._inner.first() or self._queue.first()
        if call is not None and call.scope.batch_size is not None:
            return call.scope.batch_size
        return max(1, min(WINDOW, int(WINDOW_SECONDS / max(self._mean, 1e-6))))

    def _free_child(self) -> Child | None:
        """One with nothing to do, a new one, or the one that waits with the fewest calls."""
        idle = [child for child in self._children if child.usable and not child.flying]
        if idle:
            return idle[0]
        if len(self._children) < self._max_workers + MOST_EXTRA:
            return self._new_child()
        waits = [child for child in self._children if child.usable and not child.busy]
        return min(waits, key=lambda child: len(child.begun), default=None)

    def _has_room(self, child: Child, window: int) -> bool:
        main = child.main
        if not child.usable or main is None or child.waiting or child.pid is None:
            return False
        return len(child.flying) < window and monotonic() - main.since < STUCK_SECONDS

    def _give_next(self, child: Child, nested: bool) -> bool:
        """One more call for this child; False where none is left."""
        call = self._again.popleft() if self._again else self._inner.take() or self._queue.take()
        if call is None:
            return False
        try:
            child.give(call, *self._definitions.of(call), nested)
        except Exception as error:  # mostly `UnpicklableError`; no reason to lose other calls
            outcome = Outcome(call.key, call.attempt, FAILED, error, time(), 0.0)
            self._outcomes.append(outcome)
        return True

    def _tell(self, child: Child, notice: bytes) -> None:
        """Send a notice of the engine; from any thread."""
        if threading.current_thread() is self._thread:
            child.tell(notice)  # goes out with the next calls
        else:
            self._commands.append(Notice(child, notice))
            self._wake()

    def _new_child(self) -> Child:
        desk = self._inbox.desk(lambda notice: self._tell(child, notice))
        child = Child(*self._server.fork(), desk)
        self._children.append(child)
        self._unborn.append(child)
        self._selector.register(child.socket, selectors.EVENT_READ, child)
        return child

    def _send(self, child: Child) -> None:
        if child.at_end:
            return
        more = child.send()
        if more != child.writes:
            child.writes = more
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if more else 0)
            self._selector.modify(child.socket, events, child)

    # -- outcomes come in -----------------------------------------------------------------------------

    def _hear(self, child: Child) -> None:
        for message in child.receive():
            tag = message[0]
            if tag == messages.ENDED:
                self._ended(child, message[1])
                continue
            child.next_main()
            if tag == messages.LOG:
                _log(message[1])
            elif tag == messages.STARTED:
                self._inbox.started(message[1], message[2])
            elif tag == messages.RETURNED:
                self._returned(child, message[1], message[2])
            elif tag == messages.WAITS:
                if message[1] in child.begun:
                    child.waiting.add(message[1])
            elif tag == messages.GOES_ON:
                child.waiting.discard(message[1])
            elif tag == messages.REQUEST:
                begun = child.begun.get(message[1])
                if begun is not None:
                    child.desk.asked(begun.call, message[2])
        child.next_main()
        if child.at_end:
            self._selector.unregister(child.socket)

    def _ended(self, child: Child, sent: Packed) -> None:
        key = sent[0]
        doomed = key in child.doomed or self._closing
        found = child.ended(key)
        if found is None:
            return
        outcome = unpacked(sent, lambda: begun_of(found).call.run_name, self._inbox)
        child.desk.ended(key)
        self._mean += 0.2 * (outcome.seconds - self._mean)
        if isinstance(outcome.value, Terminated):
            how = "was sent SIGTERM"
            begun = begun_of(found)
            outcome = stopped(begun) if doomed else lost(begun, child.pid, how)
            if not begun.nested:
                child.dying = True
                child.kill_at = child.kill_at or monotonic() + KILL_SECONDS
        if not child.doomed and not child.dying:
            child.kill_at = None
        self._outcomes.append(outcome)

    def _returned(self, child: Child, keys: Sequence[int], as_asked: bool) -> None:
        if as_asked:
            child.asked_back = None
        self._take_again(child, child.returned(keys))
        if as_asked:
            self._end_if_doomed(child)

    def _take_again(self, child: Child, calls: Sequence[Call]) -> None:
        """Calls that a child had not begun go to others, unless they were cancelled."""
        for call in reversed(calls):
            if call.key in child.doomed:
                child.doomed.discard(call.key)
                self._outcomes.append(not_begun(call))
            else:
                self._again.appendleft(call)

    # -- ends ---------------------------------------------------------------------------------------

    def _take_commands(self) -> None:
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, set):
                self._cancel(command)
            elif isinstance(command, Notice):
                command.child.tell(command.data)
            elif isinstance(command, CallsOfRuns):  # of one submission
                inside = command[0].scope.parent_key is not None
                (self._inner if inside else self._queue).put(command)
            else:
                inner = [call for call in command if call.scope.parent_key is not None]
                outer = command
                if inner:
                    self._inner.put(inner)
                    outer = [call for call in command if call.scope.parent_key is None]
                self._queue.put(outer)

    def _cancel(self, keys: set[int]) -> None:
        waiting = self._queue.take_back_all(keys) + self._inner.take_back_all(keys)
        waiting += [call for call in self._again if call.key in keys]
        self._again = deque(call for call in self._again if call.key not in keys)
        self._outcomes += [not_begun(call) for call in waiting]
        for child in self._children:
            doomed = keys & child.flying.keys()
            if doomed:
                child.doomed |= doomed
                child.ask_back()  # so that the signal cannot hit the next call
                self._send(child)

    def _end_if_doomed(self, child: Child) -> None:
        """End the calls of a child that have begun and are doomed."""
        if child.pid is None or child.dying:  # not there yet: once it is
            return
        for key in child.doomed & child.begun.keys():
            child.kill_at = child.kill_at or monotonic() + KILL_SECONDS
            if child.begun[key].nested:
                child.interrupt(key)
            else:
                child.dying = True
                self._server.kill(child.pid, signal.SIGTERM)

    def _see_to_the_dying(self) -> None:
        now = monotonic()
        for child in self._children:
            if child.asked_back and child.doomed and now - child.asked_back > 10 * STUCK_SECONDS:
                self._end_if_doomed(child)  # something in C holds up its reader
            if child.kill_at is not None and now >= child.kill_at and child.pid is not None:
                child.kill_at = None
                self._server.kill(child.pid, signal.SIGKILL)

    def _hear_server(self) -> None:
        reports = self._server.reports()
        if reports is None:
            self._replace_server()
            return
        for what, pid, status in reports:
            if what == FORKED:
                child = self._unborn.popleft()
                if pid < 0:
                    self._bury(child, "could not be started")
                else:
                    child.was_born(pid)
                    if child.doomed and child.asked_back is None:
                        self._end_if_doomed(child)
            elif what == EXITED:
                for child in [each for each in self._children if each.pid == pid]:
                    if not child.at_end:
                        self._hear(child)  # its last words
                    self._bury(child, how_it_ended(status))

    def _bury(self, child: Child, how: str) -> None:
        """A child is gone: its call is lost, those behind it go to others."""
        if not child.at_end:
            self._selector.unregister(child.socket)
        untold = child.untold()
        child.close()
        self._children.remove(child)
        child.desk.close()
        for key, begun in child.begun.items():
            del child.flying[key]
            doomed = key in child.doomed or self._closing
            self._outcomes.append(stopped(begun) if doomed else lost(begun, child.pid, how))
        self._take_again(child, [*untold, *child.flying.values()])
        child.begun.clear()
        child.flying.clear()

    def _replace_server(self) -> None:
        """The server is gone: children end with their sockets, and a new one makes others."""
        self._selector.unregister(self._server.socket)
        self._server.close(LEAVE_SECONDS)
        self._unborn.clear()
        for child in list(self._children):
            if not child.at_end:
                self._hear(child)
            if child.pid is not None:
                try:
                    os.kill(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self._bury(child, "lost its fork server")
        if not self._closing:
            self._server = fork_server()
            self._selector.register(self._server.socket, selectors.EVENT_READ)

    def _end_children(self) -> None:
        for child in self._children:
            if child.at_end:
                continue
            try:
                child.socket.shutdown(socket.SHUT_WR)
            except OSError:  # gone already
                pass
        for seconds in (LEAVE_SECONDS, LEAVE_SECONDS):
            deadline = monotonic() + seconds
            while self._children and (left := deadline - monotonic()) > 0:
                self._turn(left)
            for child in self._children:
                if child.pid is not None:
                    self._server.kill(child.pid, signal.SIGKILL)


def _log(data: bytes) -> None:
    try:
        handle_remote(data)
    except Exception:  # a filter of the user's: no reason to lose calls
        traceback.print_exc()
