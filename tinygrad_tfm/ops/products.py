"""Rules in which numbers meet in sums of products: matmul, outer, einsum."""

import math
import string

from ..backend import namespace


def matmul(a, b):
    """y = a·b over the last two axes, leading axes broadcast; a vector counts as a row on the left, a column on the
    right.   ga = g·bᵀ, gb = aᵀ·g     (..., n, k), (..., k, m) → (..., n, m)"""
    if a.ndim > 2 and b.ndim == 2:                          # one large product instead of a batch of small ones
        shape, rows, columns = a.shape, math.prod(a.shape[:-1]), b.shape[-1]
        y, (back_a, back_b) = matmul(a.reshape(rows, shape[-1]), b)
        return y.reshape(*shape[:-1], columns), (lambda g: back_a(g.reshape(rows, columns)).reshape(shape),
                                                 lambda g: back_b(g.reshape(rows, columns)))
    if a.ndim == 1 or b.ndim == 1:
        return _with_vectors(a, b)
    return a @ b, (lambda g: g @ b.swapaxes(-1, -2), lambda g: a.swapaxes(-1, -2) @ g)


def _with_vectors(a, b):
    row, column = a.ndim == 1, b.ndim == 1
    y, (back_a, back_b) = matmul(a.reshape(1, -1) if row else a, b.reshape(-1, 1) if column else b)
    full = y.shape
    short = tuple(n for i, n in enumerate(full) if not (row and i == len(full) - 2 or column and i == len(full) - 1))
    return y.reshape(short), (lambda g: back_a(g.reshape(full)),          # the edge sums (..., 1, k) to (k,)
                              lambda g: back_b(g.reshape(full))[..., 0] if column else back_b(g.reshape(full)))


def outer(a, b):
    """yᵢⱼ = aᵢ·bⱼ.   ga = g·b, gb = gᵀ·a     (n,), (m,) → (n, m)"""
    of_a, of_b = a.shape, b.shape
    return a.reshape(-1, 1) * b.reshape(1, -1), (lambda g: (g @ b.reshape(-1)).reshape(of_a),
                                                 lambda g: (a.reshape(-1) @ g).reshape(of_b))


def einsum(*xs, subscripts: str, optimize: bool = True):
    """Einstein's convention, as in `numpy.einsum`: a letter that the value lacks is summed.

    The gradient of an input is another einsum, of g with the other inputs. A letter may not stand twice in one
    input (that is a diagonal: take it with indexing).
    """
    letters, out = parse(subscripts, [x.ndim for x in xs])
    y = namespace(*xs).einsum(",".join(letters) + "->" + out, *xs, optimize=optimize)
    sizes = {c: n for x, term in zip(xs, letters) for c, n in zip(term, x.shape) if n != 1}

    def back_to(i):
        others = [x for j, x in enumerate(xs) if j != i]
        terms = [out, *(t for j, t in enumerate(letters) if j != i)]
        known = "".join(c for c in letters[i] if any(c in t for t in terms))
        wide = tuple(sizes.get(c, 1) for c in letters[i])
        narrow = tuple(n if c in known else 1 for c, n in zip(letters[i], wide))
        def back(g):
            gx = namespace(g).einsum(",".join(terms) + "->" + known, g, *others, optimize=optimize)
            return namespace(g).broadcast_to(gx.reshape(narrow), wide)   # a letter only this input has: summed alone
        return back
    return y, tuple(back_to(i) for i in range(len(xs)))


def parse(subscripts: str, ndims: list[int]) -> tuple[list[str], str]:
    """The letters of each input and of the value, "..." and a missing "->" written out.

    Raises ValueError for a wrong number of inputs or axes and for a letter repeated within an input.
    """
    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"'{subscripts}' names {len(terms)} inputs, {len(ndims)} were given")
    widest = max((n - len(t) + 3 for t, n in zip(terms, ndims) if "..." in t), default=0)
    dots = "".join(c for c in string.ascii_letters if c not in subscripts)[:widest]
    terms = [t.replace("...", dots[len(dots) - (n - len(t) + 3):]) if "..." in t else t for t, n in zip(terms, ndims)]
    for term, ndim in zip(terms, ndims):
        if len(term) != ndim or len(set(term)) != len(term):
            raise ValueError(f"'{term}' does not fit an input of {ndim} axes" if len(term) != ndim else
                             f"'{term}' repeats a letter: a diagonal is not supported")
    if not arrow:
        alone = {c for term in terms for c in term if "".join(terms).count(c) == 1} - set(dots)
        out = "..." * bool(dots) + "".join(sorted(alone))
    return terms, out.replace("...", dots)
