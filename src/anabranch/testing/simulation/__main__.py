"""The simulation as a command: `python -m anabranch.testing.simulation --programs 10000 --seed 1`."""

from __future__ import annotations

import argparse
import sys
import time

from anabranch.testing.simulation.listing import listing
from anabranch.testing.simulation.programs import random_program
from anabranch.testing.simulation.sweep import SimulationError, sweep

PROGRESS_SECONDS = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m anabranch.testing.simulation")
    parser.add_argument("--programs", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seed", type=int, default=1, help="that of the first (1)")
    parser.add_argument("--show", action="store_true", help="print the first program")
    options = parser.parse_args()
    first, programs = options.seed, options.programs
    if options.show:
        print(listing(random_program(first)))
    print(f"seeds {first} to {first + programs - 1}")
    began = told = time.monotonic()
    try:
        for seed in sweep(first, programs):
            now = time.monotonic()
            if now - told > PROGRESS_SECONDS:
                told = now
                done = seed - first + 1
                print(f"{done} programs, {done / (now - began):.0f} a second", flush=True)
    except SimulationError as error:
        print(error)
        return 1
    seconds = time.monotonic() - began
    print(f"all {programs} programs held, {programs / seconds:.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
