"""Texts in CSV files that a spreadsheet may open."""

import pandas as pd


def spreadsheet_safe(table: pd.DataFrame) -> pd.DataFrame:
    """The same with an apostrophe before texts that a spreadsheet would run as a formula; `as_written` takes
    it off again."""
    return _texts(table, r"^(?=[=+\-@\t\r'])", "'")


def as_written(table: pd.DataFrame) -> pd.DataFrame:
    """What `spreadsheet_safe` was given."""
    return _texts(table, r"^'(?=[=+\-@\t\r'])", "")


def _texts(table: pd.DataFrame, pattern: str, replacement: str) -> pd.DataFrame:
    def replaced(column: "pd.Series[str]") -> "pd.Series[str]":
        texts = column.map(lambda value: isinstance(value, str))
        changed: pd.Series[str] = column.where(
            ~texts, column.where(texts, "").astype(str).str.replace(pattern, replacement, regex=True)
        )
        return changed

    names = [
        name for name in table if table[name].dtype == object or isinstance(table[name].dtype, pd.StringDtype)
    ]
    return table.assign(**{str(name): replaced(table[name].astype(object)) for name in names})
