"""Partitions: the laws each must hold, hand-computed shares, and refusals."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from lipsjax.datasets import Dataset, Examples, synthetic
from lipsjax.partition import Partition, describe, dirichlet, iid, shards, sizes


def labelled(train_counts, test_counts=None):
    """A data set with given numbers of examples per class, in mixed order."""
    rng = np.random.default_rng(0)

    def examples(counts):
        labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
        return Examples(np.zeros((len(labels), 1, 1, 1), np.uint8), labels)

    test_counts = train_counts if test_counts is None else test_counts
    return Dataset("labelled", examples(train_counts), examples(test_counts), len(train_counts))


def split(method, dataset, train_sizes, test_sizes=None, seed=0, **options):
    """Partitions from a seed; test sizes are those of training unless given."""
    return method(
        dataset,
        train_sizes=train_sizes,
        test_sizes=train_sizes if test_sizes is None else test_sizes,
        rng=np.random.default_rng(seed),
        **options,
    )


@st.composite
def requests(draw):
    """A data set, with classes that may be empty, and sizes that it can serve."""
    counts = draw(st.lists(st.integers(0, 30), min_size=2, max_size=6))
    available = sum(counts)
    assume(available >= 1)
    sizes = []
    for _ in range(draw(st.integers(1, 6))):
        if available == 0:
            break
        sizes.append(draw(st.integers(1, available)))
        available -= sizes[-1]
    return labelled(counts), np.array(sizes)


METHODS = st.sampled_from(
    [
        (iid, {}),
        (shards, {"classes": 1}),
        (shards, {"classes": 2}),
        *(
            (dirichlet, {"alpha": alpha, "overlap": overlap})
            for alpha in (1e-3, 0.1, 1.0, 1e6, 1e12)
            for overlap in (False, True)
        ),
    ]
)


def assume_served(dataset, method):
    """Leaves out shards of more classes than there are."""
    there = (np.bincount(dataset.train.labels) > 0).sum()
    assume(method[1].get("classes", 1) <= there)


law = settings(max_examples=50)


@law
@given(requests(), METHODS, st.integers(0, 9))
def test_every_client_gets_its_size_and_no_example_twice(request, method, seed):
    dataset, sizes = request
    assume_served(dataset, method)
    partition = split(method[0], dataset, sizes, sizes[::-1], seed, **method[1])
    assert [len(held) for held in partition.train] == sizes.tolist()
    assert [len(held) for held in partition.test] == sizes[::-1].tolist()
    for held in (*partition.train, *partition.test):
        assert len(np.unique(held)) == len(held)
        assert held.min() >= 0
        assert held.max() < len(dataset.train.labels)


@law
@given(requests(), METHODS, st.integers(0, 9))
def test_training_examples_are_disjoint_unless_overlap(request, method, seed):
    dataset, sizes = request
    assume(not method[1].get("overlap"))
    assume_served(dataset, method)
    held = np.concatenate(split(method[0], dataset, sizes, seed=seed, **method[1]).train)
    assert len(np.unique(held)) == len(held)


@law
@given(requests(), METHODS, st.integers(0, 9))
def test_equal_generators_give_equal_partitions(request, method, seed):
    dataset, sizes = request
    assume_served(dataset, method)
    np.random.seed(seed)  # noqa: NPY002 (the global state must not matter)
    first = split(method[0], dataset, sizes, seed=seed, **method[1])
    np.random.seed(seed + 1)  # noqa: NPY002
    second = split(method[0], dataset, sizes, seed=seed, **method[1])
    for one, other in zip(first.train + first.test, second.train + second.test, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.requested, second.requested)


@law
@given(st.integers(0, 50), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_mix_that_can_be_served_is_served_to_within_one_example(seed, sizes):
    dataset = labelled([sum(sizes)] * 4)
    partition = split(dirichlet, dataset, sizes, seed=seed, alpha=0.5)
    survey = describe(partition, dataset)
    asked = np.array(sizes)[:, None] * partition.requested
    assert np.abs(survey.train_counts - asked).max() < 1
    assert np.abs(survey.test_counts - asked).max() < 1
    np.testing.assert_array_equal(survey.train_counts, survey.test_counts)


@law
@given(st.data(), st.integers(0, 99))
def test_shards_are_of_exactly_so_many_classes(data, seed):
    # each client can be served by each of its classes alone
    held = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    dataset = labelled([sum(held)] * 5)
    classes = data.draw(st.integers(1, 5))
    partition = split(shards, dataset, held, seed=seed, classes=classes)
    survey = describe(partition, dataset)
    assert survey.num_held.tolist() == [min(classes, n) for n in held]
    np.testing.assert_array_equal(survey.train_counts, survey.test_counts)
    own = survey.train_counts[survey.train_counts > 0]
    each = np.repeat(survey.num_examples / np.minimum(classes, held), survey.num_held)
    assert (np.abs(own - each) < 1).all()
    taken = (partition.requested > 0).sum(axis=0)
    assert taken.max() - taken.min() <= 1


@law
@given(requests(), st.integers(0, 99))
def test_shards_leave_their_own_classes_only_when_these_are_exhausted(request, seed):
    dataset, held = request
    assume_served(dataset, (shards, {"classes": 2}))
    partition = split(shards, dataset, held, seed=seed, classes=2)
    counts = describe(partition, dataset).train_counts
    exhausted = counts.sum(axis=0) == np.bincount(dataset.train.labels, minlength=len(counts[0]))
    for own, found in zip(partition.requested > 0, counts, strict=True):
        assert exhausted[own].all() or not found[~own].any()


def test_classes_without_examples_are_not_given_out():
    dataset = labelled([30, 0, 30, 30], [30, 30, 30, 30])
    partition = split(shards, dataset, [6] * 9, classes=2)
    assert not partition.requested[:, 1].any()
    assert (partition.requested.sum(axis=0)[[0, 2, 3]] == 3).all()


def test_which_classes_a_client_is_given_does_not_depend_on_sizes():
    dataset = labelled([100] * 6)
    first = split(shards, dataset, [10, 20, 5], classes=2)
    second = split(shards, dataset, [30, 5, 9], [7, 7, 7], classes=2)
    np.testing.assert_array_equal(first.requested, second.requested)


def test_all_classes_may_come_together():
    dataset = labelled([300] * 3)
    choices = {
        tuple(np.flatnonzero(split(shards, dataset, [4], seed=seed, classes=2).requested[0]))
        for seed in range(20)
    }
    assert choices == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("classes", [0, -1, 4, 5])
def test_shards_of_so_many_classes_are_refused(classes):
    with pytest.raises(
        ValueError, match=rf"^classes of each client is {classes}; allowed are 1..3"
    ):
        split(shards, labelled([9, 9, 0, 9]), [3, 3], classes=classes)


# How many examples clients hold.


@law
@given(
    st.sampled_from(["equal", "lognormal", "power"]),
    st.integers(1, 60),
    st.integers(1, 40),
    st.one_of(st.floats(0, 100), st.sampled_from([0.0, 100.0, 1e-300])),
    st.integers(0, 9),
)
def test_sizes_have_the_total_asked_for(kind, mean, clients, skew, seed):
    rng = np.random.default_rng(seed)
    found = sizes(kind, mean=mean, clients=clients, skew=skew, rng=rng)
    assert found.shape == (clients,)
    assert found.sum() == clients * mean
    assert found.min() >= 1
    again = sizes(kind, mean=mean, clients=clients, skew=skew, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(found, again)


@law
@given(
    requests(),
    st.sampled_from([(iid, {}), (dirichlet, {"alpha": 1e-3}), (shards, {"classes": 1})]),
    st.sampled_from(["lognormal", "power"]),
    st.floats(0, 5),
    st.integers(0, 9),
)
def test_every_split_serves_sizes_that_differ(request, method, kind, skew, seed):
    dataset, held = request
    mean, rng = sum(held) // len(held), np.random.default_rng(seed)
    asked = sizes(kind, mean=mean, clients=len(held), skew=skew, rng=rng)
    partition = split(method[0], dataset, asked, np.ones_like(asked), seed, **method[1])
    assert [len(indices) for indices in partition.train] == asked.tolist()
    found = np.concatenate(partition.train)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("kind", ["lognormal", "power"])
def test_no_skew_is_equal_sizes_and_equal_draws_nothing(kind):
    rng = np.random.default_rng(0)
    assert sizes(kind, mean=7, clients=5, skew=0.0, rng=rng).tolist() == [7] * 5
    before = rng.bit_generator.state
    assert sizes("equal", mean=7, clients=5, skew=9.0, rng=rng).tolist() == [7] * 5
    assert rng.bit_generator.state == before


def test_power_law_by_hand():
    # 4 + 4 (9 - 1) = 36 in all: 1 each and 32 by 1, 1/2, 1/3, 1/4 of 25/12
    found = sizes("power", mean=9, clients=4, skew=1.0, rng=np.random.default_rng(1))
    assert sorted(found) == [5, 6, 9, 16]


def test_lognormal_sizes_have_the_deviation_asked_for():
    found = sizes("lognormal", mean=10**5, clients=2000, skew=0.7, rng=np.random.default_rng(0))
    assert np.log(found).std() == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": 0}, "mean is 0 and clients is 5; allowed are >= 1"),
        ({"clients": 0}, "mean is 7 and clients is 0; allowed are >= 1"),
        ({"skew": -0.1}, "size skew is -0.1; allowed are 0..100"),
        ({"skew": float("nan")}, "size skew is nan; allowed are 0..100"),
        ({"skew": 101.0}, "size skew is 101.0; allowed are 0..100"),
        ({"kind": "zipf"}, "sizes is 'zipf'; allowed are equal, lognormal, power"),
    ],
)
def test_sizes_that_cannot_be_drawn(options, message):
    arguments = {"kind": "power", "mean": 7, "clients": 5, "skew": 1.0} | options
    with pytest.raises(ValueError) as excinfo:
        sizes(arguments.pop("kind"), rng=np.random.default_rng(0), **arguments)
    assert str(excinfo.value) == message


@pytest.mark.parametrize("overlap", [False, True])
def test_large_alpha_approaches_equal_classes(overlap):
    dataset = labelled([400] * 5)
    partition = split(dirichlet, dataset, [100] * 8, alpha=1e8, overlap=overlap)
    survey = describe(partition, dataset)
    assert np.abs(survey.train_counts - 20).max() <= 1
    assert np.abs(partition.requested - 0.2).max() < 1e-3


def test_alpha_to_infinity_is_as_alike_as_iid():
    dataset = labelled([400] * 5)
    by_mix, by_chance = (
        describe(split(method, dataset, [100] * 8, **options), dataset).mean_pairwise_tv
        for method, options in ((dirichlet, {"alpha": 1e9}), (iid, {}))
    )
    assert by_mix <= 0.01 < by_chance < 0.2


def test_small_alpha_approaches_one_class_per_client():
    dataset = labelled([400] * 5)
    survey = describe(split(dirichlet, dataset, [50] * 8, alpha=1e-4), dataset)
    assert (survey.train_counts.max(axis=1) == 50).mean() > 0.8
    assert survey.label_entropy.min() == 0


def test_mixes_do_not_depend_on_sizes_or_overlap():
    dataset = labelled([100] * 4)
    first = split(dirichlet, dataset, [10, 20], alpha=0.3)
    second = split(dirichlet, dataset, [30, 5], [7, 7], alpha=0.3, overlap=True)
    np.testing.assert_array_equal(first.requested, second.requested)


def test_successive_calls_of_one_generator_differ():
    dataset, rng = labelled([100] * 4), np.random.default_rng(0)
    first, second = (
        dirichlet(dataset, alpha=1.0, train_sizes=[20], test_sizes=[20], rng=rng) for _ in range(2)
    )
    assert not np.array_equal(first.requested, second.requested)


def test_overlap_lets_clients_share_examples():
    dataset = labelled([10] * 3)
    partition = split(dirichlet, dataset, [20] * 5, alpha=1.0, overlap=True)
    survey = describe(partition, dataset)
    assert survey.distinct_train <= 30
    assert survey.num_examples.tolist() == [20] * 5


def test_overlapping_clients_take_no_notice_of_each_other():
    # Each class has 10 examples: alone, a client of 20 gets at most 10 of each, and the
    # presence of other clients that want the same class takes nothing from it.
    dataset = labelled([10] * 4)
    shared = split(dirichlet, dataset, [20] * 6, alpha=0.05, overlap=True)
    counts = describe(shared, dataset).train_counts
    favourite = shared.requested.argmax(axis=1)
    wanted = np.minimum(np.floor(20 * shared.requested.max(axis=1)), 10)
    assert (counts[np.arange(6), favourite] >= wanted).all()


def test_iid_is_uniform_over_the_data():
    dataset = labelled([60, 30, 10])
    survey = describe(split(iid, dataset, [50, 50]), dataset)
    np.testing.assert_array_equal(survey.train_counts.sum(axis=0), [60, 30, 10])
    picks = [split(iid, dataset, [1], seed=seed).train[0][0] for seed in range(2000)]
    share = np.bincount(dataset.train.labels[picks], minlength=3) / 2000
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.04)
    np.testing.assert_allclose(split(iid, dataset, [1]).requested, [[0.6, 0.3, 0.1]])


# The rule for what the data cannot serve, by hand.


class FixedMixes(np.random.Generator):
    """A generator whose Dirichlet draws are given."""

    def __init__(self, mixes):
        super().__init__(np.random.PCG64(0))
        self.mixes = np.array(mixes, float)

    def dirichlet(self, alpha, size=None):
        return self.mixes


@pytest.fixture
def counts_of(monkeypatch):
    """Training counts that clients of given mixes get from classes of given supply."""
    from lipsjax.partition import splits as module

    def counts(mixes, sizes, supply, **options):
        spawn = module.spawn

        def fixed(rng, count):
            return [FixedMixes(mixes), *spawn(rng, count)[1:]]

        monkeypatch.setattr(module, "spawn", fixed)
        dataset = labelled(supply, [1000] * len(supply))
        made = split(dirichlet, dataset, sizes, alpha=1.0, **options)
        monkeypatch.setattr(module, "spawn", spawn)
        survey = describe(made, dataset)
        assert survey.train_counts.sum(axis=1).tolist() == list(sizes)
        return survey.train_counts.tolist()

    return counts


def test_largest_remainders_round_a_mix(counts_of):
    # 10 * (0.55, 0.27, 0.18) = (5.5, 2.7, 1.8): floors (5, 2, 1), two seats to 0.8 and 0.7.
    assert counts_of([[0.55, 0.27, 0.18]], [10], [99, 99, 99]) == [[5, 3, 2]]


def test_ties_go_to_the_lower_class(counts_of):
    assert counts_of([[0.25, 0.25, 0.25, 0.25]], [6], [99] * 4) == [[2, 2, 1, 1]]


def test_an_exhausted_class_is_shared_in_proportion_and_refilled_by_mix(counts_of):
    # Asked of class 0: 8 and 4, there are 6: 4 and 2. Client 0 is short of 4, client 1 of 2.
    # Client 0 has mixes (., 0.2, 0): all 4 from class 1; client 1 has (., 0, 0.6): 2 of class 2.
    mixes = [[0.8, 0.2, 0.0], [0.4, 0.0, 0.6]]
    assert counts_of(mixes, [10, 10], [6, 50, 50]) == [[4, 6, 0], [2, 0, 8]]


def test_a_client_that_wanted_one_exhausted_class_takes_what_is_left(counts_of):
    # Of class 0 there are 2; the other 6 come 2:1 from the 40 and 20 that are left.
    assert counts_of([[1.0, 0.0, 0.0]], [8], [2, 40, 20]) == [[2, 4, 2]]


def test_all_examples_can_be_shared_out(counts_of):
    mixes = [[1.0, 0.0, 0.0]] * 3
    counts = np.array(counts_of(mixes, [5, 3, 4], [1, 4, 7]))
    assert counts.sum(axis=0).tolist() == [1, 4, 7]


def test_overlapping_clients_each_have_the_whole_supply(counts_of):
    mixes = [[0.8, 0.2], [0.8, 0.2]]
    assert counts_of(mixes, [10, 10], [8, 9], overlap=True) == [[8, 2], [8, 2]]


# What a partition came to.


def test_describe_by_hand():
    labels = np.array([0, 0, 1, 1, 2, 2], np.int32)
    examples = Examples(np.zeros((6, 1, 1, 1), np.uint8), labels)
    dataset = Dataset("hand", examples, examples, 3)
    partition = Partition(
        train=(np.array([0, 1]), np.array([0, 2]), np.array([4, 5, 2, 3])),
        test=(np.array([0]), np.array([2, 4]), np.array([5])),
        requested=np.full((3, 3), 1 / 3),
    )
    survey = describe(partition, dataset)
    assert survey.train_counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 2, 2]]
    assert survey.test_counts.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert survey.num_examples.tolist() == [2, 2, 4]
    np.testing.assert_allclose(survey.label_entropy, [0, np.log(2), np.log(2)])
    # Distances: (1, 0, 0) to (.5, .5, 0) is .5, to (0, .5, .5) is 1; between the last two .5.
    assert survey.mean_pairwise_tv == pytest.approx(2 / 3)
    assert survey.distinct_train == 6
    assert survey.num_held.tolist() == [1, 2, 2]
    assert survey.largest_share.tolist() == [1.0, 0.5, 0.5]
    assert (survey.smallest_client, survey.absent_classes) == (0, ())


def test_describe_names_what_nobody_holds():
    dataset = labelled([5, 5, 5, 5])
    survey = describe(split(shards, dataset, [2, 1], classes=1), dataset)
    assert survey.smallest_client == 1
    assert len(survey.absent_classes) == 2
    assert not survey.train_counts[:, survey.absent_classes].any()


@law
@given(requests(), st.integers(0, 9))
def test_pairwise_divergence_agrees_with_scipy(request, seed):
    dataset, held = request
    survey = describe(split(dirichlet, dataset, held, seed=seed, alpha=0.5), dataset)
    mixes = survey.train_counts / survey.num_examples[:, None]
    pairs = [(i, j) for i in range(len(held)) for j in range(i)]
    # a distance, so squared; nan where rounding leaves a root below 0
    found = [np.nan_to_num(jensenshannon(mixes[i], mixes[j])) ** 2 for i, j in pairs]
    assert survey.mean_pairwise_js == pytest.approx(np.mean(found) if pairs else 0, abs=1e-7)
    assert 0 <= survey.mean_pairwise_js <= np.log(2) + 1e-12


def test_pairwise_distance_agrees_with_a_loop():
    dataset = labelled([80] * 5)
    survey = describe(split(dirichlet, dataset, [10, 20, 30, 7], alpha=0.3), dataset)
    mixes = survey.train_counts / survey.num_examples[:, None]
    pairs = [np.abs(mixes[i] - mixes[j]).sum() / 2 for i in range(4) for j in range(i)]
    assert survey.mean_pairwise_tv == pytest.approx(np.mean(pairs))


def test_one_client_alone_has_no_distance():
    dataset = labelled([20] * 3)
    survey = describe(split(iid, dataset, [10]), dataset)
    assert survey.mean_pairwise_tv == survey.mean_pairwise_js == 0


def test_survey_goes_through_json():
    dataset = labelled([20] * 3)
    survey = describe(split(dirichlet, dataset, [5, 9], alpha=0.1), dataset)
    read = json.loads(json.dumps(survey.to_dict()))
    assert read["train_counts"] == survey.train_counts.tolist()
    assert set(read) == set(survey._fields)


# Refusals.


@pytest.mark.parametrize("alpha", [0, 0.0, -1.0, float("nan"), float("inf"), 1e308])
def test_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"^alpha is {alpha}".replace("+", r"\+")):
        split(dirichlet, synthetic(), [10, 10], alpha=alpha)


@pytest.mark.parametrize("method", [iid, dirichlet, shards])
@pytest.mark.parametrize(
    ("train_sizes", "test_sizes", "message"),
    [
        ([5, 0], [5, 5], "train_sizes of client 1 is 0; allowed are >= 1"),
        ([5, 5], [-2, 5], "test_sizes of client 0 is -2; allowed are >= 1"),
        ([5.0], [5], "train_sizes is [5.0]; allowed is one integer per client"),
        (5, [5], "train_sizes is 5; allowed is one integer per client"),
        ([], [], "train_sizes is []; allowed is one integer per client"),
        ([5, 5], [5], "train_sizes has 2 clients and test_sizes 1"),
        ([1] * 801, [1] * 801, "801 clients, but synthetic has 800 training examples"),
        ([400, 401], [1, 1], "train_sizes sum to 801, but synthetic has 800 training examples"),
        ([1, 1], [1, 201], "test_sizes of client 1 is 201, but synthetic has 200 test examples"),
    ],
)
def test_sizes_are_refused(method, train_sizes, test_sizes, message):
    options = {dirichlet: {"alpha": 1.0}, shards: {"classes": 2}}.get(method, {})
    with pytest.raises(ValueError) as excinfo:
        method(
            synthetic(),
            train_sizes=train_sizes,
            test_sizes=test_sizes,
            rng=np.random.default_rng(0),
            **options,
        )
    assert str(excinfo.value).startswith(message)
    assert "\n" not in str(excinfo.value)


def test_overlapping_client_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="train_sizes of client 0 is 801, but synthetic has 800"):
        split(dirichlet, synthetic(), [801, 1], [1, 1], alpha=1.0, overlap=True)
