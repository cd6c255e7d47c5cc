"""Which store a URL means."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from anabranch.errors import SettingError, StoreUrlError
from anabranch.settings import load_settings
from anabranch.store.opening import open_store


@pytest.mark.parametrize("durable", [False, True])
def test_without_a_url_it_is_a_file_at_home(tmp_path: Path, durable: bool) -> None:
    with closing(open_store(None, tmp_path / "a" / "home", durable)) as store:
        assert store.url == f"sqlite:///{tmp_path}/a/home/anabranch.db"
        assert store.keeps
        assert store.read("PRAGMA synchronous") == [(2 if durable else 1,)]
        assert store.read("PRAGMA journal_mode") == [("wal",)]
    assert (tmp_path / "a" / "home" / "anabranch.db").exists()


@pytest.mark.parametrize(
    "name", ["a.db", "folder/a b.db", "ü 100%.db", "semi;colon'quote.db", "a#b.db", "%41.db"]
)
def test_three_slashes_begin_here_and_four_at_the_root(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    open_store(f"sqlite:///{name}", tmp_path, durable=False).close()
    assert (tmp_path / "here" / name).exists()
    open_store(f"sqlite:///{tmp_path}/{name}", tmp_path, durable=False).close()
    assert (tmp_path / name).exists()


def test_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(open_store("sqlite:///:memory:", tmp_path, durable=True)) as store:
        assert not store.keeps
        with closing(open_store("sqlite:///:memory:", tmp_path, durable=True)) as other:
            with other.transaction() as transaction:
                transaction.execute("DELETE FROM alembic_version")
            assert store.read("SELECT count(*) FROM alembic_version") == [(1,)]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgres_has_three_names(scheme: str, postgres_store_url: str, tmp_path: Path) -> None:
    url = postgres_store_url.replace("postgresql", scheme, 1)
    with closing(open_store(url, tmp_path, durable=False)) as store:
        assert store.read("SELECT count(*) FROM task_run") == [(0,)]
        assert store.url.startswith("postgresql://postgres")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.db",
        "/tmp/a.db",
        "sqlite",
        "sqlite:a.db",
        "sqlite://",
        "sqlite:///",
        "sqlite://a.db",
        "sqlite:///a.db?mode=ro",
        "sqlite+aiosqlite:///a.db",
        "mysql://host/db",
        "http://host",
        "postgresql+asyncpg://host/db",
        "postgresql:/host",
        "postgresql://host/db?no_such_option=1",
        "postgresql://host:port/db",
    ],
)
def test_another_url_is_refused_with_the_forms_that_there_are(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        StoreUrlError, match=r"sqlite:///relative/path.*postgresql://user@host"
    ) as at:
        open_store(url, tmp_path, durable=False)
    assert url in str(at.value)
    assert os.listdir(tmp_path) == []


def test_the_settings_name_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    settings = load_settings()
    assert (settings.database_url, settings.durability) == (None, "relaxed")
    monkeypatch.setenv("ANABRANCH_DATABASE_URL", "sqlite:///a.db")
    monkeypatch.setenv("ANABRANCH_DURABILITY", "strict")
    settings = load_settings()
    assert (settings.database_url, settings.durability) == ("sqlite:///a.db", "strict")
    monkeypatch.setenv("ANABRANCH_DURABILITY", "lax")
    with pytest.raises(SettingError, match=r"durability='lax'.*ANABRANCH_DURABILITY"):
        load_settings()
