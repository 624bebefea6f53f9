"""How tests compile: they compile more than they compute, so quickly, and each program once."""

import re
from importlib import metadata

QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
FUSION_EMITTERS = "xla_cpu_use_fusion_emitters"


def has_fusion_emitters_flag() -> bool:
    """Whether this jaxlib knows the flag: 0.11 took it away, and stops at flags it does not know.

    Where it is known, the emitters alone take twice as long as all the rest of a compile.
    """
    major, minor = re.match(r"(\d+)\.(\d+)", metadata.version("jaxlib")).groups()
    return (int(major), int(minor)) < (0, 11)


def quick_flags() -> str:
    """``XLA_FLAGS`` of quick compiles."""
    emitters = (f"--{FUSION_EMITTERS}=false",) if has_fusion_emitters_flag() else ()
    return " ".join((*QUICK, *emitters))


def usual_options() -> dict[str, bool]:
    """Compiler options of a program that is to be compiled as outside of tests."""
    return {FUSION_EMITTERS: True} if has_fusion_emitters_flag() else {}


def cache_settings(folder: object) -> dict[str, str]:
    """Environment variables with which JAX keeps every program that it compiles in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
