"""Each line of the conformance command fails for a loss made wrong in just that way."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, alive, below

from solo.conformance import LINES, Examination, Line, Pool, Subject, measured
from solo.conformance.__main__ import main
from solo.methods import METHODS

LOSSES = Path(__file__).with_name("losses.py")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(timeout=60) as made:
        yield made


def examined(pool: Pool, loss: str, *names: str, **options: Any) -> dict[str, Line]:
    subject = Subject(f"{LOSSES}:{loss}", **options)
    return {line.name: line for line in measured(Examination(subject, pool), names or None)}


# The line that must fail, the loss, and lines that must not.
WRONG = [
    ("value", "local_variance", ("built first",)),
    ("gradient", "sum_not_mean", ("value", "order of samples")),
    ("gradient", "hidden", ("value", "derivative")),
    ("parameters", "Scale", ("gradient", "derivative")),
    ("buffers", "Running", ("value", "gradient")),
    ("buffers", "MaskedRunning", ("value", "gradient")),
    ("buffers", "Teacher", ("value", "gradient")),
    ("buffers", "Filled", ("value", "gradient")),
    ("value", "Later", ("built first",)),
    ("parameters", "OneUses", ("value", "gradient")),
    ("built first", "Unseen", ("value", "gradient")),
    ("uneven shares", "mean_of_means", ("value", "gradient")),
    ("accumulation", "Keeps", ("derivative",)),
    ("accumulation", "Overwrites", ("derivative", "value")),
    ("bfloat16", "breaks_under_autocast", ("derivative",)),
    ("bfloat16", "off_for_half_alone", ("derivative",)),
    ("bfloat16", "in_its_input", ("derivative", "value")),
    ("bfloat16", "under_autocast", ("derivative", "value")),
    ("float16", "overflows", ("bfloat16",)),
    ("float16", "half_across", ("bfloat16", "value")),
    ("same draws", "own_directions", ("value", "gradient", "fresh draws")),
    ("same draws", "directions_by_rank", ("built first",)),
    ("same draws", "DrawsAndKeeps", ("buffers",)),
    ("same draws", "OwnAttribute", ("value", "gradient")),
    ("fresh draws", "Fixed", ("repeated step",)),
    ("fresh draws", "FixedOnSchedule", ("same draws",)),
    ("fresh draws", "fixed_beside_fresh", ("same draws", "repeated step")),
    ("repeated step", "Stale", ("value", "gradient")),
    ("repeated step", "KeptAside", ("value", "gradient")),
    ("repeated step", "Counted", ("same draws", "fresh draws")),
    ("order of samples", "in_order", ("derivative",)),
    ("order of views", "anchored", ("value", "gradient", "order of samples")),
    ("order of views", "gradient_of_middle", ("value", "gradient")),
    ("order of views", "weighed_views", ("order of samples",)),
    ("order of views", "drawn_anchored", ("order of samples",)),
    ("derivative", "wrong_backward", ("value", "gradient")),
    ("derivative", "partly_detached", ("value", "gradient")),
    ("zero rows", "KeepsNaN", ("large values",)),
    ("zero rows", "by_norm", ("equal rows",)),
    ("equal rows", "by_deviation", ("derivative",)),
    ("one sample", "unbiased", ("equal rows",)),
    ("one sample", "needs_two", ("equal rows",)),
    ("one sample", "Misspelt", ("equal rows",)),
    ("large values", "exponential", ("derivative",)),
    ("time", "slow", ("memory",)),
    ("memory", "cubic", ("large values",)),
    ("collectives", "uneven_calls", ("value",)),
    ("collectives", "other_collectives", ("derivative",)),
]


RAISING = ("Keeps", "needs_two", "Misspelt", "breaks_under_autocast")


def test_every_line_is_shown_to_fail() -> None:
    assert {line for line, _, _ in WRONG} == LINES.keys()


@pytest.mark.parametrize(("line", "loss", "right"), WRONG)
def test_a_line_fails_for_its_fault(
    pool: Pool, line: str, loss: str, right: tuple[str, ...]
) -> None:
    lines = examined(pool, loss, line, *right, features=96 if line == "time" else 32)
    assert lines[line].verdict == "FAIL", lines
    assert (lines[line].figure == "raised") == (loss in RAISING), lines
    assert all(lines[name].verdict == "ok" for name in right), lines


def test_a_right_loss_passes_every_line(pool: Pool) -> None:
    lines = examined(pool, "variance", samples=22, features=5)
    assert {line.verdict for line in lines.values()} <= {"ok", "n/a", "note"}, lines
    assert lines["uneven shares"].verdict == lines["value"].verdict == "ok"
    assert lines["accumulation"].verdict == "note"
    assert examined(pool, "Saved", "repeated step", "same draws")["repeated step"].verdict == "ok"


def test_what_does_not_apply_is_not_judged(pool: Pool) -> None:
    lines = examined(pool, "variance", "parameters", "same draws", "order of views")
    assert {line.verdict for line in lines.values()} == {"n/a"}
    even = examined(pool, "mean_of_means", "uneven shares", even=True)
    refused = examined(pool, "only_even", "uneven shares")["uneven shares"]
    assert even["uneven shares"].verdict == "n/a"
    assert refused.verdict == "note" and "must be equal" in refused.detail
    cut = examined(pool, "anchored", "derivative", cut=True)
    assert cut["derivative"].verdict == "n/a"
    ordered = examined(pool, "in_order", "order of samples", ordered=("samples",))
    assert ordered["order of samples"].verdict == "n/a"


@pytest.mark.parametrize(
    ("line", "loss"),
    [
        ("same draws", "broadcast_directions"),
        ("order of views", "drawn_by_view"),
        ("one sample", "says_it_needs_two"),
        ("derivative", "half_inside"),
        ("derivative", "penalty"),
        ("value", "by_environment"),
        ("value", "in_place"),
        ("value", "cancels"),
        ("order of samples", "cancels"),
        ("value", "by_modules_generator"),
        ("collectives", "ring"),
        ("fresh draws", "by_modules_generator"),
        ("buffers", "Queue"),
    ],
)
def test_what_only_looks_like_a_fault_is_none(pool: Pool, line: str, loss: str) -> None:
    assert examined(pool, loss, line)[line].verdict == "ok"


@pytest.mark.parametrize("loss", ["weighed_by_step", "KeptAside", "Queue"])
def test_a_schedule_or_a_state_is_no_draw(pool: Pool, loss: str) -> None:
    lines = examined(pool, loss, "same draws", "fresh draws")
    assert {line.verdict for line in lines.values()} == {"n/a"}


def test_a_parameter_that_no_gradient_reaches_is_named(pool: Pool) -> None:
    line = examined(pool, "Forgotten", "parameters")["parameters"]
    assert line.verdict == "note" and "temperature" in line.detail


def test_a_call_that_takes_one_view_has_one(pool: Pool) -> None:
    call = "lambda f, z, labels: f(z[0], labels)"
    line = examined(pool, "labelled", "order of views", call=call)["order of views"]
    assert line.verdict == "n/a" and line.detail == "it takes one view"


def test_what_is_remembered_of_the_first_batch(pool: Pool) -> None:
    call = "lambda f, z, labels: f(z[0], labels)"
    lines = examined(pool, "StalePairs", "value", "repeated step", call=call)
    assert [line.verdict for line in lines.values()] == ["ok", "FAIL"], lines


def test_who_refuses_late_refuses(pool: Pool) -> None:
    line = examined(pool, "refuses_late", "uneven shares")["uneven shares"]
    assert line.verdict == "note" and "must be equal" in line.detail


def test_a_call_leaves_nothing_for_the_next_loss(pool: Pool) -> None:
    examined(pool, "changes_defaults", "derivative")
    assert examined(pool, "of_defaults", "derivative")["derivative"].verdict == "ok"


def test_what_does_not_end_is_not_passed_over() -> None:
    with Pool(timeout=4) as short:
        line = examined(short, "slow_when_large", "memory")["memory"]
        assert line.verdict == "FAIL" and "did not end within 4 s" in line.detail
        assert examined(short, "slow_when_large", "zero rows")["zero rows"].verdict == "ok"


def test_files_of_one_name_are_two(tmp_path: Path, pool: Pool) -> None:
    for folder, text in (("a", "z.square().mean()"), ("b", "z.var(0).mean()")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "loss.py").write_text(f"def f(z): return {text}")
    found = [
        next(measured(Examination(Subject(f"{tmp_path}/{folder}/loss.py:f"), pool), ["one sample"]))
        for folder in "ab"
    ]
    assert [line.verdict for line in found] == ["ok", "FAIL"]


@pytest.mark.slow
def test_an_instance_is_the_same_in_every_trial(pool: Pool) -> None:
    """Nothing of one call is left for the next: two processes are right, and again."""
    for _ in range(2):
        lines = examined(pool, "scale", "gradient", "derivative")
        assert {line.verdict for line in lines.values()} == {"ok"}, lines


def test_the_rest_goes_on_where_a_line_cannot_be_measured(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: Examination) -> Line:
        raise KeyError("seen")

    monkeypatch.setitem(LINES, "value", LINES["value"]._replace(measure=breaks))
    lines = examined(pool, "OneHasMore", "value", "buffers", "gradient")
    assert lines["value"].figure == "raised" and "KeyError" in lines["value"].detail
    assert lines["buffers"].verdict == "FAIL" and lines["gradient"].verdict == "ok"


def test_processes_end_with_the_command() -> None:
    """However it ends: its children are found by the word that only their command line has."""
    words = [sys.executable, "-m", "solo.conformance", f"{LOSSES}:sleeps", "--lines", "value"]
    command = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    session = below(command.pid, wanted=3)
    command.terminate()
    command.wait()
    end = time.monotonic() + 20
    while any(alive(pid) for pid in session) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in session if alive(pid)]


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text("def f(z) return z")
    with pytest.raises(SystemExit) as end:
        main([f"{tmp_path}/broken.py:f"])
    assert end.value.code == 2 and "cannot be imported: SyntaxError" in capsys.readouterr().err


def test_a_loss_for_float32_alone_is_called_under_autocast(pool: Pool) -> None:
    line = examined(pool, "Picky", "bfloat16")["bfloat16"]
    assert "not under autocast it raises" in line.detail and line.figure != "raised"
    line = examined(pool, "only_float32", "derivative")["derivative"]
    assert line.verdict == "ok" and "float32" in line.detail
    assert examined(pool, "only_float32_wrong", "derivative")["derivative"].verdict == "FAIL"


def test_how_a_loss_is_called(pool: Pool) -> None:
    two = examined(pool, "pair", "value", "order of views")
    told = examined(pool, "stacked", "value", call="lambda f, z: f(z)['loss']")
    assert two["order of views"].verdict == told["value"].verdict == "ok"
    by_class = examined(pool, "labelled", "gradient", call="lambda f, z, labels: f(z[0], labels)")
    assert by_class["gradient"].verdict == "ok"
    assert examined(pool, "stepped", "fresh draws")["fresh draws"].verdict == "ok"
    assert examined(pool, "without_gradient", "gradient")["gradient"].verdict == "FAIL"
    made = examined(pool, "Counted", "repeated step", make="lambda f, features: f(saved=True)")
    assert made["repeated step"].verdict == "ok"
    about = Examination(Subject(f"{LOSSES}:pair"), pool).about
    assert about.endswith("standard normal; called with z[0], z[1]")
    assert "called" not in Examination(Subject(f"{LOSSES}:variance"), pool).about
    with pytest.raises(ValueError, match="takes 2 arguments, but there are 3 views"):
        examined(pool, "pair", views=3)


@pytest.mark.slow
def test_who_waits_or_dies_is_reported_and_the_rest_goes_on() -> None:
    with Pool(timeout=8) as pool:
        lines = examined(pool, "waits_for_ever", "value", "derivative")
        assert (lines["value"].verdict, lines["derivative"].verdict) == ("FAIL", "ok"), lines
        lines = examined(pool, "dies", "value", "derivative")
        assert "died" in lines["value"].detail and lines["derivative"].verdict == "ok"


@pytest.mark.slow
def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        sys.executable,
        "-m",
        "solo.conformance",
        f"{LOSSES}:pair",
        "--lines",
        "value",
        "--json",
    ]
    good = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=True)
    content = json.loads(good.stdout)
    assert [line["name"] for line in content["lines"]] == ["value"] and not content["failed"]
    assert 0 <= content["lines"][0]["size"] < 1e-5
    assert main([f"{LOSSES}:unbiased", "--lines", "one sample", "--explain"]) == 1
    said = capsys.readouterr().out
    assert "failed: one sample" in said and LINES["one sample"].cause in said


def test_lines_are_explained_without_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in LINES)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lejepas"], "did you mean lejepa"),
        (["torch.nn.functional:mse_los"], "did you mean mse_loss"),
        (["no_such_module:loss"], "no_such_module cannot be imported"),
        ([f"{LOSSES}:stacked"], "returned dict, not a scalar"),
        ([f"{LOSSES}:complains"], "cannot be called with z [64, 32]: ValueError: no such thing"),
        ([f"{LOSSES}:pair", "--samples", "3"], "--samples is 3; give 8"),
        ([f"{LOSSES}:pair", "--call", "lambda f z"], "no Python that can be run"),
        ([f"{LOSSES}:pair", "method_kwargs.lamb=1"], "is an override of a method's config"),
        ([f"{LOSSES}:pair", "--call", "lambda f, z, y: f(z, y)"], "asks for y"),
        (["lejepa", "method_kwargs.lamp=1"], "lamb"),
        (["lejepa", "--lines", "value, gradients"], "'gradients'; did you mean gradient"),
        (["lejepa", "--ordered", "view"], "did you mean views"),
        (["lejepa", "--timeout", "0"], "--timeout is 0"),
        ([str(LOSSES)], "say which loss of it"),
        ([f"{LOSSES}:number"], "returned a number, which has no gradient"),
        ([f"{LOSSES}:pair", "--slices", "nope"], "--slices is for classes"),
        ([f"{LOSSES}:pair", "--call", "lambda z: z"], "is no function like 'lambda f, z"),
        ([f"{LOSSES}:Counted", "--slices", "slices"], "has no parameter slices"),
    ],
)
def test_bad_arguments_are_told_before_any_work(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()
    assert end.value.code == 2 and not said.out
    assert told in " ".join(said.err.split())


PAGE = ROOT / "docs/conformance.md"


def page_script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/utils/conformance_page.py"))


def test_the_page_has_every_method_and_line() -> None:
    with PAGE.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = {(row["loss"], row["line"]) for row in rows if row["package"] == "ours"}
    assert ours == {(method, line) for method in METHODS for line in LINES}
    assert not [row for row in rows if row["package"] == "ours" and row["verdict"] == "FAIL"]
    script = page_script()
    assert script["table"](rows) in PAGE.read_text()
    assert {(row["package"], row["loss"]) for row in rows} == {e.key for e in script["entries"]()}


@pytest.mark.slow
def test_the_page_is_written_by_its_script(tmp_path: Path) -> None:
    """One row anew, the others kept."""
    page = Path(shutil.copy(PAGE, tmp_path))
    table = Path(shutil.copy(PAGE.with_suffix(".csv"), tmp_path))
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(row for row in rows if ",simclr," not in row))
    words = [sys.executable, "scripts/utils/conformance_page.py", "simclr", "--page", str(page)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    assert len(table.read_text().splitlines()) == len(
        PAGE.with_suffix(".csv").read_text().splitlines()
    )
    assert "| simclr | " in page.read_text() and "| lejepa | " in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_our_methods_pass(method: str, pool: Pool) -> None:
    lines = list(measured(Examination(Subject(method), pool)))
    assert not [line for line in lines if line.verdict == "FAIL"]
    assert sum(line.verdict == "ok" for line in lines) >= 12
