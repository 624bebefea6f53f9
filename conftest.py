"""Four faked CPU devices, float64, and quick compiles for every test; set before JAX starts."""

import gc
import os

import hypothesis

from helpers import xla

hypothesis.settings.register_profile("lipsjax", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("lipsjax")

# tracing makes many objects that stay, and to look through them all takes long
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    """Settle JAX's settings; workers, and the processes that tests start, inherit them."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": xla.quick_flags(),
        **xla.cache_settings(config.cache.mkdir("xla")),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
