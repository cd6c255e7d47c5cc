"""One simulated program, or many: each from a seed, and named by it where something is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from anabranch.context import EngineContext, current
from anabranch.testing.simulation.checks import Recorder, all_wrong
from anabranch.testing.simulation.interpreter import Interpreter
from anabranch.testing.simulation.programs import random_program
from anabranch.testing.simulation.world import World


class SimulationError(AssertionError):
    """Something that must hold did not, for the program of `seed`."""

    def __init__(self, seed: int, wrong: list[str]) -> None:
        self.seed = seed
        self.wrong = wrong
        told = "\n".join(f"  {each}" for each in wrong)
        super().__init__(
            f"The program of seed {seed} went wrong:\n{told}\nTo run it again: "
            f"python -m anabranch.testing.simulation --programs 1 --seed {seed} --show"
        )


def simulate(seed: int) -> list[str]:
    """Run the program of this seed; what the engine told, in order.

    Raises `SimulationError` where something does not hold. The same seed gives the same world.
    """
    program = random_program(seed)
    world, recorder = World(seed, program.stormy), Recorder()
    engine = world.new_engine([recorder])
    interpreter = Interpreter(program, world)
    token = current.set(EngineContext(engine, None, frozenset()))
    try:
        state = interpreter.run()
    except Exception as error:
        wrong = [(world.stuck and f"it hangs: {world.stuck}") or f"{type(error).__name__}: {error}"]
        raise SimulationError(seed, wrong) from error
    finally:
        current.reset(token)
        engine.close()
    wrong = all_wrong(interpreter, world, engine, recorder, state)
    if wrong:
        raise SimulationError(seed, wrong)
    return recorder.told


def sweep(first: int, programs: int) -> Iterator[int]:
    """Simulate so many programs, from the seed `first` on; each seed once it has passed."""
    for seed in range(first, first + programs):
        simulate(seed)
        yield seed
