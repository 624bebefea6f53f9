"""A host of a sweep that several share: this machine under another name, and less patient.

    HOST_NAME=a HOST_LOG=log python tests/helpers/host.py ARGUMENTS_OF_A_SWEEP

Workers read this file as well, and so are of that host, too. What trains is noted in the log, a
line as it begins and one as it has ended, by what runs and not by what is recorded.
"""

import os
import platform
import sys
from pathlib import Path

from lipsjax.experiments import command, sweep
from lipsjax.recording import files, leases
from lipsjax.runs import trial

BEAT, GONE = 0.5, 6.0
NAME, LOG = os.environ["HOST_NAME"], os.environ["HOST_LOG"]


def noted(train):
    def do(prepared, run_dir, *rest):
        note("begun", run_dir)
        train(prepared, run_dir, *rest)
        note("ended", run_dir)

    return do


def note(what, run_dir):
    with Path(LOG).open("a") as file:
        file.write(f"{what} {run_dir.name} {NAME} {os.getpid()}\n")


files.machine = platform.node = lambda: NAME
leases.BEAT, leases.GONE = BEAT, GONE
trial._train = noted(trial._train)

if __name__ == "__main__":
    sys.argv[0] = "lipsjax sweep"
    command.guarded(sweep.main)
