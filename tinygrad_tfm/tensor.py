"""Floor 3: the graph of a computation, and the walk back through it.

`lift` turns a rule on arrays into a function on Tensors. Each call leaves a Node that knows its parents and the way
back, and holds no data: an array stays alive only if a rule asked for it. `backward` visits the nodes newest first.
Every array computation, forward and backward, passes one gate where watchers may stand.
Here are no operations (`ops/`), no layers (`nn/`). Read next: `functional.py`, then `nn/module.py`.
"""

from __future__ import annotations

import inspect
import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial, update_wrapper
from itertools import count
from typing import Any

import numpy as np

from . import kernels, ops
from .backend import DEFAULT_DTYPE, Array, device_of, namespace, to_device, to_numpy
from .errors import explain, no_such_attribute, no_tensors_in, settings_by_name
from .gpu import cuda, resolve_device

# ---- switches: context variables, so that no thread sees another's --------------------------------------------------

_recording: ContextVar[bool] = ContextVar("recording", default=True)
_keep_inputs: ContextVar[bool] = ContextVar("keep_inputs", default=False)
_fused: ContextVar[bool] = ContextVar("fused", default=True)
_watchers: ContextVar[tuple] = ContextVar("watchers", default=())
scope: ContextVar[tuple] = ContextVar("scope", default=())         # the modules being called, outermost first


@contextmanager
def switched(variable: ContextVar, value: Any) -> Iterator[None]:
    """The variable has this value inside the block, in this thread."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def no_grad() -> AbstractContextManager[None]:
    """Inside `with no_grad():` nothing is recorded, so nothing is kept alive for a way back."""
    return switched(_recording, False)


def higher_order() -> AbstractContextManager[None]:
    """Inside `with higher_order():` nodes keep their inputs, so that backward(create_graph=True) can run the rules
    again on Tensors. It costs the memory of those inputs: ask for it only where a second derivative is wanted."""
    return switched(_keep_inputs, True)


def fused(on: bool = True) -> AbstractContextManager[None]:
    """Whether faster twins may stand in for the plain rules inside the block."""
    return switched(_fused, on)


def watching(watcher: Callable[[str, Callable[[], Any]], Any]) -> AbstractContextManager[None]:
    """Inside the block every array computation runs as `watcher(name, step)`, which calls `step()` and returns what
    it returned. The way back of an op has its name with a prime: `softmax'`."""
    return switched(_watchers, (*_watchers.get(), watcher))


def run(name: str, step: Callable[[], Any]) -> Any:
    """The gate: the step itself, or each watcher around it, the last one outermost."""
    for watcher in _watchers.get():
        step = partial(watcher, name, step)
    return step()


def place_of(modules: tuple) -> str:
    """Where in a model these modules stand: "blocks.2.attention" for the innermost, seen from the outermost."""
    return modules[0].path_to(modules[-1]) if modules else ""


# ---- the graph ------------------------------------------------------------------------------------------------------

_clock = count()
FREED = "freed"
FUNCTIONAL = __name__.replace("tensor", "functional")        # lies above: named here, never imported


class Node:
    """One step of the computation: what was done, to whose values, and how the gradient gets back to them."""

    __slots__ = ("time", "name", "shape", "dtype", "parents", "back", "call", "scope", "grad")

    def __init__(self, name, value, parents=(), back=None, call=None, scope=()):
        self.time = next(_clock)                                   # a node is always younger than its parents
        self.name, self.shape, self.dtype = name, value.shape, value.dtype
        self.parents, self.back, self.call, self.scope, self.grad = parents, back, call, scope, None

    def __repr__(self):
        return f"<{self.name} {self.shape} {self.dtype}>"


def lift(rule: Callable) -> Callable[..., Tensor]:
    """A rule on arrays, as a function on Tensors.

    Inputs come by position. Settings come by keyword, or by position after the inputs. The rule's name labels graph
    nodes, timers and errors.
    """
    code, defaults, twins = rule.__code__, rule.__defaults__ or (), kernels.twins_of(rule)
    names = code.co_varnames[code.co_argcount:code.co_argcount + code.co_kwonlyargcount]
    arity = math.inf if code.co_flags & inspect.CO_VARARGS else code.co_argcount

    def op(*inputs, **settings):
        if len(inputs) > arity:
            settings = settings_by_name(rule, names, inputs[arity:], settings)
            inputs = inputs[:arity]
        elif len(inputs) < arity and defaults:
            inputs += defaults[len(defaults) - arity + len(inputs):]
        arrays = [x.data if isinstance(x, Tensor) else plain_value(x) for x in inputs]
        parents = tuple([x.node if isinstance(x, Tensor) else None for x in inputs]) if _recording.get() else ()
        try:
            if settings:
                settings = {k: namespace(*arrays).asarray(v) if isinstance(v, list) else bare(v)
                            for k, v in settings.items()}
            text = (kernels.text_for(rule, twins, arrays, settings)
                    if (twins or kernels.current() == "bf16") and _fused.get() else rule)
            if _watchers.get():
                value, back = run(rule.__name__, lambda: forward(text, arrays, settings, parents))
            else:
                value, back = forward(text, arrays, settings, parents)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise explain(error, rule, arrays, settings) from error
        out = Tensor.__new__(Tensor)
        out.data, out.node = value, None
        if back is not None:
            call = (rule, inputs, settings) if _keep_inputs.get() else None
            out.node = Node(rule.__name__, value, parents, back, call, scope.get())
        return out

    op.rule = rule                                                 # type: ignore[attr-defined]
    op.__module__ = sys._getframe(1).f_globals["__name__"]         # where it may be found again, by pickle too
    return update_wrapper(op, rule, assigned=("__name__", "__qualname__", "__doc__"))


def forward(rule: Callable, arrays: Sequence, settings: dict, parents: tuple) -> tuple:
    """The value of a rule, and as much of the way back as its inputs' nodes will ask for; None if none has a node."""
    value, back = rule(*arrays, **settings)
    value = np.asarray(value) if isinstance(value, np.generic) else value
    if value.dtype == np.float64 and not any(getattr(a, "dtype", None) == np.float64 for a in arrays):
        value = value.astype(settings.get("dtype", DEFAULT_DTYPE))  # integers and numbers do not make it double
    return value, needed(back, parents) if any(parents) else None


