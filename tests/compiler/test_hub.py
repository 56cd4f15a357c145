"""Models come from a local path, or from the hub into the shared cache: only what is needed, and only once."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import stub_hub

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.progress import Progress
from mistralrs_onnx.compiler.sources.locate import locate
from mistralrs_onnx.compiler.sources.token_source import TokenSource, parse_token_source
from mistralrs_onnx.compiler.sources.wanted import ADAPTER, CHECKPOINT, TOKENIZER, select, shard_names, wanted_gguf

NAME = "acme/tiny"
SECRET = "hf_secret"
NO_TOKEN = TokenSource("none")
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
CHUNK = 64 << 10
SHARD = bytes(range(256)) * 2048  # eight chunks
REPOSITORY = {
    ".gitattributes": b"*.bin",
    "README.md": b"# tiny",
    "config.json": b"{}",
    "generation_config.json": b"{   }",
    "tokenizer.json": b"{ }",
    "tokenizer_config.json": b"{  }",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": INDEX.encode(),
    "model-00001-of-00002.safetensors": SHARD,
    "model-00002-of-00002.safetensors": b"second",
    "model-00003-of-00002.safetensors": b"left over",
    "consolidated.safetensors": b"again",
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"other",
    "original/params.json": b"{}",
    "gguf/tiny-Q4_0-00001-of-00002.gguf": b"GGUF1",
    "gguf/tiny-Q4_0-00002-of-00002.gguf": b"GGUF2",
    "tiny-Q8_0.gguf": b"GGUF",
}
NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with stub_hub.StubHub(NAME, dict(REPOSITORY)).serving() as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.endpoint)
        yield stub


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fetch(**changes: object) -> Path:
    return locate(NAME, **{"wanted": CHECKPOINT, "token_source": NO_TOKEN} | changes)


def test_a_local_path_comes_first_and_the_hub_library_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, mistralrs_onnx.compiler.sources.locate as l, mistralrs_onnx.compiler.sources.wanted as w\n"
        f"print(l.locate({str(tmp_path)!r}, wanted=w.CHECKPOINT)); print(*sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[0] == str(tmp_path)
    assert "huggingface_hub" not in output.split()


def test_the_hub_library_is_kept_from_telling_who_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    code = (
        "from mistralrs_onnx.compiler.sources.library import hub_library\n"
        "print(hub_library().constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "True"


def test_a_local_file_is_a_model_too(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    assert locate(str(tmp_path / "x.gguf"), wanted=CHECKPOINT) == tmp_path / "x.gguf"


def test_a_mistyped_path_is_not_taken_for_a_repository(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(CompileError, match=r"no file or folder .*model.ggu .*did you mean .*model\.gguf\?"):
        locate(str(tmp_path / "model.ggu"), wanted=CHECKPOINT)
    with pytest.raises(CompileError, match="does not name a repository"):
        locate("model.gguf", wanted=CHECKPOINT)


def test_only_what_a_checkpoint_needs_is_fetched(hub: ModuleType, cache: Path) -> None:
    folder = fetch()
    assert set(hub.fetched()) == NEEDED == names(folder)
    assert folder.is_relative_to(cache)
    assert all((folder / name).read_bytes() == REPOSITORY[name] for name in NEEDED)


def test_a_second_time_only_the_list_of_files_is_asked_for(hub: ModuleType) -> None:
    folder = fetch()
    hub.seen.clear()
    assert fetch() == folder
    assert [seen.path for seen in hub.seen] == [f"/api/models/{NAME}/revision/main"]


@pytest.mark.parametrize("name", ["tiny-Q4_0-00001-of-00002.gguf", "tiny-Q4_0-00002-of-00002.gguf"])
def test_a_part_of_a_split_gguf_brings_its_siblings_and_nothing_else(hub: ModuleType, name: str) -> None:
    folder = fetch(wanted=wanted_gguf(f"gguf/{name}"))
    assert names(folder) == {f"gguf/tiny-Q4_0-0000{i}-of-00002.gguf" for i in (1, 2)}
    assert "config.json" not in hub.fetched()


def test_an_adapter_is_two_files(hub: ModuleType) -> None:
    hub.files |= {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora", "adapter_model.bin": b"pickle"}
    assert names(fetch(wanted=ADAPTER)) == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_tokenizer_comes_without_weights(hub: ModuleType) -> None:
    weights = {"model.safetensors.index.json"} | {name for name in NEEDED if name.endswith(".safetensors")}
    assert names(fetch(wanted=TOKENIZER)) == NEEDED - weights


def test_progress_counts_the_bytes_that_are_missing(hub: ModuleType, small_chunks: None) -> None:
    seen: list[Progress] = []
    fetch(report=seen.append)
    assert {progress.stage for progress in seen} == {"download"}
    last = [p for p in seen if p.total == seen[-1].total]
    assert [p.done for p in last] == sorted(p.done for p in last)
    assert len(last) > len(SHARD) // CHUNK
    assert last[-1].done == last[-1].total == sum(len(REPOSITORY[n]) for n in NEEDED) - len(INDEX)


def test_nothing_is_drawn_on_the_terminal(hub: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    fetch()
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_fetch_goes_on_where_it_stopped(hub: ModuleType, small_chunks: None) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done > 4 * CHUNK:
            raise KeyboardInterrupt

    name = "model-00001-of-00002.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fetch(report=interrupt)
    hub.seen.clear()
    folder = fetch()
    ranges = [seen.range for seen in hub.seen if seen.path.endswith(name) and seen.server == "store" and seen.range]
    assert len(ranges) == 1
    start = int(ranges[0].removeprefix("bytes=").removesuffix("-"))
    assert start >= 3 * CHUNK
    assert hub.sent(name) == len(SHARD) - start
    assert (folder / name).read_bytes() == SHARD


def test_a_connection_that_breaks_is_taken_up_again(hub: ModuleType, small_chunks: None) -> None:
    hub.cut = 3 * CHUNK
    folder = fetch()
    name = "model-00001-of-00002.safetensors"
    assert hub.sent(name) == len(SHARD)  # no byte twice
    assert (folder / name).read_bytes() == SHARD


def test_files_too_large_for_http_are_left_to_the_library(
    hub: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mistralrs_onnx.compiler.sources.hub.LARGEST_BY_HTTP", len(SHARD) - 1)
    folder = fetch()
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == SHARD
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors"])
def test_bytes_that_are_not_what_was_announced_are_thrown_away(hub: ModuleType, name: str) -> None:
    hub.damaged = {name}
    with pytest.raises(CompileError, match=f"what arrived of {name}"):
        fetch()
    hub.damaged = set()
    assert (fetch() / name).read_bytes() == REPOSITORY[name]


def test_the_token_goes_to_the_endpoint_and_nowhere_else(hub: ModuleType) -> None:
    hub.token = SECRET
    fetch(token_source=TokenSource("literal", SECRET))
    assert {seen.token for seen in hub.seen if seen.server == "hub"} == {SECRET}
    assert {seen.token for seen in hub.seen if seen.server == "store"} == {None}
    assert any(seen.server == "store" for seen in hub.seen)


def test_no_token_is_sent_when_none_is_wanted(hub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    fetch(token_source=NO_TOKEN)
    assert {seen.token for seen in hub.seen} == {None}


def test_the_cache_of_the_hub_gives_its_token(hub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.token = SECRET
    assert names(fetch(token_source=TokenSource("cache"))) == NEEDED


def test_a_gated_repository_says_where_its_licence_is(hub: ModuleType) -> None:
    hub.gated, hub.token = True, SECRET
    with pytest.raises(CompileError, match=f"accept its licence at {hub.endpoint}/{NAME}.*token source is none"):
        fetch()
    with pytest.raises(CompileError, match=r"sent: the token of literal:\.\.\.") as caught:
        fetch(token_source=TokenSource("literal", "hf_wrong"))
    assert "hf_wrong" not in str(caught.value)


def test_an_unknown_repository_says_where_it_was_looked_for(hub: ModuleType) -> None:
    with pytest.raises(CompileError, match=f"no local path acme/tony, and {hub.endpoint} has no repository acme/tony"):
        locate("acme/tony", wanted=CHECKPOINT, token_source=NO_TOKEN)


def test_an_unknown_revision_is_named(hub: ModuleType) -> None:
    with pytest.raises(CompileError, match="no revision v9"):
        fetch(revision="v9")


def test_a_missing_file_lists_those_of_its_kind_and_the_nearest(hub: ModuleType) -> None:
    with pytest.raises(CompileError, match=r"no file tiny-Q8\.gguf\. Did you mean tiny-Q8_0\.gguf\?") as caught:
        fetch(wanted=wanted_gguf("tiny-Q8.gguf"))
    assert "gguf/tiny-Q4_0-00001-of-00002.gguf" in str(caught.value)
    assert "config.json" not in str(caught.value)


def test_after_one_download_everything_is_there_offline(hub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    hub.seen.clear()
    assert fetch(offline=True) == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch() == folder
    assert not hub.seen


def test_offline_an_unknown_model_says_what_to_fetch(cache: Path) -> None:
    with pytest.raises(CompileError, match=r"not in .*hub: fetch it once without --offline .*config\.json"):
        fetch(offline=True)


def test_offline_half_a_download_is_not_taken_for_a_model(hub: ModuleType) -> None:
    fetch(wanted=TOKENIZER)
    with pytest.raises(CompileError, match="is not enough"):
        fetch(offline=True)


def test_without_a_connection_the_last_download_serves(
    hub: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fetch()
    hub.status = 503
    with caplog.at_level(logging.WARNING):
        assert fetch() == folder
    assert "answered with status 503" in caplog.text


def test_an_endpoint_that_does_not_answer_is_named(cache: Path) -> None:
    with pytest.raises(CompileError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        fetch()


def test_a_hub_in_trouble_is_named(hub: ModuleType) -> None:
    hub.status = 500
    with pytest.raises(CompileError, match="answered with status 500: try again later"):
        fetch()


def test_what_is_no_hub_is_named(hub: ModuleType) -> None:
    hub.status = 200
    with pytest.raises(CompileError, match="does not answer as a hub does: check HF_ENDPOINT"):
        fetch()


def test_an_endpoint_is_an_address(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.acme")
    with pytest.raises(CompileError, match="HF_ENDPOINT must begin with https"):
        fetch()


@pytest.mark.parametrize("name", ["acme/tiny/x", "", "~nobody/x/y", "x" * 300, "acme/tiny.", "a--b"])
def test_what_is_no_name_is_refused(hub: ModuleType, name: str) -> None:
    with pytest.raises(CompileError, match=r"not name a repository|no name of a repository"):
        locate(name, wanted=CHECKPOINT, token_source=NO_TOKEN)
    assert not hub.seen


def test_a_full_disk_is_seen_before_anything_is_fetched(hub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mistralrs_onnx.compiler.sources.hub.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1000, 0, 1000)
    )
    with pytest.raises(CompileError, match=r"are to be fetched into .*make room"):
        fetch()
    assert not hub.fetched()


def test_a_disk_that_fills_up_is_told_from_the_network(hub: ModuleType) -> None:
    def fill(progress: Progress) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CompileError, match=r"disk of .* is full"):
        fetch(report=fill)


@pytest.mark.parametrize("name", ["../evil.gguf", "/etc/evil.gguf", "a\\..\\evil.gguf", "c:evil.gguf"])
def test_names_that_lead_out_of_the_repository_are_refused(name: str) -> None:
    with pytest.raises(CompileError, match="leads out of the repository"):
        select([name], wanted_gguf(name), NAME, lambda name: b"")
    with pytest.raises(CompileError, match="leads out of the repository"):
        shard_names(json.dumps({"weight_map": {"a": name}}).encode())


def test_revisions_do_not_lead_out_of_the_cache(cache: Path) -> None:
    with pytest.raises(CompileError, match="leads out"):
        fetch(revision="../../main", offline=True)


@pytest.mark.parametrize("index", [b"", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": 3}}', b"[" * 99999])
def test_a_damaged_index_is_refused(index: bytes) -> None:
    with pytest.raises(CompileError, match="is damaged"):
        shard_names(index)


def chosen(*there: str) -> list[str]:
    return select(there, CHECKPOINT, NAME, lambda name: INDEX.encode())


def test_what_counts_as_weights() -> None:
    assert chosen("config.json", "a.safetensors", "b.safetensors")[1:] == ["a.safetensors", "b.safetensors"]
    assert chosen("config.json", "model.safetensors", "model.fp16.safetensors")[1:] == ["model.safetensors"]
    with pytest.raises(CompileError, match="which acme/tiny does not have: it is incomplete"):
        chosen("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors")
    with pytest.raises(CompileError, match="only as pickles"):
        chosen("config.json", "pytorch_model.bin")
    with pytest.raises(CompileError, match=r"holds GGUF files, no safetensors: name one of x\.gguf"):
        chosen("config.json", "x.gguf")
    with pytest.raises(CompileError, match=r"no safetensors|no \*\.safetensors"):
        chosen("config.json")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("cache", TokenSource("cache")),
        ("none", TokenSource("none")),
        ("literal:a:b", TokenSource("literal", "a:b")),
        ("env:TOKEN", TokenSource("env", "TOKEN")),
        ("path:~/token", TokenSource("path", "~/token")),
    ],
)
def test_the_grammar_of_token_sources(text: str, source: TokenSource) -> None:
    assert parse_token_source(text) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cahce", "Did you mean cache"),
        ("envy:HOME", "Did you mean env"),
        (SECRET, "is given as literal:VALUE"),
        ("env", "lacks what follows the colon"),
        ("path:", "lacks what follows the colon"),
        ("none:x", "takes no value"),
        ("", "must be literal:VALUE"),
    ],
)
def test_what_is_no_token_source_is_refused(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        parse_token_source(text)
    assert SECRET not in str(caught.value)


def test_tokens_are_read_late_and_from_where_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, file = parse_token_source("env:MY_TOKEN"), parse_token_source(f"path:{tmp_path / 'token'}")
    with pytest.raises(CompileError, match="no environment variable MY_TOKEN is set"):
        source.read()
    with pytest.raises(CompileError, match="token, which cannot be read: No such file"):
        file.read()
    monkeypatch.setenv("MY_TOKEN", SECRET)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    assert source.read() == file.read() == SECRET
    assert TokenSource("none").read() is None


@pytest.mark.parametrize("token", ["a b", "a\nb", "ä", " "])
def test_what_cannot_be_a_token_is_refused_unseen(token: str) -> None:
    with pytest.raises(CompileError) as caught:
        TokenSource("literal", token).read()
    assert token.strip() == "" or token not in str(caught.value)


def test_a_token_is_in_no_text() -> None:
    source = parse_token_source(f"literal:{SECRET}")
    assert SECRET not in f"{source} {source!r}"
