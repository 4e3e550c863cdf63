"""The package as pip installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, rows, tiny, words_of

from solo.config import ConfigError
from solo.config.cli import arguments, recipes

PARTS = ("solo", "scripts", "main_pretrain.py", "main_linear.py", "setup.py", "pyproject.toml")
PARTS += ("requirements.txt", "README.md", "LICENSE")


def test_where_recipes_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working directory first, then among those that came with the package."""
    assert recipes() == ROOT / "scripts"
    monkeypatch.chdir(tmp_path)
    cifar = str(ROOT / "scripts/pretrain/cifar")
    assert arguments(["--config-path", "scripts/pretrain/cifar/"]) == ["--config-path", cifar]
    assert arguments(["-cp=pretrain/cifar", "x=1"]) == [f"-cp={cifar}", "++x=1"]
    (tmp_path / "pretrain/cifar").mkdir(parents=True)
    own = str(tmp_path / "pretrain/cifar")
    assert arguments(["--config-path=pretrain/cifar"]) == [f"--config-path={own}"]
    assert arguments(["--config-path", str(tmp_path)]) == ["--config-path", str(tmp_path)]
    assert arguments(["-cp", "pkg://a.b", "-cn=c"]) == ["-cp", "pkg://a.b", "-cn=c"]
    for words, said in (
        (
            ["--config-path", "scripts/pretrain/cifr"],
            "'scripts/pretrain/cifr'; did you mean .*cifar",
        ),
        (["--config-name=lejpa"], "pretrain/digits 'lejpa'; did you mean lejepa or"),
        (["-cp", "linear", "-cn", "finetun.yaml"], "linear 'finetun'; did you mean finetune"),
    ):
        with pytest.raises(ConfigError, match=said):
            arguments(words, ROOT / "scripts/pretrain/digits")
    for words in (["-cn", "lejepa"], ["-cn", "lejepa.yaml"], ["--config-name", "base/common"]):
        assert arguments(words, ROOT / "scripts/pretrain/digits") == words


@pytest.mark.slow
def test_the_commands_of_the_installed_package(tmp_path: Path) -> None:
    """From a folder that knows nothing of the sources, two processes included."""
    source, target, work = (tmp_path / name for name in ("source", "target", "work"))
    source.mkdir()
    work.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target]
    subprocess.run([*install, source], check=True)
    shutil.rmtree(source)
    env = {**os.environ, "PYTHONPATH": str(target)}
    options = tiny(Path("runs"), max_epochs=1, limit_train_batches=2, devices=2)
    for words in (
        ["solo-pretrain", *words_of(options)],
        ["solo-pretrain", "--config-path", "pretrain/digits", "--config-name", "lejepa",
         "checkpoint.dir=other", "limit_train_batches=1", "max_epochs=1",
         "scheduler.warmup_epochs=0"],
        ["solo-linear", "checkpoint.dir=runs", "few_shot.draws=1"],
    ):  # fmt: skip
        command = [sys.executable, target / "bin" / words[0], *words[1:]]
        done = subprocess.run(
            command, cwd=work, env=env, capture_output=True, text=True, check=False
        )
        assert not done.returncode, done.stderr
    (run,) = (work / "runs/rectified_lpjepa").iterdir()
    assert rows(run) and list((work / "runs/linear").iterdir())
    assert '"git": null' in (run / "environment.json").read_text()
    assert (target / "solo/py.typed").is_file()