def needed(back: Any, parents: tuple) -> Any:
    """The ways back that somebody will ask for: the others are dropped, and what they would have kept alive."""
    if type(back) is not tuple:
        return back
    if len(back) != len(parents):
        raise ValueError(f"its way back has {len(back)} functions for {len(parents)} inputs: it needs one for each")
    return tuple([p and b for p, b in zip(parents, back)])


def plain_value(x: Any) -> Any:
    """An operand that is no Tensor, as rules take it: arrays as they are, numbers as Python's, which never change
    the precision of what they meet (`np.sqrt(2)` would turn float32 into float64), lists as arrays."""
    if type(x) is float:
        return x
    return x.item() if isinstance(x, np.generic) else as_array(x) if isinstance(x, list | tuple) else x


def pull(back: Any, g: Any) -> tuple:
    """The gradients of a step's inputs from the gradient of its value; None where nobody asked."""
    grads = tuple([b and b(g) for b in back]) if type(back) is tuple else back(g)
    return grads if type(grads) is tuple else (grads,)


def unbroadcast(g: Any, parent: Node, name: str) -> Any:
    """Sum a gradient over the axes along which its input was stretched. Any other difference is an error in a rule."""
    if g.shape != parent.shape:
        lead = g.ndim - len(parent.shape)
        stretched = tuple(i for i in range(g.ndim) if i < lead or (parent.shape[i - lead] == 1 and g.shape[i] != 1))
        if lead >= 0 and stretched:
            g = g.sum(axis=stretched, keepdims=True)
            g = g.reshape(g.shape[lead:])
        if g.shape != parent.shape:
            raise ValueError(f"the way back of {name} gives a gradient of shape {g.shape} for an input of shape "
                             f"{parent.shape}: it must have the shape of the input, broadcast")
    return g if g.dtype is parent.dtype or g.dtype == parent.dtype else g.astype(parent.dtype)


