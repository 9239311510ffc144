"""Tables as CSV text, safe to open in a spreadsheet. Knows nothing of what the tables are of.

A spreadsheet runs a cell that begins with =, +, - or @ as a formula, and model names and config values may be anyone's: such
text gets a leading apostrophe, which spreadsheets do not show. Numbers stay numbers.
"""

import csv
import io
from collections.abc import Iterable, Sequence

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Source: OWASP, "CSV Injection"; full-width forms of the same characters are taken for them by some spreadsheets."""
FULL_WIDTH_STARTS = ("＝", "＋", "－", "＠")


def csv_text(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV (RFC 4180: comma, CRLF, quotes where needed), one line a row.

    Args:
        headers: of the columns.
        rows: as many plain values each; None is an empty cell, a list or tuple is written like a shape, "(1, 3, 64)".
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([_cell(header) for header in headers])
    for row in rows:
        assert len(row) == len(headers), "a row has a cell for each header"
        writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return str(tuple(value))
    if isinstance(value, int | float):
        return value
    written = str(value)
    # White space in front does not stop a spreadsheet.
    is_formula = written.lstrip(" ").startswith(FORMULA_STARTS + FULL_WIDTH_STARTS)
    return f"'{written}" if is_formula else written
