"""Derive the numbers of src/kernels: the polynomials and tables of 2**r in exp.h, the polynomials
of the logarithm in finish.h and of exp(x) - 1 in backward.h, and the powers of two between frames
in long_rows.h.

A table holds T * 2**(j/size) for j below its size. T is common to all terms of a slice and cancels,
so it is chosen such that every entry lies near a number of the kernel's precision, and the largest
term, T*2**r, a little below a power of two, where rounding costs least.

Each polynomial is the least-squares fit of the relative error over Chebyshev nodes, which comes
within a fraction of a bit of the minimax polynomial. Each coefficient is rounded to the kernel's
precision before the ones above it are fitted again, so the bound printed is that of the
coefficients as they stand in the source.

    python tools/coefficients.py
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60

# With a table of `size` entries the reduction of the exponential leaves |r| <= 1/2/size, up to the
# rounding of x*rate and of x*rate_lo.
EXP_MARGIN = mp.mpf("1.001953125")
# That of the logarithm leaves 1 + f within [sqrt(1/2), sqrt(2)], so f/(2 + f) within half_width.
# Sums of float32 are held to these limits beside a largest term that is off by up to 2**(1/8).
LOG_LIMIT = mp.sqrt(2)
LOG_LIMIT_FLOAT32 = mp.power(2, mp.mpf(1) / 2 + EXP_MARGIN / 8)
# From here up to 0, log-softmax's gradient takes exp(x) - 1.
NEARLY_CERTAIN = mp.mpf("-0.6875")


def chebyshev_nodes(low, high, count=80):
    return [
        (low + high + (high - low) * mp.cos(mp.pi * (2 * k + 1) / (2 * count))) / 2
        for k in range(count)
    ]


def fit(target, nodes, degree, dtype):
    """Coefficients of a polynomial for which `target(p(x), x)` is smallest.

    `target` is affine in its first argument: what the polynomial contributes to the relative error.
    """
    known = []
    for free in range(degree + 1, 0, -1):
        system = mp.matrix(len(nodes), free)
        right = mp.matrix(len(nodes), 1)
        for i, x in enumerate(nodes):
            constant = target(mp.mpf(0), x)
            slope = target(mp.mpf(1), x) - constant
            for j in range(free):
                system[i, j] = slope * x ** (len(known) + j)
            right[i] = -constant - slope * sum(c * x**j for j, c in enumerate(known))
        solution, _ = mp.qr_solve(system, right)
        known.append(mp.mpf(float(dtype(mp.nstr(solution[0], 40)))))
    return known


def show(title, target, low, high, degree, dtype):
    coefficients = fit(target, chebyshev_nodes(low, high), degree, dtype)
    points = [low + (high - low) * mp.mpf(k) / 4000 for k in range(1, 4001)]
    worst = max(abs(target(mp.polyval(coefficients[::-1], x), x)) for x in points)
    print(f"{title}: relative error 2**{float(mp.log(worst, 2)):.1f}")
    for power, c in enumerate(coefficients):
        print(f"    c{power} = {float(c).hex()}")


def exp_error(q, r):
    """Relative error of 2**r = 1 + r*q(r)."""
    return (1 + r * q) / mp.power(2, r) - 1


def expm1_error(p, x):
    """Relative error of exp(x) - 1 = x*p(x)."""
    return x * p / mp.expm1(x) - 1


def log_error(p, z):
    """Relative error of log((1 + s)/(1 - s)) = s*(2 + z*p(z)), z = s**2."""
    s = mp.sqrt(z)
    return s * (2 + z * p) / mp.log((1 + s) / (1 - s)) - 1


def show_table(title, size, dtype, trials):
    """Search for the best T among numbers of `dtype` just below 2 / 2**(1/2/size)."""
    bits = np.finfo(dtype).nmant
    unit = np.longdouble(2) ** -bits
    high = np.longdouble(2) ** (1 - 0.502 / size)
    low = high - 0.08
    count = int(min((high - low) / unit, trials))
    first = np.floor((low + np.arange(count) * ((high - low) / count)) / unit) * unit
    worst = np.zeros(count)
    for j in range(1, size):
        entry = first * np.longdouble(mp.nstr(mp.power(2, mp.mpf(j) / size), 30))
        in_units = np.where(entry < 2, entry, entry / 2) / unit
        error = (in_units - np.rint(in_units)) / in_units / unit * 2
        worst = np.maximum(worst, np.abs(error).astype(float))
    best = np.argmin(worst)
    print(f"{title}: relative error {worst[best]:.2f} u of the worst entry, u = 2**-{bits + 1}")
    integer = np.uint32 if dtype is np.float32 else np.uint64
    for j in range(size):
        exact = mp.mpf(float(first[best])) * mp.power(2, mp.mpf(j) / size)
        entry = dtype(mp.nstr(exact, 40))
        # Adding the exponent and j to these bits gives the number, exponent and mantissa.
        less = int(dtype(1).view(integer)) + (j << bits) // size
        modulus = 1 << 8 * entry.itemsize
        print(f"    {(int(entry.view(integer)) - less) % modulus:#0{2 + 2 * entry.itemsize}x}")
    print(f"    T = {float(first[best]).hex()}")


def half_width(limit):
    return (limit - 1) / (limit + 1)


def show_constant(name, value, bits):
    high = mp.ldexp(mp.nint(mp.ldexp(value, bits)), -bits)
    print(f"{name} = {float(high).hex()} + {float(value - high).hex()}")


def show_powers(size):
    print(f"2**(j/{size}) as hi + lo")
    for j in range(size):
        exact = mp.power(2, mp.mpf(j) / size)
        high = float(exact)
        print(f"    {{{high.hex()}, {float(exact - high).hex()}}}")


def main():
    for size, degree, dtype in (
        (16, 2, np.float32),
        (4, 3, np.float32),
        (16, 5, np.float64),
        (4, 7, np.float64),
    ):
        w = EXP_MARGIN / 2 / size
        show(f"2**r, {dtype.__name__}, table of {size}", exp_error, -w, w, degree, dtype)
        show_table(f"T * 2**(j/{size}), {dtype.__name__}", size, dtype, trials=1e7)
    show_powers(16)
    for limit, degree, precision in (LOG_LIMIT_FLOAT32, 3, "float32"), (LOG_LIMIT, 6, "float64"):
        title = f"log to the precision of {precision}"
        show(title, log_error, mp.mpf(0), half_width(limit) ** 2, degree, np.float64)
    for degree, precision in (6, "float32"), (11, "float64"):
        title = f"exp(x) - 1 to the precision of {precision}"
        show(title, expm1_error, mp.mpf(0), NEARLY_CERTAIN, degree, np.float64)
    show_constant("log2(e)", mp.log(mp.e, 2), 52)
    # Short enough for its product with any exponent to be exact.
    show_constant("log(2)", mp.log(2), 33)


if __name__ == "__main__":
    main()
