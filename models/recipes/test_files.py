"""What is written whole or not at all, and by one process at a time. Needs no data, no PyTorch."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import data  # noqa: E402
import files  # noqa: E402
import run_files  # noqa: E402

HOLDING = """
import sys
from pathlib import Path
import files
with files.{what}(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
LARGE = 1 << 20  # bytes


@contextmanager
def full_disk() -> Iterator[None]:
    """No file takes half a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 2, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def holder(what: str, folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that has the folder until it is told a line."""
    command = [sys.executable, "-c", HOLDING.format(what=what), str(folder)]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


def test_a_full_disk_leaves_what_was_there_and_says_so_in_one_line(tmp_path):
    one, two = tmp_path / "one.onnx", tmp_path / "two.json"
    files.write({one: b"old", two: b"old"})
    for contents in ({one: bytes(LARGE), two: b"new"}, {one: b"new", two: bytes(LARGE)}):
        large = max(contents, key=lambda path: len(contents[path]))
        with full_disk(), pytest.raises(SystemExit, match=f"^{large}: cannot be written [(][A-Z][^\n]*[)]$"):
            files.write(contents)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"one.onnx": b"old", "two.json": b"old"}
    with full_disk(), pytest.raises(SystemExit, match="cache.npy: cannot be written"):
        data.keep(tmp_path / "cache.npy", lambda: bytes(LARGE))
    assert not list(tmp_path.glob("cache*"))


def test_a_cache_that_another_process_makes_is_waited_for(tmp_path):
    """Found when the other is done, and not made again."""
    with holder("alone", tmp_path) as other:
        code = "import sys, data, pathlib; print(data.keep(pathlib.Path(sys.argv[1]), lambda: 1 / 0), flush=True)"
        command = [sys.executable, "-c", code, str(tmp_path / "one.npy")]
        with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout.readline() == f"waiting for another process at work in {tmp_path}\n"
            data.np.save(tmp_path / "one.npy", data.np.arange(3))
            other.communicate("\n")
            assert waiting.communicate()[0] == "[0 1 2]\n" and waiting.returncode == 0


def test_a_run_is_of_one_process(tmp_path):
    run = tmp_path / "mine"
    with holder("held", run) as other:
        (run / "setup.json").write_text("of the other")
        for _ in range(2):
            with pytest.raises(SystemExit, match="^mine is being trained by another process"):
                run_files.begin(run, {})
        assert (run / "setup.json").read_text() == "of the other"
        other.communicate("\n")
    for _ in range(2):  # it may look again at what is its own
        with files.held(run):
            run_files.begin(run, {})
