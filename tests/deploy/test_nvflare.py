"""What the filter does at a site, and a job of NVFlare's simulator with it."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvflare")

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor, ExecutionMode
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.client.config import TransferType
from nvflare.job_config.api import FedJob

from lipsjax.deploy.flower.masks import mask, mask_of_torch
from lipsjax.deploy.nvflare import FOLDER, GRADIENT, RECORD, LipsFilter, keep_gradient

CLIENT = Path(__file__).parents[1] / "helpers" / "nvflare_client.py"
WEIGHTS = {"stem": np.arange(4.0), "a": np.array([[1.0, -4.0], [3.0, 2.0]]), "head": np.ones(2)}
GIVEN = {"stem": np.ones(4), "a": np.ones((2, 2)), "head": np.ones(2)}


class Site:
    """A site in a job: what its filter makes of tasks."""

    def __init__(self, root, **options):
        for name in ("startup", "local"):
            (root / name).mkdir(exist_ok=True)
        self.folder = root / "job" / FOLDER
        self.workspace = Workspace(str(root), "site-1")
        self.filter = LipsFilter(**{"masked": ["a"], "every": 1, "schedule": "constant", **options})

    def context(self, task="train"):
        """As NVFlare makes one for each task."""
        made = FLContext()
        made.set_prop(FLContextKey.WORKSPACE_OBJECT, self.workspace, private=True)
        made.set_prop(FLContextKey.CURRENT_RUN, "job", private=True)
        made.set_prop(FLContextKey.TASK_NAME, task, private=True, sticky=False)
        return made

    def receive(self, current, rounds=10, task="train", weights=WEIGHTS, **headers):
        """Return what comes out of the filter."""
        sent = task_of(current, rounds, weights)
        for name, value in headers.items():
            sent.set_header(name, value)
        return self.filter.process(sent, self.context(task))

    def train(self, current, gradient=GIVEN, **options):
        """Train a round; return the arrays it began from."""
        model = FLModelUtils.from_shareable(self.receive(current, **options))
        if gradient is not None:
            keep_gradient(model, gradient)
        return model.params

    def record(self):
        """What the site has noted: (round, density, masked, of)."""
        lines = (self.folder / RECORD).read_text().splitlines()
        return [tuple(json.loads(line).values()) for line in lines]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def task_of(current, rounds=10, weights=WEIGHTS, kind=DataKind.WEIGHTS):
    made = DXO(kind, data=dict(weights), meta={"mine": 1}).to_shareable()
    for name, value in ((AppConstants.CURRENT_ROUND, current), (AppConstants.NUM_ROUNDS, rounds)):
        if value is not None:
            made.set_header(name, value)
    return made


def whole(arrays):
    return all(np.array_equal(arrays[name], value) for name, value in WEIGHTS.items())


def test_it_zeroes_the_least_salient_of_masked_arrays_alone(site):
    assert whole(site.train(0))
    received = site.train(1)
    assert received["a"].tolist() == [[0, -4], [3, 0]]
    assert np.array_equal(received["stem"], WEIGHTS["stem"])
    assert np.array_equal(received["head"], WEIGHTS["head"])
    assert list(received) == list(WEIGHTS)
    assert WEIGHTS["a"].all()  # what came is not written into
    assert site.record() == [(0, 1.0, False, None), (1, 0.5, True, 0)]


@pytest.mark.parametrize("torch_layout", [False, True])
@pytest.mark.parametrize("criterion", ["saliency", "magnitude"])
def test_masks_are_those_of_masks_py(tmp_path, criterion, torch_layout):
    """Which the simulator's are to the byte; few values, so that ties are many."""
    rng = np.random.default_rng(0)
    weights, gradient = rng.integers(-2, 3, (2, 5, 4, 3, 3)).astype(np.float32)
    site = Site(tmp_path, density=0.3, criterion=criterion, torch_layout=torch_layout)
    site.train(0, {"a": gradient}, weights={"a": weights})
    received = site.train(1, {"a": gradient}, weights={"a": weights})["a"]
    chosen = mask_of_torch if torch_layout else mask
    keep = chosen(weights, None if criterion == "magnitude" else gradient, 0.3)
    assert received.dtype == np.float32
    assert np.array_equal(received, np.where(keep, weights, 0))


