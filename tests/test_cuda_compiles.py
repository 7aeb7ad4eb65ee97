"""The CUDA kernels under NVIDIA's compiler, which needs no GPU: they compile, and all they compute stays in registers.

A kernel that runs out of registers works, but goes to memory for numbers it thought it had at hand; the assembler's log
tells. Whether the numbers are right is asked in test_cuda_kernels.py.
"""

import re

import pytest

from tinygrad_tfm.kernels import cuda_source
from tinygrad_tfm.kernels.cuda_source import source

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]                       # A100, H100 and H200, B200
FUNCTION = re.compile(r"Function properties for (\w+).*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                      r"(\d+) bytes spill loads.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?", re.DOTALL)
FILES = [(name, real, {}) for name in ("gelu", "dropout", "embedding", "cross_entropy", "softmax")
         for real in cuda_source.STORED]
FILES += [("layer_norm", real, {"WIDTH": width, "DROP": drop}) for width, drop in [(384, 13107), (1024, 0)]
          for real in cuda_source.STORED]
FILES += [("attention", "float32", {"HEAD": head, "DROP": drop}) for head, drop in [(64, 0), (64, 13107), (32, 0)]]
FILES += [("adamw", "float32", {}), ("norm", "float32", {})]


def functions(log):
    """By kernel: bytes of stack, of spilled stores, of spilled loads, registers, bytes of shared memory."""
    return {name: [int(n or 0) for n in numbers] for name, *numbers in FUNCTION.findall(log)}


@pytest.fixture(scope="module")
def compiler():
    """Compile a text for an architecture: whether it worked, and the log."""
    word = "NVIDIA's compiler is not installed: pip install 'tinygrad_tfm[nvrtc]'"
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=word)
    headers = pytest.importorskip("cuda.pathfinder", reason=word).find_nvidia_header_directory("cudart")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip(word)
    if headers is None:
        pytest.skip(word)

    def compiled(text, architecture):
        _, program = nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], [])
        options = [f"--gpu-architecture={architecture}", f"-I{headers}", "-std=c++17", "-ftz=true",   # as CuPy does
                   "--ptxas-options=-v"]
        [result] = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
        nvrtc.nvrtcGetProgramLog(program, log)
        nvrtc.nvrtcDestroyProgram(program)
        return result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode().rstrip("\0")
    return compiled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: "-".join(map(str, [*file[:2], *file[2].values()])))
def test_a_kernel_compiles_and_nothing_leaves_its_registers(compiler, file, architecture):
    name, real, constants = file
    built = source(name, real, **constants)
    worked, log = compiler(built.text, architecture)
    assert worked and "warning" not in log, log
    found = functions(log)
    assert found.keys() == built.kernels.keys(), log
    for kernel, (stack, stores, loads, registers, shared) in found.items():
        assert stack == stores == loads == 0, (kernel, log)
        assert registers * built.kernels[kernel].threads <= 65536 and shared <= 48 << 10, (kernel, log)


def test_every_file_is_compiled():
    assert {name for name, *_ in FILES} == {path.stem for path in cuda_source.FOLDER.glob("*.cu")}


def test_an_error_names_file_and_line(compiler):
    lines = (cuda_source.FOLDER / "gelu.cu").read_text("utf-8").splitlines()
    [number] = [i for i, line in enumerate(lines, 1) if "v * below(v);" in line]
    worked, log = compiler(source("gelu").text.replace("v * below(v);", "v * beneath(v);"), "sm_90")
    assert not worked and f'gelu.cu({number}): error: identifier "beneath" is undefined' in log, log


def test_a_spill_would_be_seen(compiler):
    worked, log = compiler("""extern "C" __global__ void __launch_bounds__(1024) much(float* x) {
        float a[200];
        for (int i = 0; i < 200; i++) a[i] = x[i * 1024 + threadIdx.x];
        for (int i = 0; i < 200; i++) for (int j = 0; j < 200; j++) a[j] = a[j] * a[(i + j) % 200] + 1;
        for (int i = 0; i < 200; i++) x[i * 1024 + threadIdx.x] = a[i];
    }""", "sm_90")
    assert worked and any(functions(log)["much"][:3]), log
