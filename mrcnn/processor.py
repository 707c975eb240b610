"""The CPU's instruction sets, and whether computing in 16 bits is slow without some of them.

TensorFlow reads `TF_ENABLE_ONEDNN_OPTS` when it is imported. If the variable isn't set, it uses oneDNN on CPUs with
AVX-512 VNNI or later instructions and Eigen on others. docs/processors.md has the measurements behind the decisions.
"""

from __future__ import annotations

import functools
import platform
import re
import subprocess
from pathlib import Path

LEVELS = (("avx512_vnni", "AVX-512 with VNNI"), ("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"),
          ("sve", "SVE"), ("asimd", "NEON"))  # fmt: skip
# Instructions that multiply 16-bit floats: Linux's names on x86 and ARM, and macOS's.
HALF_FLAGS = {
    "mixed_bfloat16": frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16", "feat_bf16"}),
    "mixed_float16": frozenset({"avx512_fp16", "amx_fp16", "fphp", "asimdhp", "feat_fp16"}),
}


def parse_cpuinfo(text: str) -> frozenset[str] | None:
    """The flags of the first CPU in the text of Linux's /proc/cpuinfo, in lower case; None if it names none.

    Example:
        >>> sorted(parse_cpuinfo("flags : fpu avx avx2"))
        ['avx', 'avx2', 'fpu']
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].lower().split()) if found else None


def parse_sysctl(text: str) -> frozenset[str] | None:
    """The flags in the output of macOS's `sysctl machdep.cpu hw.optional`, in lower case; None if it names none.

    Example:
        >>> sorted(parse_sysctl("machdep.cpu.leaf7_features: AVX2 BMI2"))
        ['avx2', 'bmi2']
        >>> sorted(parse_sysctl("hw.optional.arm.FEAT_BF16: 1"))
        ['feat_bf16']
    """
    lists = re.findall(r"^machdep\.cpu\.(?:leaf7_|ext)?features:(.*)$", text, re.MULTILINE)
    switches = re.findall(r"^hw\.optional\.(?:arm\.)?(\w+): 1$", text, re.MULTILINE)
    return frozenset(" ".join([*lists, *switches]).lower().split()) or None


@functools.cache
def cpu_flags() -> frozenset[str] | None:
    """The instruction sets of this computer's CPU, as Linux or macOS names them, in lower case; None if unknown."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return parse_cpuinfo(cpuinfo.read_text())
    if platform.system() != "Darwin":
        return None
    command = ["sysctl", "machdep.cpu", "hw.optional"]
    return parse_sysctl(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def describe(flags: frozenset[str] | None) -> str:
    """The vector instructions in a few words.

    Example:
        >>> describe(frozenset({"avx", "avx2", "fma"}))
        'AVX2'
        >>> describe(None)
        'unknown instruction sets'
    """
    if flags is None:
        return "unknown instruction sets"
    return next((name for flag, name in LEVELS if flag in flags), "no vector instructions that are known here")


def slow_dtype(dtype: str, flags: frozenset[str] | None) -> str | None:
    """Explains why `dtype` is slow on a CPU with these flags; None if it isn't, or if the flags are unknown.

    Args:
        dtype: `Config.COMPUTE_DTYPE`.
        flags: as `cpu_flags` returns them.

    Example:
        >>> slow_dtype("mixed_bfloat16", frozenset({"avx512f", "avx512_bf16"})) is None
        True
        >>> slow_dtype("mixed_bfloat16", frozenset({"avx2"}))[:62]
        'COMPUTE_DTYPE is "mixed_bfloat16", but this CPU (AVX2) has no '
    """
    if flags is None or dtype not in HALF_FLAGS or flags & HALF_FLAGS[dtype]:
        return None
    return (
        f'COMPUTE_DTYPE is "{dtype}", but this CPU ({describe(flags)}) has no instructions for {dtype[6:]}. On a CPU'
        " with AVX2, mixed_bfloat16 took 1.6 times as long as float32 to detect and 11 times as long to train."
        ' Use "float32".'
    )
