"""What a CUDA file's text says about its kernels, and the words for arguments that a GPU would take without one."""

import re
import subprocess
import sys

import numpy as np
import pytest

from tinygrad_tfm.kernels import cuda_source
from tinygrad_tfm.kernels.cuda_source import NO_ARRAY, Parameter, in_rows, source, source_of

CONSTANTS = {"layer_norm": {"WIDTH": 64, "DROP": 0}, "attention": {"HEAD": 64, "DROP": 0}}
FILES = sorted(path.stem for path in cuda_source.FOLDER.glob("*.cu"))


def dropout(**changed):
    given = dict(x=np.ones(6, np.float32), key=np.array([1], np.uint64), y=np.ones(6, np.float32), drop=5, keep_scale=2,
                 n=6)
    return source("dropout").kernels["dropout"].arguments(**given | changed)


def test_a_signature_is_read():
    built = source("dropout", "bfloat16")
    [(name, kernel)] = built.kernels.items()
    assert name == kernel.name == "dropout" and kernel.threads == 256
    assert kernel.parameters == (
        Parameter("x", "bfloat16", array=True, optional=False),
        Parameter("key", "uint64", array=True, optional=False),
        Parameter("y", "bfloat16", array=True, optional=False),
        Parameter("drop", "uint32", array=False, optional=False),
        Parameter("keep_scale", "float32", array=False, optional=False),
        Parameter("n", "int32", array=False, optional=False))
    assert [p.name for p in source("softmax").kernels["softmax"].parameters if p.optional] == ["mask"]


@pytest.mark.parametrize("name", FILES)
def test_a_text_is_whole_and_each_file_stands_in_it_once(name):
    built = source(name, **CONSTANTS.get(name, {}))
    assert '#include "' not in built.text and built.text.startswith("#define REAL float\n")
    included = [path.name for path in cuda_source.FOLDER.iterdir()
                if path.suffix == ".cuh" and f'#include "{path.name}"' in whole(f"{name}.cu")]
    assert sorted(re.findall(r'#line 1 "(.*)"', built.text)) == sorted([f"{name}.cu", *included])
    assert built.text.count("__global__") == len(built.kernels) > 0


def whole(name):
    text = (cuda_source.FOLDER / name).read_text("utf-8")
    return text + "".join(whole(found) for found in re.findall(r'#include "(.*)"', text))


@pytest.mark.parametrize("path", sorted(cuda_source.FOLDER.iterdir()), ids=lambda path: path.name)
def test_a_file_opens_with_a_few_lines_and_has_no_long_one(path):
    lines = path.read_text("utf-8").splitlines()
    assert all(line.startswith("// ") for line in lines[:2]) and max(map(len, lines)) <= 120


def test_lines_keep_their_numbers():
    """`#line n "file"` says where the next line stands, so that a compiler's message leads there."""
    at, where = 0, ""
    for line in source("attention", **CONSTANTS["attention"]).text.splitlines():
        if found := re.fullmatch(r'#line (\d+) "(.*)"', line):
            at, where = int(found[1]), found[2]
            lines = (cuda_source.FOLDER / where).read_text("utf-8").splitlines()
        elif where:
            assert line in ("", lines[at - 1])
            at += 1


def test_arguments_come_in_order_and_with_the_kernels_types():
    x, key, y, drop, keep_scale, n = dropout()
    assert [type(a) for a in (drop, keep_scale, n)] == [np.uint32, np.float32, np.int32]
    assert (drop, keep_scale, n) == (5, 2, 6) and key == 1
    assert dropout(keep_scale=np.float64(0.1))[4] == np.float32(0.1)
    softmax = source("softmax").kernels["softmax"]
    given = {p.name: np.ones(1, np.float32) if p.array else 1 for p in softmax.parameters}
    found = softmax.arguments(**given | {"mask": None, "causal": True})
    assert found[1] is NO_ARRAY and found[5] == 1 and type(found[5]) is np.int32


