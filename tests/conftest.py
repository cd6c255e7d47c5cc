"""The tests that the package ships explain their failures as those in this folder do."""

import pytest

pytest.register_assert_rewrite("anabranch.testing")
