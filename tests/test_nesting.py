"""Shapes that are deeper or wider than the pool: they end, and with the right answer."""

from anabranch import flow, task


@task
def depth(left: int) -> int:
    return 0 if left == 0 else 1 + depth.submit(left - 1).result()


@task
def same(x: int) -> int:
    return x


@task
def following(x: int) -> int:
    return x + 1


def test_a_task_that_waits_for_itself_100_deep_on_two_threads() -> None:
    @flow(task_runner="threads?max_workers=2")
    def nested() -> int:
        return depth.submit(100).result()

    assert nested() == 100


def test_a_fan_in_of_1000_on_two_threads() -> None:
    @flow(task_runner="threads?max_workers=2")
    def fan_in() -> int:
        return same.submit(7, wait_for=same.map(range(1000))).result()

    assert fan_in() == 7


def test_a_chain_of_10000_links() -> None:
    @flow(task_runner="threads?max_workers=2")
    def chain() -> int:
        future = following.submit(0)
        for _ in range(9_999):
            future = following.submit(future)
        return future.result()

    assert chain() == 10_000
