"""Starting, stopping, dying and being started again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from .conftest import MakeStack
from .stack import NOBODY, POLYLECT, READY_SECONDS, Stack, await_restart, pause
from .waiting import eventually

_PACKAGES = ("polylect_cli", "polylect")
_EVENT = {"type": "track", "event": "Lifecycle"}
_KEY = {"Authorization": "Bearer dk_live_abc123"}


def _send(stack: Stack, message_id: str) -> None:
    answer = stack.post("/v1/t", {**_EVENT, "messageId": message_id}, _KEY)
    assert (answer.status, answer.text) == (200, '{"success":true}')


def _assert_clean(stack: Stack) -> None:
    eventually(lambda: not stack.left_behind(), "no process is left", context=stack.tail)
    assert stack.ports_are_free()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_and_the_next_start_goes_on(make_stack: MakeStack, number: signal.Signals) -> None:
    stack = make_stack().start()
    _send(stack, "before")

    assert stack.stop(number) == 0

    _assert_clean(stack)
    assert "Traceback" not in stack.output
    stack.start()
    _send(stack, "after")
    _send(stack, "before")
    assert stack.await_rows("select 1 from events where message_id = 'after'")
    stack.wait_until_drained()
    assert stack.sql("select count(*) from events where message_id = 'before'") == [(1,)]
    assert stack.stop(number) == 0


def test_a_signal_while_starting_stops_all_too(make_stack: MakeStack) -> None:
    stack = make_stack().launch()
    eventually(
        lambda: stack.parts("facade-master") or stack.parts("postmaster"),
        "something runs",
        every_seconds=0.01,
    )

    assert stack.stop() == 0

    _assert_clean(stack)
    stack.start()
    _send(stack, "after")
    assert stack.stop() == 0


@pytest.mark.parametrize("moment", ["making the database", "preparing it", "starting the core"])
def test_a_first_start_that_is_killed_can_be_repeated(make_stack: MakeStack, moment: str) -> None:
    stack = make_stack().launch()
    signs = {
        "making the database": "initdb",
        "preparing it": "run_part prepare",
        "starting the core": "run_part core",
    }
    sign = signs[moment]

    def reached() -> bool:
        return any(sign in " ".join(_command(process)) for process in stack.descendants())

    eventually(reached, moment, every_seconds=0.005, within_seconds=READY_SECONDS, context=stack.tail)
    assert stack.process is not None
    stack.process.kill()
    stack.process.wait()

    stack.start()

    _send(stack, "after")
    stack.await_rows("select 1 from events where message_id = 'after'")
    assert stack.stop() == 0
    _assert_clean(stack)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_killed_supervisor_leaves_no_orphan_and_the_next_start_recovers(make_stack: MakeStack) -> None:
    stack = make_stack().start()
    for number in range(20):
        _send(stack, f"acknowledged-{number}")
    stack.descendants()
    assert stack.process is not None
    stack.process.kill()
    stack.process.wait()

    eventually(lambda: not stack.left_behind(), "no orphan is left", within_seconds=15, context=stack.tail)
    assert stack.ports_are_free()
    stack.start()
    stack.wait_until_drained()
    assert stack.sql("select count(distinct message_id), count(*) from events") == [(20, 20)]
    assert stack.stop() == 0


def test_a_start_over_a_supervisor_just_killed_takes_over(make_stack: MakeStack) -> None:
    stack = make_stack().start()
    _send(stack, "before")
    assert stack.process is not None
    stack.process.kill()
    stack.process.wait()

    stack.start()

    _send(stack, "after")
    stack.await_rows("select 1 from events where message_id = 'after'")
    assert stack.sql("select count(*) from events where message_id = 'before'") == [(1,)]
    assert stack.stop() == 0
    _assert_clean(stack)


@pytest.mark.parametrize("role", ["core", "worker", "facade-master", "postmaster"])
def test_a_part_that_dies_is_started_again_and_that_is_said(own_stack: Stack, role: str) -> None:
    said_before = len(own_stack.output)
    doomed = own_stack.part(role)

    doomed.kill()

    await_restart(own_stack, role, doomed)
    name = {"facade-master": "facade", "postmaster": "postgres"}.get(role, role)
    eventually(
        lambda: f"{name} ended by signal SIGKILL" in own_stack.output[said_before:],
        "the supervisor says so",
        context=own_stack.tail,
    )
    own_stack.wait_until_ready()
    eventually(
        lambda: own_stack.post("/v1/t", {**_EVENT, "messageId": f"after-{role}"}, _KEY).status == 200,
        "events are taken again",
        within_seconds=15,
        despite=(OSError,),
    )
    own_stack.forget_database_url()
    own_stack.await_rows(f"select 1 from events where message_id = 'after-{role}'", within_seconds=15)


def test_a_dead_facade_worker_is_replaced(own_stack: Stack) -> None:
    doomed = own_stack.part("facade-worker")

    doomed.kill()

    await_restart(own_stack, "facade-worker", doomed)
    own_stack.wait_until_ready()
    _send(own_stack, "after-facade-worker")


def test_a_system_frozen_for_a_while_goes_on(own_stack: Stack) -> None:
    """As a machine that is suspended, or moved: nobody must take the gap for anybody's end."""
    _send(own_stack, "before-frost")
    processes = [psutil.Process(own_stack.process.pid)] if own_stack.process else []
    processes += own_stack.descendants()
    parts = {role: own_stack.part(role) for role in ("facade-master", "facade-worker", "core", "worker")}
    frozen, until = pause(processes), time.monotonic() + 3
    eventually(lambda: time.monotonic() > until, "three seconds pass")
    for process in frozen:
        process.resume()

    own_stack.wait_until_ready()
    _send(own_stack, "after-frost")
    own_stack.await_rows("select 1 from events where message_id = 'after-frost'")
    assert {role: own_stack.part(role) for role in parts} == parts


