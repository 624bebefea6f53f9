"""Run the app in this process, node after node: ``python simulate.py``. No Ray, no network."""

import tomllib
from pathlib import Path

from flwr.app import Context, RecordDict
from lips_app import client_app, server_app
from lips_app.lips.inprocess import InProcess

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Give every site of the folder a node, and call the server."""
    about = tomllib.loads((HERE / "pyproject.toml").read_text())
    config = {**about["tool"]["flwr"]["app"]["config"], "folder": str(HERE)}
    nodes = [{"partition-id": i, "num-partitions": config["sites"]} for i in range(config["sites"])]
    grid = InProcess(client_app.app, nodes, config)
    server_app.app(grid, Context(1, 1, {}, RecordDict(), config))


if __name__ == "__main__":
    main()
