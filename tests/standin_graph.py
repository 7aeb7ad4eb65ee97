"""The stand-in's streams, pools and CUDA graphs: work recorded once, and launched many times on the same memory.

    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        y = step(x)                              # nothing is done: y has memory and a shape, in it NaN, 0 or False
        graph = stream.end_capture()
        graph.launch()                           # now the work is done: it reads x and writes y where they lie
        x += 1
        graph.launch()                           # y follows x; another array under the name x would not be noticed

Nothing here knows CuPy's arrays, only the memory behind them, which is NumPy's: `standin.py` gives all its work to
`work` and `do`. The manners are those of CuPy 14.2 and CUDA, read off sources and tests, where they can go wrong:

- Waiting, copies between host and device, and products by CuPy are refused; the capture stays good, and
  `end_capture` must still be called. To synchronise the capturing stream, or the device, spoils the capture: whatever
  follows fails, and so does `end_capture`; after it the stream works again.
- A graph keeps addresses, not arrays. Memory that arrays have left goes back to the pool that it came from, and the
  default pool may hand it to anyone. So a graph whose arrays, or whose operations' scratch memory, come from the
  default pool, from a pool that is gone, or from one told to `free_all_blocks` since, is not launched. (Here the memory
  itself lives as long as the graph.)

Not imitated: work side by side on several streams; that while a blocking stream captures, the null stream is unusable;
a pool that reuses a graph's memory for later work of its own. A kernel's arguments are looked at when it runs.
"""

from __future__ import annotations

import collections
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

UNSUPPORTED = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
INVALIDATED = "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture"
ILLEGAL = "cudaErrorIllegalState: the operation cannot be performed in the present state"
BLOCK = 512                                                        # bytes: a pool deals out multiples of it


class CUDARuntimeError(RuntimeError):
    """CUDA's own error, as CuPy passes it on."""


# ---- the record of launches ---------------------------------------------------------------------

_launches: list[collections.Counter] = []


@contextmanager
def count_launches() -> Iterator[collections.Counter]:
    """How often each kernel is launched inside the block, by its name, and graphs as "graph".

    A kernel counts where Python issues it, also into a capture; when a graph is launched, its kernels do not count.
    """
    counter: collections.Counter = collections.Counter()
    _launches.append(counter)
    try:
        yield counter
    finally:
        _launches.remove(counter)


def launched(name: str) -> None:
    """Note one launch."""
    for counter in _launches:
        counter[name] += 1


class _Here(threading.local):
    """What `with` has made current in this thread: the last of each list."""

    def __init__(self):
        self.streams: list[Stream] = []
        self.pools: list[MemoryPool] = []


_here = _Here()


# ---- memory -------------------------------------------------------------------------------------

