"""Small trace files to write and load."""

import json

from workloads.formats import load_trace


def request(t, input_tokens, output_tokens, hash_ids, **fields):
    return {"t": t, "type": "n", "in": input_tokens, "out": output_tokens, "hash_ids": hash_ids, **fields}


def conversation(*requests, **fields):
    return {"id": "c", "block_size": 64, "hash_id_scope": "local", "requests": list(requests), **fields}


GROWING = conversation(
    request(0.0, 130, 70, [7, 3], api_time=4.0, think_time=0.0),
    request(10.0, 200, 10, [7, 3, 9], api_time=2.0, think_time=6.0),
)
CANONICAL = [
    {"format": "dualpath-trace", "version": 1, "block_tokens": 64, "provenance": {}},
    {
        "session_id": "s",
        "start_s": 0.0,
        "parent": None,
        "turns": [{"in": 130, "out": 70, "gap_s": 0.0, "blocks": [[0, 2]], "generated": [[2, 1]]}],
    },
]


def lines(documents):
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def load(tmp_path, content, name="trace.json", **how):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return load_trace(path, **how)


def load_rows(tmp_path, *rows, name="trace.jsonl", **how):
    return load(tmp_path, lines(rows), name, **how)
