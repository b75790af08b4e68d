"""Derive the polynomials of src/kernels/exp.h: 2**r = 1 + r*q(r) on |r| <= 1/2.

q is the least-squares fit of the relative error over Chebyshev nodes, which comes within a fraction of a
bit of the minimax polynomial. Each coefficient is rounded to the kernel's precision before the ones above
it are fitted again, so the bound printed is that of the coefficients as they stand in the source.

    python tools/exp_coefficients.py
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60

# The reduction leaves |r| <= 1/2, up to the rounding of x*rate and the size of x*rate_lo.
HALF_WIDTH = mp.mpf("0.5009765625")
NODES = [HALF_WIDTH * mp.cos(mp.pi * (2 * k + 1) / 160) for k in range(80)]


def fit(known, free):
    """Fit the `free` coefficients that follow the `known` ones; return them."""
    system = mp.matrix(len(NODES), free)
    right = mp.matrix(len(NODES), 1)
    for i, r in enumerate(NODES):
        scale = mp.power(2, -r)
        for j in range(free):
            system[i, j] = scale * r ** (len(known) + j + 1)
        right[i] = 1 - scale * (1 + sum(c * r ** (j + 1) for j, c in enumerate(known)))
    solution, _ = mp.qr_solve(system, right)
    return list(solution)


def rounded_coefficients(degree, dtype):
    """c1 .. c_degree of 1 + c1*r + ... in `dtype`, each refitted after those below it."""
    known = []
    for free in range(degree, 0, -1):
        nearest = dtype(mp.nstr(fit(known, free)[0], 40))
        known.append(mp.mpf(float(nearest)))
    return known


def worst_relative_error(coefficients):
    def error(r):
        return (1 + r * mp.polyval(coefficients[::-1], r)) / mp.power(2, r) - 1

    return max(abs(error(HALF_WIDTH * mp.mpf(k) / 2000)) for k in range(-2000, 2001))


def main():
    for name, degree, dtype in [("float32", 6, np.float32), ("float64", 11, np.float64)]:
        coefficients = rounded_coefficients(degree, dtype)
        bits = float(mp.log(worst_relative_error(coefficients), 2))
        print(f"{name}, degree {degree}: relative error 2**{bits:.1f}")
        for power, c in enumerate(coefficients, 1):
            print(f"    c{power} = {float(c).hex()}")
    log2e = mp.log(mp.e, 2)
    high = mp.mpf(float(log2e))
    print(f"log2(e) = {float(high).hex()} + {float(log2e - high).hex()}")


if __name__ == "__main__":
    main()
