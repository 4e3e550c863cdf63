"""A page of all runs: what is in it, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import cut_short, tiny

from benchmarks.runs_page import chromium
from solo.config import ConfigError
from solo.pretrain import run
from solo.report import index
from solo.report.index import serve, write_index
from solo.runs.lease import claim
from solo.runs.saved import SavedRun

EVIL = "</script><b id=evil>x</b>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(tmp_path_factory.mktemp("one"))).folder


def made_up(trained: Path, folder: Path, seed: int, **facts: Any) -> Path:
    """The trained run with another seed, its accuracy in proportion."""
    folder.mkdir(parents=True)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "seed": seed, "name": EVIL}))
    lines = (trained / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val_acc1")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[column] = str(seed / 2) if row[column] else ""
    text = "\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n"
    (folder / "metrics.csv").write_text(text)
    known = json.loads((trained / "environment.json").read_text())
    facts = {**known, "recipe": "lejepa", "overrides": [f"seed={seed}", EVIL], **facts}
    (folder / "environment.json").write_text(json.dumps(facts))
    return folder


def evaluation(of: Path, folder: Path) -> None:
    """As main_linear.py leaves one."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"mode": "fast", "pretrained": str(of / "checkpoints/last.ckpt")})
    )
    (folder / "environment.json").write_text(json.dumps({"status": "finished", "model": "x"}))
    (folder / "results.json").write_text(json.dumps([{"model": "x", "acc1": {"mean": 71.25}}]))


def content(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'id="data">(.*?)</script>', page.read_text(), re.S)
    found: dict[str, Any] = json.loads(text)
    return found


def test_what_the_page_knows(trained: Path, tmp_path: Path) -> None:
    own = made_up(trained, tmp_path / "lejepa" / "a b#1", 60)
    made_up(trained, tmp_path / "lejepa/two", 61, status="running", error=EVIL)
    made_up(trained, tmp_path / "lejepa/three", 61)
    (own / "report.html").touch()
    evaluation(own, tmp_path / "linear/one")
    page = write_index(tmp_path)
    assert page == tmp_path / "index.html" and EVIL not in page.read_text()
    assert "http" not in re.sub(r"/\*! https://github\S+", "", page.read_text())
    found = content(page)
    runs = {run["name"]: run for run in found["runs"]}
    first, second, other = runs["a b#1"], runs["two"], runs["one"]
    assert first["report"] == "lejepa/a%20b%231/report.html" and second["report"] is None
    assert first["evaluations"] == "fast: acc1 71.25" and second["evaluations"] == ""
    assert first["changes"] == f"lejepa seed=60 {EVIL}" and second["status"] == "died"
    assert (first["epoch"], first["epochs"], other["epochs"]) == (2, 2, 0)
    assert second["error"] == EVIL and first["values"]["val_acc1"] == 30.0
    assert found["base"]["seed"] == 61 and first["config"]["seed"] == 60
    assert "seed" not in second["config"] and found["base"]["mode"] == "fast"
    assert "mode" not in other["config"] and first["config"]["mode"] is None
    for name, rows in SavedRun(own).metrics.items():
        if len(rows) > 1:
            grid, values = first["curves"]["of"][name]
            assert first["curves"]["grids"][grid][0] == rows[:, 0].tolist()
            assert values == pytest.approx(rows[:, 1].tolist(), rel=1e-4)
    assert found["metrics"]["val_acc1"] == {"label": "linear probe, backbone", "form": "percent"}


def test_long_curves_are_thinned_out(tmp_path: Path) -> None:
    lines = [f"{n // 100},{n},{'nan' if n == 0 else n}" for n in range(1000)]
    (tmp_path / "metrics.csv").write_text("epoch,step,a\n" + "\n".join(lines) + "\n10,1000")
    curves = index._curves(SavedRun(tmp_path), index.POINTS)
    ((steps, epochs),) = curves["grids"]
    assert len(steps) == index.POINTS and (steps[0], steps[-1], epochs[-1]) == (0, 999, 9.0)
    assert curves["of"]["a"][1][0] is None and curves["of"]["a"][1][-1] == 999


def test_speed_of_a_run(trained: Path) -> None:
    facts = SavedRun(trained).facts
    assert facts["images_an_epoch"] > 0
    (found,) = content(write_index(trained.parent))["runs"]
    seconds = 2 * facts["images_an_epoch"] / found["speed"]
    assert 0 < seconds < 600


