import sys
from types import SimpleNamespace

import pytest

from workloads.formats.tokenizers import find_tokenizer
from workloads.trace import TraceError


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ääää", 2)])
def test_four_bytes_a_token_rounded_up(text, tokens):
    assert find_tokenizer("utf8-bytes/4").count(text) == tokens


@pytest.mark.parametrize("name", ["", "gpt", "tiktoken", "tiktoken:", "hf:"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(TraceError, match=r"tokenizer: found .* expected utf8-bytes/4 .*tiktoken:.*hf:"):
        find_tokenizer(name)


@pytest.mark.parametrize(
    ("name", "library"), [("tiktoken:cl100k_base", "tiktoken"), ("hf:gpt2", "tokenizers")]
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TraceError, match=f"found no library {library}, .*`pip install {library}`"):
        find_tokenizer(name)


def test_tiktoken_counts_special_tokens_as_text(monkeypatch):
    encoding = SimpleNamespace(encode=lambda text, disallowed_special: text.split())
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(get_encoding={"e": encoding}.__getitem__))
    assert find_tokenizer("tiktoken:e").count("two words") == 2
    with pytest.raises(TraceError, match=r"tokenizer tiktoken:f: found KeyError: 'f'"):
        find_tokenizer("tiktoken:f")


def test_hugging_face_vocabularies_by_model_or_file(monkeypatch):
    def from_source(source):
        return SimpleNamespace(
            encode=lambda text, add_special_tokens: SimpleNamespace(ids=[source, *text.split()])
        )

    library = SimpleNamespace(from_file=from_source, from_pretrained=lambda name: from_source(name + "!"))
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=library))
    assert find_tokenizer("hf:model").count("one two") == 3
    assert find_tokenizer("hf:some/tokenizer.json").count("one two") == 3
