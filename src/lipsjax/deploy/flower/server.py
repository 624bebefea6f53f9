"""Transient sparsity (LIPS) at a Flower server: a strategy around any, which sets the schedule.

This file and ``masks.py`` stand by themselves: they need NumPy and Flower alone. Clients need the
mod that is beside them.
Written for flwr 1.40 to 1.42.
"""

from collections.abc import Callable, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from .masks import check_plan, density_at


class TransientSparsity(Strategy):
    """Tell clients of any strategy how much of the model to zero before they train.

    Server rounds count from 1 to T. The round that follows round r begins masked where ``(r - 1)
    mod every == 0``, at density ``d((r - 1) / T)``; all others, the first among them, begin whole.
    What goes out is the whole model: each node masks its own copy.

    Args:
      strategy: what the server does otherwise.
      masked: names of the arrays that are masked: the weights of the middle layers.
      density: of the first masked round, in (0, 1].
      every: rounds between masked ones, at least 1.
      schedule: how the density goes on: constant, linear, cosine or cubic.
      criterion: saliency, which needs the clients' gradients, or magnitude.
      torch_layout: whether arrays lie as PyTorch has them, [out, in, ...]; of equal scores those
        are then kept that come first in the simulator, where they lie [..., in, out].
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        masked: Iterable[str],
        density: float = 0.5,
        every: int = 5,
        schedule: str = "linear",
        criterion: str = "saliency",
        torch_layout: bool = False,
    ) -> None:
        masked = tuple(check_plan(masked, density, every, schedule, criterion))
        for name in masked:
            if "," in name:
                raise ValueError(f"masked must be names without a comma, not {name!r}")
        self.strategy, self.masked, self.criterion = strategy, masked, criterion
        self.start_density, self.every, self.schedule = density, every, schedule
        self.torch_layout, self.num_rounds = torch_layout, 0

    def density(self, server_round: int, num_rounds: int) -> float:
        """Return the density at which a round begins; 1 is whole."""
        ended = server_round - 2  # counted from 0
        return density_at(
            ended, num_rounds, start=self.start_density, every=self.every, schedule=self.schedule
        )

    def said(self, server_round: int, num_rounds: int) -> dict[str, float | str | bool]:
        """Return what the mod reads in the config of a round: texts and numbers alone."""
        return {
            "lips-density": self.density(server_round, num_rounds),
            "lips-criterion": self.criterion,
            "lips-masked": ",".join(self.masked),
            "lips-torch-layout": self.torch_layout,
            "server-round": server_round,
        }

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds, whose number the schedule is of; as Strategy.start."""
        lacking = [name for name in self.masked if name not in initial_arrays]
        if lacking:
            raise ValueError(
                f"masked names {lacking[0]!r}, which is none of the arrays "
                f"{', '.join(initial_arrays)}"
            )
        for name in self.masked:
            if not (dtype := initial_arrays[name].dtype).startswith("float"):
                raise ValueError(
                    f"masked names {name!r}, which holds {dtype}: only floating numbers are masked"
                )
        flat = [name for name in self.masked if len(initial_arrays[name].shape) < 2]
        if flat and self.torch_layout:
            raise ValueError(f"masked names {flat[0]!r}, which is no kernel of PyTorch's layout")
        self.num_rounds = num_rounds
        return super().start(
            grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure a round of training, with what the mod reads in a copy of the config."""
        if not self.num_rounds:
            raise ValueError("rounds begin with start(), which knows how many there are")
        config = config.copy()
        config.update(self.said(server_round, self.num_rounds))
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as the strategy does."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure a round of evaluation, of the whole model."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate as the strategy does."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log what the strategy says of itself."""
        self.strategy.summary()
