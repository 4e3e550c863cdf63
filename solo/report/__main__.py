"""``python -m solo.report <run folder, or one with runs in it>``."""

import argparse
from pathlib import Path

from solo.config import ConfigError

parser = argparse.ArgumentParser(
    prog="python -m solo.report",
    description="Write a run's report.html, or index.html of all runs below a folder",
)
parser.add_argument("folder", type=Path, help="<checkpoint.dir>/<method>/<name>-<id>, or above it")
parser.add_argument(
    "--watch",
    type=float,
    metavar="SECONDS",
    nargs="?",
    const=30.0,
    help="keep index.html current and show it on the loopback address",
)
parser.add_argument("--port", type=int, default=0, help="of that address; any free one by default")
options = parser.parse_args()
is_run = (options.folder / "config.yaml").is_file()
try:
    if not options.folder.is_dir():
        raise ConfigError(f"there is no folder {options.folder}")
    if is_run and options.watch:
        raise ConfigError(f"{options.folder} is one run; --watch is for a folder with runs in it")
    if is_run:
        from solo.report.run import write_report

        print(write_report(options.folder))
    elif options.watch:
        from solo.report.index import serve

        serve(options.folder, options.watch, options.port)
    else:
        from solo.report.index import write_index

        print(write_index(options.folder))
except ConfigError as problem:
    parser.error(str(problem))
except KeyboardInterrupt:
    pass
