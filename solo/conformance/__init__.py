"""Whether a loss is what it says on several processes, in half precision, at odd inputs.

``python -m solo.conformance <method | module:callable>`` prints a line for each question.
"""

from solo.conformance.examination import Examination, Line
from solo.conformance.lines import LINES, measured
from solo.conformance.pool import Pool
from solo.conformance.subject import Subject

__all__ = ["LINES", "Examination", "Line", "Pool", "Subject", "measured"]
