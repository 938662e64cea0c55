"""The server answers whoever has the token, from this machine, and nothing else; it changes nothing."""

import json

import pytest

from engram_interp import extract, testbed
from engram_interp.report.explorer.server import HOST, application

TOKEN = "a token"
KEY = "blocks.1.mlp.W_gate"


@pytest.fixture
def client(found):
    testing = pytest.importorskip("starlette.testclient")
    return testing.TestClient(application(found, TOKEN), base_url=f"http://{HOST}")


def test_the_page_and_a_matrix_need_the_token(client, found):
    name = next(iter(found.memories))
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    for token in ("", "another", "ä token"):
        assert client.get("/", params={"token": token}).status_code == 403
        assert client.get("/matrix", params={"token": token, "memory": name, "key": KEY}).status_code == 403
    assert client.get("/").status_code == 403


def test_a_matrix_that_was_not_looked_into_is_looked_into(client, found):
    name = next(iter(found.memories))
    answer = client.get("/matrix", params={"token": TOKEN, "memory": name, "key": KEY})
    assert answer.json() == json.loads(json.dumps(found.look(name, KEY).to_dict()))


@pytest.mark.parametrize("asked", [{"memory": "nobody"}, {"key": "blocks.9.mlp.W_in"}])
def test_what_is_not_there_is_said(client, found, asked):
    name = next(iter(found.memories))
    answer = client.get("/matrix", params={"token": TOKEN, "memory": name, "key": KEY} | asked)
    assert answer.status_code == 404
    assert next(iter(asked.values())) in answer.json()["error"]


def test_what_cannot_be_looked_into_now_is_said(found, full):
    testing = pytest.importorskip("starlette.testclient")
    name, memory = next(iter(found.memories.items()))
    key = next(key for key in memory.wmap if key not in memory.matrices)
    engram = extract(full, testbed.authors().concept("Petra Dorlund"), layers=[0, 1])
    client = testing.TestClient(application(found, TOKEN), base_url=f"http://{HOST}")
    with engram.ablated(full):
        answer = client.get("/matrix", params={"token": TOKEN, "memory": name, "key": key})
    assert answer.status_code == 409
    assert answer.json()["error"]


def test_another_machines_name_is_refused(client):
    assert client.get("/", params={"token": TOKEN}, headers={"host": "example.org"}).status_code == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(client, method):
    for path in ("/", "/matrix", "/anything"):
        assert client.request(method, path, params={"token": TOKEN}).status_code in (404, 405)


def test_no_page_may_hold_it_and_no_address_leaks(client):
    headers = client.get("/", params={"token": TOKEN}).headers
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
