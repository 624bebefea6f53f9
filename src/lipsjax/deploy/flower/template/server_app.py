"""The server: rounds of the study's strategy, from the study's initial model."""

from pathlib import Path

from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, FedAvgM, FedProx, Strategy
from lips_app.lips.server import TransientSparsity
from safetensors.numpy import load_file, save_file

app = ServerApp()


def strategy_of(config) -> Strategy:
    """Return the study's strategy, with transient sparsity around it if the arm has it."""
    nodes = {
        "fraction_train": config["cohort"] / config["sites"],
        "min_train_nodes": config["cohort"],
        "min_evaluate_nodes": config["sites"],
        "min_available_nodes": config["sites"],
    }
    if config["strategy"] == "fedprox":
        strategy = FedProx(proximal_mu=config["proximal-mu"], **nodes)
    elif config["strategy"] == "fedavgm":
        strategy = FedAvgM(
            server_learning_rate=config["server-learning-rate"],
            server_momentum=config["server-momentum"],
            **nodes,
        )
    else:
        strategy = FedAvg(**nodes)
    if "density" not in config:
        return strategy
    return TransientSparsity(
        strategy,
        masked=config["masked"].split(","),
        density=config["density"],
        every=config["every"],
        schedule=config["density-schedule"],
        criterion=config["criterion"],
        torch_layout=config["torch-layout"],
    )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds; write the last global model to final.safetensors."""
    config, folder = context.run_config, Path(str(context.run_config["folder"]))
    initial = load_file(folder / "model.safetensors")
    result = strategy_of(config).start(
        grid=grid,
        initial_arrays=ArrayRecord({name: Array(value) for name, value in initial.items()}),
        num_rounds=config["num-server-rounds"],
    )
    for server_round, metrics in result.evaluate_metrics_clientapp.items():
        print(f"round {server_round}: accuracy {metrics['accuracy']:.4f}")
    last = {name: array.numpy() for name, array in result.arrays.items()}
    save_file(last, folder / "final.safetensors")
