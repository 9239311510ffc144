"""CSV that a spreadsheet opens as the table it is, whatever somebody wrote into a name."""

import csv
import io

import pytest

from hfjax_demo.csv_text import csv_text


def cells(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize(
    "attack", ['=HYPERLINK("http://x")', "+1+1", "-1-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1+1", "－1"]
)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(attack):
    assert cells(csv_text([attack, "b"], [[attack, "x=1"]])) == [[f"'{attack}", "b"], [f"'{attack}", "x=1"]]


def test_numbers_stay_numbers_and_nothing_is_an_empty_cell():
    assert csv_text(["a"], [[-1], [2.5], [None], [0]]) == 'a\r\n-1\r\n2.5\r\n""\r\n0\r\n'


def test_shapes_are_written_as_shapes():
    text = csv_text(["shape", "spec"], [[(1, 3, 256, 64), [None, "model"]]])
    assert cells(text)[1] == ["(1, 3, 256, 64)", "(None, 'model')"]


def test_quotes_commas_and_lines_come_back():
    row = ['a "quoted" name', "one, two", "two\nlines", "é 中"]
    assert cells(csv_text(["a", "b", "c", "d"], [row]))[1] == row


def test_no_rows_is_the_headers_alone():
    assert csv_text(["a", "b"], []) == "a,b\r\n"
