"""Compiled programs are kept, and a run says where its own came from."""

import json
import re

import pytest

from helpers import killing

pytestmark = pytest.mark.whole


@pytest.mark.slow
def test_miss_then_hit(tmp_path):
    arguments = (*killing.TINY, "--rounds", "2")
    outcomes = []
    for name in ("first", "second"):
        said = killing.finish(tmp_path / name, arguments, cache=tmp_path / "cache")
        (run,) = (tmp_path / name).glob("runs/*")
        lines = (run / "timings.jsonl").read_text().splitlines()
        outcomes += [json.loads(line)["cache"] for line in lines]
        expected = {"first": "not found in the cache", "second": "from the cache"}[name]
        assert re.search(rf"compiled in [\d.]+ s, {expected}", said)
        assert re.search(r"plan: \d+ x cpu, chunk 1, convolution loop, float32", said)
    assert outcomes == ["miss", None, "hit", None]
