"""The verb `report`: what it writes, where it does not, and what it says."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import jsonschema
import pytest

import tracer.render
from tests.unit.report_recordings import record, story
from tracer.cli.main import main
from tracer.errors import NumatraceError
from tracer.report.deliver import Drop

PICTURES = ["flows.png", "heatmap.png", "totals.png", "touch.png"]
SCHEMA = json.loads((Path(tracer.render.__file__).parent / "report.schema.json").read_text())
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(record(tmp_path_factory.mktemp("recording") / "x.parquet", story()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_page_and_pictures(recording: str, tmp_path: Path, capfd: Capture) -> None:
    page, pictures = tmp_path / "report.html", tmp_path / "pictures"
    assert (
        main(["report", recording, "-o", str(page), "--png", str(pictures), "--title", "Night of the <long> query"])
        == 0
    )
    assert sorted(os.listdir(tmp_path)) == ["pictures", "report.html"]
    assert sorted(os.listdir(pictures)) == PICTURES
    assert [mode(path) for path in (page, pictures, pictures / "touch.png")] == [0o600, 0o700, 0o600]
    assert "<h1><bdi>Night of the &lt;long&gt; query</bdi></h1>" in page.read_text()
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0].startswith(f"numatrace: wrote {page} (")
    assert len(told.err.splitlines()) == 5


def test_pictures_alone_into_a_directory_that_is_there(recording: str, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["report", recording, "--png", f"{tmp_path}/", "-q"]) == 0
    assert sorted(os.listdir(tmp_path)) == sorted([*PICTURES, "notes.txt"])
    assert capfd.readouterr() == ("", "")


def test_json_says_what_was_written(recording: str, tmp_path: Path, capfd: Capture) -> None:
    page = tmp_path / os.fsdecode(b"r\xff.html")
    assert main(["report", recording, "-o", str(page), "--from", "+10s", "--to", "-9s", "--format", "json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    line = json.loads(out)
    jsonschema.validate(line, SCHEMA)
    assert line == {
        "type": "report",
        "version": 1,
        "from": "2025-03-01T12:00:10.250000Z",
        "to": "2025-03-01T12:00:50.250000Z",
        "samples": 41,
        "files": [{"path": f"{tmp_path}/r\\xff.html", "bytes": page.stat().st_size}],
    }
    assert "2025-03-01T12:00:10Z to 2025-03-01T12:00:50Z (40 s)" in page.read_text()


def test_nothing_is_replaced_without_being_told_to(recording: str, tmp_path: Path, capfd: Capture) -> None:
    page, picture = tmp_path / "r.html", tmp_path / "p" / "flows.png"
    picture.parent.mkdir()
    for path in (page, picture):
        path.write_text("mine")
    assert main(["report", recording, "-o", str(page)]) == 1
    assert main(["report", recording, "--png", str(picture.parent)]) == 1
    assert capfd.readouterr().err.splitlines() == [
        f"numatrace: {path} exists; give another name, or -f to replace it" for path in (page, picture)
    ]
    assert [path.read_text() for path in (page, picture)] == ["mine", "mine"]
    assert main(["report", recording, "-o", str(page), "--png", str(picture.parent), "-f", "-q"]) == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("force", [[], ["-f"]])
def test_nothing_goes_through_a_link(recording: str, tmp_path: Path, capfd: Capture, force: list[str]) -> None:
    victim, directory = tmp_path / "victim", tmp_path / "directory"
    victim.write_text("mine")
    directory.mkdir()
    for name, goal in (("r.html", victim), ("dangling.html", tmp_path / "none"), ("pictures", directory)):
        (tmp_path / name).symlink_to(goal)
    (directory / "flows.png").symlink_to(victim)
    for words in (["-o", "r.html"], ["-o", "dangling.html"], ["--png", "pictures"], ["--png", "directory"]):
        assert main(["report", recording, words[0], str(tmp_path / words[1]), *force]) == 1
        assert "is a symbolic link" in capfd.readouterr().err
    assert victim.read_text() == "mine"
    assert os.listdir(directory) == ["flows.png"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    drop, name = Drop.for_file(str(tmp_path / "r.html"), replace=False)
    with drop:
        (tmp_path / name).write_text("another's")
        with pytest.raises(NumatraceError, match="exists"):
            drop.put(name, b"ours")
    assert (tmp_path / name).read_text() == "another's"
    assert os.listdir(tmp_path) == [name]


def test_a_link_that_appears_meanwhile_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    drop, name = Drop.for_file(str(tmp_path / "r.html"), replace=True)
    with drop:
        (tmp_path / name).symlink_to(tmp_path / "victim")
        with pytest.raises(NumatraceError, match="symbolic link"):
            drop.put(name, b"ours")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tracer.report.deliver.write_at", full)
    drop, name = Drop.for_file(str(tmp_path / "r.html"), replace=False)
    with drop, pytest.raises(NumatraceError, match=r"cannot write .*r\.html: No space left on device"):
        drop.put(name, b"ours")
    assert os.listdir(tmp_path) == []


def test_files_belong_to_who_called_sudo(recording: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "2345")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.fchown", lambda fd, uid, gid: given.append((uid, gid)))
    assert main(["report", recording, "-o", str(tmp_path / "r.html"), "--png", str(tmp_path / "p"), "-q"]) == 0
    # The page, four pictures, and the directory that was made for them.
    assert given == [(1234, 2345)] * 6


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "there is nothing to make; give -o FILE.html for a page, --png DIR for pictures, or both"),
        (["-o", ""], 2, "-o is empty; give a file"),
        (["-o", "{here}"], 2, "{here} is a directory; give a file"),
        (["-o", "{here}/none/r.html"], 1, "there is no directory {here}/none; make it first, with mkdir -p"),
        (["-o", "{here}/r\0.html"], 1, "embedded null byte; give another name"),
        (["-o", "{here}/" + "n" * 300], 1, "File name too long; choose a directory that is yours"),
        (["--png", "{here}/a/b"], 1, "there is no directory {here}/a; make it first, with mkdir -p"),
        (["--png", "{recording}"], 1, "{recording} is no directory; give another name"),
        (["--png", "/dev/null"], 1, "/dev/null is no directory; give another name"),
        (["-o", "/dev/null"], 1, "/dev/null is there and no file; give another name"),
        (["-f", "-o", "{recording}"], 2, "{recording} is the recording itself; give another name"),
        (["-o", "r", "--from", "+9s", "--to", "+3s"], 2, "--from lies after --to; exchange them"),
        (["-o", "r", "--from", "+9h"], 1, "+9h is not within the recording"),
        (["another", "-o", "r"], 2, "2 recordings were given; give one; each gets a report of its own"),
    ],
)
def test_mistakes_are_one_line(
    recording: str, tmp_path: Path, capfd: Capture, words: list[str], code: int, message: str
) -> None:
    places = {"here": str(tmp_path), "recording": recording}
    assert main(["report", recording, *(word.format(**places) for word in words)]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert message.format(**places) in err
    assert err.startswith("numatrace: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_what_is_no_recording(tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "x.parquet").write_text("PAR1 and no more")
    for name in ("none.parquet", "x.parquet"):
        assert main(["report", str(tmp_path / name), "-o", str(tmp_path / "r.html")]) == 1
        assert capfd.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_without_the_library_it_says_what_to_install(
    recording: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "tracer.report.page", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    assert main(["report", recording, "-o", str(tmp_path / "r.html")]) == 1
    assert capfd.readouterr().err.endswith("; pip install matplotlib jinja2\n")