def test_the_gradient_is_of_the_last_training_and_stays_in_the_jobs_folder(site):
    site.train(0)
    site.train(1, {"a": np.array([[9.0, 0.0], [0.0, 9.0]])})
    assert site.train(2)["a"].tolist() == [[1, 0], [0, 2]]
    assert sorted(p.name for p in site.folder.iterdir()) == [GRADIENT, RECORD]
    with np.load(site.folder / GRADIENT) as held:
        assert sorted(held.files) == ["of a", "round"]  # masked arrays alone


def test_a_filter_made_anew_goes_on(tmp_path):
    """The simulator ends a site's process between tasks where it has fewer threads than sites."""
    Site(tmp_path).train(0)
    assert not whole(Site(tmp_path).train(1))


def test_a_site_that_never_trained_receives_the_model_whole(site, caplog):
    with caplog.at_level(logging.WARNING):
        assert whole(site.train(3))
    assert "lips: round 3 begins whole, as no gradient is kept here" in caplog.text
    assert not whole(site.train(4))
    assert site.record() == [(3, 0.5, False, None), (4, 0.5, True, 3)]


def test_rounds_follow_the_schedule(tmp_path):
    """Rounds of Flower count from 1, those of NVFlare from 0, or from where a job begins."""
    site = Site(tmp_path, density=0.5, every=2, schedule="linear")
    for current in range(10, 15):
        site.train(current, rounds=5, **{AppConstants.START_ROUND: 10})
    assert [density for _, density, _, _ in site.record()] == [1.0, 0.5, 1.0, 0.5 + 0.5 * 0.4, 1.0]


def test_headers_and_metadata_pass_and_what_was_added_is_taken_out(site):
    found = site.receive(0, mine="x")
    assert found.get_header("mine") == "x"
    assert found.get_header(AppConstants.CURRENT_ROUND) == 0
    model = from_shareable(found)
    assert model.meta["mine"] == 1
    assert set(model.meta) - {"mine", "filter_history"} == {"lips"}
    keep_gradient(model, GIVEN)
    assert set(model.meta) == {"mine", "filter_history"}


def test_other_tasks_and_other_kinds_pass_unchanged(site):
    site.train(0)
    before = (site.folder / RECORD).read_text()
    passed = from_shareable(site.receive(1, task="validate"))
    assert whole(passed.data)
    assert passed.meta == {"mine": 1}
    for kind in (DataKind.WEIGHT_DIFF, DataKind.METRICS):
        dxo = from_shareable(site.filter.process(task_of(1, kind=kind), site.context()))
        assert dxo.data_kind == kind
        assert whole(dxo.data)
        assert dxo.meta == {"mine": 1}
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    assert site.filter.process(reply, site.context()) is reply
    assert (site.folder / RECORD).read_text() == before


def test_a_training_that_hands_no_gradient_over_is_refused_its_next_task(site):
    site.train(0, None)
    with pytest.raises(ValueError, match=r"lips: .*needs the gradient of 'a'.*call keep_gradient"):
        site.train(1)
    assert site.record() == [(0, 1.0, False, None)]


def test_a_later_training_that_hands_none_over_leaves_what_there_was(site):
    """As one that failed; the record says of which round the gradient is."""
    site.train(0)
    site.train(1, None)
    site.train(2)
    assert [of for *_, of in site.record()] == [None, 0, 0]


def test_magnitude_needs_no_gradient(tmp_path):
    site = Site(tmp_path, criterion="magnitude")
    site.train(0, None)
    assert site.train(1)["a"].tolist() == [[0, -4], [3, 0]]
    assert not (site.folder / GRADIENT).exists()


