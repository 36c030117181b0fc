# SPDX-License-Identifier: Apache-2.0
"""What a claim is, what it is measured on, and what came of it."""

import dataclasses
from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from analysis.claims.runs import Runs

Figures = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What claims are measured on.

    Attributes:
        runs: Where networks are trained, or found trained.
        seed: Of every random choice; of several runs, the first one's.
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
        note: Where they disagree with the paper, or need a word.
        draw: Draws what was measured; `None` where there is nothing to see.
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
        section: Of the paper.
        expected: What has to be measured for the claim to hold.
        measure: Measures it.
        holds: Whether figures are what is expected. Of nothing else, so that
            a test can exchange the sides that are compared.
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
        """The module that measures it, without its package."""
        return self.measure.__module__.rpartition(".")[-1]
