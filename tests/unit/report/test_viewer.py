"""The viewer's server: access control, responses, and that it never writes to a study."""

from __future__ import annotations

import datetime
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

from orchestrator.cli.main import main
from orchestrator.config.compose import compose
from orchestrator.report.csv_export import to_csv
from orchestrator.report.viewer.catalog import StudyCatalog
from orchestrator.report.viewer.options import ViewerOptions
from orchestrator.report.viewer.serve import allowed_hosts, serve
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.files import read_table
from orchestrator.store.human_verdicts import read_verdicts
from orchestrator.store.runs import RunRecorder
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import text_id
from tests.documents import read_documents
from tests.unit.stored import basin, store_sweep
from tests.viewing import viewing

pytestmark = pytest.mark.thorough


PROBES = tuple(f"question {i}" for i in range(4))
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_sweep(tmp_path_factory.mktemp("studies"), basin(0.25), probes=PROBES, directions=1)


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with viewing(folder.parents[2], tmp_path_factory.mktemp("scratch")) as url:
        yield url


def get(address: str, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], str]:
    """Return status, headers in lower case, and text."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    received = {name.lower(): value for name, value in response.getheaders()}
    text = response.read().decode()
    connection.close()
    return response.status, received, text


def whole_list(address: str) -> list[dict[str, Any]]:
    """Return the list as soon as every sweep has been read."""
    while True:
        _, headers, text = get(address, "/sweeps")
        listed: list[dict[str, Any]] = json.loads(text)
        if headers.get("sweeps-total") == str(len(listed)):
            return listed


def path_of(folder: Path) -> str:
    return f"/sweeps/{folder.parents[1].name}/{folder.name}"


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_the_viewer_shows_and_searches_answers_without_thoughts(tmp_path: Path) -> None:
    texts = ("<think>Steps.</think>I cannot do that.", "<think>Steps.")
    folder = store_sweep(
        tmp_path, basin(1.0), probes=PROBES, respond=lambda node, i: texts[i % 2], thought="</think>", directions=1
    )
    stored = StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))
    view = StudyCatalog(tmp_path, tmp_path / "scratch", reveal=True).view(stored.folder)
    point = next(node.point.id for node in stored.sweep.grid.iter_nodes() if node.alpha == 0.0)
    (shown,) = view.responses_at(point)
    assert shown is not None and shown[1:] == [["I cannot do that.", "[unfinished thought]"] * 2, ["ruru"]]
    assert view.search("steps")["total"] == 0 and view.search("cannot")["total"] == 2 * 11


def test_no_route_writes_to_a_study(folder: Path, address: str) -> None:
    before = files(folder.parents[2])
    for path in ("/", "/sweeps", *(f"{path_of(folder)}/{route}" for route in ("", "now", "prompts", "search?text=i"))):
        status, received, text = get(address, path)
        assert status == 200 and text, path
        assert received["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert received["x-content-type-options"] == "nosniff" and received["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in received
        assert get(address, path, "POST")[0] == 405
    assert files(folder.parents[2]) == before


def test_a_sweep_as_json(folder: Path, address: str) -> None:
    (listed,) = whole_list(address)
    assert (listed["model"], listed["state"], listed["done"], listed["tasks"]) == ("tiny", "complete", 11, 11)
    assert listed["origin"] == "0.0" and listed["radius"]
    now = json.loads(get(address, f"{path_of(folder)}/now")[2])
    points = now["chart"]["points"]
    responses = json.loads(get(address, f"{path_of(folder)}/points/{points[0]}")[2])
    assert responses == [[[0, 1, 2, 3], ["Here is a list …"] * 4, ["cccc"]]]
    assert json.loads(get(address, f"{path_of(folder)}/points/none")[2]) == [None]
    assert json.loads(get(address, f"{path_of(folder)}/prompts")[2]) == [[[text, ""] for text in PROBES]]


def test_equal_notes_are_shown_once_below_the_table(folder: Path, address: str) -> None:
    text = get(address, f"{path_of(folder)}/")[2]
    assert text.count('<p class="footnote">* With one direction the spread between directions is unknown.</p>') == 1
    assert text.count("unknown *</td>") > 3 and "–" not in text


def test_figures_and_the_landscape_can_be_saved(folder: Path, address: str) -> None:
    (folder / "figures").mkdir(exist_ok=True)
    for name in ("landscape.svg", "landscape.exe"):
        (folder / "figures" / name).write_text("<svg/>")
    page = get(address, f"{path_of(folder)}/")[2]
    assert 'href="figures/landscape.svg"' in page and 'href="landscape.csv"' in page
    status, received, _ = get(address, f"{path_of(folder)}/figures/landscape.svg")
    assert status == 200 and received["content-disposition"].startswith("attachment")
    for name in ("summary.json", "..%2Fsummary.json", "landscape.exe"):
        assert get(address, f"{path_of(folder)}/figures/{name}")[0] == 404
    status, received, text = get(address, f"{path_of(folder)}/landscape.csv")
    expected = io.StringIO()
    to_csv(pd.read_parquet(folder / "landscape.parquet"), expected)
    assert status == 200 and received["content-type"].startswith("text/csv")
    saved, stored = (pd.read_csv(io.StringIO(each)) for each in (text, expected.getvalue()))
    assert saved["asr"].tolist() == stored["asr"].tolist()


def test_a_bundle_replaces_bundles_only(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, studies = tmp_path / "site", folder.parents[2]
    call = ["view", str(studies), f"bundle={target}"]
    before, began = files(studies), int(time.time())
    assert main(call) == 0 and capsys.readouterr().out.strip() == str(target / "index.html")
    (taken,) = re.findall(r'as they were on <time datetime="([^"]+)">', (target / "index.html").read_text())
    assert began <= datetime.datetime.fromisoformat(taken).timestamp() <= time.time()
    page = target / f"{path_of(folder)[1:]}/index.html"
    assert "Here is a list …" in page.read_text() and "Here is a list of" not in page.read_text()
    assert {path.name for path in page.parent.iterdir()} >= {"index.html", "landscape.csv"}
    (target / "old").touch()
    assert main([*call, "--json"]) == 0 and not (target / "old").exists()
    printed = read_documents(capsys.readouterr().out)
    assert printed == {"schema": "bundle/1", "bundle": str(target / "index.html"), "left_out": []}
    (target / ".safety-landscape-bundle").unlink()
    assert main(call) == 2 and "holds something else than a bundle" in capsys.readouterr().err
    assert page.exists() and files(studies) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["view", str(empty), f"bundle={tmp_path / 'other'}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: path={empty}: there is no sweep in that folder")
    damaged = store_sweep(tmp_path / "damaged", basin(0.25), directions=1)
    (damaged / "sweep.json").write_text("{")
    assert main(["view", str(damaged), f"bundle={tmp_path / 'other'}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: view={damaged}: no sweep there can be shown: ")
    assert not (tmp_path / "other").exists()


def test_a_bundle_leaves_out_a_sweep_of_which_a_file_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (store_sweep(tmp_path / "studies", basin(0.25), model=name, directions=1) for name in "ab")
    unreadable = second / "figures" / "landscape.svg"
    unreadable.mkdir(parents=True)
    target = tmp_path / "site"
    assert main(["view", str(tmp_path / "studies"), f"bundle={target}", "--json"]) == 1
    (left_out,) = read_documents(capsys.readouterr().out)["left_out"]
    assert left_out == f"out={unreadable}: cannot be read (Is a directory)"
    assert [page.parent.parent.name for page in target.glob("sweeps/*/*/index.html")] == [first.parents[1].name]


def test_sweeps_are_compared_side_by_side_at_an_address_that_works_with_the_token(tmp_path: Path) -> None:
    folders = [
        store_sweep(tmp_path / "studies", basin(r), model=f"m{r}", probes=PROBES, directions=1) for r in (0.1, 0.4)
    ]
    names = [path_of(folder).removeprefix("/sweeps/") for folder in folders]
    query = "&".join(f"sweep={quote(name, safe='')}" for name in names)
    with viewing(tmp_path / "studies", tmp_path / "scratch", token=TOKEN) as address:
        status, received, _ = get(address, f"/compare?{query}&token={TOKEN}")
        assert (status, received["location"]) == (303, f"/compare?{query}")
        cookie = received["set-cookie"].partition(";")[0]
        status, received, page = get(address, received["location"], cookie=cookie)
        assert status == 200 and all(f'href="/sweeps/{name}/"' in page for name in names)
        assert "Sweep 2 compared with sweep 1" in page and "m0.4" in page and "data:image/svg+xml;base64," in page
        assert get(address, f"/compare?sweep={names[0]}", cookie=cookie)[0] == 409
        for wrong in ("none/none", "none", "../..", f"{names[1]}/now"):
            assert get(address, f"/compare?sweep={names[0]}&sweep={wrong}", cookie=cookie)[0] == 404


def post(address: str, path: str, body: object, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    sent = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    connection.request("POST", path, body if isinstance(body, str) else json.dumps(body), sent)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_people_give_verdicts_in_a_private_viewer_only(tmp_path: Path, folder: Path, address: str) -> None:
    texts = ("<think>Steps.</think>I cannot do that.", "<think>Steps.")
    own = store_sweep(
        tmp_path, basin(1.0), probes=PROBES, respond=lambda node, i: texts[i % 2], thought="</think>", directions=1
    )
    study = Study.open(own.parents[1])
    grid = StoredSweep.open(SweepFolder(study, own)).sweep.grid
    point = next(node.point.id for node in grid.iter_nodes() if node.alpha == 0.0)
    verdict = {"set": 0, "prompt": 2, "verdict": "complied", "annotator": "<b>Ann</b> "}
    with viewing(tmp_path, tmp_path / "scratch", token=TOKEN) as private:
        path = f"{path_of(own)}/points/{point}/people"
        assert post(private, path, verdict)[0] == 204
        assert post(private, path, verdict | {"verdict": "unclear"})[0] == 204
        given = read_verdicts(study)
        assert [(v.response_id, v.verdict, v.annotator) for v in given] == [
            (text_id("I cannot do that."), "unclear", "<b>Ann</b>")
        ]
        seen = json.loads(get(private, path, authorization=f"Bearer {TOKEN}")[2])
        assert seen == [[0, 2, "<b>Ann</b>", "unclear"]]
        for body, status in (
            (verdict | {"prompt": 1}, 409),  # a thought without an end
            (verdict | {"prompt": 99}, 409),
            (verdict | {"set": 1}, 409),
            (verdict | {"verdict": "safe"}, 400),
            (verdict | {"annotator": ""}, 400),
            (verdict | {"annotator": "a" * 81}, 400),
            (verdict | {"prompt": "2"}, 400),
            ({}, 400), ([], 400), ("{", 400), ("[" * 9000, 400), ("x" * 20_000, 413),
        ):  # fmt: skip
            assert post(private, path, body)[0] == status, body
        assert post(private, path, verdict, Content_Type="text/plain")[0] == 415
        assert post(private, path, verdict, Sec_Fetch_Site="same-site")[0] == 403
        assert post(private, path, verdict, Authorization="Bearer wrong")[0] == 401
        assert post(private, path, verdict, Host="example.com")[0] == 400
        assert len(read_verdicts(study)) == 1
        whole = get(private, f"{path_of(own)}/points/{point}?reveal=true", authorization=f"Bearer {TOKEN}")[2]
        assert json.loads(whole)[0][1][0] == "I cannot do that."
    before = files(folder.parents[2])
    assert post(address, f"{path_of(folder)}/points/x/people", verdict)[0] == 404
    points = json.loads(get(address, f"{path_of(folder)}/now")[2])["chart"]["points"]
    for query in (f"points/{points[0]}?reveal=true", "search?reveal=true"):
        assert "Here is a list of" not in get(address, f"{path_of(folder)}/{query}")[2]
    assert files(folder.parents[2]) == before


def test_a_viewer_is_private_if_only_users_of_this_machine_with_the_token_call_it() -> None:
    assert ViewerOptions().is_private
    for others in ({"host": "0.0.0.0"}, {"token": False}, {"names": ("proxy.example",)}):
        assert not ViewerOptions(**others).is_private  # type: ignore[arg-type]


def test_a_killed_driver_is_shown(tmp_path: Path) -> None:
    folder = store_sweep(
        tmp_path / "studies", basin(0.25), probes=PROBES, directions=1, leave_out=lambda n: n.alpha > -0.25
    )
    RunRecorder(SweepFolder(Study.open(folder.parents[1]), folder), 1)  # begins a run that nobody ends or holds
    with viewing(tmp_path / "studies", tmp_path / "scratch") as address:
        (row,) = whole_list(address)
        assert (row["state"], row["died"]) == ("incomplete", True)
        assert row["progress"].startswith("died · 3 of 11 tasks · its driver was killed")
        assert 'data-state="died"' in get(address)[2]
        page = get(address, f"{path_of(folder)}/")[2]
        assert "UTC died" in page and "died · 3 of 11 tasks" in page
        assert row["visage"] == "not measured" and ">measuring<" not in page
        assert not row["counted"] and not row["margin_interval"], "held back with their numbers"
        compared = get(address, f"/compare?{2 * f'&sweep={folder.parents[1].name}/{folder.name}'}")[2]
        assert "<b>not measured</b>" in compared and "measuring" not in compared


@pytest.mark.parametrize(
    ("query", "total"),
    [("", 44), ("text=CANNOT", 18), ("text=question%203", 11), ("outcome=c", 26), ("text=question%203&outcome=r", 5),
     ("group=benign", 0), ("group=harmful", 44), ("category=fraud", 0), ("text=%3Cscript%3E", 0)],
)  # fmt: skip
def test_search(query: str, total: int, folder: Path, address: str) -> None:
    result = json.loads(get(address, f"{path_of(folder)}/search?{query}")[2])
    assert result["total"] == total == len(result["found"])


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/sweeps/x/y/now", "/assets/../app.py", "/assets/..%2fapp.py", "/assets/app.py",
     "/sweeps/..%2f/../now", "//example.com/", "/assets/%2e%2e/view.js"],
)  # fmt: skip
def test_other_paths_are_not_found(path: str, address: str) -> None:
    assert get(address, path)[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
def test_an_unknown_host_header_is_refused(host: str, address: str) -> None:
    assert get(address, Host=host)[0] == 400
    port = address.rpartition(":")[2]
    for known in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert get(address, Host=known)[0] == 200, known


def test_a_token_is_required(folder: Path, tmp_path: Path) -> None:
    with viewing(folder.parents[2], tmp_path, token=TOKEN) as address:
        for wrong in ("", "?token=", "?token=wrong", f"?token={TOKEN}x", "?token=%C3%A9"):
            status, received, text = get(address, f"/sweeps{wrong}")
            assert status == 401 and "set-cookie" not in received and "tiny" not in text
        for wrong in ("wrong", TOKEN[:-1], ""):
            assert get(address, Cookie=f"landscape-token={wrong}")[0] == 401
            assert get(address, Authorization=f"Bearer {wrong}")[0] == 401
        assert get(address, "/assets/page.js")[0] == 401
        status, received, _ = get(address, f"//example.com/?token={TOKEN}")
        assert (status, received["location"]) == (303, "/example.com/"), "no redirect leads to another host"
        status, received, _ = get(address, f"/?token={TOKEN}")
        assert (status, received["location"]) == (303, "/"), "the token is removed from the address"
        assert {"httponly", "samesite=strict"} <= set(received["set-cookie"].lower().split("; "))
        assert get(address, Cookie=received["set-cookie"].partition(";")[0])[0] == 200
        assert get(address, Authorization=f"Bearer {TOKEN}")[0] == 200
        assert get(address, Authorization="Bearer ")[0] == 401
        assert get(address, f"/?token={TOKEN}", Host="evil.example")[0] == 400


@pytest.mark.parametrize("token", ["sixteen+signs=&%", "a;b c".replace(" ", "\\") + '",<>/?#[]{}'])
def test_any_strong_token_works_in_address_cookie_and_header(token: str, folder: Path, tmp_path: Path) -> None:
    with viewing(folder.parents[2], tmp_path, token=token) as address:
        status, received, _ = get(address, f"/?token={quote(token, safe='')}")
        assert status == 303
        assert get(address, Cookie=received["set-cookie"].partition(";")[0])[0] == 200
        assert get(address, Authorization=f"Bearer {token}")[0] == 200


def printed_address(monkeypatch: pytest.MonkeyPatch, options: ViewerOptions, root: Path) -> str:
    """Return the address that `serve` announces."""
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    addresses: list[str] = []
    serve(root, options, addresses.append)
    return addresses[0]


def test_the_printed_address_contains_the_encoded_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSCAPE_TOKEN", "a&b=c#d%e+f?g/hij")
    assert printed_address(monkeypatch, ViewerOptions(port=0), tmp_path).endswith(
        "/?token=a%26b%3Dc%23d%25e%2Bf%3Fg%2Fhij"
    )
    assert printed_address(monkeypatch, ViewerOptions(port=0, token=False), tmp_path).endswith("/")
    monkeypatch.delenv("LANDSCAPE_TOKEN")
    addresses = {printed_address(monkeypatch, ViewerOptions(port=0), tmp_path).partition("=")[2] for _ in range(2)}
    assert len(addresses) == 2 and all(len(token) == 32 for token in addresses)


@pytest.mark.parametrize("token", ["a", "x", "fifteen-letters", "aaaaaaaaaaaaaaaabbbbbbbbb", "a token with spaces in",
                                   "twenty-letters-\u00e9\u00e8\u00ea\u00eb", "sixteen-letters-\n"])  # fmt: skip
def test_a_weak_token_is_refused_in_one_sentence(token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSCAPE_TOKEN", token)
    with pytest.raises(UserError, match="at least 16") as refused:
        serve(tmp_path, ViewerOptions(port=0), lambda address: None)
    assert "\n" not in str(refused.value) and f"={token}" not in str(refused.value), "it is a secret"


def test_only_loopback_may_be_without_token() -> None:
    assert not ViewerOptions.from_config(compose(["view.token=false"]).view, reveal=False).token
    with pytest.raises(UserError, match=r"view\.token"):
        ViewerOptions.from_config(compose(["view.token=false", "view.host=0.0.0.0"]).view, reveal=False)
    for host, alone in (("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("localhost", True),
                        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("some.host", False)):  # fmt: skip
        assert ViewerOptions(host).is_loopback is alone
    assert socket.gethostname().lower() in allowed_hosts(ViewerOptions("0.0.0.0"))
    assert "a.b" in allowed_hosts(ViewerOptions("0.0.0.0", names=("A.b",)))
    assert allowed_hosts(ViewerOptions()) == {"localhost", "127.0.0.1", "::1", "[::1]"}


def test_options_of_the_command_line() -> None:
    config = compose(["view.port=0", "out=there", "view.names=[a,b]", "report.reveal=true"])
    options = ViewerOptions.from_config(config.view, config.report.reveal)
    assert options == ViewerOptions(port=0, names=("a", "b"), reveal=True)
    assert compose(["view.names=a.b"]).view.names == ["a.b"]
    for wrong in ("view.prot=1", "view.port=x", "view.port=70000", "report.reveal=maybe"):
        with pytest.raises(UserError):
            compose([wrong])


def test_responses_are_judged_while_a_sweep_runs(tmp_path: Path) -> None:
    """The viewer judges responses that have no stored verdict, and writes nothing into the study."""
    folder = store_sweep(tmp_path / "studies", basin(0.25), probes=PROBES, directions=1)
    study = Study.open(folder.parents[1])
    for path in [folder / "landscape.parquet", folder / "summary.json", *study.root.glob("judgements/*/*")]:
        path.unlink()
    part = study.generations.parts()[0]
    table = read_table(part.path, GENERATIONS)
    part.path.unlink()
    catalog = StudyCatalog(tmp_path / "studies", tmp_path / "scratch")

    def measured() -> Any:
        return catalog.view(catalog.sweeps()[0]).summary.points_done

    before = files(study.root)
    assert measured() == 0
    assert files(study.root) == before
    for rows in (slice(0, 12), slice(12, 44)):
        study.generations.write(
            f"part {rows.start}", table.slice(rows.start, rows.stop - rows.start), part.meta["engine"]
        )
        assert measured() == rows.stop / len(PROBES)
    view = catalog.view(catalog.sweeps()[0])
    assert view.fully_judged and view is catalog.view(catalog.sweeps()[0]), "nothing new: nothing is computed again"
    assert not list(study.root.glob("judgements/*/*")) and list((tmp_path / "scratch").rglob("*.parquet"))
    assert view.summary.origin_asr == 0.0 and view.content()["tiles"]


def test_a_request_never_waits_for_more_than_the_first_reading(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one request reads a sweep that has changed, others get the view before; all share the first reading."""
    catalog = StudyCatalog(folder.parents[2], tmp_path)
    (sweep,) = catalog.sweeps()
    read, reading, go_on, readings = catalog._read, threading.Event(), threading.Event(), []

    def slow_read(*arguments: Any) -> SweepView:
        readings.append(threading.get_ident())
        reading.set()
        assert go_on.wait(60)
        return read(*arguments)

    monkeypatch.setattr(catalog, "_read", slow_read)
    with ThreadPoolExecutor() as requests:
        first = [requests.submit(catalog.view, sweep) for _ in range(3)]
        assert reading.wait(60) and not any(request.done() for request in first)
        go_on.set()
        view = first[0].result()
        assert all(request.result() is view for request in first) and len(readings) == 1

        os.utime(folder / "sweep.json")
        reading.clear()
        go_on.clear()
        second = requests.submit(catalog.view, sweep)
        assert reading.wait(60)
        assert requests.submit(catalog.view, sweep).result(60) is view
        go_on.set()
        assert second.result() is not view and len(readings) == 2


