"""What is PostgreSQL's own: its URLs, its errors, and connections that are lost at any point."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from anabranch.errors import (
    FullStoreError,
    LockedStoreError,
    MissingExtraError,
    ReadOnlyStoreError,
    StoreError,
    StoreUrlError,
    UnreachableStoreError,
)
from anabranch.store import postgres, rows, sessions
from anabranch.store.database import shown_url
from anabranch.store.opening import open_store
from anabranch.store.postgres import CONNECT_TRIES, PostgresDatabase, numbered

LOG = (None, None, None, 1.0, 20, "logger", None, "message")


class Proxy:
    """Between a store and its server, to cut what goes through, for one connection after another."""

    def __init__(self, url: str) -> None:
        options = parse_qs(urlsplit(url).query)
        self._server = f"{options['host'][0]}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"postgresql://postgres:geheim@127.0.0.1:{self.port}{urlsplit(url).path}"
        self.refuse = 0
        """So many connections are closed as they come."""
        self.connections = 0
        self.cut_at: bytes | None = None
        """The statement at which the connection is cut, once."""
        self.cut_after = False
        """Whether the server has done it by then."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed in the end
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self.refuse:
                    self.refuse -= 1
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._open += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.cut_at is not None and self.cut_at in data:
                    self.cut_at = None
                    if self.cut_after:
                        self._do_alone(data, target)
                    break
                target.sendall(data)
        self.cut(source, target)

    def _do_alone(self, data: bytes, server: socket.socket) -> None:
        """The other thread must not pass the answer on: it goes to nobody."""
        client = next(each for each in self._open if each.family == socket.AF_INET)
        client.shutdown(socket.SHUT_RDWR)
        server.sendall(data)

    def cut(self, *which: socket.socket) -> None:
        for each in which or tuple(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()
        for each in self._open:
            each.close()


@pytest.fixture
def proxy(postgres_store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(postgres, "FIRST_PAUSE_SECONDS", 0.02)
    with closing(Proxy(postgres_store_url)) as made:
        yield made


@pytest.fixture
def store(proxy: Proxy) -> Iterator[PostgresDatabase]:
    with closing(PostgresDatabase(proxy.url)) as made:
        proxy.connections = 0
        yield made


# -- connections that are lost --------------------------------------------------------------------


def test_a_read_goes_on_where_its_connection_was_lost(
    store: PostgresDatabase, proxy: Proxy
) -> None:
    proxy.cut()
    assert store.read("SELECT 1") == [(1,)]
    proxy.cut_at = b"SELECT 2"
    assert store.read("SELECT 2") == [(2,)]
    assert proxy.connections == 2


@pytest.mark.parametrize("statement", [b"BEGIN", None])
def test_a_transaction_begins_where_its_connection_was_lost(
    store: PostgresDatabase, proxy: Proxy, statement: bytes | None
) -> None:
    proxy.cut_at = statement
    if statement is None:
        proxy.cut()
    with store.transaction() as transaction:
        transaction.insert(rows.LOG, [LOG])
    assert store.read("SELECT count(*) FROM log") == [(1,)]
    assert proxy.connections == 1


def test_a_transaction_that_is_cut_leaves_nothing_and_can_be_tried_again(
    store: PostgresDatabase, proxy: Proxy
) -> None:
    with (
        pytest.raises(UnreachableStoreError, match=f"127.0.0.1, port {proxy.port}"),
        store.transaction() as transaction,
    ):
        transaction.insert(rows.LOG, [LOG])
        proxy.cut()
        transaction.insert(rows.LOG, [LOG])
    assert store.read("SELECT count(*) FROM log") == [(0,)]
    with store.transaction() as transaction:
        transaction.insert(rows.LOG, [LOG])
    assert store.read("SELECT count(*) FROM log") == [(1,)]


def test_a_read_inside_a_transaction_does_not_go_on_outside_of_it(
    store: PostgresDatabase, proxy: Proxy
) -> None:
    with pytest.raises(UnreachableStoreError), store.transaction() as transaction:
        transaction.insert(rows.LOG, [LOG])
        proxy.cut()
        store.read("SELECT 1")
    assert store.read("SELECT count(*) FROM log") == [(0,)]


def test_a_commit_that_never_arrived_is_told(store: PostgresDatabase, proxy: Proxy) -> None:
    proxy.cut_at = b"COMMIT"
    with pytest.raises(UnreachableStoreError), store.transaction() as transaction:
        transaction.insert(rows.LOG, [LOG])
    assert store.read("SELECT count(*) FROM log") == [(0,)]


def test_a_commit_whose_answer_was_lost_is_found_to_be_done(
    store: PostgresDatabase, proxy: Proxy
) -> None:
    proxy.cut_at, proxy.cut_after = b"COMMIT", True
    with store.transaction() as transaction:
        transaction.insert(rows.LOG, [LOG])
    assert store.read("SELECT count(*) FROM log") == [(1,)]
    assert proxy.connections == 1


def test_a_server_that_starts_again_is_waited_for(store: PostgresDatabase, proxy: Proxy) -> None:
    proxy.refuse = CONNECT_TRIES - 1
    proxy.cut()
    assert store.read("SELECT 1") == [(1,)]
    assert proxy.connections == CONNECT_TRIES


def test_a_server_that_does_not_come_back_is_given_up(
    store: PostgresDatabase, proxy: Proxy
) -> None:
    proxy.refuse = 1_000_000
    proxy.cut()
    with pytest.raises(UnreachableStoreError, match=f"127.0.0.1, port {proxy.port}"):
        store.read("SELECT 1")
    assert proxy.connections == CONNECT_TRIES
    proxy.refuse = 0
    assert store.read("SELECT 1") == [(1,)]


def test_settings_hold_on_the_second_connection_too(proxy: Proxy) -> None:
    with closing(PostgresDatabase(proxy.url, durable=True)) as store:
        for _ in range(2):
            assert store.read("SHOW synchronous_commit") == [("on",)]
            assert store.read("SHOW lock_timeout") == [(f"{postgres.LOCK_SECONDS}s",)]
            proxy.cut()


def test_relaxed_durability_does_not_wait_for_the_disk(store: PostgresDatabase) -> None:
    assert store.read("SHOW synchronous_commit") == [("off",)]
    with closing(store.another()) as other:
        assert other.read("SHOW synchronous_commit") == [("off",)]


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40001", LockedStoreError),
        ("40P01", LockedStoreError),
        ("55P03", LockedStoreError),
        ("53100", FullStoreError),
        ("25006", ReadOnlyStoreError),
        ("42501", ReadOnlyStoreError),
        ("57P01", UnreachableStoreError),
        ("53300", UnreachableStoreError),
        ("22012", StoreError),
    ],
)
def test_errors_are_told_as_what_they_mean(
    store: PostgresDatabase, state: str, kind: type[StoreError]
) -> None:
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(StoreError, match="so") as raised, store.transaction() as transaction:
        transaction.execute(statement)
    assert type(raised.value) is kind
    assert store.read("SELECT 1") == [(1,)]


