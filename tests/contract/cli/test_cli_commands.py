"""The commands against a real core: what they print for people and for programs, and how they fail."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import msgspec
import psycopg
import pytest
from cli_operator import POLYLECT, Operator, wait_until
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from polylect.v1.event_pb2 import Device, Event, EventKind, Page, Revenue
from polylect.v1.ingest_pb2 import IngestRequest
from polylect.v1.ingest_pb2_grpc import IngestServiceStub

from storage.embedded import EmbeddedPostgres
from storage.migrate import HEAD


def test_a_source_from_its_making_to_its_disabling(operator: Operator) -> None:
    made = operator.json("source", "create", "shop")
    assert re.fullmatch(r"[0-9a-f-]{36}", made["source_id"])
    assert datetime.fromisoformat(made["created_at"]) > datetime.now(UTC) - timedelta(minutes=5)
    bare = {
        "source_id": made["source_id"],
        "name": "shop",
        "enabled": True,
        "rate_limit": None,
        "origins": [],
        "vendor_cookies": [],
        "cookie_domain": "",
        "created_at": made["created_at"],
    }
    assert made == bare
    full = {
        "rate_limit": {"limit": 5, "window_seconds": 60},
        "origins": ["https://a.example", "*.b.example"],
        "vendor_cookies": ["_ga", "_fbp"],
        "cookie_domain": "b.example",
    }
    settings = "--rate-limit 5/minute --origin https://a.example --origin *.b.example --vendor-cookie _ga"
    more = "--vendor-cookie _fbp --cookie-domain b.example"
    assert operator.json("source", "set", "shop", *settings.split(), *more.split()) == bare | full
    # What is not given stays; by id as well as by name.
    assert operator.json("source", "set", made["source_id"], "--rate-limit", "off") == {
        **bare,
        **full,
        "rate_limit": {"limit": 0, "window_seconds": 1},
    }
    cleared = operator.json(
        "source",
        "set",
        "shop",
        "--rate-limit",
        "default",
        "--no-origins",
        "--no-vendor-cookies",
        "--cookie-domain",
        "",
    )
    assert cleared == bare
    assert operator.json("source", "disable", "shop") == bare | {"enabled": False}
    assert operator.json("source", "enable", "shop") == bare
    assert operator.json("source", "show", "shop") == bare
    assert operator.json("source", "list") == [bare]
    shown = operator.succeed("source", "list")
    assert shown.splitlines()[0].split()[:3] == ["name", "source_id", "enabled"]
    assert shown.splitlines()[1].split()[:4] == ["shop", made["source_id"], "yes", "default"]


def test_a_key_of_each_kind(operator: Operator) -> None:
    source = operator.json("source", "create", "shop")
    listed = []
    for kind, prefix, sites in (
        ("pulsora-public", "pub_", []),
        ("pulsora-secret", "sec_", []),
        ("pulse", "pulse_prod_", ["one", "two"]),
        ("apex", "pk_live_", []),
        ("datafly", "dk_live_", []),
        ("service", "svc_", []),
    ):
        made = operator.json("key", "create", "shop", "--kind", kind, *(f"--site={site}" for site in sites))
        secret = made.pop("secret")
        assert secret.startswith(prefix)
        assert made["hint"] == secret[-4:]
        assert (made["kind"], made["source_id"], made["sites"]) == (kind, source["source_id"], sites)
        assert made["expires_at"] is made["revoked_at"] is None
        assert secret not in operator.succeed("key", "list", "shop")
        listed.append(made)
    assert operator.json("key", "list", "shop") == listed[::-1]


def test_a_key_is_rotated_and_revoked(operator: Operator) -> None:
    operator.succeed("source", "create", "shop")
    old = operator.json("key", "create", "shop", "--kind", "pulse", "--scope", "stats:read")
    assert old["scopes"] == ["stats:read"]
    new = operator.json("key", "rotate", old["key_id"], "--overlap", "2h")
    assert new["secret"] != old["secret"]
    assert (new["kind"], new["scopes"], new["sites"]) == ("pulse", ["stats:read"], old["sites"])
    assert new["old_key"]["key_id"] == old["key_id"]
    ends = datetime.fromisoformat(new["old_key"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=59) < ends < timedelta(hours=2, seconds=1)
    revoked = operator.json("key", "revoke", new["key_id"])
    assert datetime.fromisoformat(revoked["revoked_at"]) <= datetime.now(UTC)
    assert not revoked["already_revoked"]
    assert operator.json("key", "revoke", new["key_id"]) == {**revoked, "already_revoked": True}
    assert f"revoked before, at {revoked['revoked_at']}; nothing" in operator.succeed(
        "key", "revoke", new["key_id"]
    )


def test_a_secret_is_shown_to_people_once(operator: Operator) -> None:
    operator.succeed("source", "create", "shop")
    shown = operator.succeed("key", "create", "shop", "--kind", "apex")
    assert len(re.findall(r"pk_live_\w+", shown)) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("source set shop", "nothing to set"),
        ("source set shop --rate-limit lots", "as in 100/minute"),
        ("source set shop --origin x --no-origins", "contradict"),
        ("source set shop --vendor-cookie _ga --no-vendor-cookies", "contradict"),
        ("key create shop --kind skeleton", "pulsora-public"),
        ("key rotate none --overlap soon", "as in 24h"),
        ("events --kind party", "page, track"),
        ("events --since then", "24h or 7d"),
        ("stats shop --metric happiness", "unique_users"),
        ("stats shop --group-by browser", "device_type"),
        ("stats shop --period always", "as in 24h"),
        ("stats shop --until tomorrow", "2026-05-01T12:00Z"),
    ],
)
def test_wrong_use_is_told(nobody: Operator, command: str, said: str) -> None:
    code, error = nobody.fail(*command.split())
    assert code == 2
    assert error.startswith("polylect: ")
    assert said in error


def test_what_the_core_refuses_is_told(operator: Operator) -> None:
    operator.succeed("source", "create", "shop")
    for command, said in (
        (["source", "create", "shop"], "shop"),
        (["source", "create", "a b"], "name"),
        (["source", "show", "none"], "'none'; `polylect source list` lists what there is"),
        (["key", "list", "none"], "`polylect source create` makes one"),
        (["ledger", "--source", "none"], "`polylect source list`"),
        (["source", "set", "shop", "--vendor-cookie", "_crumb"], "_pin_unauth"),
        (["key", "create", "none", "--kind", "apex"], "none"),
        (["key", "create", "shop", "--kind", "apex", "--site", "one"], "site"),
        (["key", "rotate", "none"], "none"),
        (["key", "revoke", "none"], "none"),
        (["events", "--source", "none"], "none"),
        (["stats", "none"], "none"),
        (["stats", "shop", "--group-by", "hour", "--period", "99d"], "800"),
    ):
        code, error = operator.fail(*command)
        assert (code, error[:10]) == (1, "polylect: ")
        assert said in error


def test_a_wrong_token_is_told(operator: Operator) -> None:
    operator.environment["POLYLECT_ADMIN_TOKEN"] = "wrong"
    assert operator.fail("source", "list") == (
        1,
        f"polylect: the core at 127.0.0.1:{operator.grpc_port} does not know this admin token: "
        "POLYLECT_DATA_DIR or POLYLECT_ADMIN_TOKEN must be the running core's\n",
    )


def ingest(operator: Operator, secret: str, *events: Event) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{operator.grpc_port}") as channel:
        IngestServiceStub(channel).Ingest(
            IngestRequest(events=events), metadata=(("authorization", f"Bearer {secret}"),), timeout=20
        )


def test_events_are_listed_latest_first_filtered_and_whole(operator: Operator) -> None:
    source = operator.json("source", "create", "shop")
    secret = operator.json("key", "create", "shop", "--kind", "service")["secret"]
    occurred_at = Timestamp(seconds=int(time.time()) - 60)
    refund = Event(
        message_id="m-1",
        kind=EventKind.EVENT_KIND_REVENUE,
        user_id="u-1",
        occurred_at=occurred_at,
        page=Page(url="https://a.example/x?y=1"),
        device=Device(user_agent="curl/8"),
        revenue=Revenue(
            amount=Money(currency_code="EUR", units=-12, nanos=-340_000_000),
            transaction_id="t-1",
            event_type="refund",
            mrr_impact=Money(currency_code="EUR", units=-3),
        ),
        properties_json='{"big":12345678901234567890,"exact":1.10,"text":"\\u001b[31mred"}',
    )
    ingest(operator, secret, refund)
    with operator.part("worker"):
        wait_until(lambda: bool(operator.succeed("events", "--json")))
        ingest(
            operator,
            secret,
            Event(kind=EventKind.EVENT_KIND_TRACK, name="\x1b[31mclick [red]", user_id="u-2"),
        )
        wait_until(lambda: operator.succeed("events", "--json").count("\n") == 2)
    latest, first = map(msgspec.json.decode, operator.succeed("events", "--json").splitlines())
    assert (latest["kind"], latest["user_id"]) == ("track", "u-2")
    assert first["source_id"] == source["source_id"]
    assert (first["kind"], first["message_id"], first["page"]["path"]) == ("revenue", "m-1", "/x")
    assert first["revenue"] == {
        "amount": "-12.34",
        "currency": "EUR",
        "mrr_impact": "-3",
        "transaction_id": "t-1",
        "event_type": "refund",
    }
    only = operator.succeed("events", "--user", "u-1", "--kind", "revenue", "--source", "shop", "--json")
    assert only.count("\n") == 1
    # Digit by digit as it was sent.
    assert "12345678901234567890" in only
    assert re.search(r'"exact": ?1\.10\b', only)
    assert operator.succeed("events", "--limit", "1", "--json").count("\n") == 1
    session = "--session", latest["session_id"], "--since", "1h", "--json"
    assert msgspec.json.decode(operator.succeed("events", *session)) == latest
    assert operator.succeed("events", "--since", "2999-01-01", "--json") == ""
    shown = operator.succeed("events")
    assert re.search(r"\bshop\b", shown)
    assert source["source_id"] not in shown
    # Told from others of its request, and asked for, by what stands in the table.
    shown_id = shown.splitlines()[1].split()[0]
    assert shown_id == latest["event_id"]
    assert operator.succeed("why", shown_id).startswith(f"Event {latest['event_id']}: stored.")
    # A client's text neither steers the terminal nor is taken for markup.
    assert "\x1b" not in shown
    assert "click [red]" in shown


@contextmanager
def following(operator: Operator, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Follows what happens."""
    with subprocess.Popen(
        # Whoever runs the tests in the background has SIGINT ignored, and all they start.
        ["env", "--default-signal=INT", POLYLECT, "tail", *options],
        env=operator.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stderr
        try:
            assert follower.stderr.readline() == "polylect: following; Ctrl-C ends\n"
            yield follower
        finally:
            follower.send_signal(signal.SIGINT)
            assert follower.wait(20) == 0
            assert "Traceback" not in follower.stderr.read()


def line_of(follower: "subprocess.Popen[str]") -> str:
    assert follower.stdout
    return follower.stdout.readline()


def test_what_happens_is_followed(operator: Operator) -> None:
    operator.succeed("source", "create", "shop")
    secret = operator.json("key", "create", "shop", "--kind", "service")["secret"]
    track = EventKind.EVENT_KIND_TRACK
    with operator.part("worker"), following(operator, "--json") as program, following(operator) as person:
        ingest(operator, secret, Event(kind=track, name="signup", user_id="u-1"))
        accepted = msgspec.json.decode(line_of(program))
        assert (accepted["verdict"], accepted["event"]["name"]) == ("accepted", "signup")
        own_id = accepted["event"]["event_id"]
        assert re.search(rf"accepted  track  signup  u-1  shop  grpc  event {own_id}\n", line_of(person))
        ingest(operator, secret, Event(kind=track))
        refused = msgspec.json.decode(line_of(program))
        assert (refused["verdict"], refused["reason"]) == ("refused", "field_missing")
        assert re.search(rf"REFUSED .*name.*  shop  grpc  .*request {refused['request_id']}", line_of(person))
        with following(operator, "--name", "wanted", "--json") as filtered:
            ingest(operator, secret, Event(kind=track, name="other"), Event(kind=track, name="wanted"))
            assert msgspec.json.decode(line_of(filtered))["event"]["name"] == "wanted"
    assert operator.fail("tail", "--accepted", "--refused")[0] == 2
    assert "there is no such kind" in operator.fail("tail", "--kind", "x")[1]


def test_a_tail_goes_on_after_a_restart_of_the_core(nobody: Operator, database_url: str) -> None:
    nobody.environment["DATABASE_URL"] = database_url
    track = EventKind.EVENT_KIND_TRACK
    with nobody.part("worker"), ExitStack() as stack:
        with nobody.part("core"):
            nobody.wait_for_core()
            nobody.succeed("source", "create", "shop")
            secret = nobody.json("key", "create", "shop", "--kind", "service")["secret"]
            follower = stack.enter_context(following(nobody, "--json"))
            ingest(nobody, secret, Event(kind=track, name="before"))
            assert msgspec.json.decode(line_of(follower))["event"]["name"] == "before"
        assert follower.stderr
        assert "polylect: " in follower.stderr.readline()
        assert follower.stderr.readline() == "polylect: trying again until it answers; Ctrl-C ends\n"
        # It tries more than once, and says so once.
        with socket.create_server(("127.0.0.1", nobody.grpc_port)) as no_core:
            no_core.settimeout(20)
            for _ in range(2):
                no_core.accept()[0].close()
        with nobody.part("core"):
            nobody.wait_for_core()
            ingest(nobody, secret, Event(kind=track, name="meanwhile"))
            assert msgspec.json.decode(line_of(follower))["event"]["name"] == "meanwhile"
            assert follower.stderr.readline() == "polylect: following again\n"


def test_the_largest_event_is_shown(operator: Operator) -> None:
    operator.succeed("source", "create", "shop")
    secret = operator.json("key", "create", "shop", "--kind", "service")["secret"]
    megabyte = '{"a":"' + "x" * (2**20 - 8) + '"}'
    largest = Event(
        kind=EventKind.EVENT_KIND_TRACK,
        name="largest",
        properties_json=megabyte,
        page=Page(title="x" * (2**20 - 4096)),
    )
    ingest(operator, secret, largest)
    with operator.part("worker"):
        wait_until(lambda: bool(operator.succeed("events", "--json")))


def test_no_events_yet(operator: Operator) -> None:
    assert "no events yet" in operator.succeed("events")
    for one in (("--dialect", "fish"), ("--session", "none"), ("--since", "1h")):
        assert "no event is like that" in operator.succeed("events", *one)
    assert "no sources yet" in operator.succeed("source", "list")
    assert operator.succeed("events", "--json") == ""


@pytest.mark.parametrize("command", ["source list", "key list shop", "events", "tail", "send pulse {}"])
def test_nothing_running_is_said_with_a_code_of_its_own(nobody: Operator, command: str) -> None:
    nobody.environment["POLYLECT_HTTP_PORT"] = str(nobody.grpc_port + 1)
    code, error = nobody.fail(*command.split())
    assert code == 3
    assert "is it running (make run, polylect up)?" in error


def test_a_directory_where_nothing_ran_has_no_token_and_no_database(nobody: Operator) -> None:
    del nobody.environment["POLYLECT_ADMIN_TOKEN"]
    assert "no admin token" in nobody.fail("source", "list")[1]
    for command in ("database-url", "core", "worker"):
        code, error = nobody.fail(command)
        assert code == 2
        assert "set DATABASE_URL" in error


@pytest.mark.parametrize("part", ["core", "worker"])
def test_a_part_alone_does_not_wait_for_an_embedded_database_that_does_not_run(
    nobody: Operator, part: str
) -> None:
    nobody.succeed("migrate")
    code, error = nobody.fail(part)
    assert code == 2
    assert error.startswith(f"polylect: a {part} alone starts no database: set DATABASE_URL ")


def test_a_host_that_is_none_is_named(nobody: Operator) -> None:
    nobody.environment["POLYLECT_HOST"] = "no such host"
    code, error = nobody.fail("up")
    assert code == 2
    assert "can't listen on no such host port" in error
    assert "Unknown error" not in error
    assert "set POLYLECT_HOST" in error


def test_a_facade_of_a_core_elsewhere_is_told_the_token(nobody: Operator) -> None:
    nobody.environment["POLYLECT_CORE_ADDRESS"] = "127.0.0.1:1"
    code, error = nobody.fail("facade")
    assert code == 2
    assert "set POLYLECT_FACADE_TOKEN" in error


def test_a_database_given_is_migrated(nobody: Operator, empty_database_url: str) -> None:
    nobody.environment["DATABASE_URL"] = empty_database_url
    assert nobody.succeed("migrate") == f"migrated to revision {HEAD}\n"
    assert nobody.succeed("migrate") == f"the schema is up to date (revision {HEAD})\n"
    nobody.environment["POLYLECT_MODE"] = "demo"
    for _ in range(2):
        assert nobody.succeed("migrate") == (
            f"the schema is up to date (revision {HEAD}); the documents' example keys are in (demo mode)\n"
        )
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select count(*) from sources where demo").fetchone() == (4,)
    done = nobody.run("database-url")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{empty_database_url}\n", "")


def test_the_embedded_database_is_migrated(nobody: Operator) -> None:
    nobody.environment.pop("DATABASE_URL", None)
    assert nobody.succeed("migrate") == f"migrated to revision {HEAD}\n"
    assert re.fullmatch(
        r"postgresql://polylect:\S+@127\.0\.0\.1:\d+/polylect\n", nobody.succeed("database-url")
    )
    # It was for the migration only.
    assert "nothing listens there now: `polylect up`" in nobody.run("database-url").stderr


def test_the_embedded_database_is_migrated_while_it_runs(nobody: Operator, tmp_path: Path) -> None:
    nobody.environment.pop("DATABASE_URL", None)
    with EmbeddedPostgres(tmp_path / "data" / "postgres"):
        assert nobody.succeed("migrate") == f"migrated to revision {HEAD}\n"
        assert nobody.run("database-url").stderr == ""


def test_a_facade_stops_without_complaint(nobody: Operator, tmp_path: Path) -> None:
    port = nobody.grpc_port + 1
    nobody.environment["POLYLECT_HTTP_PORT"] = str(port)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def answers() -> bool:
        return listens() and nobody.run("send", "pulse", "{}").returncode == 1

    with nobody.part("facade"):
        wait_until(answers)
    lines = [json.loads(line) for line in (tmp_path / "facade.log").read_text().splitlines()]
    # Nothing but what is so: there is no core.
    assert {line["event"] for line in lines} == {
        "facade_listening",
        "core_does_not_answer",
        "request_refused",
        "refusals_untold",
    }


def test_a_database_that_does_not_answer_is_a_sentence(nobody: Operator) -> None:
    nobody.environment["DATABASE_URL"] = "postgresql://127.0.0.1:1/none"
    code, error = nobody.fail("migrate")
    assert code == 1
    [line] = error.splitlines()
    assert {"event": "part_failed", "part": "prepare", "level": "error"}.items() <= json.loads(line).items()


def test_config_is_for_people_and_programs(nobody: Operator) -> None:
    rows = {row["name"]: row for row in nobody.json("config")}
    assert rows["POLYLECT_GRPC_PORT"]["value"] == str(nobody.grpc_port)
    assert rows["POLYLECT_ADMIN_TOKEN"]["value"] == "********"
    differing = {name for name, row in rows.items() if row["differs"]}
    assert {"POLYLECT_GRPC_PORT", "POLYLECT_ADMIN_TOKEN", "POLYLECT_DATA_DIR"} <= differing
    shown = nobody.succeed("config")
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("*  P")} == differing
    assert "a-token" not in shown
    assert all(name in shown and row["meaning"] in shown for name, row in rows.items())