def test_without_a_filter_the_line_does_nothing():
    model = DXO(DataKind.WEIGHTS, data=dict(WEIGHTS))
    keep_gradient(model, {})
    assert whole(model.data)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"masked": []}, "masked must be a list of at least one name"),
        ({"masked": "conv.weight"}, "masked must be a list of at least one name, not 'conv"),
        ({"density": 0.0}, r"density must be in \(0, 1\], not 0.0"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, cubic, not 'st"),
        ({"criterion": "random"}, "criterion must be one of saliency, magnitude, not 'random'"),
    ],
)
def test_what_a_filter_refuses(options, told):
    with pytest.raises(ValueError, match=told) as refused:
        LipsFilter(**{"masked": ["a"], **options})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "task", "told"),
    [
        ({"masked": ["b"]}, {}, "no array 'b' to mask; there are stem, a, head"),
        ({}, {"weights": {"a": [[1.0]]}}, "a is a list, and NumPy's arrays are masked: set server"),
        ({}, {"weights": {"a": np.ones(2, int)}}, "a holds int64, and floating numbers are masked"),
        ({"masked": ["stem"], "torch_layout": True}, {}, "stem is no kernel of PyTorch's layout"),
        ({}, {"current": None}, "the task has no header 'current_round'"),
        ({}, {"rounds": None}, "the task has no header 'num_rounds'"),
    ],
)
def test_what_a_task_is_refused_for(tmp_path, options, task, told):
    """In the first round, and nothing is noted."""
    site = Site(tmp_path, **options)
    with pytest.raises(ValueError, match=told) as refused:
        site.train(**{"current": 0, **task})
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("lips: ")
    assert not (site.folder / RECORD).exists()


@pytest.mark.parametrize(
    ("gradient", "told"),
    [
        ({"stem": np.ones(4)}, "needs the gradient of 'a', and was given those of stem"),
        ({}, "needs the gradient of 'a', and was given those of none"),
        ({"a": [[1, 2], [3, 4]]}, "the gradient of a holds int64, not floating numbers"),
        ({"a": ["x"]}, "the gradient of a holds <U1, not floating numbers"),
    ],
)
def test_what_a_hand_over_is_refused_for(site, gradient, told):
    with pytest.raises(ValueError, match=told) as refused:
        site.train(0, gradient)
    assert str(refused.value).startswith("lips: ")
    assert not (site.folder / GRADIENT).exists()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.ones(4), "the gradient of a has shape"),
        (np.full((2, 2), np.nan), "scores of a are not finite"),
    ],
)
def test_a_gradient_that_cannot_be_scored_is_refused(site, value, told):
    site.train(0, {"a": value})
    with pytest.raises(ValueError, match=told):
        site.train(1)
    assert len(site.record()) == 1


class Runner:
    """Of NVFlare's, what a filter asks."""

    def __init__(self, transfer):
        self.executor = ClientAPIExecutor(
            ExecutionMode.IN_PROCESS, task_script_path="x.py", params_transfer_type=transfer
        )

    def find_executor(self, task):
        return self.executor if task == "train" else None


@pytest.mark.parametrize("transfer", [TransferType.DIFF, "DIFF"])
def test_who_is_set_to_send_differences_is_refused_before_it_trains(site, transfer):
    """In round 0 already; a task that does not train is not asked."""
    context = site.context()
    context.set_prop(FLContextKey.RUNNER, Runner(transfer), private=True)
    with pytest.raises(ValueError, match=r"lips: .*differences.*set params_transfer_type to FULL"):
        site.filter.process(task_of(0), context)
    assert not (site.folder / RECORD).exists()
    context.set_prop(FLContextKey.RUNNER, Runner(TransferType.FULL), private=True)
    assert whole(from_shareable(site.filter.process(task_of(0), context)).data)


