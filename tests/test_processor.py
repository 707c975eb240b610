"""The CPU's instruction sets, and the warnings that depend on them."""

from __future__ import annotations

import logging
import warnings

import keras
import pytest

from mrcnn import processor
from mrcnn.nn.precision import log_processor, warn_if_slow

AVX2 = frozenset({"avx", "avx2", "fma"})


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (
            processor.parse_cpuinfo,
            "processor\t: 0\nflags\t\t: fpu AVX avx2\nflags\t\t: other\n",
            {"fpu", "avx", "avx2"},
        ),
        (processor.parse_cpuinfo, "processor\t: 0\nFeatures\t: asimd bf16\n", {"asimd", "bf16"}),
        (processor.parse_cpuinfo, "vendor_id : IBM/S390\n", None),
        (
            processor.parse_sysctl,
            "machdep.cpu.features: FPU AVX1.0\nmachdep.cpu.leaf7_features: AVX2\nhw.optional.avx512f: 0\n",
            {"fpu", "avx1.0", "avx2"},
        ),
        (processor.parse_sysctl, "hw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_SME: 0\n", {"feat_bf16"}),
        (processor.parse_sysctl, "", None),
    ],
)
def test_cpu_flags_are_read_or_unknown(read, text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (AVX2, "AVX2"),
        (AVX2 | {"avx512f"}, "AVX-512"),
        (AVX2 | {"avx512f", "avx512_vnni"}, "AVX-512 with VNNI"),
        (frozenset({"asimd"}), "NEON"),
        (None, "unknown"),
    ],
)
def test_the_latest_instructions_are_named(flags, expected):
    assert processor.describe(flags).startswith(expected)


@pytest.mark.parametrize("flags", [AVX2, AVX2 | {"avx512f", "avx512_vnni"}])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_unsupported_16_bit_types_warn_about_their_cost(dtype, flags):
    with pytest.warns(UserWarning, match=rf"{dtype}.*{processor.describe(flags)}.*1\.6 times.*11 times"):
        warn_if_slow(dtype, flags, accelerator=False)


@pytest.mark.parametrize(
    ("dtype", "flags", "accelerator"),
    [
        ("float32", AVX2, False),
        ("mixed_bfloat16", AVX2 | {"amx_bf16"}, False),
        ("mixed_bfloat16", AVX2, True),
        ("mixed_bfloat16", None, False),
        ("mixed_float16", AVX2 | {"avx512_fp16"}, False),
    ],
)
def test_unknown_processors_give_no_warning(dtype, flags, accelerator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_slow(dtype, flags, accelerator)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="oneDNN is TensorFlow's choice")
def test_the_choice_is_logged_once(caplog):
    log_processor.cache_clear()
    with caplog.at_level(logging.INFO, logger="mrcnn"):
        log_processor()
        log_processor()
    (message,) = caplog.messages
    assert processor.describe(processor.cpu_flags()) in message and "TF_ENABLE_ONEDNN_OPTS" in message