def newest_first(root: Node, leaves: frozenset) -> list[Node]:
    """Every node that leads to the root, no recursion; nothing beyond the leaves."""
    seen, todo = {root}, [root]
    while todo:
        node = todo.pop()
        if node not in leaves:
            for parent in node.parents:
                if parent is not None and parent not in seen:
                    seen.add(parent)
                    todo.append(parent)
    return sorted(seen, key=operator.attrgetter("time"))                    # popped from the end


def walk_back(root: Node, seed: Any, retain_graph: bool, create_graph: bool,
              leaves: frozenset = frozenset()) -> dict[Node, Any]:
    """The gradients of the leaves, newest node first. Interior gradients, and interior nodes, are dropped once used.

    A first gradient is borrowed, a second allocates, later ones add into what was allocated here: no gradient that
    somebody else may hold is ever written into.
    """
    order, grads, ours = newest_first(root, leaves), {root: seed}, set()
    while order:
        node = order.pop()
        if node.back is None or node in leaves or node not in grads:    # a leaf, or no path from the root gave any
            continue
        for parent, gx in zip(node.parents, step_back(node, grads.pop(node), create_graph)):
            if parent is None or gx is None:
                continue
            if parent in ours:
                grads[parent] += gx                                # a scalar is not changed in place: it is stored
            elif parent not in grads:
                grads[parent] = gx
            else:
                grads[parent] = grads[parent] + gx
                if not create_graph:
                    ours.add(parent)
        if not retain_graph and not create_graph:
            node.parents, node.back, node.call, node.scope = (), FREED, None, ()
    return grads


def step_back(node: Node, g: Any, create_graph: bool) -> tuple:
    """The gradients a node sends to its parents, through the gate; an error says whose, and where in the model."""
    if node.back is FREED:
        raise RuntimeError(f"this graph was freed by an earlier backward (at {node.name}, shape {node.shape}): pass "
                           "retain_graph=True to the first one, or compute the value again")
    try:
        if _watchers.get() and not create_graph:
            with switched(scope, node.scope):
                return run(node.name + "'", lambda: sent(node, node.back, g))
        return sent(node, way_back_on_tensors(node) if create_graph else node.back, g)
    except Exception as error:
        error.add_note(f"in the gradient of {node.name}, value {node.shape} {node.dtype}, inputs "
                       + ", ".join(str(p.shape) for p in node.parents if p)
                       + (f", in {place_of(node.scope)}" if node.scope else ""))
        raise


def sent(node: Node, back: Any, g: Any) -> tuple:
    """The gradient of each parent, summed to the shape the parent has."""
    grads = pull(back, g)
    if len(grads) != len(node.parents):
        raise ValueError(f"the way back of {node.name} gives {len(grads)} gradients for {len(node.parents)} inputs")
    return tuple([gx if p is None or gx is None else unbroadcast(gx, p, node.name)
                  for p, gx in zip(node.parents, grads)])


def way_back_on_tensors(node: Node) -> Any:
    """The way back of a step run once more on Tensors: what it computes can be differentiated again."""
    if node.call is None:
        raise RuntimeError("backward(create_graph=True) needs the graph to be made inside `with tg.higher_order():`")
    rule, inputs, settings = node.call
    return needed(rule(*[x if isinstance(x, Tensor) else plain_value(x) for x in inputs], **settings)[1], node.parents)


# ---- the tensor -----------------------------------------------------------------------------------------------------