def result_of(*kinds):
    """A result, of several kinds at once where more than one is given."""
    parts = {kind: DXO(kind, data=dict(WEIGHTS)) for kind in kinds}
    (made,) = parts.values() if len(kinds) == 1 else [DXO(DataKind.COLLECTION, data=parts)]
    return made.to_shareable()


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (result_of(DataKind.WEIGHT_DIFF), ReturnCode.TASK_RESULT_FILTER_ERROR),
        (
            result_of(DataKind.METRICS, DataKind.WEIGHT_DIFF),
            ReturnCode.TASK_RESULT_FILTER_ERROR,
        ),
        (result_of(DataKind.METRICS, DataKind.WEIGHTS), ReturnCode.OK),
        (result_of(DataKind.WEIGHTS), ReturnCode.OK),
        (Shareable(), ReturnCode.OK),
        (make_reply(ReturnCode.EXECUTION_EXCEPTION), ReturnCode.EXECUTION_EXCEPTION),
    ],
)
def test_a_result_of_differences_is_refused(site, caplog, result, code):
    """Whoever took them."""
    context = site.context("validate")
    context.set_prop(FLContextKey.TASK_RESULT, result, private=True, sticky=False)
    before = result.get_return_code()
    site.filter.handle_event(EventType.AFTER_TASK_EXECUTION, context)
    assert result.get_return_code() == before
    context.set_prop(FLContextKey.TASK_NAME, "train", private=True, sticky=False)
    site.filter.handle_event(EventType.BEFORE_TASK_EXECUTION, context)
    assert result.get_return_code() == before
    site.filter.handle_event(EventType.AFTER_TASK_EXECUTION, context)
    assert result.get_return_code() == code
    assert ("send the whole model" in caplog.text) == (code != before)


ARRAYS = {
    "stem": np.random.default_rng(1).normal(size=(3, 4)).tolist(),
    "mid": np.random.default_rng(2).normal(size=(4, 4)).tolist(),
    "head": np.random.default_rng(3).normal(size=(4, 2)).tolist(),
}


def run_job(tmp_path, *, rounds=3, filters=True, threads=2, external=False, script_args="", **runs):
    """Run FedAvg of two sites in NVFlare's simulator; return its code and where files lie."""
    from nvflare.job_config.defs import FilterType
    from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

    from helpers.nvflare_server import GivenFedAvg, SeenFilter

    out, workspace = tmp_path / "out", tmp_path / "workspace"
    out.mkdir()
    job = FedJob(name="lips", min_clients=2)
    job.to_server(GivenFedAvg(2, rounds, ARRAYS, str(out)))
    job.to_server(SeenFilter(str(out)), filter_type=FilterType.TASK_RESULT, tasks=["train"])
    runner = ScriptRunner(
        script=str(shutil.copy(CLIENT, tmp_path)),
        script_args=f"{out} {script_args}",
        framework=FrameworkType.NUMPY,
        launch_external_process=external,
        command=f"{sys.executable} -u",
        **runs,
    )
    job.to_clients(runner)
    if filters:
        plan = LipsFilter(masked=["mid"], every=2)
        job.to_clients(plan, filter_type=FilterType.TASK_DATA, tasks=["train"])
    return job.simulator_run(str(workspace), n_clients=2, threads=threads), out, workspace


def files(out, site, current):
    """What a site received in a round, its gradient there, and the global model after it."""
    with np.load(out / f"{site}-{current}.npz") as held:
        received = {n.removeprefix("received-"): held[n] for n in held.files if n != "gradient"}
        gradient = held["gradient"]
    with np.load(out / f"global-{current}.npz") as held:
        return received, gradient, {name: held[name] for name in held.files}


