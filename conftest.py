"""Settles JAX for every test before it starts, and sorts tests into tiers.

Tiers: ``-m unit`` holds what neither compiles a whole round nor starts a process; without an
option such tests come with it; ``-m slow`` holds the rest. A test is in the unit tier unless it is
marked ``whole`` or ``slow``, or lies in one of the places below.
"""

import gc
import importlib.util
import os
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

from helpers import xla

ROOT = Path(__file__).parent
collect_ignore_glob = [
    "src/lipsjax/deploy/flower/template/*",  # of apps, which are no package here
    "tests/helpers/host.py",  # a program
    "tests/helpers/flower_nodes.py",
    "tests/helpers/nvflare_*.py",
]
if importlib.util.find_spec("flwr") is None:
    OF_FLOWER = ("mod", "server", "inprocess")
    collect_ignore_glob += [f"src/lipsjax/deploy/flower/{name}.py" for name in OF_FLOWER]
if importlib.util.find_spec("nvflare") is None:
    collect_ignore_glob += ["src/lipsjax/deploy/nvflare.py"]
WHOLE = (
    *("tests/rounds", "tests/strategies", "src/lipsjax/simulation.py", "src/lipsjax/strategy.py"),
    *("tests/experiments", "tests/report", "tests/recording/test_damage.py"),
    *("tests/recording/test_behaviour.py", "tests/runs/test_study.py", "tests/runs/test_sites.py"),
)
"""Places all of whose tests compile whole rounds, call commands or draw pages."""

hypothesis.settings.register_profile(
    "lipsjax",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("LIPSJAX_EXAMPLES", "25")),
)
hypothesis.settings.load_profile("lipsjax")

# tracing makes many objects that stay, and to look through them all takes long
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    """Four faked CPU devices, float64, quick compiles, and a cache of what was compiled.

    Workers and the processes that tests start inherit it all. The cache stays from run to run,
    until ``pytest --cache-clear``.
    """
    # shells make what they start in the background deaf to Ctrl-C, and so would be all it starts
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    cache = getattr(config, "cache", None)
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": xla.quick_flags(),
        **xla.cache_settings(cache.mkdir("xla") if cache else tempfile.mkdtemp(prefix="xla")),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def pytest_collection_modifyitems(items):
    """Mark the unit tier."""
    for item in items:
        place = item.path.relative_to(ROOT).as_posix()
        if place.startswith(WHOLE):
            item.add_marker(pytest.mark.whole)
        if not any(item.iter_markers("whole")) and not any(item.iter_markers("slow")):
            item.add_marker(pytest.mark.unit)
