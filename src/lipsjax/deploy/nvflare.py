"""Transient sparsity (LIPS) at an NVFlare site: a filter that needs NumPy and NVFlare alone.

The filter zeroes part of the arrays that a training task brings and changes nothing that is sent.
What decides is this site's own: the gradient of the last mini-batch of its last training, which the
training script hands over and which stays in the job's run folder at the site::

    plan = LipsFilter(masked=["conv2.weight"])
    job.to_clients(plan, filter_type=FilterType.TASK_DATA, tasks=["train"])   # in the job
    keep_gradient(model, {n: p.grad for n, p in net.named_parameters()})      # in the script

A file is what both can reach: the script may run in another process than the filter, and NVFlare's
simulator ends the process of a site between two tasks where it has fewer threads than sites.

Method: arXiv 2506.00932. Written for nvflare 2.9.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants
from nvflare.client.config import TransferType

from lipsjax.deploy.flower.masks import check_plan, density_at, mask, mask_of_torch

HAND_OVER = "lips"  # in the meta of a task's model, at the site alone: where a gradient goes
FOLDER = "lips"  # in the job's run folder at the site
GRADIENT = "gradient.npz"  # of the last mini-batch, of masked arrays
RECORD = "rounds.jsonl"  # how each training began
DIFFERENCES = (
    "lips: this site sends differences of weights, which would be taken from the masked model and "
    "added to the whole one, so that what was zeroed comes back"
)


class Held(NamedTuple):
    """What a training handed over."""

    round: int
    arrays: dict[str, np.ndarray]


def keep_gradient(model: Any, gradient) -> None:
    """Hand over the gradient of the last mini-batch: name of an array -> its gradient.

    The training script calls it once, when it is done and before it sends. The values stay at the
    site. Where no filter asks for them, nothing happens.

    Args:
      model: the FLModel that was received, or the DXO; what the filter wrote there is taken out.
      gradient: arrays that NumPy can read, those that are masked among them.

    Raises:
      ValueError: for a masked array that has no gradient, or none of floating numbers.
    """
    asked = (model.meta or {}).pop(HAND_OVER, None)
    if asked is None:
        return
    kept = {}
    for name in asked["masked"]:
        if name not in gradient:
            raise ValueError(
                f"lips: keep_gradient needs the gradient of {name!r}, and was given those of "
                f"{', '.join(gradient) or 'none'}"
            )
        kept[name] = np.asarray(gradient[name])
        if not np.issubdtype(kept[name].dtype, np.floating):
            raise ValueError(
                f"lips: the gradient of {name} holds {kept[name].dtype}, not floating numbers"
            )
    write_gradient(Path(asked["file"]), Held(asked["round"], kept))


def write_gradient(path: Path, held: Held) -> None:
    """Write a gradient, so that the file is there whole or is the one of before."""
    made = path.with_name(f".{path.name}")
    arrays: dict[str, Any] = {f"of {name}": value for name, value in held.arrays.items()}
    with made.open("wb") as file:
        np.savez(file, round=held.round, **arrays)
    made.replace(path)


def read_gradient(path: Path) -> Held | None:
    """Read a gradient; None where none was handed over."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        arrays = {n.removeprefix("of "): file[n] for n in file.files if n != "round"}
        return Held(int(file["round"]), arrays)


