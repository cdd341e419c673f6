import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from workloads.fetching import PUBLIC_TRACES, FetchError, PublicTrace, fetch, find_public_trace
from workloads.formats import load_trace
from workloads.trace import TraceError

ROW = b'{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}\n'


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(ROW) + (9 if "truncated" in self.path else 0)))
        self.end_headers()
        self.wfile.write(ROW)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        listening.asked = []
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def public(server, *names, content=ROW):
    files = dict.fromkeys(names, hashlib.sha256(content).hexdigest())
    return PublicTrace("rows", "CC0", f"http://127.0.0.1:{server.server_address[1]}/at/", files)


def test_a_file_is_fetched_once(server, tmp_path):
    trace = public(server, "a.jsonl")
    path = fetch(trace, tmp_path / "to")
    assert path == fetch(trace, tmp_path / "to") == tmp_path / "to" / "a.jsonl"
    assert server.asked == ["/at/a.jsonl"]
    assert load_trace(path).format == "mooncake"


def test_several_files_are_a_folder(server, tmp_path):
    path = fetch(public(server, "a.jsonl", "b.jsonl"), tmp_path)
    assert path == tmp_path
    assert len(load_trace(path).sessions) == 2


def test_a_file_that_was_changed_is_fetched_again(server, tmp_path):
    path = fetch(public(server, "a.jsonl"), tmp_path)
    path.write_bytes(b"other")
    assert fetch(public(server, "a.jsonl"), tmp_path).read_bytes() == ROW


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"other", "does not match the known hash"),
        ("missing.jsonl", ROW, "404 Client Error"),
        ("truncated.jsonl", ROW, "IncompleteRead"),
    ],
)
def test_anything_but_the_pinned_bytes_is_one_line_and_leaves_nothing(
    server, tmp_path, name, content, reason
):
    with pytest.raises(FetchError, match=reason) as caught:
        fetch(public(server, name, content=content), tmp_path)
    assert f"/at/{name}: found " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    with pytest.raises(FetchError, match=r"Connection refused.*check the network"):
        fetch(PublicTrace("rows", "CC0", url, {"a.jsonl": "0" * 64}), tmp_path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match=r"file"):
        fetch(public(server, "a.jsonl"), tmp_path / "file" / "under")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(TraceError, match=r"found 'x', expected one of mooncake-conversation, "):
        find_public_trace("x")


@pytest.mark.parametrize("name", PUBLIC_TRACES)
def test_every_public_trace_is_pinned(name):
    trace = find_public_trace(name)
    assert trace.url.startswith("https://")
    assert trace.url.endswith("/")
    assert re.search(r"/[0-9a-f]{8,40}/", trace.url), "a commit, which does not move"
    assert trace.files
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in trace.files.values())
