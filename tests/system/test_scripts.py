"""The browser scripts as files: how they are served, cached and compressed. Needs no browser."""

import gzip
import json

import pytest

from .stack import Stack

_SCRIPTS = ("tracker.js", "datafly.js", "apex.js", "pulsora.js")
_FILES = [name for script in _SCRIPTS for name in (script, f"{script}.map")]


@pytest.mark.parametrize("name", _FILES)
def test_a_copy_in_the_cache_is_asked_about_and_kept(stack: Stack, name: str) -> None:
    answer = stack.get(f"/{name}")
    assert answer.status == 200
    etag = answer.headers["etag"]
    again = stack.get(f"/{name}", {"If-None-Match": f'"other", W/{etag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert stack.get(f"/{name}", {"If-None-Match": '"other"'}).status == 200
    head = stack.request("HEAD", f"/{name}")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("name", _FILES)
def test_who_takes_gzip_gets_it(stack: Stack, name: str) -> None:
    plain = stack.get(f"/{name}")
    zipped = stack.get(f"/{name}", {"Accept-Encoding": "br;q=1.0, gzip;q=0.8"})
    assert "content-encoding" not in plain.headers
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
    # Two representations: a cache must not give one for the other.
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert {answer.headers["vary"] for answer in (plain, zipped)} == {"Accept-Encoding"}
    kept = {"Accept-Encoding": "gzip", "If-None-Match": zipped.headers["etag"]}
    assert stack.get(f"/{name}", kept).status == 304
    assert stack.get(f"/{name}", {"If-None-Match": zipped.headers["etag"]}).status == 200
    for refused in ("gzip;q=0", "br, gzip; q=0.0", "identity"):
        assert "content-encoding" not in stack.get(f"/{name}", {"Accept-Encoding": refused}).headers


@pytest.mark.parametrize("script", _SCRIPTS)
def test_a_script_is_small_and_for_any_site(stack: Stack, script: str) -> None:
    answer = stack.get(f"/{script}", {"Accept-Encoding": "gzip"})
    assert len(answer.body) <= 3072
    headers = ("content-type", "cache-control", "access-control-allow-origin", "cross-origin-resource-policy")
    assert [answer.headers[name] for name in headers] == [
        "text/javascript; charset=utf-8",
        "public, max-age=3600",
        "*",
        "cross-origin",
    ]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("script", _SCRIPTS)
def test_a_script_has_a_source_map_beside_it(stack: Stack, script: str) -> None:
    assert stack.get(f"/{script}").text.rstrip().endswith(f"//# sourceMappingURL={script}.map")
    answer = stack.get(f"/{script}.map")
    assert answer.headers["content-type"] == "application/json"
    origins = json.loads(answer.text)
    assert all(name.startswith("../../sdk/src/") for name in origins["sources"])
    assert all(origins["sourcesContent"])
