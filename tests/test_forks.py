"""Forked processes are told what new ones are, and end as they do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from children import fork
from forks import Forked


def about_itself(*words: str) -> None:
    """Print what a process sees of itself."""
    import random
    import sys

    import torch

    seen = {"pid": os.getpid(), "words": words, "path": sys.path[:3], "here": os.getcwd()}
    seen |= {"threads": torch.get_num_threads(), "one": random.random(), "env": dict(os.environ)}
    print(json.dumps(seen))


def test_they_see_what_new_ones_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("ONLY_HERE", "ü")
    children = [fork(about_itself, "a b") for _ in range(2)]
    first, second = (json.loads(child.communicate(60)[0]) for child in children)
    assert [first["pid"], second["pid"]] == [child.pid for child in children]
    assert first["words"] == ["a b"] and first["env"]["ONLY_HERE"] == "ü"
    assert first["threads"] == 2 and first["one"] != second["one"]
    root = Path(__file__).resolve().parents[1]
    assert first["here"] == str(root)
    assert first["path"] == [str(root / "tests"), str(root), str(root / "tests")]


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("raise ValueError('odd')", 1, "ValueError: odd\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import atexit, sys; atexit.register(print, 'end', file=sys.stderr)", 0, "end\n"),
    ],
)
def test_how_they_end(code: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(f"print('begun', flush=True)\n{code}\n")
    child = Forked([str(tmp_path / "some.py")], dict(os.environ))
    out, errors = child.communicate(60)
    assert (child.returncode, out) == (status, "begun\n") and errors.endswith(said)


def test_each_has_its_own_folder_for_pictures(tmp_path: Path) -> None:
    """wandb makes one when it is imported, and removes it in the end."""
    (tmp_path / "some.py").write_text(
        "from pathlib import Path\n"
        "from wandb.sdk.data_types import _private\n"
        "print(Path(_private.MEDIA_TMP.name).is_dir(), _private.MEDIA_TMP.name)\n"
    )
    said = [Forked([str(tmp_path / "some.py")], dict(os.environ)).communicate(60) for _ in range(2)]
    (one, first), (two, second) = (out.split() for out, _ in said)
    assert one == two == "True" and first != second
    assert not Path(first).exists() and not Path(second).exists()


def test_what_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("import time; time.sleep(60)")
    child = Forked([str(tmp_path / "some.py")], dict(os.environ))
    with pytest.raises(subprocess.TimeoutExpired):
        child.communicate(0.1)
    assert child.communicate(10) and child.returncode == -9
