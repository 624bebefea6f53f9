"""What programs cost: FLOPs against hand counts, loops times their trips, collectives of a TPU."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import commands
from helpers.worlds import tiny_model, world
from lipsjax import fedavg, simulation, transient_sparsity
from lipsjax.local import LocalTraining
from lipsjax.metrics import flops as program
from lipsjax.runs import machine

TINY = (*commands.TINY[:6], *commands.TINY[8:])  # all devices


def count(model, data, *, devices=2, training=(3, 4), strategy=None, **options):
    sim = simulation.build(
        model,
        strategy or fedavg(),
        LocalTraining(optax.sgd(0.1), *training),
        rounds=2,
        data=data,
        mesh=simulation.client_mesh(devices),
        **options,
    )
    return devices * program.flops(sim.trace(1).jaxpr)


def test_a_lips_round_that_is_dense_trains_as_fedavg():
    """The same products, but for what only sparse broadcasts need, which none is here."""
    data, model = world([9, 2, 6, 5]), tiny_model()
    lips = transient_sparsity(fedavg(), density=1.0)
    plain = count(model, data, evaluate_every=0)
    assert count(model, data, strategy=lips, evaluate_every=0) == plain


def test_flops_of_branches_and_strides():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def convolve(x):
        dims = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(
            jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dims) ** 2
        )

    forward = 2 * 2 * 4 * 4 * 5 * 27
    assert program.flops(jax.make_jaxpr(convolve)(x)) == forward
    # the gradient puts zeros between pixels, which do not count
    assert program.flops(jax.make_jaxpr(jax.grad(convolve))(x)) == 2 * forward

    def either(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ a, lambda a: (a @ a) @ a, a)

    assert program.flops(jax.make_jaxpr(either)(jnp.ones((4, 4)))) == 2 * 2 * 4**3


def test_traffic_counts_loops_within_loops():
    def function(x):
        def outer(x, _):
            return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=5)[0], None

        return jax.lax.scan(outer, x, length=7)[0]

    n = 32
    text = jax.jit(function).lower(jnp.ones((n, n), jnp.float32)).compile().as_text()
    least, most = 35 * 3 * 4 * n * n, 35 * 9 * 4 * n * n
    assert least <= program.traffic(text).bytes <= most


def test_a_slice_of_a_large_array_counts_as_what_it_takes():
    def function(x):
        def step(total, i):
            return total + jax.lax.dynamic_index_in_dim(x, i, keepdims=False), None

        return jax.lax.scan(step, jnp.zeros(64, jnp.float32), jnp.arange(100))[0]

    text = jax.jit(function).lower(jnp.ones((100, 64), jnp.float32)).compile().as_text()
    whole = 100 * 64 * 4
    assert whole <= program.traffic(text).bytes <= 10 * whole


TEXT = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(6)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%body (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %x.1 = f32[8]{0:T(8)S(1)} get-tuple-element(%p.1), index=1
  %sum = f32[8]{0:T(8)} all-reduce(%x.1), replica_groups={{0,1}}, to_apply=%add
  ROOT %t = (s32[], f32[8]) tuple(%i.1, %sum)
}

ENTRY %main (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[], f32[8]) parameter(0)
  ROOT %w = (s32[], /*index=1*/f32[8]) while(%arg), condition=%condition, body=%body
}
"""


def test_traffic_of_a_text_as_a_tpu_has_it():
    found = program.traffic(TEXT)
    assert found.collectives == {"all-reduce": (6, 6 * 32)}
    assert found.bytes == 6 * 32  # what lies in fast memory is not read from memory


