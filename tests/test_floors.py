"""The house: a file imports only from floors below it, and the core can be read in one evening."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tinygrad_tfm"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8")) for path in FILES}

FLOORS = {"backend": 0, "errors": 0, "files": 0, "gpu": 0, "random": 0, "special": 0, "kernels": 1, "ops": 2,
          "tensor": 3, "functional": 4, "watch": 4, "nn": 5, "models": 6, "optim": 7, "text": 7, "data": 7, "train": 7,
          "generate": 7, "decoding": 7, "checkpoint": 7, "runs": 7, "parallel": 7, "steps": 7, "flat": 7,
          "processes": 7, "cli": 8, "bench": 8, "doctor": 8, "inspect": 8, "__main__": 8,
          "__init__": 8}                                                # the door: nothing below looks back at it
SIDE = {"testing", "emulator"}                                            # beside the house: only its door leads there
OPTIONAL = {"cupy", "cupyx", "matplotlib", "tqdm", "safetensors", "threadpoolctl", "torch", "pydoc_data",
            "mygrad", "autograd", "micrograd", "ml_dtypes", "cuda",
            "sklearn", "num2words", "babel", "networkx", "statsmodels"}

# What it takes to compute a decoder's loss and its gradients: the stops of docs/reading-order.md.
READING_CORE = ["backend", "ops/__init__", "ops/common", "ops/elementwise", "ops/network", "ops/products",
                "ops/reductions", "ops/shapes", "tensor", "functional", "nn/module", "nn/layers", "nn/attention",
                "nn/blocks", "models/decoder"]
MOST_STATEMENTS = 1100


def floor(file):
    """The number of the floor of "nn/layers": that of its folder."""
    return FLOORS[file.split("/")[0]]


def imports(file, tree):
    """Every import of a file: (node, file of this package or None, top-level name of another library or None)."""
    folder = file.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, None, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, None, node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = folder[:len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield node, found(["/".join([*base, alias.name]), "/".join(base)]), None


def found(names):
    """The first of these names that is a file or a folder here."""
    for name in names:
        for candidate in (name, f"{name}/__init__" if name else "__init__"):
            if candidate in TREES:
                return candidate
    raise AssertionError(f"{names[0]} is imported and is not there")


def inside_functions(tree):
    """The import nodes of a file that stand in a function."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node for function in ast.walk(tree) if isinstance(function, functions)
            for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)}


EDGES = {(file, target) for file, tree in TREES.items() for _, target, _ in imports(file, tree) if target}
LATE = {file: inside_functions(tree) for file, tree in TREES.items()}


def test_every_file_has_a_floor():
    homeless = {file for file in TREES if file.split("/")[0] not in FLOORS.keys() | SIDE}
    assert not homeless, f"give {homeless} a floor in FLOORS, and in docs"
    seen = {("tensor", "ops/__init__"), ("nn/layers", "functional"), ("ops/network", "ops/common"),
            ("cli", "bench/__init__"), ("models/decoder", "nn/__init__"), ("nn/blocks", "tensor"),
            ("kernels/__init__", "kernels/cpu")}
    assert seen <= EDGES                                                # every way to write an import is understood


def test_no_file_imports_from_a_floor_above():
    upward = [f"{a} (floor {floor(a)}) imports {b} (floor {floor(b)})" for a, b in sorted(EDGES)
              if not {a.split("/")[0], b.split("/")[0]} & SIDE and floor(b) > floor(a)]
    assert not upward, "\n".join(upward)


def test_what_stands_at_the_side_is_imported_by_the_door_alone():
    assert {a for a, b in EDGES if b.split("/")[0] in SIDE} <= {"__init__"} | SIDE


def test_no_file_imports_itself_by_way_of_others():
    # a file of a folder is reached by way of the folder's __init__, which imports it: that is no cycle
    edges = {a: {b for x, b in EDGES if x == a and b != a} for a in TREES}
    done, trail = set(), []

    def visit(file):
        assert file not in trail, " → ".join([*trail[trail.index(file):], file])
        if file not in done:
            trail.append(file)
            for target in sorted(edges[file]):
                visit(target)
            trail.pop()
            done.add(file)
    for file in sorted(TREES):
        visit(file)


def test_imports_inside_functions_are_of_optional_libraries():
    wrong = [f"{file}:{node.lineno}" for file, tree in TREES.items() for node, target, library in imports(file, tree)
             if node in LATE[file] and library not in OPTIONAL]
    assert not wrong, wrong


def test_imports_outside_functions_are_of_numpy_and_the_standard_library():
    wrong = [f"{file}:{node.lineno} {library}" for file, tree in TREES.items() for node, target, library
             in imports(file, tree) if library and node not in LATE[file]
             and library not in sys.stdlib_module_names | {"numpy"}]
    assert not wrong, wrong


