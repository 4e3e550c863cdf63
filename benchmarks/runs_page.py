"""The page of many runs: seconds to write it, and how smoothly a browser scrolls it.

python -m benchmarks.runs_page <a finished run's folder> [--runs 1000]

Runs are copies of one, with other seeds. Scrolling is measured where there are Chromium, its driver
and the package selenium: half the table's height at a time, and the time from frame to frame.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FILES = ("config.yaml", "environment.json", "metrics.csv")
FRAMES = """
const done = arguments[arguments.length - 1], times = [];
const rows = document.getElementById("scroll");
let last = null;
function frame(now) {
  if (last !== null) times.push(now - last);
  last = now;
  rows.scrollBy(0, rows.clientHeight / 2);
  if (times.length < 120) requestAnimationFrame(frame); else done([times, rows.scrollTop]);
}
requestAnimationFrame(frame);
"""


def copies(run: Path, root: Path, count: int) -> None:
    """So many runs below a folder."""
    for number in range(count):
        folder = root / "runs" / f"run-{number:04d}"
        folder.mkdir(parents=True)
        for name in FILES:
            shutil.copy(run / name, folder / name)
        config = folder / "config.yaml"
        text = re.sub(r"(?m)^seed: .*$", f"seed: {number}", config.read_text())
        config.write_text(text)


def writing(root: Path) -> float:
    """Seconds of the command, imports included."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "solo.report", str(root)], check=True)
    return time.perf_counter() - began


def chromium(height: int) -> Any:
    """A browser without a window, 1,500 pixels wide; None where it or its driver is not there."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        return None
    from selenium import webdriver  # who has no browser need not have it

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", f"--window-size=1500,{height}"):
        options.add_argument(word)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def scrolling(page: Path) -> tuple[float, list[float], float] | None:
    """Seconds to load, milliseconds a frame, pixels scrolled; None without a browser."""
    if (browser := chromium(height=1000)) is None:
        return None
    try:
        began = time.perf_counter()
        browser.get(page.as_uri())
        loaded = time.perf_counter() - began
        times, moved = browser.execute_async_script(FRAMES)
    finally:
        browser.quit()
    return loaded, times, moved


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    missing = [name for name in FILES if not (options.run / name).is_file()]
    if missing:
        parser.error(f"{options.run} is no run's folder: it has no {missing[0]}")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        copies(options.run, root, options.runs)
        seconds = writing(root)
        page = root / "index.html"
        size = page.stat().st_size / 2**20
        print(f"{options.runs} runs: {seconds:.1f} s to write, {size:.1f} MiB")
        if (seen := scrolling(page)) is None:
            print("no Chromium here: scrolling is not measured")
            return
        loaded, times, moved = seen
        half, most = np.quantile(times, 0.5), max(times)
        print(
            f"loaded in {loaded:.1f} s; {moved:.0f} pixels scrolled, a frame each {half:.0f} ms "
            f"(median), {most:.0f} ms (the slowest of {len(times)})"
        )


if __name__ == "__main__":
    main()
