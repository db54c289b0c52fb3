"""Clusters of a dataset's region features: one-pass statistics, the sample, the fit, the labels."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from simsam_batch.regions.codebook import Codebook, assign, fit
from simsam_batch.regions.moments import Moments, unit_rows
from simsam_batch.regions.sampling import RowSample, hashes_of

Rows = NDArray[np.float32]


pytestmark = pytest.mark.usefixtures("one_thread")


def blobs(count: int, channels: int = 16, groups: int = 8, seed: int = 0, spread: float = 0.4) -> Rows:
    random = np.random.default_rng(seed)
    centers = random.standard_normal((groups, channels))
    drawn = centers[random.integers(0, groups, count)] + spread * random.standard_normal((count, channels))
    return drawn.astype(np.float32)


def heavy_tailed(count: int, channels: int = 16, groups: int = 8) -> Rows:
    random = np.random.default_rng(1)
    centers = random.standard_normal((groups, channels))
    return (centers[random.zipf(1.5, count) % groups] + 0.3 * random.standard_t(1.5, (count, channels))).astype(
        np.float32
    )


def test_principal_components_are_those_of_scikit_learn_on_all_rows() -> None:
    features = blobs(5000) * np.linspace(0.2, 3, 16, dtype=np.float32)
    ours = Moments.of(features[:3000]).merge(Moments.of(features[3000:])).principal_components(5)
    theirs = PCA(5, svd_solver="full").fit(normalize(features.astype(np.float64)))
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-7)
    np.testing.assert_allclose(ours.variance, theirs.explained_variance_, rtol=1e-6)
    signs = np.sign((ours.components * theirs.components_).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ours.components, signs * theirs.components_, atol=1e-5)


def test_the_largest_entry_of_a_component_is_positive() -> None:
    components = Moments.of(blobs(500)).principal_components(6).components
    assert (components[np.arange(6), np.abs(components).argmax(axis=1)] > 0).all()


def test_the_covariance_of_two_unit_vectors_is_that_by_hand() -> None:
    # Unit rows (1, 0) and (0, 1), mean (1/2, 1/2): deviations +-(1/2, -1/2), two of them, divisor 2 - 1.
    moments = Moments.of(np.array([[3, 0], [0, 7]], dtype=np.float32))
    np.testing.assert_allclose(moments.mean(), [0.5, 0.5])
    np.testing.assert_allclose(moments.covariance(), [[0.5, -0.5], [-0.5, 0.5]])


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 99))
def test_moments_are_the_same_to_the_bit_for_any_order_and_any_batches(cuts: list[int], seed: int) -> None:
    features = blobs(300, 5)
    whole = Moments.of(features)
    shuffled = np.random.default_rng(seed).permutation(features)
    merged = Moments.of(features[:0])
    for batch in np.split(shuffled, sorted(cuts)):
        merged = Moments.of(batch).merge(merged)
    assert merged.count == whole.count
    np.testing.assert_array_equal(merged.total, whole.total)
    np.testing.assert_array_equal(merged.products, whole.products)


def test_zero_rows_have_the_constant_direction() -> None:
    # |(3, 4)| = 5; four channels of 1/sqrt(4).
    np.testing.assert_allclose(unit_rows(np.array([[3, 4]], dtype=np.float32)), [[0.6, 0.8]])
    np.testing.assert_array_equal(unit_rows(np.zeros((1, 4), dtype=np.float32)), np.full((1, 4), 0.5))


def test_the_number_of_a_row_that_is_not_finite_is_named_beyond_the_first_block() -> None:
    features = blobs(5000, 3)
    features[4500, 1] = np.nan
    for call in (
        lambda: Moments.of(features),
        lambda: fit(features, 2, 0),
        lambda: assign(features, fit(blobs(50, 3), 2, 0)),
    ):
        with pytest.raises(ValueError, match="row 4500 of the region features is not finite"):
            call()


@pytest.mark.parametrize("dimensions", [-1, 0, 6])
def test_components_that_the_channels_do_not_allow_are_refused(dimensions: int) -> None:
    with pytest.raises(ValueError, match="use 0 for no PCA or at most 5"):
        Moments.of(blobs(50, 5)).principal_components(dimensions)
    with pytest.raises(ValueError, match="at most 2"):
        Moments.of(blobs(3, 5)).principal_components(3)
    with pytest.raises(ValueError, match="at most 0"):
        Moments.of(blobs(0, 5)).principal_components(1)


def sampled(ids: NDArray[np.int64], features: Rows, cuts: list[int], capacity: int, parts: int = 1) -> RowSample:
    samples = [RowSample(7, capacity) for _ in range(parts)]
    for number, rows in enumerate(np.split(np.arange(len(ids)), sorted(cuts))):
        samples[number % parts].add(ids[rows], features[rows])
    for other in samples[1:]:
        samples[0].merge(other)
    return samples[0]


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 200), max_size=8),
    capacity=st.integers(1, 250),
    parts=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_sample_depends_on_neither_order_nor_batches_nor_workers(
    cuts: list[int], capacity: int, parts: int, seed: int
) -> None:
    ids = np.arange(-100, 100, dtype=np.int64) * 977
    features = np.stack([ids, -ids], axis=1).astype(np.float32)
    # By definition: the rows with the smallest hashes, ascending by id.
    expected = np.sort(ids[np.argsort(hashes_of(ids, 7))[:capacity]])
    order = np.random.default_rng(seed).permutation(len(ids))
    sample = sampled(ids[order], features[order], cuts, capacity, parts)
    kept, rows = sample.rows()
    assert sample.seen == 200
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(rows, np.stack([expected, -expected], axis=1).astype(np.float32))


def test_byte_ids_of_any_length_are_told_apart() -> None:
    names = [b"a", b"a\0", b"", b"longer/name.jpg\x001"]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        sample = RowSample(0)
        sample.add([names[i] for i in order], np.array([[i] for i in order], dtype=np.float32))
        kept, rows = sample.rows()
        assert kept.tolist() == [b"", b"a", b"a\0", b"longer/name.jpg\x001"]
        assert rows[:, 0].tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_every_row_is_equally_likely_to_be_kept(as_bytes: bool) -> None:
    numbers = np.arange(400)
    ids = [str(i).encode() for i in numbers] if as_bytes else numbers
    kept = sum((np.argsort(np.argsort(hashes_of(ids, seed))) < 100).astype(int) for seed in range(400))
    # Binomial(400, 1/4): mean 100, standard deviation 8.7. Of 400 rows none should be 5 deviations off, and the
    # deviations themselves should spread as they must.
    assert abs(kept - 100).max() < 44
    assert 7.5 < kept.std() < 10


def test_samples_refuse_what_cannot_be_one_sample() -> None:
    rows = np.ones((2, 3), dtype=np.float32)
    sample = RowSample(0)
    sample.add(np.array([1, 2]), rows)
    with pytest.raises(ValueError, match="do not go with 3 channels"):
        sample.add(np.array([3, 4]), rows[:, :2])
    with pytest.raises(ValueError, match="do not go with 3 channels and int64"):
        sample.add([b"3", b"4"], rows)
    with pytest.raises(ValueError, match="1 ids do not fit"):
        sample.add(np.array([3]), rows)
    with pytest.raises(ValueError, match="int64 numbers or byte strings"):
        sample.add(np.array([0.5, 1.5]), rows)
    with pytest.raises(ValueError, match="cannot be merged"):
        sample.merge(RowSample(1))
    with pytest.raises(ValueError, match="region b'bad' are not finite"):
        RowSample(0).add([b"good", b"bad"], np.array([[1], [np.inf]], dtype=np.float32))
    sample.add(np.array([2]), rows[:1])
    with pytest.raises(ValueError, match="occurs twice"):
        sample.rows()
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        RowSample(0, 0)
    with pytest.raises(ValueError, match="seed -1"):
        RowSample(-1)


@pytest.mark.parametrize("features", [blobs(4000), heavy_tailed(4000)], ids=["blobs", "heavy tails"])
@pytest.mark.parametrize("clusters", [5, 20])
def test_inertia_is_within_one_percent_of_scikit_learn(features: Rows, clusters: int) -> None:
    unit = normalize(features.astype(np.float64))
    theirs = KMeans(clusters, n_init=10, random_state=3).fit(unit)
    book = fit(features, clusters, 0)
    assert book.converged
    assert book.inertia <= 1.01 * theirs.inertia_
    # The inertia said is that of the centres, by a plain table of distances.
    distances = ((unit[:, None] - book.centers[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(book.inertia, distances.min(axis=1).sum(), rtol=1e-6)
    np.testing.assert_array_equal(book.sizes, np.bincount(distances.argmin(axis=1), minlength=clusters))


def test_more_rows_than_the_restarts_use_still_reach_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsam_batch.regions.codebook._RESTART_ROWS", 500)
    features = heavy_tailed(5000)
    theirs = KMeans(12, n_init=10, random_state=3).fit(normalize(features.astype(np.float64)))
    assert fit(features, 12, 0).inertia <= 1.01 * theirs.inertia_


def test_clusters_in_principal_components_are_those_of_scikit_learn() -> None:
    features = blobs(3000, groups=6, spread=0.2)
    book = fit(features, 6, 0, projection=Moments.of(features).principal_components(4))
    placed = PCA(4, svd_solver="full").fit_transform(normalize(features.astype(np.float64)))
    theirs = KMeans(6, n_init=10, random_state=0).fit(placed)
    assert book.centers.shape == (6, 4)
    np.testing.assert_allclose(book.inertia, theirs.inertia_, rtol=1e-3)
    pairs = np.unique(np.stack([assign(features, book), theirs.labels_]), axis=1)
    # Groups as far apart as these leave one partition: each of our labels goes with one of theirs.
    assert pairs.shape == (2, 6)


def test_minibatch_is_as_good_as_the_published_call() -> None:
    features = blobs(3000)
    book = fit(features, 8, 5, method="minibatch")
    theirs = MiniBatchKMeans(8, batch_size=4096, max_iter=5000, n_init=10, random_state=5).fit(
        normalize(features.astype(np.float64))
    )
    assert book.method == "minibatch"
    np.testing.assert_allclose(book.inertia, theirs.inertia_, rtol=0.02)


def test_equal_arguments_give_equal_bits_and_the_largest_cluster_comes_first() -> None:
    features = heavy_tailed(3000)
    for method in ("kmeans", "minibatch"):
        first, second = (fit(features, 9, 4, method=method) for _ in range(2))  # type: ignore[arg-type]
        assert first.to_bytes() == second.to_bytes()
        assert (np.diff(first.sizes) <= 0).all()
    assert fit(features, 9, 5).digest != fit(features, 9, 4).digest


def test_clusters_of_equal_size_are_in_order_of_their_coordinates() -> None:
    features = np.repeat(np.array([[0, 1], [1, 0], [-1, 0]], dtype=np.float32), 5, axis=0)
    np.testing.assert_allclose(fit(features, 3, 0).centers, [[-1, 0], [0, 1], [1, 0]], atol=1e-6)


def test_no_region_is_an_error_that_says_so() -> None:
    for empty in (np.empty((0, 4), dtype=np.float32), np.empty((0, 0), dtype=np.float32), RowSample(0).rows()[1]):
        with pytest.raises(ValueError, match="there is no region to cluster"):
            fit(empty, 2, 0)


def test_fewer_regions_than_clusters_say_how_many_can_be_had() -> None:
    with pytest.raises(ValueError, match="3 regions do not make 4 clusters; ask for at most 3"):
        fit(blobs(3), 4, 0)
    assert fit(blobs(4), 4, 0).sizes.tolist() == [1, 1, 1, 1]


def test_identical_features_make_one_cluster_and_no_more() -> None:
    # Lengths differ, directions do not; a zero row and a constant one have the same direction.
    features = np.outer(np.arange(6), np.ones(4)).astype(np.float32)
    book = fit(features, 1, 0)
    np.testing.assert_allclose(book.centers, np.full((1, 4), 0.5))
    assert book.inertia == pytest.approx(0, abs=1e-12)
    assert assign(features, book).tolist() == [1] * 6
    with pytest.raises(ValueError, match="6 regions with 1 different features do not make 2 clusters; ask for at most"):
        fit(features, 2, 0)


def test_rare_directions_that_no_restart_has_drawn_get_their_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsam_batch.regions.codebook._RESTART_ROWS", 4)
    features = np.zeros((6000, 3), dtype=np.float32)
    features[:, 0] = 1
    features[17] = [0, 1, 0]
    features[5017] = [0, 0, 1]
    assert fit(features, 3, 0).sizes.tolist() == [5998, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": 0}, "must be at least 1"),
        ({"restarts": 0}, "must be at least 1"),
        ({"method": "median"}, "use 'kmeans' or 'minibatch'"),
        ({"seed": -1}, "seed -1 is not between"),
        ({"seed": 2**32}, "is not between"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(blobs(20), **{"clusters": 2, "seed": 0, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("dimensions", [0, 5])
def test_labels_are_the_nearest_centre_from_1_whatever_the_batch(dimensions: int) -> None:
    features = heavy_tailed(5000)
    projection = Moments.of(features).principal_components(dimensions) if dimensions else None
    book = fit(features, 20, 0, projection=projection)
    labels = assign(features, book)
    placed = normalize(features.astype(np.float64))
    if projection is not None:
        placed = (placed - projection.mean) @ projection.components.T
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, ((placed[:, None] - book.centers) ** 2).sum(axis=2).argmin(axis=1) + 1)
    for size in (1, 7, 1000):
        some = features[:1000] if size < 1000 else features
        parts = [assign(some[i : i + size], book) for i in range(0, len(some), size)]
        np.testing.assert_array_equal(np.concatenate(parts), labels[: len(some)])
    np.testing.assert_array_equal(assign(np.asfortranarray(features), book), labels)


def test_a_tie_goes_to_the_lower_number_in_any_batch() -> None:
    # (1, 1) is as far from (1, 0) as from (0, 1).
    book = replace(fit(blobs(50, 2), 2, 0), centers=np.eye(2, dtype=np.float32))
    rows = np.tile(np.array([[1, 1]], dtype=np.float32), (37, 1)) * np.linspace(0.1, 9, 37, dtype=np.float32)[:, None]
    assert assign(rows, book).tolist() == [1] * 37
    assert [assign(rows[i : i + 1], book)[0] for i in range(37)] == [1] * 37


def test_no_region_gets_no_label_and_another_length_is_refused() -> None:
    book = fit(blobs(50, 4), 2, 0)
    assert assign(np.empty((0, 4), dtype=np.float32), book).shape == (0,)
    with pytest.raises(ValueError, match="codebook is of 4 channels"):
        assign(np.ones((2, 5), dtype=np.float32), book)


@pytest.mark.parametrize("dimensions", [0, 3])
def test_a_codebook_survives_being_written(dimensions: int) -> None:
    features = blobs(200, 6)
    projection = Moments.of(features).principal_components(dimensions) if dimensions else None
    book = fit(features, 4, 1, projection=projection)
    again = Codebook.from_bytes(book.to_bytes())
    assert again.digest == book.digest
    assert again.to_bytes() == book.to_bytes()
    assert (again.inertia, again.seed, again.method, again.converged) == (book.inertia, 1, "kmeans", book.converged)
    np.testing.assert_array_equal(again.centers, book.centers)
    np.testing.assert_array_equal(assign(features, again), assign(features, book))


def test_bytes_that_are_no_intact_codebook_are_refused() -> None:
    book = fit(blobs(50, 4), 2, 0)
    content = book.to_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as members:
        arrays = {name: members[name] for name in members.files}
    other, pickled, foreign = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(other, **{**arrays, "centers": arrays["centers"] + np.float32(1)})
    np.savez(pickled, **{**arrays, "centers": np.array([{"a": 1}], dtype=object)})
    np.savez(foreign, something=np.zeros(3))
    for broken in (b"", b"no zip", content[: len(content) // 2], pickled.getvalue(), foreign.getvalue()):
        with pytest.raises(ValueError, match="are no codebook"):
            Codebook.from_bytes(broken)
    with pytest.raises(ValueError, match="digest does not fit"):
        Codebook.from_bytes(other.getvalue())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_clusters_as_good_as_the_cpu_does() -> None:
    features = heavy_tailed(20_000)
    ours, again = (fit(features, 12, 0, device=torch.device("cuda")) for _ in range(2))
    assert ours.to_bytes() == again.to_bytes()
    assert ours.device == "cuda"
    np.testing.assert_allclose(ours.inertia, fit(features, 12, 0, device=torch.device("cpu")).inertia, rtol=0.01)


def farthest_first(rows: NDArray[np.float64], clusters: int, first: int) -> NDArray[np.float64]:
    chosen = [first]
    while len(chosen) < clusters:
        nearest = [min(np.linalg.norm(row - rows[c]) for c in chosen) for row in rows]
        chosen.append(int(np.argmax(nearest)))
    return rows[chosen]


def test_clusters_from_the_farthest_rows_are_those_of_scikit_learn_from_there() -> None:
    sample = blobs(40, channels=6, groups=12, seed=3, spread=1.0)
    unit = normalize(sample.astype(np.float64))
    # which row is the first is by chance
    expected = [
        KMeans(9, init=farthest_first(unit, 9, first), n_init=1, tol=1e-8).fit(unit).inertia_ for first in range(40)
    ]
    assert len({round(each, 4) for each in expected}) > 3, "else any start would do"
    for seed in range(4):
        book = fit(sample, 9, seed, restarts=1, start="farthest")
        assert min(abs(book.inertia - each) for each in expected) < 1e-3


def test_a_row_far_from_all_others_is_a_start_of_its_own_wherever_the_first_lies() -> None:
    near = np.array([[1, 0, 0]]) + 0.05 * np.random.default_rng(0).standard_normal((400, 3))
    other = np.array([[0, 1, 0]]) + 0.05 * np.random.default_rng(1).standard_normal((400, 3))
    sample = np.concatenate([near, other, [[0, 0, -1]]]).astype(np.float32)
    for seed in range(6):
        book = fit(sample, 3, seed, restarts=1, start="farthest")
        assert book.sizes.tolist() == [400, 400, 1]
