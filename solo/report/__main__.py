"""``python -m solo.report <run folder>``."""

import argparse
from pathlib import Path

from solo.config import ConfigError
from solo.report import write_report

parser = argparse.ArgumentParser(prog="python -m solo.report", description="Write a report.html")
parser.add_argument("folder", type=Path, help="<checkpoint.dir>/<method>/<name>-<id>")
try:
    print(write_report(parser.parse_args().folder))
except ConfigError as problem:
    parser.error(str(problem))
