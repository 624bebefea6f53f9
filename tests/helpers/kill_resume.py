"""Kills runs at random moments, resumes them, and compares them with runs left alone.

    python tests/kill_resume.py --kills 20 --seed 0

Of four kills, one falls into the first seconds after the run directory is made (it compiles), two
between the first checkpoint and the end, and one into the writing of a checkpoint. The exit status
is 1 if a resumed run differs in a bit of its metrics or its last checkpoints.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from helpers import killing

ARMS = {"dense": killing.TINY, "lips": killing.LIPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many runs are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        equal = kill_all(Path(folder), options.kills, rng)
    saving = sum(was_saving for _, was_saving in equal)
    differing = sum(not same for same, _ in equal)
    print(f"{len(equal)} kills, {saving} of them in a checkpoint; {differing} resumed runs differ")
    sys.exit(differing > 0)


def kill_all(folder: Path, kills: int, rng: random.Random) -> list[tuple[bool, bool]]:
    """Returns of every kill whether the resumed run was equal, and whether it was saving."""
    cache, whole, trains = folder / "cache", {}, {}
    for arm, arguments in ARMS.items():
        for name in ("first", "second"):  # the second finds its programs compiled, as resumes do
            out = folder / f"{arm}_{name}"
            with killing.start(out, arguments, cache=cache) as process:
                killing.wait_for(process, out, "checkpoints")
                begin = time.monotonic()
                process.communicate(timeout=killing.DEADLINE)
            trains[arm] = time.monotonic() - begin
        whole[arm] = killing.content(out)
        same = whole[arm] == killing.content(folder / f"{arm}_first")
        print(f"{arm}: {trains[arm]:.1f} s, twice {'the same bits' if same else 'OTHER BITS'}")
        assert same
    results = []
    for index in range(kills):
        arm = list(ARMS)[index % len(ARMS)]
        out = folder / f"killed{index}"
        moment = kill_one(out, ARMS[arm], cache, rng, kind=index % 4, trains=trains[arm])
        left = killing.found(out)
        resumed = killing.resumed(killing.finish(out, ARMS[arm], cache=cache))
        same = killing.content(out) == whole[arm]
        print(
            f"{index + 1:2} {arm:5} {moment}: {left}; {resumed}: "
            f"{'equal' if same else 'DIFFERENT'}",
            flush=True,
        )
        results.append((same, left.saving))
        shutil.rmtree(out)
    return results


def kill_one(
    out: Path,
    arguments: tuple[str, ...],
    cache: Path,
    rng: random.Random,
    *,
    kind: int,
    trains: float,
) -> str:
    """Kills a run; returns the moment in words."""
    if kind < 3:
        what, longest = ("plan.json", 3.0) if kind == 0 else ("checkpoints", trains)
        seconds = rng.uniform(0, longest)
        process = killing.start(out, arguments, cache=cache)
        killing.kill_after(process, out, what, seconds)
        return f"{seconds:4.2f} s after {what}"
    while True:
        shutil.rmtree(out, ignore_errors=True)
        skip = rng.randint(1, 15)
        process = killing.start(out, arguments, cache=cache)
        killing.kill_in_checkpoint(process, out, skip=skip)
        if killing.found(out).saving:  # else the write was quicker than the signal
            return f"checkpoint {skip:2}"


if __name__ == "__main__":
    main()
