"""Does dense federated averaging on iid clients reach pooled logistic regression?

A sanity floor for a data set and a config: scikit-learn's logistic regression is trained on the
pooled training examples of all clients, and both are scored on the same global test set.

    python experiments/logistic_floor.py --dataset fashion_mnist --data-dir DIR

Options are those of ``python -m lipsjax.experiments.run``; clients are iid unless said otherwise.
"""

import sys

import numpy as np

from lipsjax import recording
from lipsjax.experiments import command
from lipsjax.experiments.run import Run
from lipsjax.runs import startup
from lipsjax.runs.config import Config, PartitionConfig

DEFAULT = Run(config=Config(partition=PartitionConfig(kind="iid")))


def logistic_regression(data) -> float:
    """Return the global test accuracy of logistic regression on the pooled training examples."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images = np.asarray(data.train.inputs, np.float32)
    test = np.asarray(data.test.inputs, np.float32)[data.global_index]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(images.reshape(len(images), -1), data.train.labels)
    return model.score(test.reshape(len(test), -1), data.test.labels[data.global_index])


def main(argv: list[str]) -> None:
    """Print both accuracies."""
    options = command.parse(Run, argv, program="logistic_floor", default=DEFAULT)
    startup.start_jax(options.execution)
    from lipsjax.runs.data import share_out
    from lipsjax.runs.dataset import load_for
    from lipsjax.runs.trial import run_trial

    config = options.config
    data = share_out(config, load_for(config, options.execution.data_dir)[0]).data
    run_dir = run_trial(config, options.execution, lambda _: None, lambda _: None)
    accuracy = recording.read(run_dir).scalars["global_accuracy"]
    window = max(1, -(-config.rounds // 10))
    print(f"examples pooled: {len(data.train.labels)}, global test: {len(data.global_index)}")
    print(f"logistic regression, pooled:      {logistic_regression(data):.4f}")
    print(f"dense FedAvg, last {window} of {config.rounds} rounds: {accuracy[-window:].mean():.4f}")


if __name__ == "__main__":
    sys.argv[0] = "logistic_floor"
    command.guarded(main)
