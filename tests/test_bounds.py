"""Nothing is written outside `out`, and nothing outside `x` has a say in the result."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import oracle
from oracle import assert_accurate

CANARY = 0xA5
MARGIN = 32  # elements on each side


class Place(NamedTuple):
    """A view of n slices of some length, of which `size` gives the elements that it spans."""

    axis: int
    size: Callable[[int, int], int]
    view: Callable[[np.ndarray, int, int], np.ndarray]


ROWS = Place(
    axis=-1,
    size=lambda n, length: n * length,
    view=lambda a, n, length: a.reshape(n, length),
)
COLUMNS = Place(
    axis=0,
    size=lambda n, length: n * length,
    view=lambda a, n, length: a.reshape(length, n),
)
PLACES = (
    ROWS,
    COLUMNS,
    Place(  # rows of a wider array
        axis=-1,
        size=lambda n, length: n * (length + 3),
        view=lambda a, n, length: a.reshape(n, length + 3)[:, 1:-2],
    ),
    Place(  # every other column
        axis=-1,
        size=lambda n, length: n * 2 * length,
        view=lambda a, n, length: a.reshape(n, 2 * length)[:, ::2],
    ),
    Place(  # columns of a wider array
        axis=0,
        size=lambda n, length: (n + 3) * length,
        view=lambda a, n, length: a.reshape(length, n + 3)[:, 1:-2],
    ),
)


class Guarded:
    """A view into a buffer that is full of canaries."""

    def __init__(self, dtype: str, place: Place, offset: int, n: int, length: int) -> None:
        size = place.size(n, length)
        self._buffer = np.full(2 * MARGIN + size, np.nan, dtype)
        self._buffer.view(np.uint8)[...] = CANARY
        self._canary = self._buffer[0].copy()
        self.array = place.view(self._buffer[MARGIN + offset :][:size], n, length)

    def assert_all_of_it_written_and_nothing_else(self) -> None:
        assert not np.any(self.array == self._canary)
        self.array[...] = self._canary
        assert np.all(self._buffer.view(np.uint8) == CANARY)


def alignments(dtype: str) -> range:
    """The positions of an element in a cache line."""
    return range(64 // np.dtype(dtype).itemsize)


@pytest.mark.parametrize("extent", [*range(41), 63, 64, 65, 127, 129])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_but_out_is_written(api, kernels, dtype, extent):
    for place, (n, length) in itertools.product(PLACES, ((2, extent), (extent, 3))):
        shape = (n, length) if place.axis == -1 else (length, n)
        x = np.random.default_rng(extent).normal(0.0, 4.0, shape).astype(dtype)
        for options in ({}, {"where": x > 0}, {"temperature": 2.0}):
            is_all = place in (ROWS, COLUMNS) and not options
            for offset in alignments(dtype) if is_all else (0, 1):
                for function in ("softmax", "log_softmax"):
                    out = Guarded(dtype, place, offset, n, length)
                    getattr(api, function)(x, place.axis, out=out.array, **options)
                    out.assert_all_of_it_written_and_nothing_else()
        slices = (n, 1) if place.axis == -1 else (1, n)
        for offset in alignments(dtype):
            sums = Guarded(dtype, ROWS, offset, *slices)
            kernels.logsumexp(x.reshape(slices[0], length, slices[1]), sums.array, None)
            sums.assert_all_of_it_written_and_nothing_else()


@pytest.mark.parametrize("extent", [*range(1, 41), 63, 64, 65, 127, 129])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_but_x_is_counted(api, dtype, extent):
    """Of NaN around the logits there is no trace in the results."""
    for place, (n, length) in itertools.product(PLACES, ((3, extent), (extent, 5))):
        rows = np.random.default_rng(extent).normal(0.0, 4.0, (n, length)).astype(dtype)
        exact = oracle.exact(rows)
        for offset in (0, 1, alignments(dtype)[-1]):
            buffer = np.full(2 * MARGIN + place.size(n, length), np.nan, dtype)
            x = place.view(buffer[MARGIN + offset :][: place.size(n, length)], n, length)
            np.moveaxis(x, place.axis, -1)[...] = rows
            for function in ("softmax", "log_softmax"):
                got = getattr(api, function)(x, place.axis)
                assert_accurate(np.moveaxis(got, place.axis, -1), getattr(exact, function))
            assert np.all(np.isfinite(api.logsumexp(x, place.axis)))
            in_place = api.softmax(x, place.axis, out=x)
            assert_accurate(np.moveaxis(in_place, place.axis, -1), exact.softmax)
            assert np.count_nonzero(np.isfinite(buffer)) == rows.size
