"""How Hydra behaves here: no files of its own, and every override is checked by the schema."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.conf import HydraConf, RunDir, SweepDir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode

from solo.config.resolve import unknown_name
from solo.config.section import RunError


def prepare_hydra() -> None:
    """Keep Hydra from writing outside the run's folder; call before ``hydra.main`` runs.

    A multirun keeps its ``multirun.yaml`` under ``<checkpoint.dir>/sweeps/``.
    """
    sweeps = "${oc.select:checkpoint.dir,trained_models}/sweeps/${now:%Y-%m-%d_%H-%M-%S}"
    node = HydraConf(
        output_subdir=None,
        run=RunDir(dir="."),
        sweep=SweepDir(dir=sweeps, subdir="${hydra.job.num}"),
    )
    node.job.chdir = False
    node.defaults = [
        {"job_logging": "stdout"} if isinstance(entry, dict) and "job_logging" in entry else entry
        for entry in node.defaults
    ]
    ConfigStore.instance().store(group="hydra", name="config", node=node, provider="solo")


@contextmanager
def told_to_the_user() -> Iterator[None]:
    """What a user can mend ends the program with its message and status 1.

    In a multirun it is told, and goes to Hydra, which goes on with the other runs and fails at
    the end.
    """
    try:
        yield
    except RunError as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            sys.exit(error.for_user())
        print(error.for_user(), file=sys.stderr)
        raise CompactHydraException(error.for_user()) from None  # without a traceback


def recipes() -> Path:
    """Where the recipes are: ``scripts/`` beside the package, or inside it once installed."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "scripts"
    return beside if (beside / "pretrain").is_dir() else package / "recipes"


def arguments(argv: list[str], folder: Path | None = None) -> list[str]:
    """The command line as Hydra wants it.

    ``key=value`` becomes ``++key=value``: Hydra refuses to override a key that the recipe leaves
    at its default. With ``++`` every key can be given, and the schema refuses the ones that do not
    exist, naming the nearest. ``--config-path`` is looked for in the working directory, then among
    the recipes (``scripts/pretrain/cifar`` and ``pretrain/cifar`` alike).

    Args:
        argv: the command line's words.
        folder: of the program's own recipes.

    Raises:
        ConfigError: for a folder of recipes, or a recipe in it, that is not there.
    """
    plain = re.compile(r"^(?!hydra[./])[A-Za-z_][\w.]*=")
    path = re.compile(r"^(--config-path|-cp)=(.*)$")
    made: list[str] = []
    given: set[str] = set()
    for word in argv:
        if plain.match(word):  # a shell makes several words of one with {1..3}
            key = word.partition("=")[0]
            if key in given:
                print(f"{key} is given more than once: the last value counts", file=sys.stderr)
            given.add(key)
        if made and made[-1] in ("--config-path", "-cp"):
            made.append(_config_path(word))
        elif found := path.match(word):
            made.append(f"{found[1]}={_config_path(found[2])}")
        else:
            made.append(f"++{word}" if plain.match(word) else word)
    place = _option(made, "--config-path", "-cp") or folder
    _look_for_recipe(place, _option(made, "--config-name", "-cn"))
    return made


def _option(words: list[str], *names: str) -> str | None:
    """The value of an option of Hydra's, as the next word or after an equals sign."""
    for word, following in zip(words, [*words[1:], ""]):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else following
    return None


def _look_for_recipe(folder: str | Path | None, name: str | None) -> None:
    """Raises: ConfigError, where the folder has no recipe of that name."""
    if (
        name is None or folder is None or "://" in str(folder)
    ):  # the last: a package, Hydra's affair
        return
    plain = name.removesuffix(".yaml")
    if not (Path(folder) / f"{plain}.yaml").is_file():
        there = [file.stem for file in Path(folder).glob("*.yaml")]
        raise unknown_name(f"recipe in {folder}", plain, there or ["(none)"])


def _config_path(given: str) -> str:
    """Absolute."""
    inside = given.removeprefix("scripts/")
    for folder in (Path(given).expanduser(), recipes() / inside):
        if folder.is_dir():
            return str(folder.absolute())
    if "://" in given:
        return given
    files = [*recipes().glob("pretrain/*/*.yaml"), *recipes().glob("linear/*.yaml")]
    known = {f"scripts/{file.parent.relative_to(recipes())}" for file in files}
    raise unknown_name("folder of recipes", given, known)