def test_importing_it_brings_in_numpy_and_nothing_else():
    code = ("import sys, numpy; before = set(sys.modules); import tinygrad_tfm; "
            "print(*{name.split('.')[0] for name in set(sys.modules) - before})")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "tinygrad_tfm" in out
    assert set(out) - set(sys.stdlib_module_names) <= {"numpy", "tinygrad_tfm"}


def test_training_and_its_like_are_imported_when_first_asked_for():
    code = ("import sys, tinygrad_tfm as tg; names = sys.argv[1:]; "
            "print(*[name for name in names if f'tinygrad_tfm.{name}' in sys.modules]); "
            "print(*[getattr(tg, name).__name__ for name in names]); print(hasattr(tg, 'nothing'))")
    later = ["optim", "watch", "testing", "text", "data", "train", "generate", "decoding", "checkpoint", "runs",
             "parallel", "emulator"]
    out = subprocess.run([sys.executable, "-c", code, *later], check=True, capture_output=True, text=True).stdout
    assert out.splitlines() == ["", " ".join(f"tinygrad_tfm.{name}" for name in later), "False"]


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def statements(tree):
    """How many there are to read; docstrings are free."""
    return sum(isinstance(node, ast.stmt) and not is_docstring(node) for node in ast.walk(tree))


def test_the_reading_core_is_short():
    counts = {file: statements(TREES[file]) for file in READING_CORE}
    total = sum(counts.values())
    assert total <= MOST_STATEMENTS, f"{total} statements: " + ", ".join(f"{file} {n}" for file, n in counts.items())


def test_the_reading_core_is_whole():
    """Nothing that it stands on is left out but these, each of one idea that a first reading may take on trust."""
    later = {"random", "special", "gpu", "errors", "kernels/__init__", "nn/init", "nn/positions", "nn/cache",
             "nn/recurrent", "nn/additive"}
    doors = {"nn/__init__", "models/__init__"}
    below = {b for a, b in EDGES if a in {*READING_CORE, "nn/__init__"}} - doors
    assert below | set(READING_CORE) == later | set(READING_CORE)


def test_statements_are_counted_not_lines():
    assert statements(ast.parse('"""Free."""\nx = 1; y = 2\nif x:\n    """Free."""\n    y = (1 +\n         2)')) == 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_opens_with_a_docstring_and_has_no_long_line(path):
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert not [i for i, line in enumerate(text.splitlines(), 1) if len(line) > 120]


def public_functions(tree):
    """(name, function, class or None) of what stands at the top of a file or in a public class of it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, None
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.{f.name}", f, node) for f in node.body
                        if isinstance(f, ast.FunctionDef) and not f.name.startswith("_"))


def one_line(function):
    return function.lineno == function.end_lineno


SAID_BY_THE_CLASS = {"forward", "update"}                               # they compute what the class's docstring says


def undocumented(file, tree):
    for name, function, owner in public_functions(tree):
        covered = owner and (one_line(function) or function.name in SAID_BY_THE_CLASS and ast.get_docstring(owner)
                             or any(getattr(d, "attr", "") == "setter" for d in function.decorator_list))
        if not ast.get_docstring(function) and not covered:
            yield f"{file}: {name}"


def unannotated(file, tree):
    """Arrays of rules need no annotation, they are all arrays; their settings do."""
    rules = file.startswith(("ops/", "kernels/"))
    for name, function, owner in public_functions(tree):
        if owner and one_line(function):
            continue
        a = function.args
        named = [] if rules else [*a.posonlyargs, *a.args[bool(owner):], *filter(None, [a.vararg, a.kwarg])]
        settings = [] if file.startswith("kernels/") else a.kwonlyargs
        yield from (f"{file}: {name}, {arg.arg}" for arg in (*named, *settings) if arg.annotation is None)


def test_public_functions_and_classes_have_docstrings():
    bare = [line for file, tree in TREES.items() for line in undocumented(file, tree)]
    bare += [f"{file}: {node.name}" for file, tree in TREES.items() for node in tree.body
             if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not bare, "\n".join(bare)


def test_public_functions_have_annotated_signatures():
    bare = [line for file, tree in TREES.items() for line in unannotated(file, tree)]
    assert not bare, "\n".join(bare)


def test_public_functions_say_what_they_return():
    bare = [f"{file}: {name}" for file, tree in TREES.items() if not file.startswith(("ops/", "kernels/"))
            for name, function, owner in public_functions(tree) if not (owner and one_line(function))
            and function.returns is None]
    assert not bare, "\n".join(bare)
