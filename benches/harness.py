"""Measures two sides in turns and says how they compare, with the spread."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

Side = Callable[[int], float]


class Measure(Enum):
    """How one number is made of our time and the reference's."""

    TIME = "of its time"
    SPEED = "x its speed"
    DIFFERENCE = "more"
    ALONE = ""

    def of(self, ours: float, reference: float) -> float:
        """The number for one pair of samples."""
        match self:
            case Measure.TIME:
                return ours / reference
            case Measure.SPEED:
                return reference / ours
            case Measure.DIFFERENCE:
                return ours - reference
            case Measure.ALONE:
                return ours


@dataclass(frozen=True)
class Unit:
    """A unit for times."""

    name: str
    seconds: float

    def text(self, seconds: float) -> str:
        """A time in this unit, with three figures or so."""
        value = seconds / self.seconds
        return f"{value:,.0f} {self.name}" if abs(value) >= 100 else f"{value:.3g} {self.name}"


NANOSECONDS, MICROSECONDS, MILLISECONDS = Unit("ns", 1e-9), Unit("us", 1e-6), Unit("ms", 1e-3)
MEBIBYTES = Unit("MiB", 1 << 20)


@dataclass(frozen=True)
class Result:
    """Samples of both sides, taken in turns; without a reference the second list repeats the first."""

    group: str
    name: str
    ours: list[float]
    reference: list[float]
    measure: Measure = Measure.TIME
    goal: float | None = None
    unit: Unit = NANOSECONDS

    @property
    def value(self) -> float:
        """The measure of the two medians."""
        return self.measure.of(statistics.median(self.ours), statistics.median(self.reference))

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the measure over the rounds."""
        rounds = [self.measure.of(*pair) for pair in zip(self.ours, self.reference, strict=True)]
        low, _, high = statistics.quantiles(rounds, n=4)
        return low, high

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; ``None`` without a goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.measure is Measure.SPEED else self.value <= self.goal

    def number(self, value: float) -> str:
        """A value of the measure, for a table."""
        if self.measure in (Measure.TIME, Measure.SPEED):
            return f"{value:.2f}"
        return self.unit.text(value)

    def row(self) -> tuple[str, ...]:
        """The cells of the table."""
        low, high = self.spread
        reference = "-" if self.measure is Measure.ALONE else self.unit.text(statistics.median(self.reference))
        sign = ">=" if self.measure is Measure.SPEED else "<="
        goal = "-" if self.goal is None else f"{sign} {self.number(self.goal)}"
        met = {None: "-", True: "yes", False: "NO"}[self.is_met]
        value = f"{self.number(self.value)} {self.measure.value}".strip()
        spread = f"{self.number(low)} .. {self.number(high)}"
        return self.name, self.unit.text(statistics.median(self.ours)), reference, value, spread, goal, met

    def as_json(self) -> dict[str, Any]:
        """All of it, samples in seconds."""
        data = asdict(self)
        return data | {
            "measure": self.measure.name.lower(),
            "unit": self.unit.name,
            "value": self.value,
            "spread": self.spread,
            "is_met": self.is_met,
        }


HEADER = ("work", "ours", "reference", "ratio", "quartiles", "goal", "met")


def table(results: Iterable[Result]) -> str:
    """An aligned table, which is also one in Markdown."""
    rows = [HEADER, *(result.row() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|-" + "-|-".join("-" * width for width in widths) + "-|")
    return "\n".join(lines)


@dataclass(frozen=True)
class Pace:
    """How long is measured: `rounds` samples of each side, each of about `seconds`."""

    rounds: int
    seconds: float

    def in_turns(self, ours: Side, reference: Side) -> tuple[list[float], list[float]]:
        """Seconds per loop of both sides: ours, reference, ours, reference, and so on.

        Each side is a function from a number of loops to seconds, as ``timeit.Timer(...).timeit``.
        """
        loops = [(side, self.loops(side)) for side in (ours, reference)]
        rounds = [[side(number) / number for side, number in loops] for _ in range(self.rounds)]
        return [pair[0] for pair in rounds], [pair[1] for pair in rounds]

    def alone(self, ours: Side) -> tuple[list[float], list[float]]:
        """Seconds per loop of one side that is compared with nothing."""
        number = self.loops(ours)
        samples = [ours(number) / number for _ in range(self.rounds)]
        return samples, samples

    def loops(self, side: Side) -> int:
        """How many loops fill a sample; counting them warms the side up."""
        number = 1
        while (taken := side(number)) < self.seconds / 2:
            number = max(number * 2, min(number * 100, int(number * self.seconds / max(taken, 1e-9))))
        return number


def statement(text: str, **names: object) -> Side:
    """A side that runs a statement with the given names."""
    return timeit.Timer(text, globals=names).timeit


def timed(work: Any) -> Side:
    """A side that calls a function of no arguments."""
    return timeit.Timer(work).timeit


def per_item(side: Side, items: Sequence[object]) -> Side:
    """A side of which one loop is one of the items, made of one of which a loop goes through them all."""

    def of_items(number: int) -> float:
        passes = -(-number // len(items))
        return side(passes) * number / (passes * len(items))

    return of_items