def test_settings_that_are_wrong_end_every_command(nobody: Operator) -> None:
    nobody.environment["POLYLECT_GRPC_PROT"] = "1"
    for command in (("config",), ("up",), ("source", "list")):
        assert nobody.fail(*command) == (
            2,
            "polylect: POLYLECT_GRPC_PROT: there is no such setting; did you mean POLYLECT_GRPC_PORT?\n",
        )


def test_a_directory_named_as_a_package_of_ours_is_not_imported(
    nobody: Operator, empty_database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "__init__.py").write_text("raise SystemExit('imported')")
    nobody.environment["DATABASE_URL"] = empty_database_url
    nobody.succeed("migrate")


def test_help_is_everywhere(nobody: Operator) -> None:
    listed = re.findall(r"^  ([a-z][a-z-]+)  ", nobody.succeed("--help"), re.MULTILINE)
    assert {"up", "core", "facade", "worker", "migrate", "config", "database-url", "send", "events"} < set(
        listed
    )
    for group in ("source", "key", "identity"):
        listed += [
            f"{group} {name}" for name in re.findall(r"^  ([a-z]+)  ", nobody.succeed(group, "--help"), re.M)
        ]
    for command in listed:
        assert nobody.succeed(*command.split(), "--help").startswith(f"Usage: polylect {command} ")