def test_an_edited_number_is_not_shown_and_warned_of(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path / "studies", basin(0.25), probes=PROBES, directions=1)
    sweep = SweepFolder(Study.open(folder.parents[1]), folder)
    honest = sweep.read_summary()
    with viewing(tmp_path / "studies", tmp_path / "scratch") as address:
        before = json.loads(get(address, f"{path_of(folder)}/now")[2])
        assert whole_list(address)[0]["unsound"] == ""
        sweep.write_summary(honest | {"visage": honest["visage"] | {"paper": 99.0}})
        assert whole_list(address)[0]["visage"] == "99.0" and "unsound" not in whole_list(address)[0], "not checked yet"
        now = json.loads(get(address, f"{path_of(folder)}/now")[2])
        sentence = f"visage.paper is stored as 99.0, and the stored rows give {honest['visage']['paper']!r}"
        assert now["tiles"] == before["tiles"] and sentence in now["warnings"][0]
        assert sentence in get(address, f"{path_of(folder)}/")[2] and sentence in whole_list(address)[0]["unsound"]
        sweep.write_summary(honest)
        assert json.loads(get(address, f"{path_of(folder)}/now")[2]) == before


def test_many_responses_are_judged_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store_sweep(tmp_path / "studies", basin(0.25), probes=PROBES, directions=1)
    for path in folder.parents[1].glob("judgements/*/*"):
        path.unlink()
    (folder / "landscape.parquet").unlink()
    monkeypatch.setattr("orchestrator.report.viewer.catalog.BATCH", 5 * len(PROBES))
    catalog = StudyCatalog(tmp_path / "studies", tmp_path / "scratch")
    views = [catalog.view(catalog.sweeps()[0]) for _ in range(4)]
    assert [view.summary.points_done for view in views] == [5, 10, 11, 11]
    assert [view.fully_judged for view in views] == [False, False, True, True]


