"""What the README says is so: its code runs, its commands exist, CI calls the same ones."""

import re
from pathlib import Path

import numpy as np
import pytest

from tinygrad_tfm.cli import parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"-m tinygrad_tfm (.+?)(?= &&|$)", README, re.MULTILINE)


def test_its_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"ids": np.zeros((2, 8), int), "targets": np.zeros((2, 8), int)}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert len(blocks) >= 3


@pytest.mark.parametrize("command", [c for c in COMMANDS if "COMMAND" not in c])
def test_its_commands_are_understood(command):
    parser().parse_args(command.replace("'", "").split())


def test_ci_runs_the_test_command_as_it_stands_there():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "grep -m1 'pytest$' README.md" in script
    assert re.search(r"^python3 -m venv .*pytest$", README, re.MULTILINE)


def test_it_says_what_this_is_not():
    assert "not part of tinygrad" in README[:600]


def test_every_file_it_points_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
