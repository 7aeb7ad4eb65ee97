"""One step of training: computed afresh every time, or on a GPU recorded once and replayed.

To ask a GPU for some two hundred kernels takes Python longer than the GPU takes to do them. CUDA can record them, as a
graph, and do them all again for one call. A recording knows addresses, not values. So what changes from step to step,
the places of the batch, the keys of dropout and the learning rate, lies in tables on the GPU. The host has drawn them,
in the order in which it would have drawn them step by step: steps computed and steps replayed are the same to the bit
(but of a model in double precision, whose learning rate the tables round). Read next: `train.py`.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from .backend import Array
from .flat import by_hand
from .optim import Optimizer, clip_factor, global_norm
from .parallel import DataParallel
from .random import draw_key, keys_from, random_stream, rng
from .text import random_batch, random_starts, windows_at

MOST_AHEAD = 100                    # steps whose random numbers are drawn at once


class ByEngine:
    """What a step is made of, by the engine: `flat.ByHand` is its twin."""

    def __init__(self, parallel: DataParallel, optimizer: Optimizer):
        self.backward, self.optimizer = parallel.backward, optimizer

    def norm(self) -> Array:
        """The norm of all gradients together."""
        return global_norm(self.optimizer.parameters)

    def update(self, scale: Any) -> None:
        """Move the weights, the gradients taken times `scale`, and forget these."""
        self.optimizer.step(scale)
        self.optimizer.zero_grad()


class Steps:
    """Steps of training, each in two halves: `gradients(step)`, then `update()`.

    Batches of `batch` windows are drawn from the text `ids`, the learning rate is `rate(step)`, the norm of the
    gradients is clipped to `clip`. A decoder on a GPU goes by hand, if it is one for it and `hand` allows it: then its
    weights are changed in place only. `ahead` counts the steps to come whose random numbers have been drawn already.
    """

    ahead = 0

    def __init__(self, parallel: DataParallel, optimizer: Optimizer, ids: Array, *, batch: int,
                 rate: Callable[[int], float], clip: float, hand: bool = True):
        self.parallel, self.optimizer, self.ids = parallel, optimizer, ids
        self.shape, self.rate, self.clip = (batch, parallel.model.config.context), rate, clip
        self.work = (by_hand(parallel.model, optimizer) if hand else None) or ByEngine(parallel, optimizer)

    def gradients(self, step: int, certain: int = 1) -> tuple[Array, Array]:
        """The loss of step number `step`, from 0, and the norm of its gradients, both as 0-d arrays. `certain` steps,
        this one included, are sure to be taken."""
        self.batch = random_batch(self.ids, *self.shape, rng())
        self.dice = rng().bit_generator.state
        self.optimizer.lr = self.rate(step)
        loss = self.work.backward(*self.batch)
        self.norm = self.work.norm()
        return loss, self.norm

    def update(self) -> None:
        """Move the weights."""
        self.work.update(clip_factor(self.norm, self.clip))

    def close(self) -> None:
        """Let go of what only steps need."""

    def again(self) -> Array:
        """The loss of this step once more, by the engine and with the same dropout: to look where it went wrong."""
        rng().bit_generator.state = self.dice
        return self.parallel.backward(*self.batch)


class Recorded(Steps):
    """The same steps on a GPU, recorded as a CUDA graph.

    The first is computed from the tables, which loads every kernel. The second is recorded, and replayed from then on,
    if the GPU is able: if not, `say` tells why, and steps are computed from the tables. `gradients` moves the weights
    too; its loss and norm are overwritten by the next.

    The recording repeats what the model did when it was made. Weights may be changed in place; other tensors, another
    mode, frozen parameters it does not notice. An optimiser's state is loaded before, or when `ahead` is 0. Random
    numbers that a loss draws by itself, other than keys, would be the same in all replays.
    """

    def __init__(self, *given: Any, say: Callable[[str], None], **named: Any):
        import cupy as xp
        super().__init__(*given, **named)
        self.xp, self.say, self.taken = xp, say, 0
        self.graph: Any = None
        self.out: Any = ()
        # CUDA's default stream cannot be recorded. This one waits for it, and it for this one.
        self.stream = xp.cuda.Stream()
        self.pool = xp.cuda.MemoryPool()                           # its memory is given to nobody else
        self.starts, self.rates = xp.zeros((MOST_AHEAD, self.shape[0]), np.int64), xp.zeros(MOST_AHEAD, np.float32)
        self.row, self.count = xp.zeros((), np.int64), xp.zeros((), np.int32)
        self.keys = xp.zeros((MOST_AHEAD, self._keys_a_step(), 2), np.uint64)    # one in 16 bytes: so kernels read it

    def gradients(self, step: int, certain: int = 1) -> tuple[Array, Array]:
        """The same, and the weights are moved too."""
        if not self.ahead:
            self._draw(step, min(certain, MOST_AHEAD))
        self.ahead -= 1
        with self.stream, self.xp.cuda.using_allocator(self.pool.malloc):
            if self.taken == 1:
                self._record()
            if self.graph is None:
                self.out = self._from_tables()
            else:
                self.graph.launch(self.stream)
        self.taken += 1
        self.optimizer.lr, self.optimizer.steps = self.rate(step), self.optimizer.steps + 1
        return self.out

    def update(self) -> None:
        """Nothing: the weights have been moved."""

    def again(self) -> Array:
        """The same, but by weights that have been moved already."""
        return self._loss_of(self.parallel.backward, self.row - 1)

    def close(self) -> None:
        """Give the memory of the recording back to the GPU: CuPy would keep it for a pool that is gone."""
        self.graph, self.out = None, ()
        self.stream.synchronize()
        self.pool.free_all_blocks()

    def _keys_a_step(self) -> int:
        """How many keys of dropout a step takes."""
        keys = count()
        with keys_from(keys), random_stream(np.random.default_rng(0)):
            self.parallel.loss(*windows_at(self.ids, self.starts[0], self.shape[1]))
        return next(keys)

    def _draw(self, step: int, certain: int) -> None:
        """Fill the tables for so many steps from this one on."""
        starts, keys = np.zeros(self.starts.shape, np.int64), np.zeros(self.keys.shape, np.uint64)
        for row in range(certain):
            starts[row] = random_starts(self.ids, *self.shape, rng())
            keys[row, :, 0] = [draw_key() for _ in range(keys.shape[1])]
        rates = np.zeros(MOST_AHEAD, np.float32)
        rates[:certain] = [self.rate(step + row) for row in range(certain)]
        for table, values in ((self.starts, starts), (self.keys, keys), (self.rates, rates),
                              (self.row, np.array(0)), (self.count, np.array(self.optimizer.steps, np.int32))):
            if table.size:
                table.set(values)
        self.ahead = certain

    def _loss_of(self, backward: Callable[[Array, Array], Array], row: Array) -> Array:
        """The loss of a row of the tables, and its gradients."""
        keys = self.keys.take(row, axis=0) if self.keys.size else self.keys[0]
        with keys_from(keys[i, 0] for i in range(len(keys))):
            return backward(*windows_at(self.ids, self.starts.take(row, axis=0), self.shape[1]))

    def _from_tables(self) -> tuple[Array, Array]:
        """What is recorded: it reads its row of the tables, and goes on to the next."""
        optimizer, kept = self.optimizer, (self.optimizer.lr, self.optimizer.steps)
        optimizer.lr, optimizer.steps = self.rates.take(self.row), self.count
        try:
            loss = self._loss_of(self.work.backward, self.row)
            norm = self.work.norm()
            self.work.update(clip_factor(norm, self.clip))
        finally:
            optimizer.lr, optimizer.steps = kept
            optimizer.zero_grad()
        self.row += 1
        return loss, norm

    def _record(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()       # what was tried before; this step has its own
        held = self.pool.total_bytes()
        try:
            self.stream.begin_capture()
            try:
                self.out = self._from_tables()
            finally:
                graph = self.stream.end_capture()
            if self.pool.total_bytes() < held:                     # then CuPy gave back what was free, though what had
                raise MemoryError("the GPU's memory is used up")   # been recorded by then goes on using it
            self.graph = graph
        except Exception as error:                                 # whatever CuPy or CUDA cannot record is the reason
            reason = error.__context__ or error                    # an error may end a recording with one of its own
            self.say(f"this step cannot be recorded as a CUDA graph, its kernels are launched one by one: {reason}")