def test_a_transaction_that_cannot_begin_leaves_none_open(
    store: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a standby server, which numbers no transactions."""
    with monkeypatch.context() as patch:
        patch.setattr(postgres, "BEGIN", b"BEGIN; SELECT 1 / 0")
        with pytest.raises(StoreError, match="division by zero"), store.transaction():
            raise AssertionError("it did not begin")
    assert store.read("SELECT 1") == [(1,)]
    with store.transaction() as transaction:
        transaction.insert(rows.LOG, [LOG])
    assert store.read("SELECT count(*) FROM log") == [(1,)]


def test_transactions_that_wait_for_each_other_end(store: PostgresDatabase) -> None:
    with closing(store.another()) as other:
        first = sessions.open_session(store, "1" * 20, 1.0)
        second = sessions.open_session(store, "2" * 20, 1.0)
        both_hold = threading.Barrier(2)
        ended: list[str] = []

        def lock(database: PostgresDatabase, mine: int, yours: int) -> None:
            try:
                with database.transaction() as transaction:
                    sessions.beat(transaction, mine)
                    both_hold.wait()
                    sessions.beat(transaction, yours)
                ended.append("committed")
            except LockedStoreError:
                ended.append("locked")

        threads = [
            threading.Thread(target=lock, args=(store, first, second)),
            threading.Thread(target=lock, args=(other, second, first)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ended) == ["committed", "locked"]


def test_a_store_that_may_only_be_read_says_so(store: PostgresDatabase, proxy: Proxy) -> None:
    url = f"{proxy.url}?options=-cdefault_transaction_read_only%3Don"
    with closing(PostgresDatabase(url)) as readable:
        assert readable.read("SELECT count(*) FROM log") == [(0,)]
        with pytest.raises(ReadOnlyStoreError), readable.transaction() as transaction:
            transaction.insert(rows.LOG, [LOG])


def test_an_unknown_database_is_told_by_name(proxy: Proxy) -> None:
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/no_such_database"
    with pytest.raises(UnreachableStoreError, match="no_such_database"):
        PostgresDatabase(url)


def test_without_psycopg_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r'pip install "anabranch\[postgres\]"'):
        open_store("postgresql://host/database", Path(), durable=False)


# -- passwords ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:geheim@host:5/db", "postgresql://me:***@host:5/db"),
        ("postgresql://me:ge@h/ei:m@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:geheim@h1:1,h2:2/db", "postgresql://me:***@h1:1,h2:2/db"),
        (
            "postgresql://host/db?user=me&password=geheim",
            "postgresql://host/db?user=me&password=***",
        ),
        ("postgresql:///db?sslpassword=geheim&a=1", "postgresql:///db?sslpassword=***&a=1"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://:geheim@host", "postgresql://:***@host"),
        ("sqlite:////home/me@host/a.db", "sqlite:////home/me@host/a.db"),
    ],
)
def test_urls_are_shown_without_passwords(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def everything_told(error: BaseException | None) -> str:
    told = ""
    while error is not None:
        told += f"{error!r} {error} "
        error = error.__cause__ or error.__context__
    return told


@pytest.mark.parametrize(
    "make_url",
    [
        lambda port: f"postgresql://me:geheim@127.0.0.1:{port}/db",
        lambda port: f"postgresql://me:geheim@127.0.0.1:{port}/db?password=geheim",
        lambda port: f"postgresql://me:a@geheim@127.0.0.1:{port}/db",
        lambda port: f"postgresql://me:a/geheim@127.0.0.1:{port}/db",
        lambda port: f"postgresql://me:a%geheim@127.0.0.1:{port}/db",
        lambda port: f"mysql://me:geheim@127.0.0.1:{port}/db",
        lambda port: f"sqlite://me:geheim@127.0.0.1:{port}/db",
    ],
)
def test_no_message_holds_the_password(
    proxy: Proxy, make_url: Callable[[int], str], caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refuse = 1_000_000
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as raised:
        open_store(make_url(proxy.port), Path(), durable=False)
    assert "***@127.0.0.1" in str(raised.value)
    assert "geheim" not in everything_told(raised.value)
    assert "geheim" not in caplog.text


def test_an_opened_store_does_not_show_its_password(store: PostgresDatabase) -> None:
    assert "geheim" not in store.url
    with closing(store.another()) as other:
        assert other.url == store.url
        with pytest.raises(StoreError) as raised:
            other.read("SELECT 1 FROM nowhere")
    assert "geheim" not in everything_told(raised.value)


def test_an_at_sign_in_a_password_has_to_be_encoded() -> None:
    with pytest.raises(StoreUrlError, match="%40"):
        PostgresDatabase("postgresql://me:ge@heim@host/db")


@pytest.mark.parametrize(
    ("sql", "sent"),
    [
        ("SELECT 1", b"SELECT 1"),
        ("SELECT ?, ?", b"SELECT $1, $2"),
        ("? " * 11, b"$1 $2 $3 $4 $5 $6 $7 $8 $9 $10 $11 "),
    ],
)
def test_values_are_numbered(sql: str, sent: bytes) -> None:
    assert numbered(sql) == sent
