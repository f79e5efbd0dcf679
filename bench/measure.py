"""Taking figures in turn, so that a machine that slows down slows down all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Samples = Mapping[str, Sequence[float]]
"""By subject, one figure for each round."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, between the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def text(self, digits: int = 0) -> str:
        """As in `163 (158-171)`."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}–{self.most:,.{digits}f})"


def in_turn(subjects: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """Take one figure of each subject after the other, and all again; a first round is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, take in subjects.items():
            figure = take()
            if number:
                samples[name].append(figure)
    return samples


def ratios(samples: Samples, subject: str, base: str) -> Spread:
    """A subject's figures against another's of the same rounds."""
    return Spread.of([a / b for a, b in zip(samples[subject], samples[base], strict=True)])


def added(samples: Samples, subject: str, base: str) -> Spread:
    """What a subject costs beyond another, round by round."""
    return Spread.of([a - b for a, b in zip(samples[subject], samples[base], strict=True)])


def percentile(figures: Sequence[float], part: float) -> float:
    """The figure that `part` of all do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
