"""Small plots as geometry; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsam_batch.plain_text import counted

WIDTH, HEIGHT = 380, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 12, 44
_ROOM_X, _ROOM_Y = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_BARS, _FEW_BARS = 25, 9
MOST_DOTS = 1500


@dataclass(frozen=True, slots=True)
class Plot:
    """What the template's macro ``plot`` draws; all places in units of the drawing, y downwards.

    Attributes:
        title: above it.
        about: what it shows, in a sentence with numbers, for those who do not see it.
        bars: x, y, width, height, and what the bar is.
        dots: x, y.
        lines: x, y of each point.
        keys: what each of several lines is of; they then differ in colour.
        bands: corners of an area behind each line.
        x_ticks, y_ticks: place and text.
        x_name, y_name: of the axes.
        note: below it, such as that it is a sample.
    """

    title: str
    about: str
    x_name: str
    y_name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    bars: Sequence[tuple[float, float, float, float, str]] = ()
    dots: Sequence[tuple[float, float]] = ()
    lines: Sequence[Sequence[tuple[float, float]]] = ()
    keys: Sequence[str] = ()
    bands: Sequence[Sequence[tuple[float, float]]] = ()
    note: str = ""

    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    width, height = WIDTH, HEIGHT


def histogram(
    title: str, name: str, values: NDArray[np.float32], bounds: tuple[float, float] | None = None, noun: str = "image"
) -> Plot:
    """How many images, or others, have which value.

    Args:
        title: of the plot.
        name: of the value, on the axis.
        values: (R,), NaN left out; whole numbers get a bar each where these are few.
        bounds: of the axis; None for those of the values.
        noun: what has a value.
    """
    held = values[np.isfinite(values)].astype(np.float64)
    low, high = bounds or (float(held.min()), float(held.max()))
    whole = bounds is None and high - low < 2 * _BARS and bool((held == held.round()).all())
    if whole:
        edges = np.arange(low - 0.5, high + 1)
    else:
        high = high if high > low else low + 1
        edges = np.linspace(low, high, _BARS + 1)
    if whole and len(edges) <= _FEW_BARS:
        # one bar alone is not to fill the plot
        missing = (_FEW_BARS + 1 - len(edges)) // 2
        edges = np.arange(edges[0] - missing, edges[-1] + missing + 0.5)
    counts, _ = np.histogram(held.clip(edges[0], edges[-1]), edges)
    scale = _Scale((float(edges[0]), float(edges[-1])), (0.0, float(max(counts.max(), 1))))
    bars = []
    for start, end, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        about = f"{start + 0.5:.0f}" if whole else f"{start:.3g} to {end:.3g}"
        left, top = scale.place(start, count)
        right, bottom = scale.place(end, 0)
        width = max(right - left - 1, 0.5)
        bars.append((round(left + 0.5, 2), top, round(width, 2), round(bottom - top, 2), f"{about}: {count:,}"))
    quarters = np.quantile(held, [0.25, 0.5, 0.75])
    lower, median, upper = (_text(value) for value in quarters.tolist())
    about = f"Of {len(held):,} {noun}s half lie between {lower} and {upper}, the median is {median}."
    if held.min() == held.max():
        about = f"{counted(len(held), noun)}: {median}" + (" each." if len(held) > 1 else ".")
    return Plot(title, about, name, f"{noun}s", scale.x_ticks(whole=whole), scale.y_ticks(whole=True), bars, note=about)


def scatter(
    title: str, x_name: str, y_name: str, x: NDArray[np.float32], y: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> Plot | None:
    """One value against another, a dot an image; None if fewer than two images have both.

    Args:
        title: of the plot.
        x_name: of the axis across.
        y_name: of the axis upwards.
        x: (R,), NaN left out.
        y: (R,) shares of 0 to 1, likewise.
        chosen: (R,) which of them get a dot.
    """
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 2:
        return None
    shown = both & chosen
    low, high = float(x[shown].min()), float(x[shown].max())
    scale = _Scale((low, high if high > low else low + 1), (0.0, 1.0))
    dots = [scale.place(*pair) for pair in zip(x[shown].tolist(), y[shown].tolist(), strict=True)]
    about = f"Their ranks {_correlation(x[both], y[both])} over {int(both.sum()):,} images."
    if shown.sum() < both.sum():
        about += f" Dots are a sample of {int(shown.sum()):,} of them."
    return Plot(title, about, x_name, y_name, scale.x_ticks(), scale.y_ticks(), dots=dots, note=about)


def _correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> str:
    """Spearman's coefficient in words."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return "have no correlation"
    return f"correlate by {np.corrcoef(_ranks(x), _ranks(y))[0, 1]:.2f}"


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """(R,) place of each value among all; equal values share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles: NDArray[np.float64] = np.cumsum(counts) - (counts + 1) / 2
    return middles[where]


def curve(title: str, x_name: str, y_name: str, x: Sequence[float], y: Sequence[float]) -> Plot:
    """A line through points whose places are shares, 0 to 1."""
    scale = _Scale((0.0, 1.0), (0.0, 1.0))
    line = [scale.place(*pair) for pair in zip(x, y, strict=True)]
    about = f"From {x_name} {x[0]:.2f} and {y_name} {y[0]:.2f} to {x[-1]:.2f} and {y[-1]:.2f}."
    return Plot(title, about, x_name, y_name, scale.x_ticks(), scale.y_ticks(), lines=[line])


def over_shares(
    title: str,
    y_name: str,
    shares: Sequence[float],
    values: Mapping[str, Sequence[float | None]],
    ends: Mapping[str, Sequence[Sequence[float] | None]],
) -> Plot:
    """Figures, 0 to 1, over shares of the labels on a logarithmic axis, a line each, with an area behind it.

    Args:
        title: of the plot.
        y_name: of the figures.
        shares: ascending, above 0.
        values: by name a figure for each share; None where there is none.
        ends: likewise low and high end of its interval.
    """
    logs = [math.log10(share) for share in shares]
    there = [v for line in values.values() for v in line if v is not None]
    there += [end for line in ends.values() for pair in line if pair is not None for end in pair]
    room = 0.05 * (logs[-1] - logs[0]) or 0.5
    low, high = math.floor(10 * min(there, default=0.0)), math.ceil(10 * max(there, default=1.0))
    if low == high:
        # figures that are all the same tenth, such as 1 of probes without a fault, have room around them
        low, high = max(low - 1, 0), min(high + 1, 10)
    scale = _Scale((logs[0] - room, logs[-1] + room), (low / 10, high / 10))
    lines, bands = [], []
    for name, line in values.items():
        held = [(x, v, pair) for x, v, pair in zip(logs, line, ends[name], strict=True) if v is not None]
        lines.append([scale.place(x, v) for x, v, _ in held])
        inside = [(x, pair) for x, _, pair in held if pair is not None]
        bands.append([scale.place(x, p[0]) for x, p in inside] + [scale.place(x, p[1]) for x, p in reversed(inside)])
    ticks = [(scale.place(x, 0.0)[0], f"{100 * share:g} %") for x, share in zip(logs, shares, strict=True)]
    last = {name: next((v for v in reversed(line) if v is not None), None) for name, line in values.items()}
    about = "; ".join(f"{name}: {value:.3f}" for name, value in last.items() if value is not None)
    dots = [place for line in lines for place in line]
    return Plot(
        title,
        f"With {100 * shares[-1]:g} % of the labels {about}.",
        "share of the labels",
        y_name,
        ticks,
        scale.y_ticks(),
        dots=dots,
        lines=lines,
        keys=list(values),
        bands=bands,
    )


def over_depth(title: str, y_name: str, values: Sequence[float]) -> Plot:
    """A share, 0 to 1, at depth 1, 2 and so on."""
    scale = _Scale((0.5, len(values) + 0.5), (0.0, 1.0))
    places = [scale.place(depth, value) for depth, value in enumerate(values, 1)]
    best = int(np.argmax(values)) + 1
    about = f"{values[0]:.3f} at depth 1, at best {values[best - 1]:.3f} at depth {best}."
    return Plot(
        title,
        about,
        "depth",
        y_name,
        scale.x_ticks(whole=True),
        scale.y_ticks(),
        dots=places,
        lines=[places],
        note=about,
    )


def over_time(title: str, noun: str, seconds: float, rates: NDArray[np.float64]) -> Plot:
    """How many of what a noun names were done in a second, over the working time."""
    unit, divisor = ("hours", 3600) if seconds > 7200 else ("minutes", 60) if seconds > 180 else ("seconds", 1)
    scale = _Scale((0.0, seconds / divisor), (0.0, float(rates.max())))
    edges = np.linspace(0, seconds / divisor, len(rates) + 1).tolist()
    line = []
    for start, end, rate in zip(edges[:-1], edges[1:], rates.tolist(), strict=True):
        line += [scale.place(start, rate), scale.place(end, rate)]
    about = f"Between {_text(float(rates.min()))} and {_text(float(rates.max()))} {noun}s a second, "
    about += f"{_text(float(rates.mean()))} on average. Pauses are left out."
    name = f"{unit} of work"
    return Plot(title, about, name, f"{noun}s/s", scale.x_ticks(), scale.y_ticks(), lines=[line], note=about)


class _Scale:
    """Values to places, and round numbers along the axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return round(_LEFT + across * _ROOM_X, 2), round(_TOP + (1 - up) * _ROOM_Y, 2)

    def x_ticks(self, *, whole: bool = False) -> list[tuple[float, str]]:
        return [(self.place(value, self._y[0])[0], text) for value, text in _round_numbers(*self._x, 6, whole=whole)]

    def y_ticks(self, *, whole: bool = False) -> list[tuple[float, str]]:
        return [(self.place(self._x[0], value)[1], text) for value, text in _round_numbers(*self._y, 4, whole=whole)]


def _round_numbers(low: float, high: float, most: int, *, whole: bool) -> list[tuple[float, str]]:
    """At most so many multiples of 1, 2 or 5 times a power of ten within bounds, and a little beyond their ends."""
    rough = (high - low) / most
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9)))
    if whole:
        step = max(1.0, step)
    # the greatest count stands in no need of a tick of its own
    first, last = int(np.ceil(low / step - 1e-6)), int(np.floor(high / step + 1e-6))
    decimals = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    return [(step * i, f"{step * i:,.{decimals}f}") for i in range(first, last + 1)]


def _text(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"
