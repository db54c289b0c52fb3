"""The simulation of many workers does what can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.scale import Parts, books, simulated

# an image a millisecond, nothing else takes time
PLAIN = Parts(device_s=1e-3, launch_s=0, host_s=0, request_s=(0.0, 0.0), upload=(0.0, 1.0))


@pytest.mark.parametrize("workers", [1, 4])
def test_without_anything_else_only_the_device_counts(workers: int) -> None:
    found = simulated(PLAIN, workers, 40_000, 100)
    assert found.seconds == pytest.approx(40 / workers)
    assert found.images_a_second == pytest.approx(1000 * workers)
    assert found.idle == pytest.approx(0)
    assert found.lost_shards == 0


def test_the_slower_of_device_and_cores_counts() -> None:
    assert Parts(device_s=1e-3, host_s=8e-3, cores=4).image_s == 2e-3
    assert Parts(device_s=1e-3, host_s=8e-3, cores=16).image_s == 1e-3


def test_launches_count_for_each_batch_full_or_not() -> None:
    # 640 images in 10 batches, and of four grids half a batch more each
    assert Parts(device_s=1e-3, host_s=0, launch_s=0.01).shard_s(640) == pytest.approx(0.64 + 0.01 * 12)


def test_a_commit_that_takes_longer_than_a_shard_is_waited_for() -> None:
    # three requests before, six after, a tenth of a second each; a shard of ten images takes .01 s
    slow = Parts(device_s=1e-3, launch_s=0, host_s=0, request_s=(0.1, 0.0), upload=(0.0, 1.0))
    assert simulated(slow, 1, 1000, 10).seconds == pytest.approx(100 * 0.6)
    # of a thousand images it takes longer than all requests, and hides them
    assert simulated(slow, 1, 100_000, 1000).seconds == pytest.approx(100)


def test_what_is_lost_is_computed_again_and_a_run_repeats_with_its_seed() -> None:
    often = Parts(device_s=1e-3, launch_s=0, host_s=0, request_s=(0.0, 0.0), upload=(0.0, 1.0), lost_s=60.0)
    found = simulated(often, 8, 400_000, 1000)
    assert found.lost_shards > 0
    assert found.seconds > 50
    # every loss costs the way back at least
    assert found.idle > found.lost_shards * often.noticed_s[1] / (8 * found.seconds) * 0.5
    assert simulated(often, 8, 400_000, 1000) == found
    assert simulated(often, 8, 400_000, 1000, seed=1) != found


def test_larger_shards_lose_more_and_smaller_ones_wait_more() -> None:
    parts = Parts(host_s=8e-3, lost_s=300.0)
    idle = {size: simulated(parts, 16, 2_000_000, size).idle for size in (64, 1024, 32768)}
    assert idle[1024] < idle[64]
    assert idle[1024] < idle[32768]


def test_books_grow_with_the_images() -> None:
    one, ten = (books(images, 1024, 1000) for images in (1e8, 1e9))
    assert ten.plan_s == pytest.approx(10 * one.plan_s)
    assert ten.objects == pytest.approx(4e9 / 1024)
    assert math.isclose(one.requests_a_second, 1000 * (1 + 9 / 1024))
