"""Watchers at the gate: they see every step once, they say where, and they change no number."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest

import tinygrad_tfm as tg
import tinygrad_tfm.functional as F
from tinygrad_tfm.watch import Ledger, NaNFinder, NaNFound, Timer

IDS = np.random.default_rng(0).integers(0, 7, (2, 3, 6))


def model():
    tg.manual_seed(0)
    return tg.models.Decoder(tg.models.DecoderConfig(vocab=7, context=6, layers=2, heads=2, width=8, dropout=0.1))


def ones(*shape, requires_grad=True):
    return tg.Tensor(np.ones(shape), requires_grad)


class Recorder:
    """Names and results in the order the steps end."""

    def __init__(self):
        self.names, self.results = [], []

    def __call__(self, name, step):
        result = step()
        self.names.append(name)
        self.results.append(result)
        return result


# ---- the gate -------------------------------------------------------------------------------------------------------

def test_a_watcher_sees_every_op_once_forward_and_once_backward_newest_first():
    x, w = ones(4, 3), ones(3, 2)
    with tg.watching(recorder := Recorder()):
        y = F.tanh(x @ w + 1).sum()
        assert recorder.names == ["matmul", "add", "tanh", "reduce_sum"]
        y.backward()
    assert recorder.names[4:] == ["reduce_sum'", "tanh'", "add'", "matmul'"]
    assert recorder.results[0][0].shape == (4, 2)
    assert [g.shape for g in recorder.results[-1]] == [(4, 3), (3, 2)]


@pytest.mark.parametrize("twins", [True, False])
def test_every_node_of_a_whole_model_is_seen_exactly_once_each_way(twins):
    decoder = model()
    with tg.fused(twins), tg.watching(recorder := Recorder()):
        loss = decoder.loss(*IDS)
        todo, nodes = [loss.node], set()
        while todo:
            node = todo.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                todo += node.parents
        names = Counter(node.name for node in nodes if node.back is not None)
        assert Counter(recorder.names) == names
        loss.backward()
    backward = Counter(name for name in recorder.names if name.endswith("'"))
    assert backward == Counter({f"{name}'": n for name, n in names.items()})
    assert sum(backward.values()) == sum(names.values()) == len(recorder.names) / 2 > 40


def test_what_has_no_graph_is_seen_too():
    with tg.watching(recorder := Recorder()), tg.no_grad():
        _ = ones(2) * 2
    assert recorder.names == ["mul"]


def test_a_watcher_is_gone_after_its_block_also_after_an_error():
    with pytest.raises(ZeroDivisionError), tg.watching(recorder := Recorder()):
        _ = 1 / 0
    _ = ones(2) * 2
    assert recorder.names == []


def test_watchers_nest_the_last_outermost():
    order = []

    def watcher(label):
        def watch(name, step):
            order.append(f"{label} before")
            result = step()
            order.append(f"{label} after")
            return result
        return watch
    with tg.watching(watcher("first")), tg.watching(watcher("second")):
        _ = ones(2) * 2
    assert order == ["second before", "first before", "first after", "second after"]


def test_all_three_at_once():
    decoder = model()
    with tg.watch.timed() as timer, tg.watch.find_nan(), tg.watch.saved_memory() as ledger:
        decoder.loss(*IDS).backward()
    assert timer.calls["attention"] == timer.calls["attention'"] == 2 and ledger.total > 0


def test_a_watcher_may_replace_what_a_step_gave():
    def doubled(name, step):
        value, back = step()
        return value * 2, back
    with tg.watching(doubled):
        assert (ones(2) + 1).data.tolist() == [4.0, 4.0]


def loss_and_gradients(watcher=None):
    decoder = model()
    tg.manual_seed(3)                                                   # of the dropout
    with tg.watching(watcher) if watcher else nullcontext():
        loss = decoder.loss(*IDS)
        loss.backward()
    return [loss.data, *(p.grad for p in decoder.parameters())]


@pytest.mark.parametrize("watcher", [Timer, NaNFinder, Ledger, Recorder], ids=lambda w: w.__name__)
def test_watching_changes_no_number(watcher):
    for a, b in zip(loss_and_gradients(), loss_and_gradients(watcher()), strict=True):
        assert np.array_equal(a, b)


# ---- the timer ------------------------------------------------------------------------------------------------------

def test_the_timer_counts_calls_both_ways_and_its_table_has_all_of_them():
    x = ones(3)
    with tg.watch.timed() as timer:
        (F.exp(x) * F.exp(x)).sum().backward()
    assert timer.calls == {"exp": 2, "mul": 1, "reduce_sum": 1, "exp'": 2, "mul'": 1, "reduce_sum'": 1}
    assert timer.seconds.keys() == timer.calls.keys() and all(s > 0 for s in timer.seconds.values())
    lines = str(timer).splitlines()
    assert len(lines) == 7 and {line.split()[0] for line in lines[1:]} == set(timer.calls)
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.5) and shares == sorted(shares, reverse=True)


def test_an_empty_timer_prints_its_head():
    assert str(Timer()).split() == ["op", "calls", "ms", "share"]


# ---- the NaN finder -------------------------------------------------------------------------------------------------

def test_nan_names_the_op_and_the_shape():
    with np.errstate(all="ignore"), tg.watch.find_nan(), pytest.raises(NaNFound, match=r"^NaN in log, shape \(2,\)$"):
        F.log(tg.Tensor([-1.0, 1.0]))


def test_infinity_is_told_from_nan():
    with np.errstate(all="ignore"), tg.watch.find_nan(), pytest.raises(NaNFound, match="^infinity in exp"):
        F.exp(tg.Tensor([1e5, 1.0]))


def test_nan_in_a_gradient_is_said_to_be_there():
    x = tg.Tensor([0.0, 1.0], requires_grad=True)
    with np.errstate(all="ignore"), tg.watch.find_nan():
        y = F.sqrt(x).sum()
        with pytest.raises(NaNFound, match=r"(?m)^infinity in the gradient of sqrt, shape \(2,\)$"):
            y.backward()


def test_nan_names_the_module_forward():
    decoder = model()
    decoder.blocks[1].attention.value.weight.data[0, 0] = np.nan
    said = r"(?m)NaN in matmul.*in the module blocks\.1\.attention\.value$"
    with tg.watch.find_nan(), pytest.raises(NaNFound, match=said):
        decoder.loss(*IDS)


def test_nan_names_the_module_backward():
    def poisoned(x):
        return x * 1, lambda g: g * np.float32(np.nan)
    decoder = model()
    decoder.blocks[0].feed_forward.activation = tg.lift(poisoned)
    with tg.watch.find_nan():
        loss = decoder.loss(*IDS)
        said = r"(?m)NaN in the gradient of poisoned.*in the module blocks\.0\.feed_forward$"
        with pytest.raises(NaNFound, match=said):
            loss.backward()


def test_the_first_nan_is_the_one_reported():
    x = tg.Tensor([-1.0])
    with np.errstate(all="ignore"), tg.watch.find_nan(), pytest.raises(NaNFound, match="in sqrt"):
        F.log(F.sqrt(x))


def test_masked_scores_and_integers_are_no_alarm():
    q = ones(1, 1, 3, 2)
    with tg.watch.find_nan(), tg.fused(False):
        y = F.attention(q, q, q, mask=np.eye(3, dtype=bool) & (np.arange(3) > 0))         # one query sees nothing
        y.sum().backward()
        tg.Tensor([1, 2]).reshape(2, 1)


# ---- the ledger -----------------------------------------------------------------------------------------------------

def test_the_ledger_knows_the_bytes_of_a_known_graph():
    x, y = ones(10), ones(10)
    with tg.watch.saved_memory() as ledger:
        (F.exp(x) * y).sum()
    # exp keeps its value; mul keeps both factors, of which one is that value; a sum keeps a shape only
    assert ledger.bytes == {"exp": 80, "mul": 80} and ledger.total == 160


def test_an_array_kept_twice_counts_once():
    x = ones(10)
    with tg.watch.saved_memory() as ledger:
        (x * x) * (x * x)
    assert ledger.bytes == {"mul": 80 + 2 * 80}


def test_a_view_is_the_array_it_looks_at():
    x = ones(10, 10)
    with tg.watch.saved_memory() as ledger:
        x[:5] * x.T[5:] + x.reshape(4, 25)[0, :10] * x[0]
    assert ledger.total == 800


def test_addition_keeps_nothing():
    with tg.watch.saved_memory() as ledger:
        (ones(10) + ones(10) - 3).sum().reshape(1, 1).backward()
    assert ledger.total == 0 and not ledger.bytes


def test_attention_by_the_plain_rule_keeps_the_weights_and_the_twin_no_more():
    x = tg.Tensor(np.random.default_rng(0).standard_normal((1, 2, 32, 4)).astype(np.float32), requires_grad=True)
    kept = {}
    for on in (True, False):
        with tg.fused(on), tg.watch.saved_memory() as ledger:
            F.attention(x, x, x)
        kept[on] = ledger.total
    assert kept[False] == x.data.nbytes + 2 * 32 * 32 * 4               # and no copy of it
    assert kept[True] >= 2 * 32 * 32 * 4


def test_the_ledgers_table_adds_up():
    with tg.watch.saved_memory() as ledger:
        model().loss(*IDS)
    rows = [line.split() for line in str(ledger).splitlines()[1:]]
    assert rows[-1][0] == "total"
    parts = [float(row[1].replace(",", "")) for row in rows]
    assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=0.05 * len(rows))


def test_what_is_not_kept_is_not_counted():
    x = ones(10)
    with tg.watch.saved_memory() as ledger, tg.no_grad():
        x * x
    assert ledger.total == 0


def test_what_only_a_frozen_factor_needs_is_not_counted():
    x = ones(10)
    with tg.watch.saved_memory() as ledger:
        (x * 1.0) * ones(10, requires_grad=False)
    assert ledger.total == 80                                           # the frozen factor, not what it meets
