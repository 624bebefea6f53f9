"""The console script: ``lipsjax sweep`` and the others, as ``python -m lipsjax.experiments.*``."""

import importlib
import sys

import lipsjax
from lipsjax.experiments import command

COMMANDS = {
    "survey": "say what each site holds, before anything is trained",
    "sweep": "compare arms over seeds and a grid, and write the report",
    "run": "train one federated run and record it",
    "search": "search for a better setting of an arm, and confirm it",
    "poc": "go from a small study to the pilot in stages, each with gates to pass",
    "plan": "say what a study would take, on devices that need not be here",
    "power": "say how many seeds would find an effect, from a study's recordings",
    "attack": "say what the messages of a recorded run give away",
    "report": "draw a study's report again from its recordings",
    "export": "write the global model of a run as safetensors",
    "deploy": "make a Flower app of a study",
}


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: lipsjax COMMAND [OPTIONS]\n")
        for known, purpose in COMMANDS.items():
            print(f"  {known:<8}{purpose}")
        print("\nlipsjax COMMAND --help has examples, --help-all every option; lipsjax --version.")
        return
    if name == "--version":
        print(f"lipsjax {lipsjax.__version__}")
        return
    if name not in COMMANDS:
        command.fail(f"unknown command {name!r}; allowed are {', '.join(COMMANDS)}")
    del sys.argv[1]
    command.guarded(importlib.import_module(f"lipsjax.experiments.{name}").main)