def test_stats(operator: Operator) -> None:
    operator.succeed("source", "create", "shop")
    secret = operator.json("key", "create", "shop", "--kind", "service")["secret"]
    assert operator.succeed("stats", "shop") == "event_count: 0\n"

    def click(session_id: str, country: str, age_seconds: int) -> Event:
        occurred_at = Timestamp(seconds=int(time.time()) - age_seconds)
        event = Event(kind=EventKind.EVENT_KIND_TRACK, name="click", session_id=session_id)
        event.occurred_at.CopyFrom(occurred_at)
        event.geo.country = country
        return event

    ingest(operator, secret, click("s", "DE", 100), click("s", "DE", 40), click("t", "", 40))
    with operator.part("worker"):
        wait_until(lambda: operator.succeed("stats", "shop") == "event_count: 3\n")
    shown = operator.succeed("stats", "shop", "--metric", "avg_session_duration", "--group-by", "country")
    assert [line.split() for line in shown.splitlines()] == [
        ["avg_session_duration:", "30.00", "s"],
        ["country", "avg_session_duration"],
        ["DE", "60.00", "s"],
        ["(not", "known)", "0.00", "s"],
    ]
    told = operator.json("stats", "shop", "--metric", "event_count_by_type", "--period", "1h")
    assert told["value"] == 3
    assert told["groups"] == [{"kind": "track", "name": "click", "value": 3}]
    hours = operator.json("stats", "shop", "--metric=unique_sessions", "--group-by=day", "--country=DE")
    assert [group["value"] for group in hours["groups"]] == [1]
    assert operator.json("stats", "shop", "--until", "2001-01-01")["value"] == 0