class MemoryPool:
    """A pool, which counts what its `malloc` deals out and the arrays made in captures that use it; none twice."""

    def __init__(self, allocator=None):
        self.frees = 0
        self._blocks: list[tuple[weakref.ref, int]] = []

    def malloc(self, size: int):
        memory = np.empty(size, np.uint8)
        self.hold(memory)
        return SimpleNamespace(ptr=memory.ctypes.data, mem=memory)

    def hold(self, memory: np.ndarray) -> None:
        self._blocks.append((weakref.ref(memory), -(-memory.nbytes // BLOCK) * BLOCK))

    def used_bytes(self) -> int:
        return sum(size for memory, size in self._blocks if memory() is not None)

    def total_bytes(self) -> int:
        return sum(size for memory, size in self._blocks)

    def free_all_blocks(self, stream=None) -> None:
        self._blocks = [block for block in self._blocks if block[0]() is not None]
        self.frees += 1


DEFAULT = MemoryPool()


@contextmanager
def using_allocator(allocator=None) -> Iterator[None]:
    """Inside the block, in this thread, memory comes from the pool whose `malloc` is given."""
    pool = getattr(allocator, "__self__", None)
    _here.pools.append(pool if isinstance(pool, MemoryPool) else DEFAULT)
    try:
        yield
    finally:
        _here.pools.pop()


# ---- streams ------------------------------------------------------------------------------------

_handles = itertools.count(0x1000, 0x10)
_streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()


class Stream:
    """Work in the order of the program, done at once; or, while the stream captures, recorded on its tape."""

    null: Stream                                                   # that of `standin.py`, which counts who waits for it

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0 if null else next(_handles)
        self._tape: Tape | None = None
        _streams.setdefault(self.ptr, self)

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self):
        return self.ptr

    def __enter__(self):
        _here.streams.append(self)
        return self

    def __exit__(self, *error):
        _here.streams.pop()

    def use(self):
        _here.streams[-1:] = [self]
        return self

    def is_capturing(self) -> bool:
        if self._tape and self._tape.spoilt:
            raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
        return self._tape is not None

    def begin_capture(self, mode=None) -> None:
        if not self.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._tape:
            raise CUDARuntimeError(ILLEGAL)
        self._tape = Tape()

    def end_capture(self) -> Graph:
        tape, self._tape = self._tape, None
        if tape is None:
            raise CUDARuntimeError(ILLEGAL)
        if tape.spoilt:
            raise CUDARuntimeError(INVALIDATED)
        return Graph(tape)

    def tape(self) -> Tape | None:
        """Where work for this stream is recorded; None where it is to be done."""
        if self._tape and self._tape.spoilt:
            raise CUDARuntimeError(INVALIDATED)
        return self._tape

    def awaited(self) -> None:
        """The host is about to wait for this stream, which spoils a capture."""
        if self._tape:
            self._tape.spoilt = True
            raise CUDARuntimeError(UNSUPPORTED)


def get_current_stream(device_id: int = -1) -> Stream:
    return _here.streams[-1] if _here.streams else Stream.null


def stream_is_capturing(ptr: int) -> bool:
    return ptr in _streams and _streams[ptr].is_capturing()


def all_awaited() -> None:
    """The host is about to wait for the device."""
    for stream in list(_streams.values()):
        stream.awaited()


def refuse_transfer(kind: str) -> None:
    """CuPy's word for a copy between host ("H") and device ("D") while the current stream captures."""
    if get_current_stream().is_capturing():
        raise RuntimeError(f"the current stream is capturing, so {kind} transfers are disallowed")


def refuse_library(name: str) -> None:
    """CuPy's word for NVIDIA's libraries while the current stream captures."""
    if get_current_stream().is_capturing():
        raise NotImplementedError(f"calling {name} API during stream capture is currently unsupported")


# ---- work, done or recorded ---------------------------------------------------------------------

def work(f, *args, **kw):
    """f(*args, **kw) on memory. Under capture nothing has been done, and what is new in the result holds no values."""
    tape = get_current_stream().tape()
    return f(*args, **kw) if tape is None else tape.write(f, args, kw)


def do(step):
    """The same for work that makes no arrays, as a kernel, which writes into memory it is given: `step` takes nothing.

    An array that `step` knows by its address alone must be kept by somebody, or have been made in the capture.
    """
    tape = get_current_stream().tape()
    return step() if tape is None else tape.steps.append(step)


class Tape:
    """What a stream has been given while it captures: steps in order, and the pools that their memory comes from."""

    def __init__(self):
        self.steps: list = []
        self.pools: set[tuple[weakref.ref[MemoryPool], int]] = set()   # and how often their blocks had been freed
        self.spoilt = False

    def write(self, f, args, kw):
        pool = _here.pools[-1] if _here.pools else DEFAULT
        given = list(arrays((getattr(f, "__self__", None), args, kw)))
        with unchanged(given), np.errstate(all="ignore"):          # f shows the shapes; what it did is undone
            result = boxed(f(*args, **kw))
        known = {id(x) for x in map(owner, given)}
        made = [owner(x) for x in arrays(result)]
        fresh = [id(x) not in known for x in made]                 # the others are views, or `out`
        if any(fresh) or not made or "out" in kw:                  # a view alone takes no memory, not even for scratch
            self.pools.add((weakref.ref(pool), pool.frees))
        for x in itertools.compress(made, fresh):
            spoil(x)
            pool.hold(x)

        def step():
            if f in (np.empty, np.empty_like):                     # whatever lies there: nobody may count on it
                return [spoil(x) for x in made]
            again = [owner(x) for x in arrays(boxed(f(*args, **kw)))]
            for x, y in itertools.compress(zip(made, again, strict=True), fresh):
                np.copyto(x, y)
        self.steps.append(step)
        return result


def arrays(x) -> Iterator[np.ndarray]:
    """The arrays in arguments or a result, in order."""
    if isinstance(x, np.ndarray):
        yield x
    elif isinstance(x, tuple | list | dict):
        for part in x.values() if isinstance(x, dict) else x:
            yield from arrays(part)


def boxed(x):
    """A result whose NumPy scalars have become arrays of 0 dimensions: these have memory to write into."""
    if isinstance(x, tuple | list):
        return type(x)(*map(boxed, x)) if hasattr(x, "_fields") else type(x)(map(boxed, x))
    return np.asarray(x) if isinstance(x, np.generic) else x


def owner(x: np.ndarray) -> np.ndarray:
    """The array whose memory x is a view of."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


@contextmanager
def unchanged(given: list[np.ndarray]) -> Iterator[None]:
    """After the block, the memory of these arrays is what it was before."""
    before = [(x, x.copy()) for x in {id(x): x for x in map(owner, given)}.values() if x.flags.writeable]
    try:
        yield
    finally:
        for x, copy in before:
            np.copyto(x, copy)


def spoil(x: np.ndarray) -> None:
    """Values that nobody takes for results. Integers are 0, which as an index finds a shape."""
    x[...] = np.nan if x.dtype.kind in "fcV" else 0                # V: bfloat16 and its like


# ---- graphs -------------------------------------------------------------------------------------

class Graph:
    """A tape that can be played."""

    def __init__(self, tape: Tape):
        self._steps = tape.steps
        self._pools = tape.pools

    def launch(self, stream: Stream | None = None) -> None:
        for pool, frees in self._pools:
            why = ("lie in the default pool" if pool() is DEFAULT
                   else "lay in a pool that is gone" if pool() is None
                   else "lay in a pool whose blocks have been freed since" if pool().frees != frees else "")
            if why:
                raise RuntimeError(
                    f"the graph's memory is not its own: arrays made during the capture {why}, and others may have got "
                    "their memory. Capture inside `with cupy.cuda.using_allocator(pool.malloc)`, with a "
                    "cupy.cuda.MemoryPool() kept for this graph alone as long as the graph")
        launched("graph")
        tape = (stream or get_current_stream()).tape()
        if tape:
            tape.steps.append(self._play)
        else:
            self._play()

    def upload(self, stream: Stream | None = None) -> None:
        """Nothing to do: the work is where it will be done."""

    def _play(self):
        for step in self._steps:
            step()