def as_array(data: Any, dtype: Any = None) -> Array:
    """Numbers and lists in the default precision, arrays as they are, DLPack objects without a copy where possible."""
    if isinstance(data, Tensor):
        data = data.data
    if not isinstance(data, np.ndarray) and namespace(data).__name__ != "cupy":
        if hasattr(data, "__dlpack__"):
            on_gpu = data.__dlpack_device__()[0] == 2
            data = cuda().from_dlpack(data) if on_gpu else np.from_dlpack(data)
        else:
            no_tensors_in(data, Tensor)
            typed = hasattr(data, "dtype")
            data = np.asarray(data)
            if data.dtype == np.float64 and not typed:
                data = data.astype(DEFAULT_DTYPE)
            elif data.dtype.kind not in "biufc":
                raise TypeError(f"a Tensor holds numbers, not {data.dtype.name if data.dtype != object else 'objects'}")
    return data if dtype is None else data.astype(dtype, copy=False)


def reflected(op: Callable) -> Callable:
    """The operator with its sides exchanged, for an array or a number on the left."""
    return lambda self, other: op(other, self)


def without_gradient(f: Callable) -> Callable:
    """A function on arrays as one on Tensors; to the graph its value is a constant."""
    return lambda *args, **kw: Tensor(f(*map(bare, args), **kw))


