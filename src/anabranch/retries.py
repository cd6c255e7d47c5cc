"""When a failed attempt is tried again: tenacity's decisions, without its loop.

The engine asks `RetryPolicy.decide` after each failure and sets a timer; nothing sleeps here.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anabranch.errors import OptionError

# tenacity loads with the first task that asks for retries: where tornado is installed, as Dask
# does, tenacity loads that too, and asyncio with it.
if TYPE_CHECKING:
    from tenacity import Retrying
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

    Delays = float | Sequence[float] | Callable[[int], Sequence[float]] | wait_base
else:
    Delays = Any

Condition = Callable[..., Any]


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """Delays that double: `factor, 2 factor, 4 factor, ...` seconds, for `retry_delay_seconds`."""

    def delays(retries: int) -> list[float]:
        return [backoff_factor * 2**n for n in range(retries)]

    return delays


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after how many seconds each time: tenacity's `stop` and `wait`.

    A `jitter_factor` j makes a delay d a random one between d and d (1 + j). `condition` is the
    user's own verdict, asked by the engine outside of its lock; where it is one of tenacity's
    `retry_...` predicates, it is asked here.
    """

    stop: stop_base
    wait: wait_base
    jitter_factor: float = 0.0
    condition: Condition | None = None

    @property
    def condition_is_tenacitys(self) -> bool:
        return _is_tenacitys(self.condition, "retry")

    def delay_after(
        self, attempt: int, error: BaseException, draw: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds until the next attempt after this one (from 1) failed; None to give up."""
        from tenacity import RetryCallState  # loaded with the policy

        state = RetryCallState(_no_loop(), None, (), {})
        state.attempt_number = attempt
        state.set_exception((type(error), error, error.__traceback__))
        if self.stop(state) or (
            self.condition_is_tenacitys and self.condition is not None and not self.condition(state)
        ):
            return None
        return max(0.0, self.wait(state)) * (1 + self.jitter_factor * draw())


@functools.cache
def _no_loop() -> Retrying:
    """What tenacity's record of an attempt wants beside it; never run."""
    from tenacity import Retrying  # as above

    return Retrying()


def _is_tenacitys(value: object, kind: str) -> bool:
    """Whether this is a `"retry"` or a `"wait"` of tenacity's, which nobody has where that is not
    loaded."""
    module = sys.modules.get(f"tenacity.{kind}")
    return module is not None and isinstance(value, getattr(module, f"{kind}_base"))


def retry_policy(
    owner: str,
    retries: int | None,
    delay: Delays | None,
    jitter_factor: float | None,
    condition: Condition | None,
) -> RetryPolicy | None:
    """The policy that a task's or flow's options ask for; None for no retries.

    Raises `OptionError` where one is out of its range.
    """
    if retries is None:
        retries = 0
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        raise OptionError(owner, "retries", retries, "a whole number, 0 or more")
    if jitter_factor is not None and not 0 <= jitter_factor < float("inf"):
        raise OptionError(owner, "retry_jitter_factor", jitter_factor, "a number, 0 or more")
    if condition is not None and not callable(condition):
        raise OptionError(owner, "retry_condition_fn", condition, "a function")
    if retries == 0 and delay is None:
        return None
    from tenacity import stop_after_attempt  # as said at the top

    wait = _wait(owner, retries, delay)
    if retries == 0:
        return None
    return RetryPolicy(stop_after_attempt(retries + 1), wait, jitter_factor or 0.0, condition)


def _wait(owner: str, retries: int, delay: Any) -> wait_base:
    from tenacity import wait_chain, wait_fixed, wait_none  # as above

    if delay is None:
        return wait_none()
    if _is_tenacitys(delay, "wait"):
        return delay
    given: Any = delay(retries) if callable(delay) else delay
    option = "retry_delay_seconds"
    delays: list[Any] = [given] if isinstance(given, int | float | str) else list(given)
    if delays != [given] and len(delays) > max(retries, 1):
        raise OptionError(
            owner, option, given, f"at most one delay for each of the {retries} retries"
        )
    for value in delays:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise OptionError(owner, option, given, "seconds, 0 or more")
    return wait_chain(*map(wait_fixed, delays)) if delays else wait_none()