def test_changes_are_what_runs_do_not_share(trained: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        words = ["++max_epochs=3", "++optimizer.lr=9", f"++optimizer.lr={seed}"]
        made_up(trained, tmp_path / f"{seed}", seed, overrides=[*words, "checkpoint.dir=x"])
    found = {run["name"]: run["changes"] for run in content(write_index(tmp_path))["runs"]}
    assert found == {"1": "optimizer.lr=1", "2": "optimizer.lr=2"}
    shutil.rmtree(tmp_path / "2")
    (one,) = content(write_index(tmp_path))["runs"]
    assert one["changes"] == "lejepa max_epochs=3 optimizer.lr=1"


def test_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run below"):
        write_index(tmp_path)


def test_it_is_served_and_kept_current(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(trained, tmp_path / "lejepa/one", 1)
    told, seen = [], []

    def sleep(_: float) -> None:
        url = told[0].split(",")[0]
        with urllib.request.urlopen(url, timeout=10) as answer:
            seen.append(answer.read().decode())
        for other in ("metrics.csv", "", "config.yaml"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url.replace("index.html", f"lejepa/one/{other}"), timeout=10)
        elsewhere = urllib.request.Request(url, headers={"Host": "elsewhere.org"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(elsewhere, timeout=10)
        if len(seen) == 2:
            raise KeyboardInterrupt
        made_up(trained, tmp_path / "lejepa/two", 2)

    monkeypatch.setattr(index.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        serve(tmp_path, 5, 0, told.append)
    assert told[0].startswith("http://127.0.0.1:")
    assert '"every":5' in seen[0] and '"two"' not in seen[0] and '"two"' in seen[1]


@pytest.fixture
def browser() -> Iterator[Any]:
    pytest.importorskip("selenium.webdriver")
    made = chromium(height=1500)
    if made is None:
        pytest.skip("needs chromium and chromium-driver")
    yield made
    made.quit()


def names(browser: Any) -> list[str]:
    return [row.get_attribute("data-run") for row in select(browser, "#runs tbody tr")]


def select(browser: Any, what: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", what)
    return found


@pytest.mark.slow
def test_a_browser_sorts_filters_overlays_and_compares(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Any
) -> None:
    """Thirty made-up runs, one that is finished, one that was cut short, one that is running."""
    for seed in range(30):
        made_up(trained, tmp_path / f"lejepa/made-{seed:02d}", seed)
    evil = made_up(trained, tmp_path / "lejepa/<i>evil<i>", 99, status="died", error=EVIL)
    done, live = tmp_path / "vicreg/done", tmp_path / "vicreg/live"
    shutil.copytree(trained, done)
    shutil.copytree(trained, live)
    facts = json.loads((live / "environment.json").read_text())
    (live / "environment.json").write_text(json.dumps({**facts, "status": "running"}))
    cut = cut_short(monkeypatch, tiny(tmp_path / "cut"), step=8)
    lease = claim(live)
    assert not isinstance(lease, str)
    try:
        page = write_index(tmp_path)
    finally:
        lease.release()
    browser.get(page.as_uri())
    assert not browser.get_log("browser") and len(names(browser)) == 34
    assert not select(browser, "#evil") and evil.name in names(browser)
    texts = {r.get_attribute("data-run"): r.text for r in select(browser, "#runs tbody tr")}
    assert "interrupted" in texts[cut.name] and "running" in texts["live"]
    assert "finished" in texts["done"] and EVIL in texts[evil.name]

    def head(name: str) -> Any:
        return select(browser, f"#runs th[data-name='{name}']")[0]

    head("val_acc1").click()
    assert names(browser)[0] == evil.name
    ordered = [name for name in names(browser) if name.startswith("made-")]
    assert ordered == sorted(ordered, reverse=True)
    head("val_acc1").click()
    assert names(browser)[0] == "made-00"
    field = select(browser, "#filter")[0]
    field.send_keys("SEED=1 lejepa")
    assert set(names(browser)) == {"made-01", *(f"made-{n}" for n in range(10, 20))}
    for row in (0, 1):
        select(browser, "#runs tbody tr")[row].click()
    legend = [item.text for item in select(browser, "#curves .u-series")]
    assert any("made-01" in item for item in legend) and any("made-10" in item for item in legend)
    rows = [row.text for row in select(browser, "#differences tbody tr")]
    assert rows == ["seed 1 10"]
    assert "11 runs have both" in select(browser, "#point")[0].text
    assert select(browser, "#scatter canvas") and not browser.get_log("browser")
    field.clear()
    field.send_keys("no such run")
    assert not names(browser)


@pytest.mark.slow
def test_a_choice_outlives_the_page_that_is_kept_current(
    trained: Path, tmp_path: Path, browser: Any
) -> None:
    for seed in range(3):
        made_up(trained, tmp_path / f"lejepa/made-{seed}", seed)
    page = write_index(tmp_path, every=1000)
    browser.get(page.as_uri())
    select(browser, "#runs tbody tr")[1].click()
    select(browser, "#filter")[0].send_keys("seed=1")
    browser.refresh()
    assert names(browser) == ["made-1"]
    assert "1 chosen" in select(browser, "#count")[0].text
