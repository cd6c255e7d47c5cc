"""Tests run with a home of their own, and explain the package's own failures as they do theirs."""

import os
import shutil
import tempfile

import pytest

pytest.register_assert_rewrite("anabranch.testing")

_home = tempfile.mkdtemp(prefix="anabranch-tests-")
os.environ["ANABRANCH_HOME"] = _home


def pytest_unconfigure() -> None:
    shutil.rmtree(_home, ignore_errors=True)
