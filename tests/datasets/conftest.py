"""Data that cannot be read must not be waited for."""

import signal

import pytest


@pytest.fixture
def in_time():
    """Whoever waits fails: what is wrong with a file is told in a moment."""

    def stop(*_):
        raise AssertionError("still not done")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