def check_rounds(out, workspace):
    """Round 1 of three begins masked, by each site's own gradient of round 0."""
    for site in ("site-1", "site-2"):
        first, gradient, after = files(out, site, 0)
        assert np.abs(after["mid"]).max() < 10
        assert all(np.array_equal(first[name], ARRAYS[name]) for name in ARRAYS)
        second, _, after_second = files(out, site, 1)
        keep = mask(after["mid"], gradient, 0.5)
        assert np.array_equal(second["mid"], np.where(keep, after["mid"], 0))
        assert np.array_equal(second["stem"], after["stem"])
        third, _, _ = files(out, site, 2)
        assert all(np.array_equal(third[name], after_second[name]) for name in ARRAYS)
        (record,) = (workspace / site).rglob(RECORD)
        began = [json.loads(line) for line in record.read_text().splitlines()]
        assert began == [
            {"round": 0, "density": 1.0, "masked": False, "of": None},
            {"round": 1, "density": 0.5, "masked": True, "of": 0},
            {"round": 2, "density": 1.0, "masked": False, "of": 1},
        ]


def seen(out, site):
    path = out / f"seen-{site}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{}, {"threads": 1}, {"external": True}], ids=["usual", "swapped", "external"]
)
def test_a_job_of_the_simulator(tmp_path, how):
    code, out, workspace = run_job(tmp_path, **how)
    assert code == 0
    check_rounds(out, workspace)
    masks = [files(out, site, 1)[0]["mid"] != 0 for site in ("site-1", "site-2")]
    assert not np.array_equal(*masks)  # each by its own gradient


@pytest.mark.slow
def test_nothing_more_is_sent(tmp_path):
    """Of a client that sends back all the metadata it received."""
    (tmp_path / "lips").mkdir()
    (tmp_path / "dense").mkdir()
    _, with_lips, _ = run_job(tmp_path / "lips", rounds=2)
    code, dense, _ = run_job(tmp_path / "dense", rounds=2, filters=False)
    assert code == 0
    for site in ("site-1", "site-2"):
        replies, usual = seen(with_lips, site), seen(dense, site)
        assert len(replies) == len(usual) == 2
        for reply, other in zip(replies, usual, strict=True):
            assert reply["arrays"] == other["arrays"] == list(ARRAYS)
            assert reply["keys"] == other["keys"]
            assert set(reply["meta"]) - set(other["meta"]) <= {"filter_history"}
            assert GRADIENT not in reply["text"]
            assert "mid" not in reply["text"]


@pytest.mark.slow
def test_a_job_whose_script_forgets_the_line_ends(tmp_path):
    _, out, workspace = run_job(tmp_path, script_args="forgets")
    assert codes(out) == {ReturnCode.OK, ReturnCode.TASK_DATA_FILTER_ERROR}
    assert not (out / "global-1.npz").exists()
    assert "lips: criterion saliency needs the gradient of 'mid'" in logged(workspace)


def logged(workspace):
    return "".join(path.read_text() for path in workspace.rglob("*log*") if path.is_file())


def codes(out):
    """Of both sites; the job ends at the first that is bad, so one may not be seen."""
    replies = [reply for site in ("site-1", "site-2") for reply in seen(out, site)]
    return {reply["code"] for reply in replies}


@pytest.mark.slow
@pytest.mark.parametrize("external", [False, True])
def test_a_job_that_is_set_to_send_differences_ends_before_it_trains(tmp_path, external):
    differences = {"params_transfer_type": TransferType.DIFF, "external": external}
    _, out, workspace = run_job(tmp_path, **differences)
    assert codes(out) == {ReturnCode.TASK_DATA_FILTER_ERROR}
    assert not list(out.glob("*.npz"))  # no site received a model
    assert "lips: this site sends differences" in logged(workspace)
    assert "set params_transfer_type to FULL" in logged(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("external", [False, True])
def test_a_job_whose_script_sends_differences_ends_with_nothing_averaged(tmp_path, external):
    _, out, workspace = run_job(tmp_path, script_args="differs", external=external)
    assert codes(out) == {ReturnCode.TASK_RESULT_FILTER_ERROR}
    assert not (out / "global-0.npz").exists()
    assert "comes back: send the whole model" in logged(workspace)


def test_a_site_needs_no_jax():
    code = (
        "import sys, lipsjax.deploy.nvflare;"
        "print([m for m in ('jax', 'flax', 'scipy', 'torch', 'flwr') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip().splitlines()[-1] == "[]"
