"""Examine a loss: ``python -m solo.conformance <method | module:callable | file.py:callable>``."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import textwrap
import time
from collections.abc import Sequence

from solo.config.resolve import unknown_name
from solo.conformance import LINES, Examination, Line, Pool, Subject, measured

_MARKS = {"ok": "ok", "FAIL": "FAIL", "note": "-", "n/a": "-"}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m solo.conformance",
        description="Examine a loss on real processes: a line for each question, with its figure.",
        epilog="Exit status: 0 if no line failed, 1 if one did, 2 for bad arguments.",
    )
    parser.add_argument("loss", nargs="?", help="a method, module:callable or file.py:callable")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of a method's config")
    parser.add_argument("--make", help='"lambda f, features: …", makes the loss of the callable')
    parser.add_argument(
        "--call", help='"lambda f, z, step, labels: …", calls it with z [views, N, D]'
    )
    parser.add_argument("--samples", type=int, default=64, help="N (default 64)")
    parser.add_argument("--features", type=int, default=32, help="D (default 32)")
    parser.add_argument("--views", type=int, help="default: what the call asks for")
    parser.add_argument("--slices", metavar="NAME", help="the parameter that counts directions")
    parser.add_argument(
        "--ordered", type=_words, default=[], metavar="samples,views", help="whose order matters"
    )
    parser.add_argument("--even", action="store_true", help="it is made for equal shares only")
    parser.add_argument(
        "--cut", action="store_true", help="a part is cut off from the gradient on purpose"
    )
    parser.add_argument("--lines", type=_words, help="some lines only, with commas between")
    parser.add_argument(
        "--timeout", type=float, default=60, help="seconds a trial may take (default 60)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--explain", action="store_true", help="say what each line means")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for kind, given, known in (
        ("line", options.lines or (), LINES),
        ("order", options.ordered, ("samples", "views")),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(str(unknown_name(kind, unknown[0], known)))
    for name, least in (("samples", 8), ("features", 2), ("views", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} is {value}; give {least} or more")
    if options.timeout <= 0:
        parser.error(f"--timeout is {options.timeout:g}; give seconds")
    if options.lines == []:
        parser.error(f"--lines names none; there are {', '.join(LINES)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the lines; 0 only where none failed, 2 for what cannot be examined."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    if options.loss is None:
        if not options.explain:
            parser.error("name a method or module:callable")
        for name in options.lines or LINES:
            print(name)
            _explain(name)
        return 0
    subject = Subject(
        options.loss,
        options.make,
        options.call,
        tuple(options.overrides),
        options.samples,
        options.features,
        options.views,
        tuple(options.ordered),
        options.even,
        options.cut,
        options.slices,
    )
    began = time.perf_counter()
    lines = []
    with Pool(options.timeout) as pool:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the loss's own words
                examination = Examination(subject, pool)
        except ValueError as error:
            parser.exit(2, f"{parser.prog}: error: {error}\n")
        if not options.json:
            print(f"{options.loss}: {examination.about}", flush=True)
        for line in measured(examination, options.lines):
            lines.append(line)
            if not options.json:
                _print(line, options.explain)
    failed = [line.name for line in lines if line.verdict == "FAIL"]
    seconds = time.perf_counter() - began
    if options.json:
        content = {
            "loss": options.loss,
            "seconds": round(seconds, 1),
            "failed": failed,
            "lines": [line._asdict() | {"size": _finite(line.size)} for line in lines],
        }
        print(json.dumps(content, indent=1))
    else:
        said = f"failed: {', '.join(failed)}" if failed else "nothing failed"
        hint = "" if options.explain or not failed else "; --explain says what they mean"
        print(f"{said} ({seconds:.0f} s){hint}")
    return 1 if failed else 0


def _finite(size: float | None) -> float | None:
    """JSON has no infinity."""
    return size if size is not None and math.isfinite(size) else None


def _print(line: Line, explain: bool) -> None:
    detail = textwrap.shorten(line.detail, 160, placeholder=" …")
    print(
        f"  {line.name:17} {_MARKS[line.verdict]:5} {line.figure:22} {detail}".rstrip(), flush=True
    )
    if explain:
        _explain(line.name, failed=line.verdict == "FAIL")


def _explain(name: str, failed: bool = True) -> None:
    kind = LINES[name]
    text = f"{kind.means} Usual cause of a failure: {kind.cause}" if failed else kind.means
    print(textwrap.fill(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6))


if __name__ == "__main__":
    sys.exit(main())
