"""Pretrain a representation: ``python main_pretrain.py [--config-path …] [key=value …]``."""

import sys

import hydra
from omegaconf import DictConfig

from solo.config import RunError
from solo.config.cli import arguments, prepare_hydra, recipes, told_to_the_user


@hydra.main(
    version_base="1.3",
    config_path=str(recipes() / "pretrain/digits"),
    config_name="rectified_lpjepa",
)
def main(cfg: DictConfig) -> float | None:
    """Compose the config and run it; what a sweeper optimises is ``checkpoint.monitor``."""
    from solo.pretrain import run  # after Hydra, so that --help answers at once

    with told_to_the_user():
        return run(cfg).objective


def start() -> None:
    """The command ``solo-pretrain``, and this file's own."""
    prepare_hydra()
    try:
        sys.argv[1:] = arguments(sys.argv[1:], recipes() / "pretrain/digits")
    except RunError as error:
        sys.exit(error.for_user())
    main()


if __name__ == "__main__":
    start()
