"""The script that measures on a GPU: its commands exist and are understood, and its summary says what was found."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_bench_gpu import made_up

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
import measured

from tinygrad_tfm.bench.gpu_page import save
from tinygrad_tfm.cli import parser

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "gpu" / "measure.sh"
TEXT = SCRIPT.read_text("utf-8").replace("\\\n", " ")
needs_bash = pytest.mark.skipif(not (shutil.which("bash") and shutil.which("timeout")), reason="needs bash and timeout")


@needs_bash
def test_its_syntax_is_bashs():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("command", re.findall(r"-m tinygrad_tfm (.*)", TEXT))
def test_its_commands_are_understood(command):
    options = parser().parse_args(shlex.split(command))
    assert options.json


def test_what_it_runs_is_there():
    assert len(re.findall(r"-m tinygrad_tfm ", TEXT)) == 3
    for name in re.findall(r"tests/gpu/[\w.]*", TEXT):
        assert (ROOT / name).exists(), name
    [selected] = re.findall(r"-k (\w+)", TEXT)
    assert f"def test_{selected}" in (SCRIPT.parent / "test_gpu.py").read_text("utf-8")
    limits = [int(n) for n in re.findall(r"^ *part \w+ (\d+)", TEXT, re.MULTILINE)]
    assert len(limits) == 7 and sum(limits) < 15 * 60


@needs_bash
def test_a_part_that_fails_does_not_stop_the_others(tmp_path):
    """Python is here a script that fails at tests and at the benchmark, trains at once, and hands on the summary."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
case "$*" in
    *measured.py*) exec {sys.executable} "$@";;
    *-m\\ pytest*|*--suite*) exit 3;;
    *) echo '{{"best_val_loss": 1.46, "elapsed_s": 31}}';;
esac
""")
    python.chmod(0o755)
    done = subprocess.run(["bash", str(SCRIPT), "doctor", "tests", "bench", "train"], capture_output=True, text=True,
                          cwd=ROOT, env={"PATH": "/usr/bin:/bin", "OUT": str(tmp_path / "out"), "PYTHON": str(python),
                                         "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1, done.stderr
    after = done.stdout.split("== summary")[1]
    assert [line.split()[0] for line in after.splitlines() if "FAILED with 3" in line] == ["tests", "bench"]
    assert [line.split()[0] for line in after.splitlines() if line.endswith("passed")] == ["doctor", "train"]
    assert re.search(r"best validation loss.* 1\.46 +yes", after) and re.search(r"whole run.* 31 +NO", after)


def test_the_summary_compares_what_was_found_with_what_is_hoped_for(tmp_path, capsys):
    (tmp_path / "parts.tsv").write_text("doctor\t0\t1\nbench\t0\t200\n")
    (tmp_path / "train.txt").write_text('step 1\n{"best_val_loss": 1.4696, "elapsed_s": 29.5}\n')
    side = made_up()["step"]["tinygrad_tfm, bf16"]
    sides = {"tinygrad_tfm, bf16": side, "tinygrad_tfm, tf32": side | {"ms": 6.4},
             "PyTorch eager, bf16": side | {"ratio": 3.1, "driver_bytes": 5 << 30},
             "PyTorch compiled, bf16": side | {"ratio": 1.3, "driver_bytes": 4 << 30},
             "PyTorch compiled, CUDA graphs, bf16": side | {"ratio": 1.21}}
    save(made_up(step=sides), tmp_path / "benchmarks")
    assert measured.summary(tmp_path) and capsys.readouterr().out.count(" yes\n") == 8
    for change, figure in (("PyTorch compiled, bf16", {"driver_bytes": 2 << 30}),
                           ("PyTorch compiled, CUDA graphs, bf16", {"ratio": 1.19}),
                           ("tinygrad_tfm, bf16", {"ms": 3.7})):
        save(made_up(step=sides | {change: sides[change] | figure}), tmp_path / "benchmarks")
        assert not measured.summary(tmp_path) and capsys.readouterr().out.count(" NO\n") == 1
    (tmp_path / "parts.tsv").write_text("bench\t124\t240\n")
    save(made_up(step=sides), tmp_path / "benchmarks")
    assert not measured.summary(tmp_path) and "out of time" in capsys.readouterr().out


def test_what_was_not_measured_is_not_reached(tmp_path, capsys):
    (tmp_path / "parts.tsv").write_text("doctor\t0\t1\n")
    assert not measured.summary(tmp_path) and capsys.readouterr().out.count("not measured") == 8
    (tmp_path / "train.txt").write_text("Traceback\n")
    assert measured.last_object(tmp_path / "train.txt") is None
    (tmp_path / "train.txt").write_text(json.dumps([1]))
    assert measured.last_object(tmp_path / "train.txt") is None


def test_every_kernel_is_named():
    names, text = measured.kernel_names(), "".join(path.read_text("utf-8") for path in measured.SOURCES.glob("*.cu"))
    assert len(names) == len(set(names)) == text.count("__global__") and {"attention_gkv", "adamw"} <= set(names)
