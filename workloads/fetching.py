"""Public traces by name: where they are, the hash that pins them, and their licence.

Only these bytes are accepted, so a figure of a fetched trace is a figure of the trace that is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workloads.trace import TraceError

_TIMEOUT_S = 30
"""Without a byte from the server for this long, a download has failed."""


class FetchError(RuntimeError):
    """A trace that could not be fetched: network, server, disk, or other bytes than the pinned ones."""


@dataclass(frozen=True, slots=True)
class PublicTrace:
    """``files`` maps names under ``url`` to the SHA-256 of their bytes; with several, the folder is one
    trace."""

    about: str
    licence: str
    url: str
    files: Mapping[str, str]


_MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake"

PUBLIC_TRACES: Mapping[str, PublicTrace] = {
    "mooncake-conversation": PublicTrace(
        about="12,031 chat requests with global 512-token block ids (Mooncake, FAST'25)",
        licence="Apache-2.0",
        url=f"{_MOONCAKE}/a2a4b18ac537fd798d50e6e9f57031ce86419a37/FAST25-release/traces/",
        files={
            "conversation_trace.jsonl": "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df"
        },
    ),
    "mooncake-synthetic": PublicTrace(
        about="3,993 synthetic requests with global 512-token block ids (Mooncake, FAST'25)",
        licence="Apache-2.0",
        url=f"{_MOONCAKE}/3cca71daccf2a7afb8fe3f0295358f70e3a69fdb/FAST25-release/traces/",
        files={"synthetic_trace.jsonl": "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131"},
    ),
    "tracelab-example": PublicTrace(
        about="two short sessions of coding agents with real tool latencies (TraceLab, UW SyFI)",
        licence="CC-BY-4.0",
        url="https://raw.githubusercontent.com/uw-syfi/TraceLab/b889eb715732d4c0df566dda96c0c62c4c0d8e41/"
        "example_sessions/sanitized/",
        files={"round_trace.jsonl": "314c49483148fe68e230a683f739e3e6e68d478948ecf342739596f30af36b57"},
    ),
    "kv-cache-tester": PublicTrace(
        about="32 of the 739 Claude Code conversations of kv-cache-tester, most with about 98% reuse",
        licence="Apache-2.0",
        url="https://raw.githubusercontent.com/callanjfox/kv-cache-tester/94f6046d/traces/",
        files={
            "trace_0059.json": "f8fdfba66222df3aa8a636e49e23cabf09e87bc564a479aa38992206b822f737",
            "trace_0121.json": "98078f6ac008e20e6220c75d7e1095efee5d0723f892c614274e175e00662e07",
            "trace_0142.json": "c30a6821044a7c29ab36e8a2c649c77d19531bf392aa6582a8ad22a136bbc772",
            "trace_0159.json": "e80046f3efaca9e07faeb3da961f45fe04423c2664aa99982a1d518f3d25d9ae",
            "trace_0193.json": "145d50d27e92fba16388bd8fcb8939ccae80322ed58bb1b97afdc6f289a300f2",
            "trace_0194.json": "f3e4c9ae95390aa3d7b596793e71ccec66f0e9957ba17fb3b1a725e4a3789276",
            "trace_0205.json": "a955813e7982dc59acdab34f5a9a37efc8969b9c6a9d544aa7127ba5ca4e510c",
            "trace_0260.json": "1c6ad2f979c5e2e26c7bd899cdda93ef2d437c92fa7f09f7d6c964357872afcd",
            "trace_0274.json": "9afd0a8a591a8696ba752c91b442d85a53e9fdc63cda5926c9edad2e27c8df87",
            "trace_0277.json": "389988c4309ffe1759bdc3559c69b3e5840d7d2e87a44e2a02754df9d015c201",
            "trace_0278.json": "f8ec9667ad3736c72f0be865e12711c355d79f87a4543c72975c30b1c22f9d81",
            "trace_0279.json": "431d7ca42355d5d5168d0ba38b59c8d17a44fffa39f47b1be4381ac1d57daf48",
            "trace_0282.json": "a405e7bb126d0aedae10a78ab558a6753a01c7b78fc0a50523bd87bf1e79fbf7",
            "trace_0283.json": "5586ac5f03fc5a86fe47dac446019fa04e1596212b6ca9c7c74e9d639539e550",
            "trace_0291.json": "035d48ef21ecff81233f258b5d547e6e272a3fade99bac958a40b6beeebd97c2",
            "trace_0354.json": "fa0fe89b6ad5149c08a5f68aff87ca5f4a1c584a1f815a0fc60e906373ab545d",
            "trace_0398.json": "36daad51c35c110a02ba4c0f832956b0352ca20935e9b4bfff1508b03f0c288b",
            "trace_0426.json": "f40e6259d6f2df4edc9bccad8d85a6ebd516fb69650f3dd7696687a1b7a8ffb5",
            "trace_0561.json": "99adf9ae9f7849661ec1e53f61fff0daf0e3789d0d0dca5ad11e69d5966622da",
            "trace_0570.json": "ff69383abe6875f873e3559374211b428a9b21d60a5466d76a6e02ace92cfb9d",
            "trace_0580.json": "b64582910015c05c088861226b9d0d9bdaa551d06e755333d17e7c298979fb38",
            "trace_0602.json": "6498d77ff2a9d7664699e735d20f7fc7230f6f1a39b81d30e1657aec5783a670",
            "trace_0623.json": "76a0e37067f295ebe8ed0716c82bc1214102e99a3eaa8b5f0439e31711de6ceb",
            "trace_0628.json": "e8d9f36e30f588d51e2a2ea750d969a573b026f0f49152254f47a68090ee68fc",
            "trace_0636.json": "f23bc67a2bad54a6d5bf8b097d04c3ffb895481db92be9e64179188b95f49ae1",
            "trace_0664.json": "2cf57cc28f114e08a46622b6d5b737fca976437cf8b79b60b9207d3363b12c2a",
            "trace_0670.json": "08201f097e010e9bda29e923f60e1f12b8811baf0fb51e973db26688e65431a4",
            "trace_0703.json": "808139529c15dc5e71f1e0a1557fd1539b634f4293d7a1d11a1f3b96ff202b7d",
            "trace_0707.json": "d5c622274e9c3998302acc95f6f3728833e460f01f9ae50b93c1b968359c8156",
            "trace_0711.json": "f5c42289018ae7a3145e236ead7b45d6819c6f2975cb9d735f51bebc975541d6",
            "trace_0713.json": "d68c662d5268ee40d38c99866ff1a15deda14f3326bd80fb48672a7f70e95732",
            "trace_0736.json": "c77a02a080a9249784a54001c1c738d9d9b8ac8753ac5e74aaf5791033bc1d61",
        },
    ),
}


def find_public_trace(name: str) -> PublicTrace:
    """The public trace of that name; ``TraceError`` lists the names there are."""
    if name in PUBLIC_TRACES:
        return PUBLIC_TRACES[name]
    raise TraceError.at(
        "public trace", found=repr(name), expected=f"one of {', '.join(PUBLIC_TRACES)}", fix="choose one"
    )


def fetch(trace: PublicTrace, folder: Path) -> Path:
    """Put a public trace's files into ``folder`` and return what ``load_trace`` reads: the file, or the
    folder of several. Files that are there with the right bytes are not fetched again.

    Every file appears whole and checked or not at all. ``FetchError``, one line, for anything else.
    """
    import pooch  # here, so that only who fetches needs it

    pooch.get_logger().setLevel("ERROR")
    registry = pooch.create(path=folder, base_url=trace.url, registry=dict(trace.files))
    # Whole files at once: they are small, and a stream that breaks off would leave its socket open.
    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_S, stream=False)
    paths = []
    for name in trace.files:
        try:
            paths.append(Path(registry.fetch(name, downloader=downloader)))
        except (OSError, ValueError) as error:  # of the network and the disk; of other bytes
            reason = " ".join(str(error).split())
            raise FetchError(
                f"{trace.url}{name}: found {reason}, expected the file with SHA-256 "
                f"{trace.files[name][:16]}...; check the network, or fetch it by hand into {folder}"
            ) from None
    return paths[0] if len(paths) == 1 else folder
