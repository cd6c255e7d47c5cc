"""What a type checker must see; `test_types.py` compares pyright's answers with the comments."""

from collections.abc import Generator
from typing import reveal_type

from anabranch import flow, task


@task
def parse(path: str, strict: bool = True) -> int:
    return len(path) + strict


@task(retries=2)
async def fetch(url: str) -> bytes:
    return url.encode()


@task
def words(text: str) -> Generator[str, None, None]:
    yield from text.split()


@flow
def census(root: str) -> dict[str, int]:
    return {root: parse(root)}


@flow(task_runner="asyncio")
async def crawl(url: str) -> bytes:
    return await fetch(url)


def sync_calls() -> None:
    reveal_type(parse("a"))  # int
    reveal_type(parse.submit("a"))  # TaskFuture[int]
    reveal_type(parse.submit("a").result())  # int
    reveal_type(parse.map(["a"]))  # FutureList[int]
    reveal_type(parse.map(["a"]).result())  # list[int]
    reveal_type(fetch.submit("a"))  # TaskFuture[bytes]
    reveal_type(fetch.map(["a"]).result())  # list[bytes]
    reveal_type(words.submit("a b"))  # TaskFuture[list[str]]
    reveal_type(census("a"))  # dict[str, int]
    reveal_type(census.submit("a"))  # TaskFuture[dict[str, int]]
    reveal_type(crawl.submit("a"))  # TaskFuture[bytes]
    reveal_type(parse.with_options(retries=1)("a"))  # int


async def async_calls() -> None:
    reveal_type(await fetch("a"))  # bytes
    reveal_type(await fetch.submit("a"))  # bytes
    reveal_type(await parse.map(["a"]))  # list[int]
    reveal_type(await crawl("a"))  # bytes
