"""Log lines: they name their run, and `print` can be one of them."""

from __future__ import annotations

import logging

import pytest

from anabranch import get_run_logger
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import logs, prints


class Logs(ContractTests):
    def test_logger_lines_name_their_run(self, caplog: pytest.LogCaptureFixture) -> None:
        def body() -> None:
            get_run_logger().info("the flow speaks")
            logs.submit(7).result()

        with caplog.at_level(logging.INFO, "anabranch"):
            self.in_flow(body, flow_run_name="tuesday")
        lines = {record.getMessage() for record in caplog.records}
        assert "tuesday | the flow speaks" in lines
        assert "tuesday/logs-0 | working on 7" in lines
        record = next(each for each in caplog.records if "working on" in each.getMessage())
        assert vars(record)["task_run_name"] == "logs-0"
        assert vars(record)["flow_run_name"] == "tuesday"

    def test_log_prints(
        self, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        quiet = prints.with_options(log_prints=False)

        def body() -> None:
            prints.submit(1).result()
            quiet.submit(2).result()

        with caplog.at_level(logging.INFO, "anabranch"):
            self.in_flow(body, flow_run_name="tuesday")
        lines = [record.getMessage() for record in caplog.records]
        assert "tuesday/prints-0 | printed:1" in lines
        assert not any("printed:2" in line for line in lines)
        printed = capsys.readouterr().out
        assert "printed:1" not in printed

    def test_log_prints_of_the_flow_goes_for_its_tasks(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        plain = prints.with_options(log_prints=None)

        def body() -> None:
            print("from the flow")
            plain.submit(1).result()

        with caplog.at_level(logging.INFO, "anabranch"):
            self.in_flow(body, flow_run_name="tuesday", log_prints=True)
        lines = [record.getMessage() for record in caplog.records]
        assert "tuesday | from the flow" in lines
        assert "tuesday/prints-0 | printed:1" in lines
