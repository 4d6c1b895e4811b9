"""Columns and rows of tables, as `DataTable` draws them and `table_html` writes them.

Owns their keys. Start at `column`.
"""

from typing import Any


def column(
    key: str, label: str, tip: str = "", *, numeric: bool = False, wraps: bool = False
) -> dict[str, Any]:
    """A column with this heading; `tip` explains it, `numeric` aligns it right, `wraps` lets its texts wrap."""
    given = {"tip": tip, "numeric": numeric, "wraps": wraps}
    return {"key": key, "label": label} | {name: value for name, value in given.items() if value}


def row(number: int, *cells: Any) -> dict[str, Any]:
    """A row; `number` is what choosing it selects."""
    return {"id": number, "cells": list(cells)}
