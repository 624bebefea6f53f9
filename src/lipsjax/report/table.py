"""Tables as comma-separated values that a spreadsheet shows and does not execute."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def table_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Return a table as CSV.

    A text that a spreadsheet would take for a formula, as an arm called ``=1+1``, begins with an
    apostrophe; numbers stay as they are.

    Args:
      columns: names.
      rows: values, as many each.

    References:
      https://owasp.org/www-community/attacks/CSV_Injection

    Example:
      >>> table_text(["arm", "mean"], [["=1+1", -0.5], ["lips", ""]])
      "arm,mean\n'=1+1,-0.5\nlips,\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_harmless, columns))
    writer.writerows(map(_harmless, row) for row in rows)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