@pytest.fixture(scope="module")
def of_a_tpu():
    """Compiled texts of rounds on four chips: FedAvg, and LIPS with state at clients."""
    pytest.importorskip("libtpu")
    devices = machine.tpu("v5e:2x2").devices
    model, data = tiny_model(dtype=np.float32, conv="grouped"), world([9, 2, 6, 5])
    training = LocalTraining(optax.sgd(0.1, momentum=0.9), 2, 4)
    texts = {}
    with jax.enable_x64(False):
        for name, strategy in {
            "fedavg": fedavg(),
            "lips": transient_sparsity(fedavg(), every=1, gradient="stored"),
        }.items():
            sim = simulation.build(
                model,
                strategy,
                training,
                rounds=2,
                data=data,
                mesh=simulation.client_mesh(4, devices),
            )
            texts[name] = sim.compiled(2).as_text()
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "lips"])
def test_a_tpu_moves_the_sums_alone(of_a_tpu, name):
    text = of_a_tpu[name]
    found = program.traffic(text).collectives
    assert set(found) == {"all-reduce"}
    # in each of two rounds: the aggregate, losses, two or three accuracies; a sum in a local step
    # would come six times for each client of a device
    count, size = found["all-reduce"]
    assert 2 <= count <= 2 * 5
    for kind in program.COLLECTIVES:
        if kind != "all-reduce":
            assert f" {kind}(" not in text
            assert f" {kind}-start(" not in text
    weights = jax.tree.leaves(jax.eval_shape(tiny_model().init, jax.random.key(0)))
    assert size >= 2 * 4 * sum(w.size for w in weights)


def plan(*argv):
    return commands.call("plan", *TINY, *argv)


@pytest.mark.slow
@pytest.mark.whole
def test_a_plan_for_the_cpu(tmp_path):
    two = ("--seeds", "2", *commands.ARMS)
    ended = plan(*two, "--price-per-hour", "3", "--json", str(tmp_path / "plan.json"))
    assert ended.status == 0, ended.err
    assert "4 runs, 24 rounds: at best" in ended.out
    found = json.loads((tmp_path / "plan.json").read_text())
    dense, lips = found["programs"]
    assert (dense["name"], lips["name"]) == ("dense", "lips")
    assert found["rounds"] == dense["rounds"] + lips["rounds"] == 24
    assert found["cost"] == pytest.approx(3 * found["hours"])
    seconds = sum(p["rounds"] * p["seconds"] for p in found["programs"])
    assert found["hours"] == pytest.approx(seconds / 3600)
    assert lips["flops"] > dense["flops"] > 0
    assert dense["collectives"].keys() == {"all-reduce"}


@pytest.mark.slow
@pytest.mark.whole
def test_cells_that_share_a_program_are_planned_once(tmp_path):
    grid = ("--grid", "sparsity.every=[2, 3]", "--json", str(tmp_path / "plan.json"))
    assert plan("--seeds", "1", *commands.MLP, *grid).status == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    names = ["dense, sparsity.every = 2", "lips, sparsity.every = 2", "lips, sparsity.every = 3"]
    assert [p["name"] for p in found["programs"]] == names
    assert found["trials"] == 3


@pytest.mark.slow
def test_a_plan_for_a_tpu():
    pytest.importorskip("libtpu")
    ended = plan("--arms", "dense", "--device", "v5e:2x2", "--precision", "default")
    assert ended.status == 0, ended.err
    assert "v5e:2x2: 4 x TPU v5 lite" in ended.out
    assert "fits" in ended.out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--price-per-hour", "0"), "price_per_hour must be above 0, not 0.0"),
        (("--device", "abacus"), "or a TPU's generation and shape, as v5e:2x2, not 'abacus'"),
        (("--device", "v5e:3x3"), "not 'v5e:3x3': Topology layout"),
        (("--devices", "0"), "devices must be in 1..3"),
    ],
)
def test_a_plan_that_cannot_be_made(argv, part):
    if "device" in argv[0] and argv[0] != "--devices":
        pytest.importorskip("libtpu")
    ended = plan(*argv)
    assert ended.status == 2
    assert part in ended.err
    assert ended.err.count("\n") == 1


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    ended = plan("--device", "v5e:2x2")
    assert ended.status == 2
    assert "--device v5e:2x2 needs libtpu to compile with: pip install 'lipsjax[tpu]'" in ended.err


def test_the_chunk_is_halved_until_it_fits():
    asked = []

    def needed(chunk):
        asked.append(chunk)
        return 10 + 3 * chunk

    assert machine.fitting_chunk(needed, limit=20, largest=13) == 2
    assert asked == [13, 7, 4, 2]
    with pytest.raises(ValueError, match=r"one client at a time needs 4\.0 GiB .* 2\.0 GiB"):
        machine.fitting_chunk(lambda chunk: 2**32, limit=2**31, largest=4)