def test_a_part_that_cannot_be_kept_alive_ends_all_loudly(make_stack: MakeStack) -> None:
    stack = make_stack().start()
    assert stack.process is not None

    def given_up() -> bool:
        for process in stack.parts("worker"):
            process.kill()
        return stack.process is not None and stack.process.poll() is not None

    eventually(given_up, "the supervisor gives up", within_seconds=60, context=stack.tail)

    assert stack.process.returncode != 0
    assert "giving up: worker ended" in stack.output
    _assert_clean(stack)


def test_two_run_side_by_side(stack: Stack, own_stack: Stack) -> None:
    _send(own_stack, "only-here")
    own_stack.await_rows("select 1 from events where message_id = 'only-here'")

    assert stack.database_url != own_stack.database_url
    assert stack.sql("select count(*) from events where message_id = 'only-here'") == [(0,)]


def test_the_data_may_lie_anywhere(make_stack: MakeStack, tmp_path: Path) -> None:
    odd = tmp_path / "a b ü $HOME %s" / ("long" * 30)
    odd.mkdir(parents=True)
    stack = make_stack(data_dir=odd).start()
    _send(stack, "anywhere")
    stack.await_rows("select 1 from events where message_id = 'anywhere'")
    assert stack.stop() == 0


def test_a_second_on_the_same_data_is_refused(own_stack: Stack, make_stack: MakeStack) -> None:
    second = make_stack(environment={"POLYLECT_DATA_DIR": own_stack.variables["POLYLECT_DATA_DIR"]}).launch()
    assert second.process is not None

    assert second.process.wait(READY_SECONDS) != 0

    assert "in use" in second.output
    assert "POLYLECT_DATA_DIR" in second.output
    assert "Traceback" not in second.output
    assert own_stack.get("/readyz").status == 200
    _send(own_stack, "after-second")