class Tensor:
    """An array, on the CPU or a GPU, and perhaps a Node: its place in the graph of a computation.

    `data` is anything NumPy takes, a CuPy array, or an object with `__dlpack__` (a PyTorch or JAX array comes in
    without a copy). Python numbers and lists of floats become float32. An array is held, not copied: who writes into
    it changes the Tensor. `requires_grad=True` makes a leaf whose `.grad`, an array, `backward` fills.

    Raises TypeError for a gradient of integers, ImportError or RuntimeError for device "cuda" without one.
    """

    __slots__ = ("data", "node", "__weakref__")
    data: Array
    node: Node | None
    __array_ufunc__ = None                                         # ndarray + Tensor asks Tensor
    __hash__ = object.__hash__
    __lift__ = staticmethod(lift)

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None, device: str | None = None):
        self.data = to_device(as_array(data, dtype), device)
        self.node = None
        self.requires_grad = requires_grad

    shape: tuple[int, ...] = property(lambda self: self.data.shape)                         # type: ignore[assignment]
    ndim: int = property(lambda self: self.data.ndim)                                       # type: ignore[assignment]
    size: int = property(lambda self: self.data.size)                                       # type: ignore[assignment]
    dtype: Any = property(lambda self: self.data.dtype)
    device: str = property(lambda self: device_of(self.data))                               # type: ignore[assignment]
    T: Tensor = property(lambda self: self.transpose())                                     # type: ignore[assignment]
    grad: Any = property(lambda self: self.node and self.node.grad, doc="The gradient, an array, once backward has "
                         "been here. To be read, not written into: others may hold the same array.")

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to or through this tensor. May be set on leaves: False freezes a weight."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if self.node is not None and self.node.back is not None:
            raise RuntimeError(f"requires_grad can be set on leaves only; this is the value of {self.node.name}. "
                               "Use .detach() for the same numbers without a history")
        if wanted and self.data.dtype.kind != "f":
            raise TypeError(f"only floating point tensors have gradients, this one is {self.data.dtype}: "
                            "pass dtype='float32', or leave requires_grad out for ids and masks")
        self.node = (self.node or Node("leaf", self.data)) if wanted else None

    def zero_grad(self) -> None:
        """Forget the gradient, so that the next backward starts afresh."""
        if self.node is not None:
            self.node.grad = None

    def backward(self, grad: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add d self/d leaf, times `grad`, to the `.grad` of every leaf that led here.

        The graph is freed on the way unless retain_graph. With create_graph (inside `higher_order()`) the gradients
        are Tensors that can be differentiated again.

        Raises RuntimeError without a graph or with a freed one, ValueError if the value is no scalar and no `grad`
        of its shape is given.
        """
        root = self.node
        if root is None:
            raise RuntimeError("backward() on a tensor without a graph: nothing it was computed from has "
                               "requires_grad=True, or it was computed under no_grad()")
        if grad is None:
            if self.size != 1:
                raise ValueError(f"backward() starts from one number, this tensor has shape {self.shape}: reduce it "
                                 "with .sum() or .mean(), or pass grad=, an array of that shape")
            grad = 1.0
        if isinstance(grad, int | float):
            grad = namespace(self.data).full(self.shape, grad, dtype=self.dtype)
        grad = to_device(as_array(grad, self.dtype), self.device)
        if grad.shape != self.shape:
            raise ValueError(f"backward(grad=…) needs the shape of this tensor, {self.shape}, not {grad.shape}")
        for leaf, g in walk_back(root, Tensor(grad) if create_graph else grad, retain_graph, create_graph).items():
            g = g if leaf.grad is None else leaf.grad + g
            leaf.grad = np.asarray(g) if isinstance(g, np.generic) else g

    def detach(self) -> Tensor:
        """The same array without a history."""
        return Tensor(self.data)

    def numpy(self) -> np.ndarray:
        """The array in host memory; on the CPU without a copy."""
        return to_numpy(self.data)

    def item(self) -> float | int:
        """The one number of a tensor of size 1, as Python's."""
        return self.data.item()

    def to(self, device: str) -> Tensor:
        """A tensor with this array on that device; the tensor itself when it is there. The copy is a new leaf.

        Raises RuntimeError in the middle of a graph, which would end here.
        """
        there = resolve_device(device) == self.device
        if not there and self.node is not None and self.node.back is not None:
            raise RuntimeError(f"the value of {self.node.name} cannot change device: its gradient would be lost; move "
                               "what it is computed from, or .detach() it first")
        return self if there else Tensor(to_device(self.data, device), self.requires_grad)

    def __repr__(self) -> str:
        head = "Tensor(" + np.array2string(self.numpy(), separator=", ", prefix="Tensor(", threshold=100)
        extra = "" if self.dtype == DEFAULT_DTYPE else f", dtype={self.dtype}"
        extra += "" if self.device == "cpu" else f", device={self.device}"
        return head + extra + (f", from {self.node.name}" if self.node and self.node.back else
                               ", requires_grad=True" if self.node else "") + ")"

    def __getattr__(self, name: str) -> Any: raise AttributeError(no_such_attribute(name, sys.modules[FUNCTIONAL]))
    def __format__(self, spec: str) -> str: return format(self.item(), spec) if spec else repr(self)
    def __len__(self) -> int: return len(self.data)
    def __iter__(self) -> Iterator[Tensor]: return (self[i] for i in range(len(self)))
    def __bool__(self) -> bool: return bool(self.data)
    def __float__(self) -> float: return float(self.data)
    def __int__(self) -> int: return int(self.data)
    def __index__(self) -> int: return self.data.__index__()
    def __array_namespace__(self, api_version=None): return sys.modules[FUNCTIONAL]
    def __dlpack__(self, **kw): return self.data.__dlpack__(**kw)
    def __dlpack_device__(self): return self.data.__dlpack_device__()

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __setitem__(self, index, value):
        raise TypeError("a Tensor cannot be written into: the way back of earlier steps may still need its numbers. "
                        "Build the new value (tg.functional.where, concat), or, outside any graph, write into .data")

    # Operators. A number, list or array on either side will do.
    __add__ = lift(ops.add)
    __sub__ = lift(ops.sub)
    __mul__ = lift(ops.mul)
    __truediv__ = lift(ops.div)
    __pow__ = lift(ops.power)
    __matmul__ = lift(ops.matmul)
    __neg__ = lift(ops.neg)
    __abs__ = lift(ops.absolute)
    __radd__ = reflected(__add__)
    __rsub__ = reflected(__sub__)
    __rmul__ = reflected(__mul__)
    __rtruediv__ = reflected(__truediv__)
    __rpow__ = reflected(__pow__)
    __rmatmul__ = reflected(__matmul__)
    def __getitem__(self, index): return Tensor._getitem(self, index=index if isinstance(index, tuple) else (index,))

    # What has no gradient: comparisons, logic, indices.
    __eq__ = without_gradient(operator.eq)
    __ne__ = without_gradient(operator.ne)
    __lt__ = without_gradient(operator.lt)
    __le__ = without_gradient(operator.le)
    __gt__ = without_gradient(operator.gt)
    __ge__ = without_gradient(operator.ge)
    __invert__ = without_gradient(operator.invert)
    __and__ = without_gradient(operator.and_)
    __or__ = without_gradient(operator.or_)
    all = without_gradient(lambda x, axis=None: x.all(axis=axis))
    any = without_gradient(lambda x, axis=None: x.any(axis=axis))
    argmax = without_gradient(lambda x, axis=None: x.argmax(axis=axis))
    argsort = without_gradient(lambda x, axis=-1: x.argsort(axis=axis))

    # Array verbs, by NumPy's names. Axes and settings may be given by position: x.sum(-1).
    _identity = lift(ops.identity)
    _getitem = lift(ops.getitem)
    sum = lift(ops.reduce_sum)
    mean = lift(ops.mean)
    var = lift(ops.var)
    std = lift(ops.std)
    max = lift(ops.reduce_max)
    min = lift(ops.reduce_min)
    prod = lift(ops.reduce_prod)
    cumsum = lift(ops.cumsum)
    clip = lift(ops.clip)
    swapaxes = lift(ops.swapaxes)
    squeeze = lift(ops.squeeze)
    repeat = lift(ops.repeat)
    astype = lift(ops.astype)
    _reshape = lift(ops.reshape)
    _transpose = lift(ops.transpose)
    def reshape(self, *shape): return Tensor._reshape(self, shape=_flat(shape))
    def transpose(self, *axes): return Tensor._transpose(self, axes=_flat(axes) or None)


def _flat(numbers: tuple) -> tuple:
    return tuple(numbers[0]) if len(numbers) == 1 and isinstance(numbers[0], tuple | list) else numbers


def bare(x: Any) -> Any:
    """The array in place of a Tensor, also inside the tuple of an index."""
    return x.data if isinstance(x, Tensor) else tuple(map(bare, x)) if isinstance(x, tuple) else x


def grad(f: Callable, argnum: int = 0) -> Callable:
    """The function x ↦ ∂f/∂x of a function from Tensors to a scalar Tensor; it can be differentiated again.

    `tg.grad(tg.grad(f))(x)` is the second derivative. The gradient is taken in argument number `argnum`, which may
    be a Tensor, an array or a number; no `.grad` of anything is touched. It has a graph of its own only where x has
    one, or inside another `grad`. Raises ValueError if f's value is no scalar.
    """
    def gradient(*args: Any, **kw: Any) -> Tensor:
        given = args[argnum] if isinstance(args[argnum], Tensor) else Tensor(args[argnum])
        again = _keep_inputs.get() or given.requires_grad
        with higher_order(), switched(_recording, True):
            x = given * 1.0                                        # a node of its own, and floats of integers
            x.node = x.node or Node("leaf", x.data)
            y = f(*(x if i == argnum % len(args) else other for i, other in enumerate(args)), **kw)
            if np.size(bare(y)) != 1:
                raise ValueError(f"grad differentiates a function to one number, this one gave shape {y.shape}")
            depends = isinstance(y, Tensor) and y.requires_grad
            found = walk_back(y.node, Tensor(np.ones_like(y.data)), True, True, frozenset([x.node])) if depends else {}
        slope = found[x.node] if x.node in found else Tensor(np.zeros_like(x.data))
        return slope if again else slope.detach()
    return gradient
