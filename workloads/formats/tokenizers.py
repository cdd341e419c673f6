"""Token counts of recorded text, by a tokenizer that the user names.

A trace of text has no token counts of its own, so whoever reads it decides them, and the name of the
tokenizer travels in the trace's provenance.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from workloads.trace import TraceError

ESTIMATE = "utf8-bytes/4"
"""Four UTF-8 bytes a token: an estimate for English text and code, not a tokenizer."""

_EXPECTED = f"{ESTIMATE} (an estimate), tiktoken:ENCODING, or hf:MODEL or hf:FILE.json"

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """``count`` gives a text's tokens; ``name`` is what ``find_tokenizer`` finds it by."""

    name: str
    count: Callable[[str], int]


def find_tokenizer(name: str) -> Tokenizer:
    """``utf8-bytes/4``, ``tiktoken:ENCODING`` or ``hf:MODEL``; the last two need their library and may
    fetch the vocabulary. ``TraceError`` for an unknown name or a library that is not installed."""
    library, _, vocabulary = name.partition(":")
    if name == ESTIMATE:
        return Tokenizer(name, lambda text: -(-len(text.encode("utf-8", "surrogatepass")) // 4))
    if library == "tiktoken" and vocabulary:
        encoding = _load(name, lambda: _library("tiktoken").get_encoding(vocabulary))
        return Tokenizer(name, lambda text: len(encoding.encode(text, disallowed_special=())))
    if library == "hf" and vocabulary:
        tokenizer = _load(name, lambda: _hugging_face(vocabulary))
        return Tokenizer(name, lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids))
    raise TraceError.at("tokenizer", found=repr(name), expected=_EXPECTED, fix="choose one of them")


def no_tokenizer(path: Path) -> Tokenizer:
    """What a file of text is read with if the user named none: an error that says how to."""

    def fail(_: str) -> int:
        raise TraceError.at(
            path,
            found="text without token counts",
            expected=f"a tokenizer: {_EXPECTED}",
            fix=f"name one, as in `--tokenizer {ESTIMATE}`",
        )

    return Tokenizer("", fail)


class Conversation:
    """Counts a session's growing list of chat messages, each message once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._messages: list[Message] = []
        self._tokens: list[int] = []

    def prompt(self, messages: list[Message]) -> tuple[int, int]:
        """Tokens of the messages, and of those that the previous prompt began with too."""
        shared = 0
        while shared < min(len(messages), len(self._messages)) and messages[shared] == self._messages[shared]:
            shared += 1
        new = [self._tokenizer.count(message_text(message)) for message in messages[shared:]]
        self._messages, self._tokens = messages, self._tokens[:shared] + new
        return sum(self._tokens), sum(self._tokens[:shared])


def message_text(message: Message) -> str:
    """What a model reads of a chat message: its content and tool calls; what is no string, as JSON.

    Roles and the template around messages are left out: they differ from model to model.
    """
    parts = [message[key] for key in ("content", "tool_calls") if message.get(key)]
    return "\n".join(part if isinstance(part, str) else msgspec.json.encode(part).decode() for part in parts)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise TraceError.at(
            "tokenizer",
            found=f"no library {module}",
            expected="the library that the named tokenizer needs",
            fix=f"run `pip install {module}`",
        ) from None


def _hugging_face(vocabulary: str) -> Any:
    tokenizer = _library("tokenizers").Tokenizer
    if vocabulary.endswith(".json"):
        return tokenizer.from_file(vocabulary)
    return tokenizer.from_pretrained(vocabulary)


def _load(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except TraceError:
        raise
    except Exception as error:  # `tokenizers` raises nothing more specific
        raise TraceError.at(
            f"tokenizer {name}",
            found=f"{type(error).__name__}: {error}",
            expected="a vocabulary that its library can load",
            fix="check the name and the network",
        ) from None
