"""Whether a program came from the persistent compilation cache."""

import collections
from collections.abc import Callable

import jax

_HIT = "/jax/compilation_cache/cache_hits"
_events: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: _events.update([event]))


def watched(compile_program: Callable[[], float]) -> tuple[float, str | None]:
    """Call a function that compiles at most one program.

    Args:
      compile_program: returns the seconds it took, 0 if there was nothing to do.

    Returns:
      These seconds, and "hit" or "miss" of the cache; None if there was nothing to do.
    """
    before = _events[_HIT]
    seconds = compile_program()
    if not seconds:
        return seconds, None
    return seconds, "hit" if _events[_HIT] > before else "miss"


def describe(seconds: float, outcome: str) -> str:
    """Return in a line what compiling took.

    >>> describe(7.91, "miss")
    'compiled in 7.9 s, not found in the cache'
    """
    where = "from the cache" if outcome == "hit" else "not found in the cache"
    return f"compiled in {seconds:.1f} s, {where}"
