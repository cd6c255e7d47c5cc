"""The contract of a task runner as tests that anyone can run over a runner of their own.

    import pytest

    pytest.register_assert_rewrite("anabranch.testing")  # in conftest.py, before the import below

    from anabranch.testing import RunnerContract


    class TestMyRunner(RunnerContract):
        runner = "mine?workers=4"  # anything that @flow(task_runner=...) takes
        one_worker = "mine?workers=1"

What the runner's `Capabilities` say it cannot do is expected to be refused, or its test skipped.
`ContractTests` has the attributes that a subclass may set. Importing this needs pytest.
"""

from __future__ import annotations

from anabranch.testing.contract.batches import Batches
from anabranch.testing.contract.cancellation import Cancellation
from anabranch.testing.contract.dependencies import Dependencies
from anabranch.testing.contract.failures import Failures
from anabranch.testing.contract.hooks import Hooks
from anabranch.testing.contract.logs import Logs
from anabranch.testing.contract.maps import Maps
from anabranch.testing.contract.nesting import Nesting
from anabranch.testing.contract.records import Records
from anabranch.testing.contract.resources import Resources
from anabranch.testing.contract.results import Results
from anabranch.testing.contract.retries import Retries
from anabranch.testing.contract.scale import Scale
from anabranch.testing.contract.stored import Stored
from anabranch.testing.contract.streams import Streams
from anabranch.testing.contract.subflows import Subflows
from anabranch.testing.contract.timeouts import Timeouts
from anabranch.testing.contract.transactions import Transactions


class RunnerContract(
    Results,
    Dependencies,
    Maps,
    Batches,
    Streams,
    Nesting,
    Failures,
    Retries,
    Timeouts,
    Cancellation,
    Records,
    Logs,
    Hooks,
    Resources,
    Subflows,
    Stored,
    Transactions,
    Scale,
):
    """All that a task runner has to do alike. Subclass it as `Test...` and set `runner`."""


__all__ = ["RunnerContract"]
