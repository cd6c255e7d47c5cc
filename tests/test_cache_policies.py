"""Cache policies: what is in a key, how policies compose, what is refused."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from anabranch.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CacheContext,
    CacheKeyFnPolicy,
    CachePolicy,
    CompoundCachePolicy,
    FlowParameters,
    Inputs,
    NoCache,
    RunId,
    TaskSource,
    key_from,
)
from anabranch.errors import OptionError, UnhashableInput


def double(x: int, y: int = 0) -> int:
    return 2 * x


def triple(x: int, y: int = 0) -> int:
    return 3 * x


def context(
    fn: Any = double, key: str | None = None, flow_run_id: str | None = "run", run_id: str = "task"
) -> CacheContext:
    key = key or f"{fn.__module__}:{fn.__qualname__}"
    return CacheContext(fn, key, fn, SimpleNamespace(id=run_id), flow_run_id)


def key(
    policy: CachePolicy,
    inputs: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    **options: Any,
) -> str | None:
    return policy.compute_key(context(**options), inputs or {}, parameters or {})


ALL = {
    "inputs": INPUTS,
    "source": TASK_SOURCE,
    "flow parameters": FLOW_PARAMETERS,
    "run id": RUN_ID,
    "default": DEFAULT,
    "all": INPUTS + TASK_SOURCE + FLOW_PARAMETERS + RUN_ID,
    "without": INPUTS - "x",
}


@pytest.mark.parametrize("name", ALL)
def test_keys_are_hex_and_last(name: str) -> None:
    one = key(ALL[name], {"x": 1})
    assert one is not None and len(one) == 32 and int(one, 16) >= 0
    assert one == key(ALL[name], {"x": 1})


@pytest.mark.parametrize("name", ALL)
def test_two_tasks_never_share_a_key(name: str) -> None:
    assert key(ALL[name], {"x": 1}, key="m:a") != key(ALL[name], {"x": 1}, key="m:b")


@pytest.mark.parametrize("name", ALL)
def test_a_key_is_made_of_its_parts(name: str) -> None:
    given = (context(), {"x": 1, "y": [2]}, {"p": 3})
    assert ALL[name].compute_key(*given) == key_from(ALL[name].parts(*given))


def test_policies_have_keys_of_their_own() -> None:
    found = [key(policy, {"x": 1}, {"x": 1}) for policy in ALL.values()]
    assert len(set(found)) == len(found)


def test_inputs() -> None:
    assert key(INPUTS, {"x": 1, "y": 2}) == key(INPUTS, {"y": 2, "x": 1})
    assert key(INPUTS, {"x": 1}) != key(INPUTS, {"x": 2})
    assert key(INPUTS, {"x": 1}) != key(INPUTS, {"x": True})
    assert key(INPUTS, {"x": 1}) != key(INPUTS, {"y": 1})
    assert key(INPUTS) is not None


def test_inputs_without_some() -> None:
    assert key(INPUTS - "x", {"x": 1, "y": 2}) == key(INPUTS - "x", {"x": 5, "y": 2})
    assert key(INPUTS - "x", {"x": 1, "y": 2}) != key(INPUTS - "x", {"x": 1, "y": 3})
    assert INPUTS - "x" - "y" == INPUTS - ["x", "y"] == Inputs(exclude=frozenset({"x", "y"}))
    assert key(INPUTS - "x", {"x": object(), "y": 1}) is not None


def test_a_default_without_some() -> None:
    policy = DEFAULT - "x"
    assert isinstance(policy, CompoundCachePolicy)
    assert key(policy, {"x": 1, "y": 2}) == key(policy, {"x": 5, "y": 2})
    assert key(policy, {"x": 1, "y": 2}) != key(policy, {"x": 1, "y": 3})
    assert set(policy.policies) == {TASK_SOURCE, RUN_ID, INPUTS - "x"}


@pytest.mark.parametrize("policy", [TASK_SOURCE, RUN_ID + TASK_SOURCE])
def test_leaving_an_argument_out_counts_the_others(policy: CachePolicy) -> None:
    without = policy - "x"
    assert key(without, {"x": 1, "y": 2}) == key(without, {"x": 5, "y": 2})
    assert key(without, {"x": 1, "y": 2}) != key(without, {"x": 1, "y": 3})


def test_task_source() -> None:
    assert key(TASK_SOURCE, {"x": 1}, key="m:f") == key(TASK_SOURCE, {"x": 2}, key="m:f")
    assert key(TASK_SOURCE, fn=double, key="m:f") != key(TASK_SOURCE, fn=triple, key="m:f")


def test_task_source_of_code_without_source() -> None:
    def made(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "made"}
        exec(text, space)
        return space["f"]

    one, other = made("def f(): return 1"), made("def f(): return 2")
    assert key(TASK_SOURCE, fn=one) == key(TASK_SOURCE, fn=made("def f(): return 1"))
    assert key(TASK_SOURCE, fn=one) != key(TASK_SOURCE, fn=other)


def test_flow_parameters() -> None:
    assert key(FLOW_PARAMETERS, {"x": 1}, {"p": 1}) == key(FLOW_PARAMETERS, {"x": 2}, {"p": 1})
    assert key(FLOW_PARAMETERS, {}, {"p": 1}) != key(FLOW_PARAMETERS, {}, {"p": 2})
    assert key(FLOW_PARAMETERS, {}, {}, flow_run_id=None) is None
    outside = key(FLOW_PARAMETERS + INPUTS, {"x": 1}, flow_run_id=None)
    assert outside not in (None, key(FLOW_PARAMETERS + INPUTS, {"x": 1}))


def test_run_id() -> None:
    assert key(RUN_ID, run_id="a") == key(RUN_ID, run_id="b")
    assert key(RUN_ID, flow_run_id="a") != key(RUN_ID, flow_run_id="b")
    assert key(RUN_ID, flow_run_id=None, run_id="a") != key(RUN_ID, flow_run_id=None, run_id="b")


def test_no_cache() -> None:
    assert key(NO_CACHE, {"x": 1}) is None
    assert NO_CACHE + INPUTS == INPUTS + NO_CACHE == INPUTS
    assert NO_CACHE + DEFAULT == DEFAULT + NO_CACHE == DEFAULT
    assert isinstance(NO_CACHE + NO_CACHE, NoCache)
    assert NO_CACHE - "x" == NO_CACHE


def test_the_default() -> None:
    assert DEFAULT == INPUTS + TASK_SOURCE + RUN_ID
    assert (INPUTS + TASK_SOURCE) + RUN_ID == INPUTS + (TASK_SOURCE + RUN_ID)
    assert key(INPUTS + INPUTS, {"x": 1}) == key(INPUTS, {"x": 1})


@pytest.mark.parametrize(
    "change",
    [{"inputs": {"x": 2}}, {"fn": triple}, {"flow_run_id": "other"}, {"parameters": {"p": 2}}],
    ids=["inputs", "source", "run id", "flow parameters"],
)
def test_each_part_of_a_compound_counts(change: dict[str, Any]) -> None:
    policy = ALL["all"]
    same: dict[str, Any] = {"inputs": {"x": 1}, "parameters": {"p": 1}, "key": "m:f"}
    assert key(policy, **same) != key(policy, **same | change)


def test_order_does_not_count() -> None:
    assert key(INPUTS + RUN_ID, {"x": 1}) == key(RUN_ID + INPUTS, {"x": 1})


def test_parts_tell_what_made_the_difference() -> None:
    policy = DEFAULT + FLOW_PARAMETERS
    one = policy.parts(context(), {"x": 1, "y": 2}, {"p": 1})
    other = policy.parts(context(), {"x": 1, "y": 3}, {"p": 1})
    assert set(one) == {
        *("task", "inputs", "inputs.x", "inputs.y", "task_source", "run_id"),
        *("flow_parameters", "flow_parameters.p"),
    }
    assert {name for name in one if one[name] != other[name]} == {"inputs", "inputs.y"}
    assert one["run_id"] == "run" and one["task"] == context().task_key


def test_two_kinds_of_inputs_in_one() -> None:
    policy = (INPUTS - "x") + (INPUTS - "y")
    parts = policy.parts(context(), {"x": 1, "y": 2}, {})
    assert set(parts) == {"task", "inputs", "inputs.y", "inputs#2", "inputs#2.x"}
    assert key(policy, {"x": 1, "y": 2}) != key(policy, {"x": 3, "y": 2})


# keys from functions


def test_a_key_of_the_users_stays_as_it_is() -> None:
    seen: list[Any] = []

    def fn(given: CacheContext, parameters: Mapping[str, Any]) -> str:
        seen.append((given.task_key, dict(parameters)))
        return "my key"

    policy = CacheKeyFnPolicy(fn)
    assert key(policy, {"x": 1}, key="m:f") == "my key"
    assert seen == [("m:f", {"x": 1})]
    assert policy.parts(context(), {"x": 1}, {}) == {"cache_key_fn": "my key"}


def test_a_key_of_the_users_beside_others() -> None:
    policy = CacheKeyFnPolicy(lambda _, parameters: parameters["name"]) + RUN_ID
    one, other = key(policy, {"name": "a"}), key(policy, {"name": "b"})
    assert one is not None and len(one) == 32 and one != other
    none = CacheKeyFnPolicy(lambda *_: None)
    assert key(none) is None
    assert key(none + RUN_ID) == key(RUN_ID)


def test_two_functions_in_one() -> None:
    policy = CacheKeyFnPolicy(lambda *_: "a") + CacheKeyFnPolicy(lambda *_: "b")
    parts = policy.parts(context(), {}, {})
    assert parts == {"task": context().task_key, "cache_key_fn": "a", "cache_key_fn#2": "b"}


def test_functions_that_give_no_key() -> None:
    with pytest.raises(OptionError, match="a str that is not empty, or None"):
        key(CacheKeyFnPolicy(lambda *_: 5))  # type: ignore[arg-type, return-value]
    with pytest.raises(OptionError, match="a function"):
        CacheKeyFnPolicy("key")  # type: ignore[arg-type]


class ByRoot(CachePolicy):
    """As a user writes one for Prefect."""

    def __init__(self, root: str) -> None:
        super().__init__()
        object.__setattr__(self, "root", root)

    def compute_key(
        self, context: CacheContext, inputs: Mapping[str, Any], flow_parameters: Mapping[str, Any]
    ) -> str | None:
        return f"{self.root}-{inputs['x']}"  # type: ignore[attr-defined]


def test_a_policy_of_the_users() -> None:
    policy = ByRoot("a")
    assert key(policy, {"x": 1}) == "a-1"
    assert policy.parts(context(), {"x": 1}, {}) == {"ByRoot": "a-1"}
    both = policy + RUN_ID
    assert key(both, {"x": 1}) != key(both, {"x": 2})
    assert policy.configure(key_storage="here").root == "a"  # type: ignore[attr-defined]


def test_a_policy_that_makes_nothing() -> None:
    with pytest.raises(NotImplementedError, match="neither compute_key nor parts"):
        key(CachePolicy())


# options


def test_configure() -> None:
    lock = object()
    policy = DEFAULT.configure(key_storage="here", lock_manager=lock)
    assert (policy.key_storage, policy.lock_manager, policy.isolation_level) == ("here", lock, None)
    again = policy.configure(isolation_level="serializable")
    assert (again.key_storage, again.isolation_level) == ("here", "serializable")
    assert DEFAULT.key_storage is None
    assert key(policy, {"x": 1}) == key(DEFAULT, {"x": 1})


@pytest.mark.parametrize("policy", [INPUTS, NO_CACHE, DEFAULT, CacheKeyFnPolicy(lambda *_: "a")])
def test_isolation_levels(policy: CachePolicy) -> None:
    class Level(enum.Enum):
        SERIALIZABLE = "SERIALIZABLE"

    for level in ("read_committed", "READ_COMMITTED"):
        made = policy.configure(isolation_level=level)  # type: ignore[arg-type]
        assert made.isolation_level == "read_committed"
    assert policy.configure(isolation_level=Level.SERIALIZABLE).isolation_level == "serializable"  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'read_committed' or 'serializable'"):
        policy.configure(isolation_level="loose")  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["key_storage", "lock_manager", "isolation_level"])
def test_options_in_a_sum(option: str) -> None:
    one, other = ("serializable", "read_committed")
    configured: CachePolicy = INPUTS.configure(**{option: one})  # type: ignore[arg-type]
    for policy in (
        configured + RUN_ID,
        RUN_ID + configured,
        configured + NO_CACHE,
        configured - "x",
    ):
        assert getattr(policy, option) == one
    policy = configured + RUN_ID - "x"
    assert getattr(policy, option) == one
    with pytest.raises(OptionError, match=option):
        configured + RUN_ID.configure(**{option: other})  # type: ignore[arg-type]


def test_what_cannot_be_added_or_left_out() -> None:
    with pytest.raises(TypeError):
        INPUTS + "x"  # type: ignore[operator]
    for policy in (INPUTS, DEFAULT, RUN_ID, NO_CACHE):
        with pytest.raises(OptionError, match="an argument's name"):
            policy - [1]  # type: ignore[list-item]


def test_policies_are_values() -> None:
    assert {Inputs(), TaskSource(), FlowParameters(), RunId(), NoCache()} == {
        *(INPUTS, TASK_SOURCE, FLOW_PARAMETERS, RUN_ID, NO_CACHE)
    }
    with pytest.raises(AttributeError):
        INPUTS.key_storage = "x"  # type: ignore[misc]


def test_policies_travel() -> None:
    for policy in (DEFAULT - "x", CacheKeyFnPolicy(double), NO_CACHE):  # type: ignore[arg-type]
        assert pickle.loads(pickle.dumps(policy)) == policy


def test_an_argument_without_identity_is_named() -> None:
    with pytest.raises(UnhashableInput, match=r"arguments\['x'\]\[1\]") as caught:
        key(DEFAULT, {"x": [1, object()]})
    assert "INPUTS - 'x'" in str(caught.value)
    with pytest.raises(UnhashableInput, match=r"flow parameters\['p'\]"):
        key(FLOW_PARAMETERS, {}, {"p": object()})
