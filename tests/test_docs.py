"""What README, docs/ and CONTRIBUTING say: commands run, code runs, links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import hydra
import pytest
import torch
from helpers import ROOT
from omegaconf import OmegaConf

from solo.config import check
from solo.config.cli import arguments
from solo.config.evaluation import LinearConfig
from solo.methods import resolve_config

PAGES = [
    *(ROOT / name for name in ("README.md", "MINIMAL.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.S | re.M)


def commands() -> Iterator[list[str]]:
    """Every command line that calls Python, in words; each once."""
    seen = set()
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.sub(r"#.*", "", line).split("&&"):
                    words = tuple(shlex.split(re.sub(r"<[^>]*>", "PLACE", part)))
                    if words[:1] in (("python",), ("python3",)) and words not in seen:
                        seen.add(words)
                        yield list(words[1:])


COMMANDS = list(commands())
RUNS = [words for words in COMMANDS if words[0].startswith("main_")]
OTHERS = [words for words in COMMANDS if not words[0].startswith("main_")]
OWN = [words for words in RUNS if "scripts/pretrain/custom" in words]


def taken(words: list[str]) -> tuple[dict[str, Any], bool]:
    """A run's config as Hydra composes it, of a sweep the first; and whether it is digits'."""
    given = arguments([word for word in words[1:] if word not in ("-m",)])
    linear = words[0] == "main_linear.py"
    folder = ROOT / ("scripts/linear" if linear else "scripts/pretrain/digits")
    name = "few_shot" if linear else "rectified_lpjepa"
    overrides: list[str] = []
    rest = iter(given)
    for word in rest:
        key, _, value = word.partition("=")
        if key in ("--config-path", "--config-name"):
            value = value or next(rest)
            folder, name = (Path(value), name) if key == "--config-path" else (folder, value)
        elif word.startswith("~"):
            overrides.append(word)
        elif not word.startswith("hydra"):
            plain = value.startswith("[")
            interval = re.search(r"interval\(([^,]*),", value)  # of a sweeper
            first = interval[1] if interval else value.split(",")[0]
            overrides.append(word if plain else f"{key}={first}")
    with hydra.initialize_config_dir(str(folder.absolute()), version_base="1.3"):
        tree = OmegaConf.to_container(hydra.compose(name.removesuffix(".yaml"), overrides))
    assert isinstance(tree, dict)
    return {str(k): v for k, v in tree.items()}, folder.name == "digits"


@pytest.mark.parametrize("words", RUNS, ids=lambda words: " ".join(words)[-70:])
def test_every_run_that_is_named_can_be_run(words: list[str]) -> None:
    """Its keys exist and agree with each other."""
    tree, _ = taken(words)
    if words[0] == "main_linear.py":
        check(tree, LinearConfig, {})
    else:
        resolve_config(tree)


DIGITS = [w for w in RUNS if w[0] == "main_pretrain.py"]
DIGITS = [w for w in DIGITS if taken(w)[1] and not any("submitit" in word for word in w)]


@pytest.mark.slow
@pytest.mark.parametrize("words", DIGITS, ids=lambda words: " ".join(words)[-70:])
def test_every_digits_run_that_is_named(
    words: list[str], tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    """One step each, by the command line as it stands."""
    small = ["max_epochs=1", "limit_train_batches=1", "limit_val_batches=1"]
    small += ["scheduler.warmup_epochs=0", f"checkpoint.dir={tmp_path}", "data.num_workers=0"]
    if "hydra/sweeper=optuna" in words:
        words = [*words, "hydra.sweeper.n_trials=3"]
    command(*words, *small)
    count = max([word.count(",") + 1 for word in words if "=" in word] or [1])
    assert len(list(tmp_path.glob("*/*/report.html"))) >= count


@pytest.mark.slow
@pytest.mark.parametrize("words", OWN, ids=lambda words: " ".join(words)[-70:])
def test_own_images_as_the_pages_say(
    words: list[str],
    image_tree: Path,
    tmp_path: Path,
    command: Callable[..., CompletedProcess[str]],
) -> None:
    words = [word.replace("PLACE", str(image_tree)) for word in words]
    small = ["max_epochs=1", "limit_train_batches=1", "optimizer.batch_size=8", "accelerator=cpu"]
    done = command(*words, *small, "devices=1", f"checkpoint.dir={tmp_path}/runs")
    assert "resnet18" in done.stdout and list((tmp_path / "runs").glob("*/*/report.html"))


def test_other_commands_exist() -> None:
    """Scripts and modules; that they work is tested beside them."""
    known = {
        "pytest",
        "benchmarks",
        "benchmarks.communication",
        "benchmarks.memory",
        "benchmarks.profile_step",
        "benchmarks.rehearse",
        "benchmarks.runs_page",
        "solo.conformance",
        "solo.report",
        "solo.runs",
        "venv",
    }
    for words in OTHERS:
        if words[0] == "-m":
            assert words[1] in known, words
        else:
            assert (ROOT / words[0]).is_file(), words


def test_code_on_the_pages() -> None:
    for page in (ROOT / "README.md", ROOT / "docs/statistics.md"):
        scope: dict[str, Any] = {"z": torch.randn(2, 32, 16).relu(), "epoch": 0, "batch": 0}
        (code,) = blocks(page, "python")
        exec(code, scope)
        assert scope["loss"].isfinite()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_page_of_keys_is_current() -> None:
    """And every key has a meaning."""
    script = runpy.run_path(str(ROOT / "scripts/utils/keys_page.py"))
    page = script["page"]()
    assert (ROOT / "docs/keys.md").read_text() == page, "run scripts/utils/keys_page.py"
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 200
    assert not [row for row in rows if row.rstrip(" |").count(" | ") < 2 and "**" not in row]
    assert all(re.search(r"[a-zA-Z]", row.rpartition("|")[0].rpartition("|")[2]) for row in rows)


def test_the_recipes_figures_are_those_of_the_readme() -> None:
    head = (ROOT / "scripts/pretrain/digits/rectified_lpjepa.yaml").read_text().split("\n\n")[0]
    readme = (ROOT / "README.md").read_text()
    figures = re.findall(r"\d+ min \d+ s|\d\d\.\d+ %|0\.\d+", head)
    assert len(figures) == 6
    assert [figure for figure in figures if figure not in readme] == []