class LipsFilter(DXOFilter):
    """Zero part of the model that a training task brings, before the site trains.

    Rounds of a job count from 0 to T - 1. The round that follows round r begins masked where ``r
    mod every == 0``, at density ``d(r / T)``; all others, the first among them, begin whole. The
    numbers of rounds are those in the task's headers, which NVFlare's workflows write.

    A site that never trained in this job begins whole. One that trained and handed no gradient
    over is refused its next task, so that a missing line is no run without LIPS.

    Sites must send whole models. Where the Client API is set to send differences, the first task is
    refused, before it trains; where the script makes them itself, its results are.

    Args:
      masked: names of the arrays that are masked: the weights of the middle layers.
      density: of the first masked round, in (0, 1].
      every: rounds between masked ones, at least 1.
      schedule: how the density goes on: constant, linear, cosine or cubic.
      criterion: saliency, which needs a gradient, or magnitude.
      torch_layout: whether arrays lie as PyTorch has them, [out, in, ...]; of equal scores those
        are then kept that come first in the simulator, where they lie [..., in, out].
      train_task: the name of the tasks that train; others pass as they are.

    Raises:
      ValueError: for an argument out of range, when it is made; at a task, for a model that cannot
        be masked. NVFlare ends that task as TASK_DATA_FILTER_ERROR.
    """

    def __init__(
        self,
        masked: list[str],
        density: float = 0.5,
        every: int = 5,
        schedule: str = "linear",
        criterion: str = "saliency",
        torch_layout: bool = False,
        train_task: str = AppConstants.TASK_TRAIN,
    ) -> None:
        super().__init__([DataKind.WEIGHTS], [DataKind.WEIGHTS])
        # NVFlare writes jobs from attributes that are called as the arguments
        self.masked = check_plan(masked, density, every, schedule, criterion)
        self.density, self.every, self.schedule = density, every, schedule
        self.criterion, self.torch_layout, self.train_task = criterion, torch_layout, train_task

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        """Return the model with masked arrays, as a new one; None for what is no training."""
        if fl_ctx.get_prop(FLContextKey.TASK_NAME) != self.train_task:
            return None
        if sends_differences(fl_ctx):
            raise ValueError(f"{DIFFERENCES}: set params_transfer_type to FULL")
        current, density = self.begins(shareable)
        self.check(dxo.data)
        folder = folder_of(fl_ctx)
        held, meta = None, dict(dxo.meta)
        if self.criterion == "saliency":
            held = read_gradient(folder / GRADIENT)
            self.check_handed_over(folder, held)
            file = str(folder / GRADIENT)
            meta[HAND_OVER] = {"file": file, "round": current, "masked": self.masked}
        thin = density < 1 and (self.criterion == "magnitude" or held is not None)
        data = self.thinned(dxo.data, held, density) if thin else dxo.data
        if density < 1 and not thin:
            self.log_warning(
                fl_ctx, f"lips: round {current} begins whole, as no gradient is kept here"
            )
        note(folder, round=current, density=density, masked=thin, of=held.round if held else None)
        return DXO(dxo.data_kind, data=data, meta=meta)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Refuse a result that holds differences, which only the training script can have made.

        NVFlare logs what a handler of events raises and goes on, so the result's code is set.
        """
        if event_type != EventType.AFTER_TASK_EXECUTION:
            return
        result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        if fl_ctx.get_prop(FLContextKey.TASK_NAME) == self.train_task and differs(result):
            self.log_error(fl_ctx, f"{DIFFERENCES}: send the whole model", fire_event=False)
            result.set_return_code(ReturnCode.TASK_RESULT_FILTER_ERROR)

    def begins(self, shareable: Shareable) -> tuple[int, float]:
        """Return the number of a task's round, and the density it should begin at."""
        headers = (AppConstants.CURRENT_ROUND, AppConstants.NUM_ROUNDS)
        current, rounds = (shareable.get_header(name) for name in headers)
        for name, value in zip(headers, (current, rounds), strict=True):
            if value is None:
                raise ValueError(f"lips: the task has no header {name!r}, which the schedule needs")
        ended = current - (shareable.get_header(AppConstants.START_ROUND) or 0) - 1
        how = {"start": self.density, "every": self.every, "schedule": self.schedule}
        return current, density_at(ended, rounds, **how)

    def check(self, arrays: dict[str, Any]) -> None:
        """Refuse a model whose arrays cannot be masked, in whatever round."""
        for name in self.masked:
            if name not in arrays:
                raise ValueError(f"lips: no array {name!r} to mask; there are {', '.join(arrays)}")
            value = arrays[name]
            if not isinstance(value, np.ndarray):
                raise ValueError(
                    f"lips: {name} is a {type(value).__name__}, and NumPy's arrays are masked: set "
                    "server_expected_format to numpy"
                )
            if not np.issubdtype(value.dtype, np.floating):
                raise ValueError(
                    f"lips: {name} holds {value.dtype}, and floating numbers are masked"
                )
            if self.torch_layout and value.ndim < 2:
                raise ValueError(f"lips: {name} is no kernel of PyTorch's layout")

    def check_handed_over(self, folder: Path, held: Held | None) -> None:
        """Refuse to go on where trainings were begun here and none handed a gradient over."""
        if held is None and (folder / RECORD).exists():
            raise ValueError(
                f"lips: criterion saliency needs the gradient of {self.masked[0]!r}, and the last "
                "training here handed none over: call keep_gradient(model, ...) before it sends"
            )

    def thinned(self, arrays: dict, held: Held | None, density: float) -> dict:
        """Return a model's arrays, those that are masked as new ones."""
        kept_of = mask_of_torch if self.torch_layout else mask
        made = dict(arrays)
        for name in self.masked:
            weights, own = arrays[name], None if held is None else held.arrays[name]
            keep = kept_of(weights, own, density, name)
            made[name] = np.where(keep, weights, np.zeros_like(weights))
        return made


def sends_differences(fl_ctx: FLContext) -> bool:
    """Whether the Client API that is to do this task makes differences of what a script sends."""
    runner: Any = fl_ctx.get_prop(FLContextKey.RUNNER)
    executor = runner and runner.find_executor(fl_ctx.get_prop(FLContextKey.TASK_NAME))
    return getattr(executor, "_params_transfer_type", None) == TransferType.DIFF


def differs(result: Shareable) -> bool:
    """Whether a result holds differences of weights, alone or among other kinds."""
    if result.get_return_code() != ReturnCode.OK:
        return False
    try:
        held = [from_shareable(result)]
    except ValueError:  # no arrays
        return False
    while held:
        dxo = held.pop()
        if dxo.data_kind == DataKind.WEIGHT_DIFF:
            return True
        if dxo.data_kind == DataKind.COLLECTION:
            held.extend(dxo.data.values())
    return False


def folder_of(fl_ctx: FLContext) -> Path:
    """Return the site's folder of a job, which is made where it is not there."""
    workspace: Any = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
    folder = Path(workspace.get_run_dir(fl_ctx.get_job_id())).resolve() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def note(folder: Path, **began: Any) -> None:
    """Record how a training began, and of which round the gradient is; nothing of it is sent."""
    with (folder / RECORD).open("a", encoding="utf-8") as file:
        file.write(json.dumps(began) + "\n")
