"""What an import, or a first use, loads."""

from __future__ import annotations

import subprocess
import sys


def loads_none_of(code: str, *names: str) -> None:
    """Run this in a process of its own, and refuse that it has loaded any of these modules."""
    code += f"\nimport sys\nheavy = set({names!r}) & set(sys.modules)\nassert not heavy, heavy\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