@pytest.mark.parametrize("setting", ["POLYLECT_HTTP_PORT", "POLYLECT_GRPC_PORT"])
def test_a_port_in_use_is_said_with_its_setting(make_stack: MakeStack, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        stack = make_stack(environment={setting: port}).launch()
        assert stack.process is not None

        assert stack.process.wait(READY_SECONDS) != 0

    assert port in stack.output
    assert setting in stack.output
    assert "Traceback" not in stack.output
    eventually(lambda: not stack.left_behind(), "no process is left")


def test_a_misspelt_setting_is_an_error_that_helps(make_stack: MakeStack) -> None:
    for command in ("up", "config", "events"):
        done = make_stack().command(command, environment={"POLYLECT_HTTP_PROT": "8080"})
        assert done.returncode != 0
        assert "POLYLECT_HTTP_PROT" in done.stderr
        assert "POLYLECT_HTTP_PORT" in done.stderr
        assert "Traceback" not in done.stderr


def test_commands_say_what_to_do_when_nothing_runs(make_stack: MakeStack) -> None:
    stack = make_stack()
    for command in (("events",), ("source", "list"), ("database-url",), ("send", "pulsora", "{}")):
        done = stack.command(*command)
        assert done.returncode != 0, command
        assert done.stderr.strip(), command
        assert "Traceback" not in done.stderr, command


def test_the_database_url_opens_what_is_in_use(own_stack: Stack) -> None:
    assert own_stack.database_url.startswith("postgresql://")
    tables = {
        name for (name,) in own_stack.sql("select tablename from pg_tables where schemaname = 'public'")
    }
    assert {"sources", "keys", "queue", "events", "identity_links", "quarantine"} <= tables


def test_it_runs_as_a_normal_user(make_stack: MakeStack) -> None:
    if os.geteuid() != 0:
        pytest.skip("this whole run is one of a normal user")
    program, paths = _program_for_anyone()
    stack = make_stack(user=NOBODY, program=program, environment=paths).start()
    _send(stack, "as-nobody")
    stack.await_rows("select 1 from events where message_id = 'as-nobody'")
    users = set()
    for process in stack.descendants():
        # Postgres' own come and go.
        with contextlib.suppress(psutil.NoSuchProcess):
            users.add(process.uids().effective)
    assert users == {NOBODY}
    assert stack.stop() == 0
    _assert_clean(stack)


def _program_for_anyone() -> tuple[tuple[str, ...], dict[str, str]]:
    """Give a way to call `polylect` that NOBODY may go: our interpreter may lie in root's own home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    specs = [find_spec(name) for name in _PACKAGES]
    places = [str(Path(at).parent) for spec in specs if spec for at in spec.submodule_search_locations or ()]
    paths = {"PYTHONPATH": os.pathsep.join([*places, sysconfig.get_path("purelib")])}
    call = "from polylect_cli.main import main; main()"
    for program, environment in (
        ((POLYLECT,), {}),
        ((f"/usr/bin/{version}", "-c", call), paths),
        ((f"/usr/local/bin/{version}", "-c", call), paths),
    ):
        try:
            subprocess.run(
                [*program, "--help"],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                env={**os.environ, **environment},
                capture_output=True,
                check=True,
                cwd="/",
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return program, environment
    pytest.skip(f"there is no {version} here that user {NOBODY} may execute")


def test_parts_run_apart_over_a_database_that_is_given(own_stack: Stack, make_stack: MakeStack) -> None:
    """As a fleet does: each part by a command of its own, all with one DATABASE_URL."""
    own_stack.sql_script("create database fleet")
    url = own_stack.database_url.rpartition("/")[0] + "/fleet"
    tokens = {"POLYLECT_ADMIN_TOKEN": "fleet-admin", "POLYLECT_FACADE_TOKEN": "fleet-facade"}
    fleet = make_stack(environment={"DATABASE_URL": url, "POLYLECT_MODE": "production", **tokens})
    assert fleet.command("migrate").returncode == 0
    running = [fleet.launch_command(part) for part in ("core", "worker", "facade")]
    try:
        fleet.wait_until_ready()
        fleet.polylect("source", "create", "shop")
        secret = fleet.polylect_json("key", "create", "shop", "--kind", "datafly")["secret"]
        answer = fleet.post("/v1/t", {**_EVENT, "messageId": "fleet"}, {"Authorization": f"Bearer {secret}"})
        assert answer.status == 200
        assert fleet.database_url == url
        fleet.await_rows("select 1 from events where message_id = 'fleet'")
        assert fleet.post("/v1/t", _EVENT, _KEY).status == 401, "an example's key outside of demo mode"
    finally:
        for process in running:
            process.terminate()
    assert [process.wait(READY_SECONDS) for process in running] == [0, 0, 0]