@pytest.mark.parametrize("changed, error, words", [
    (dict(keep_scale="2"), TypeError, "dropout: keep_scale is a number, not a str"),
    (dict(keep_scale=np.ones(1)), TypeError, "dropout: keep_scale is a number, not a ndarray"),
    (dict(n=6.0), TypeError, "dropout: n is a whole number, not 6.0"),
    (dict(n=2**31), ValueError, "dropout: n = 2147483648 does not fit into int32"),
    (dict(drop=-1), ValueError, "dropout: drop = -1 does not fit into uint32"),
    (dict(x=None), TypeError, "dropout: x is an array of float32, not None"),
    (dict(x=[1.0]), TypeError, r"dropout: x is an array of float32, not \[1.0\]"),
    (dict(x=np.ones(6)), TypeError, r"dropout: x holds float32, this float64: \.astype\('float32'\) makes one"),
    (dict(x=np.ones((6, 2), np.float32)[:, 0]), ValueError, r"dropout: x does not lie in one piece \(shape \(6,\)"),
    (dict(x=np.ones(7, np.float32)[1:]), ValueError, "dropout: x does not begin at a multiple of 16 bytes"),
    (dict(seed=3), TypeError, "dropout takes x, key, y, drop, keep_scale, n; unknown: seed"),
])
def test_what_a_kernel_cannot_take_is_refused(changed, error, words):
    with pytest.raises(error, match=words):
        dropout(**changed)


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match="gelu takes x, y, n; missing: y, n; unknown: z"):
        source("gelu").kernels["gelu"].arguments(x=1, z=2)


def test_rows_may_lie_apart_where_a_kernel_asks_for_the_distance():
    packed = np.zeros((2, 5, 3, 4, 8), np.float32)                 # as queries, keys and values of 4 heads may lie
    part = packed[:, :, 1]
    assert in_rows(part, 96) and in_rows(packed, 96) and in_rows(packed[:, :, :2], 96) and in_rows(part[:1, :1], 0)
    assert not in_rows(part, 32) and not in_rows(part, 0)
    assert not in_rows(packed[:, :3, 1], 96)                       # the second batch begins elsewhere
    assert not in_rows(part.swapaxes(1, 2), 96) and not in_rows(packed[..., ::2], 96)
    logits, kernel = np.zeros((4, 9), np.float32), source("cross_entropy").kernels["cross_entropy"]
    given = dict(targets=np.zeros(4, np.int64), counted=np.ones(1, np.float32), g=logits, loss=np.ones(4, np.float32),
                 rows=4, vocab=7, ignore_index=-100)
    assert kernel.arguments(logits=logits[:, :7], stride=9, **given)[0].shape == (4, 7)
    with pytest.raises(ValueError, match="cross_entropy: logits does not lie in one piece"):
        kernel.arguments(logits=logits[:, :7], stride=8, **given)


@pytest.mark.parametrize("name, settings, words", [
    ("relu", {}, "there is no relu.cu, only adamw, attention, cross_entropy"),
    ("gelu", {"real": "float16"}, "activations are stored as float32 or bfloat16, not as float16"),
    ("gelu", {"WIDTH": 3}, r'gelu.cu is compiled for no constants, not for WIDTH: source\("gelu"\)'),
    ("layer_norm", {}, r'layer_norm.cu is compiled for WIDTH, DROP, not for none: '
                       r'source\("layer_norm", WIDTH=…, DROP=…\)'),
    ("attention", {"HEAD": 64}, r"attention.cu is compiled for HEAD, DROP, not for HEAD"),
])
def test_a_text_that_cannot_be_is_refused(name, settings, words):
    with pytest.raises(ValueError, match=words):
        source(name, **settings)


@pytest.mark.parametrize("text, words", [
    ('extern "C" __global__ void odd(float* x) {}', "every kernel begins"),
    ('extern "C" __global__ void __launch_bounds__(32)\nodd(double* x) {}', r"not understood: 'double\* x'"),
    ('extern "C" __global__ void __launch_bounds__(32)\nodd(float x[3]) {}', r"not understood: 'float x\[3\]'"),
])
def test_a_signature_that_is_not_understood_is_an_error(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_source, "FOLDER", tmp_path)
    (tmp_path / "odd.cu").write_text(text)
    with pytest.raises(ValueError, match=words):
        source("odd")


def test_neither_cupy_nor_a_compiler_is_needed():
    code = ("import sys; sys.modules['cupy'] = None; from tinygrad_tfm.kernels.cuda_source import source; "
            "print(*source('gelu').kernels)")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split() == ["gelu", "gelu_backward"]


def test_a_text_of_ones_own_may_include_ours():
    text = '#include "warp.cuh"\nextern "C" __global__ void __launch_bounds__(32)\nmine(real* x) { }'
    built = source_of(text, "bfloat16")
    assert built.kernels["mine"].parameters == (Parameter("x", "bfloat16", array=True, optional=False),)
    assert "float warp_sum(" in built.text and built.text.startswith("#define REAL bf16\n")
    with pytest.raises(ValueError, match="activations are stored as float32 or bfloat16, not as float16"):
        source_of(text, "float16")
