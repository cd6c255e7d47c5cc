"""Users' own types come through `@flow` and `@task`: pyright in strict mode says so."""

import json
import re
import subprocess
import sys
from pathlib import Path

CALLS = Path(__file__).parent / "typed_calls.py"


def pyright(tmp_path: Path, source: str) -> list[dict[str, object]]:
    script = tmp_path / "calls.py"
    script.write_text(source)
    config = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "include": ["calls.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--outputjson"]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["generalDiagnostics"]


def test_revealed_types_are_those_in_the_comments(tmp_path: Path) -> None:
    source = CALLS.read_text()
    expected = {
        number: line.split("#", 1)[1].strip()
        for number, line in enumerate(source.splitlines())
        if "reveal_type(" in line
    }
    found: dict[int, str] = {}
    for each in pyright(tmp_path, source):
        assert each["severity"] == "information", each
        line = each["range"]["start"]["line"]  # type: ignore[index]  # pyright's own format
        found[line] = re.search(r'is "(.*)"$', str(each["message"])).group(1)  # type: ignore[union-attr]  # as above
    assert found == expected


def test_wrong_arguments_are_errors(tmp_path: Path) -> None:
    source = CALLS.read_text() + "\n\nparse.submit(3)\nparse('a', 'b', 'c')\ncensus(1)\n"
    errors = [each for each in pyright(tmp_path, source) if each["severity"] == "error"]
    assert len(errors) == 3, errors
