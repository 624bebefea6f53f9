"""Four faked CPU devices, float64, and quick compiles for every test; set before JAX starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("JAX_ENABLE_X64", "1")
# tests compile more than they compute
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
