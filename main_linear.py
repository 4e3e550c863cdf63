"""Evaluate a frozen network: ``python main_linear.py [--config-name …] [key=value …]``."""

import sys

import hydra
from omegaconf import DictConfig

from solo.config import RunError
from solo.config.cli import arguments, prepare_hydra, recipes, told_to_the_user


@hydra.main(version_base="1.3", config_path=str(recipes() / "linear"), config_name="few_shot")
def main(cfg: DictConfig) -> None:
    """Compose the config and run it."""
    from solo.linear import run  # after Hydra, so that --help answers at once

    with told_to_the_user():
        run(cfg)


def start() -> None:
    """The command ``solo-linear``, and this file's own."""
    prepare_hydra()
    try:
        sys.argv[1:] = arguments(sys.argv[1:], recipes() / "linear")
    except RunError as error:
        sys.exit(error.for_user())
    main()


if __name__ == "__main__":
    start()
