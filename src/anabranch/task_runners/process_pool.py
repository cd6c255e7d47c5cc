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

from anabranch.errors import Terminated, UnpicklableError
from anabranch.execution import messages
from anabranch.execution.calls import Call
from anabranch.execution.messages import Message
from anabranch.execution.pickling import loads, received_exception
from anabranch.execution.remote_logs import handle_remote
from anabranch.outcomes import FAILED, Outcome
from anabranch.task_runners.base import Capabilities, Inbox, OpenRunnerBase
from anabranch.task_runners.child import Child, Definitions, lost, stopped
from anabranch.task_runners.forkserver import EXITED, FORKED, ForkServer, how_it_ended
from anabranch.task_runners.ready_queue import ReadyQueue
from anabranch.task_runners.thread_pool import not_begun

WINDOW_SECONDS = 0.002
"""A child holds about so much work ahead,"""
WINDOW = 32
"""and at most so many calls."""
STUCK_SECONDS = 0.005
"""Calls behind one that takes longer are taken back where another child is idle."""
KILL_SECONDS = 1.0
"""From SIGTERM to SIGKILL."""
LEAVE_SECONDS = 1.0
"""How long children get to leave at the end."""


class ProcessPool(OpenRunnerBase):
    """At most `max_workers` children. All but the port's methods runs on the pool's own thread."""

    def __init__(self, inbox: Inbox, max_workers: int, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._inbox = inbox
        self._max_workers = max_workers
        self._queue = ReadyQueue()
        self._again: deque[Call] = deque()  # taken back from children: they come first
        self._commands: deque[Sequence[Call] | set[int]] = deque()  # launches and cancels, in order
        self._children: list[Child] = []
        self._unborn: deque[Child] = deque()  # asked of the server, in this order
        self._definitions = Definitions()
        self._outcomes: list[Outcome] = []
        self._mean = WINDOW_SECONDS  # seconds of a call, recent ones counting most
        self._closing = False
        self._server = ForkServer(type(inbox).__module__)
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
        current = [child.current for child in list(self._children) if child.pid is not None]
        return [(call.key, call.attempt) for call in current if call is not None]

    def abandoned(self) -> list[str]:
        return [
            f"{call.run_name} in child process {child.pid}"
            for child in list(self._children)
            if (call := child.current) is not None and call.key not in child.doomed
        ]

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
            self._server.close(LEAVE_SECONDS)
            for child in self._children:
                child.close()
            self._selector.close()
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
        if any(child.asked_back and child.doomed for child in self._children):
            soonest = min(STUCK_SECONDS, soonest or STUCK_SECONDS)
        if self._anyone_idle() and any(len(child.flying) > 1 for child in self._children):
            soonest = min(STUCK_SECONDS, soonest if soonest is not None else STUCK_SECONDS)
        return soonest

    def _anyone_idle(self) -> bool:
        idle = any(not child.flying and not child.dying for child in self._children)
        return idle or len(self._children) < self._max_workers

    # -- calls go out -------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Give each child that has room the next calls, and make children while there are more."""
        window = max(1, min(WINDOW, int(WINDOW_SECONDS / max(self._mean, 1e-6))))
        while self._queue or self._again:
            open_ones = [child for child in self._children if self._has_room(child, window)]
            idle = [child for child in open_ones if not child.flying]
            if not idle and len(self._children) < self._max_workers:
                open_ones = [self._new_child()]
            if not open_ones:
                break
            for child in open_ones:
                if not self._give_next(child):
                    break
        for child in self._children:
            self._send(child)
        if not self._queue and not self._again and self._anyone_idle():
            for child in self._children:
                if len(child.flying) > 1 and monotonic() - child.since > STUCK_SECONDS:
                    child.ask_back()
                    self._send(child)
        self._hand_over()

    def _has_room(self, child: Child, window: int) -> bool:
        if child.dying or child.asked_back is not None or child.at_end:
            return False
        if not child.flying:
            return True
        if child.pid is None or len(child.flying) >= window:
            return False
        return monotonic() - child.since < STUCK_SECONDS

    def _give_next(self, child: Child) -> bool:
        """One more call for this child; False where none is left."""
        call = self._again.popleft() if self._again else self._queue.take()
        if call is None:
            return False
        try:
            child.give(call, *self._definitions.of(call))
        except Exception as error:  # mostly `UnpicklableError`; no reason to lose other calls
            outcome = Outcome(call.key, call.attempt, FAILED, error, time(), 0.0)
            self._outcomes.append(outcome)
        return True

    def _new_child(self) -> Child:
        child = Child(self._server.fork())
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
                self._ended(child, message)
            elif tag == messages.LOG:
                _log(message[1])
            elif tag == messages.STARTED:
                self._inbox.started(message[1], message[2])
            elif tag == messages.RETURNED:
                self._returned(child, message[1])
        if child.at_end:
            self._selector.unregister(child.socket)

    def _ended(self, child: Child, message: Message) -> None:
        _, key, attempt, phase, form, value, started, seconds, text, state_name = message
        call = child.flying.pop(key, None)
        child.next_current()
        if call is None:
            return
        self._mean += 0.2 * (seconds - self._mean)
        try:
            if form == messages.PICKLED:
                value = loads(value)
            elif form == messages.EXCEPTION:
                value = received_exception(value)
        except Exception as error:  # its own code raised, or its class is not known here
            phase, text, state_name = FAILED, None, None
            reason = f"{type(error).__name__}: {error}"
            value = UnpicklableError(f"The result of {call.run_name}", "result", reason)
        outcome = Outcome(key, attempt, phase, value, started, seconds, text, state_name)
        if isinstance(value, Terminated):
            doomed = key in child.doomed or self._closing
            outcome = stopped(call, child) if doomed else lost(call, child, "was sent SIGTERM")
            child.dying = True
            child.kill_at = child.kill_at or monotonic() + KILL_SECONDS
        child.doomed.discard(key)
        self._outcomes.append(outcome)

    def _returned(self, child: Child, keys: Sequence[int]) -> None:
        child.asked_back = None
        back = [call for key in keys if (call := child.flying.pop(key, None)) is not None]
        if child.current is not None and child.current.key in keys:
            child.next_current()
        self._take_again(child, back)
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
            else:
                self._queue.put(command)

    def _cancel(self, keys: set[int]) -> None:
        waiting = self._queue.take_back_all(keys)
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
        current = child.current
        if current is not None and current.key in child.doomed and not child.dying:
            if child.pid is None:  # not there yet: once it is
                return
            child.dying = True
            child.kill_at = monotonic() + KILL_SECONDS
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
                    child.pid = pid
                    child.since = monotonic()
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
        child.close()
        self._children.remove(child)
        left = list(child.flying.values())
        if left:
            call = left.pop(0)
            doomed = call.key in child.doomed or self._closing
            self._outcomes.append(stopped(call, child) if doomed else lost(call, child, how))
        child.current = None
        self._take_again(child, left)

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
            self._server = ForkServer(type(self._inbox).__module__)
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
