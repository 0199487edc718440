"""Triton kernels compiled for a GPU that is not there, and what its assembler says of them."""

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


class Compiled(NamedTuple):
    target: str  # sm_90a
    registers: int  # of a thread
    spilled_bytes: int  # stores and loads of a thread
    shared_bytes: int  # of a program
    ttir: str


def compile_kernel(
    kernel: Any, constants: dict[str, Any], types: dict[str, str], capability: int, folder: Path
) -> Compiled:
    """Compile for `capability` (80, 90) with `constants`, the options of a launch among them.

    `types` are the other arguments' types; pointers are taken to be aligned to 16 bytes, as PyTorch's are.
    """
    values = {name: value for name, value in constants.items() if name in kernel.arg_names}
    options = {name: value for name, value in constants.items() if name not in kernel.arg_names}
    signature = {name: "constexpr" if name in values else types[name] for name in kernel.arg_names}
    positions = {name: (index,) for index, name in enumerate(kernel.arg_names)}
    aligned = {positions[name]: [["tt.divisibility", 16]] for name, kind in signature.items() if kind.startswith("*")}
    source = ASTSource(kernel, signature, {positions[name]: value for name, value in values.items()}, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    ptx, path = compiled.asm["ptx"], folder / "kernel.ptx"
    path.write_text(ptx)
    target = re.search(r"\.target (\w+)", ptx).group(1)
    command = [triton.knobs.nvidia.ptxas.path, "-v", f"-arch={target}", path, "-o", path.with_suffix(".cubin")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, stores, loads = (
        int(re.search(pattern, report).group(1))
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    )
    return Compiled(target, registers, stores + loads, compiled.metadata.shared, compiled.asm["ttir"])
