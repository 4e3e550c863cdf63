"""Evaluate a frozen network: ``python main_linear.py [--config-name …] [key=value …]``."""

import sys

import hydra
from omegaconf import DictConfig

from solo.config import RunError
from solo.config.cli import force_overrides, prepare_hydra


@hydra.main(version_base="1.3", config_path="scripts/linear", config_name="few_shot")
def main(cfg: DictConfig) -> None:
    """Compose the config and run it."""
    from solo.linear import run  # after Hydra, so that --help answers at once

    try:
        run(cfg)
    except RunError as error:
        sys.exit(error.for_user())


if __name__ == "__main__":
    prepare_hydra()
    sys.argv[1:] = force_overrides(sys.argv[1:])
    main()
