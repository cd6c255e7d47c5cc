"""Whole flows in a simulated world: random programs, random orders, lost workers, virtual time.

    python -m anabranch.testing.simulation --programs 10000 --seed 1

One thread, no real time, and all that is random drawn from a seed, so that what goes wrong once
goes wrong again. Not simulated: async flows and tasks, submitted subflows, timeouts of flows and
of direct calls; they have loops, threads and signals that are not the world's to order.
"""

from __future__ import annotations

from anabranch.testing.simulation.sweep import SimulationError as SimulationError
from anabranch.testing.simulation.sweep import simulate as simulate
from anabranch.testing.simulation.sweep import sweep as sweep