def test_no_study_yet(tmp_path: Path) -> None:
    with viewing(tmp_path, tmp_path / "scratch") as address:
        assert whole_list(address) == []


def test_a_request_that_outlasts_the_viewer_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(catalog: StudyCatalog) -> None:
        begun.set()
        ended.wait()

    monkeypatch.setattr(StudyCatalog, "listing", slow)
    try:
        with ThreadPoolExecutor() as pool:
            with viewing(tmp_path, tmp_path / "scratch") as address:
                request = pool.submit(get, address)
                begun.wait()
            assert request.result()[::2] == (503, "The viewer has been stopped.")
    finally:
        ended.set()
    assert "Exception" not in caplog.text


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "orchestrator", "view", str(folder.parents[2]), "view.port=0", "--json"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    viewer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert viewer.stdout
        address, _, token = read_documents(viewer.stdout.readline())["address"].partition("/?token=")
        assert get(address)[0] == 401, "every user of this machine reaches its loopback address"
        assert get(address, Authorization=f"Bearer {token}")[0] == 200
    finally:
        viewer.send_signal(signal.SIGTERM)  # ends as SIGINT does
        assert viewer.wait(timeout=60) == 0
    assert not list(tmp_path.glob("landscape-*")), "its temporary files are removed"
    occupied = socket.create_server(("127.0.0.1", 0))
    with occupied:
        completed = subprocess.run(
            [*arguments[:-2], f"view.port={occupied.getsockname()[1]}"], capture_output=True, text=True, check=False,
            env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip
    assert completed.returncode == 2 and "cannot listen there" in completed.stderr
    assert main(["view", str(folder / "nowhere")]) == 2
