"""The best scale, or scale and minimum, of every block of weights at once. Knows no format.

Arrays are (weights of a block, blocks): blocks side by side, so that every operation runs along memory. A search
rounds the weights to levels at some step, solves for the scale (and minimum) that fit these levels best, keeps what
is better than before, and goes on with another step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

# How many levels more or less than all the first attempts spread the weights over; and attempts at the found optimum.
STRETCHES = tuple(np.linspace(-1, 1, 11, dtype=np.float32))
POLISHES = 2


class Affine(NamedTuple):
    """w ≈ scale · level - minimum, per block; minimum >= 0."""

    scale: Float32
    minimum: Float32


def ratio(a: Float32 | np.float32, b: Float32) -> Float32:
    """a / b, and 0 where b is 0."""
    with np.errstate(all="ignore"):
        quotient: Float32 = np.where(b == 0, np.float32(0), a / b)
    return quotient


def importance(x: Float32) -> Float32:
    """What a squared error at each weight counts: |w| above a floor, the root mean square of its block."""
    floor: Float32 = np.sqrt(_dot(x, x) / np.float32(len(x)))
    return np.abs(x) + floor


def fit_affine(x: Float32, top: int) -> Affine:
    """Levels 0…top."""
    search = _AffineSearch(x, top)
    for stretch in STRETCHES:
        search.attempt(ratio(top + stretch, search.span - search.offset))
    for _ in range(POLISHES):
        search.attempt(ratio(np.float32(1), search.scale))
    return Affine(search.scale, -(search.low + search.offset))


def fit_symmetric(x: Float32, half: int) -> Float32:
    """The scale of w ≈ scale · level, levels -half…half - 1; it has the sign that puts the extreme weight at -half."""
    search = _SymmetricSearch(x, half)
    extreme: Float32 = np.take_along_axis(x, np.abs(x).argmax(0)[None], axis=0)[0]
    for stretch in STRETCHES:
        search.attempt(ratio(-half - stretch, extreme))
    for _ in range(POLISHES):
        search.attempt(ratio(np.float32(1), search.scale))
    return search.scale


class _AffineSearch:
    """w ≈ scale · level + offset + low. Sums are over w - low, whose squares lose nothing to a large common part."""

    def __init__(self, x: Float32, top: int) -> None:
        self.low = np.minimum(x.min(0), np.float32(0))
        self.span = x.max(0) - self.low
        self.scale, self.offset = self.span / np.float32(top), np.zeros_like(self.span)
        self._y, self._weight, self._top = x - self.low, importance(x), np.float32(top)
        weighted = self._weight * self._y
        self._w, self._wy, self._wyy = self._weight.sum(0), weighted.sum(0), _dot(weighted, self._y)
        self._error = np.full_like(self.span, np.inf)
        self._level, self._scratch = np.empty_like(x), weighted

    def attempt(self, inverse: Float32) -> None:
        """Rounds with steps 1 / inverse above the best offset so far."""
        wl, wll, wyl = self._sums_at(inverse)
        determinant = self._w * wll - wl * wl
        scale = ratio(self._w * wyl - self._wy * wl, determinant)
        offset = ratio(wll * self._wy - wl * wyl, determinant)
        lifted = self.low + offset > 0  # a minimum has no sign and cannot lift a block: fit without one
        scale = np.where(lifted, ratio(wyl + self.low * wl, wll), scale)
        offset = np.where(lifted, -self.low, offset)
        error = scale * (scale * wll + 2 * (offset * wl - wyl)) + offset * (offset * self._w - 2 * self._wy) + self._wyy
        better = (error < self._error) & (determinant > 0)
        for kept, found in ((self._error, error), (self.scale, scale), (self.offset, offset)):
            np.copyto(kept, found, where=better)

    def _sums_at(self, inverse: Float32) -> tuple[Float32, Float32, Float32]:
        """Of weight · level, weight · level², weight · y · level."""
        level = np.multiply(self._y, inverse, out=self._level)
        level -= self.offset * inverse
        np.rint(level, out=level)
        np.clip(level, np.float32(0), self._top, out=level)
        weighted = np.multiply(level, self._weight, out=self._scratch)
        return weighted.sum(0), _dot(weighted, level), _dot(weighted, self._y)


class _SymmetricSearch:
    """The error that a scale leaves is Σ w x² - gain: the larger the gain, the better."""

    def __init__(self, x: Float32, half: int) -> None:
        self.scale: Float32 = np.zeros_like(x[0])
        self._x, self._half, self._weight = x, half, importance(x)
        self._gain = np.zeros_like(x[0])
        self._level, self._scratch = np.empty_like(x), np.empty_like(x)

    def attempt(self, inverse: Float32) -> None:
        level = np.multiply(self._x, inverse, out=self._level)
        np.rint(level, out=level)
        np.clip(level, np.float32(-self._half), np.float32(self._half - 1), out=level)
        weighted = np.multiply(level, self._weight, out=self._scratch)
        wxl = _dot(weighted, self._x)
        scale = ratio(wxl, _dot(weighted, level))
        better = scale * wxl > self._gain
        for kept, found in ((self._gain, scale * wxl), (self.scale, scale)):
            np.copyto(kept, found, where=better)


def _dot(a: Float32, b: Float32) -> Float32:
    """Of each block."""
    sums: Float32 = np.einsum("ij,ij->j", a, b)
    return sums
