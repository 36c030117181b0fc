# SPDX-License-Identifier: Apache-2.0
"""Claims, the setting in which they are measured, and their results."""

import dataclasses
from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from analysis.claims.runs import Runs

Figures = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Setting:
    """The setting in which claims are measured.

    Attributes:
        runs: Trains networks, or finds them trained.
        seed: Seed of every random choice; if there are several runs, the seed
            of the first.
        full: Whether to train at the paper's scale: MNIST, 50,000 steps,
            several seeds. Otherwise small networks on bundled digits.
    """

    runs: Runs
    seed: int = 0
    full: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured.

    Attributes:
        figures: By name.
        note: Where the figures disagree with the paper, or need explanation.
        draw: Draws what was measured; `None` if there is nothing to draw.
    """

    figures: Figures
    note: str = ""
    draw: Callable[[], Figure] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One point of the paper as something that runs.

    Attributes:
        number: From 1, in the order of the paper's argument.
        title: The claim in a few words.
        section: Section of the paper.
        expected: What has to be measured for the claim to hold.
        measure: Measures it.
        holds: Whether figures are as expected. It is a function of the figures
            alone, so that a test can swap the sides that are compared.
        not_seen: For a claim that our networks are known not to show in full,
            which is a result and no failure: whether figures have the part
            that they do show. `None` for a claim that must hold.
        trains: Whether networks are trained for it, which `--full` does at
            the paper's scale and for several seeds.
    """

    number: int
    title: str
    section: str
    expected: str
    measure: Callable[[Setting], Result]
    holds: Callable[[Figures], bool]
    not_seen: Callable[[Figures], bool] | None = None
    trains: bool = False

    @property
    def name(self) -> str:
        """Name of the module that measures the claim, without its package."""
        return self.measure.__module__.rpartition(".")[-1]
