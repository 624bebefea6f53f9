"""The PyTorch loop in several processes of one thread each, clients shared out among them.

Run as a script it is one of them: it reads its clients, trains a round for every line on its
standard input, and answers with a line; averages of processes are left unsummed.
"""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch_loop import Average, make_round
from workloads import WORKLOADS, Workload


class Workers:
    """Processes that hold their clients and wait."""

    def __init__(self, workload: Workload, initial: Average, batches: Any, count: int):
        self._folder = tempfile.TemporaryDirectory()
        self._processes = []
        for i in range(count):
            file = Path(self._folder.name) / str(i)
            file.write_bytes(pickle.dumps((workload.name, initial, batches[i::count])))
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, file],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

    def round(self) -> None:
        """Train all clients once."""
        for process in self._processes:
            print(file=process.stdin, flush=True)
        for process in self._processes:
            if not process.stdout.readline():
                raise RuntimeError("a PyTorch process has ended")

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.stdin.close()
            process.wait()
            process.stdout.close()
        self._folder.cleanup()


def main(file: str) -> None:
    """Be one of the processes."""
    import torch

    torch.set_num_threads(1)
    name, initial, batches = pickle.loads(Path(file).read_bytes())
    one_round = make_round(WORKLOADS[name], initial, batches)
    for _ in sys.stdin:
        one_round()
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
