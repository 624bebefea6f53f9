"""Four faked CPU devices, float64, and quick compiles for every test; set before JAX starts."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("JAX_ENABLE_X64", "1")
# tests compile more than they compute; the fusion emitters alone take twice as long as all the rest
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false",
)
# tracing makes many objects that stay, and to look through them all takes long
gc.set_threshold(100_000, 50, 100)
