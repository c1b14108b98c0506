"""What became of a page, as it stands in the results of a part."""

from typing import Any

from cirilla_cli.data.parts import Form
from cirilla_cli.data.rows import Document
from cirilla_cli.scrape.page import Reject

Row = Document | Reject
Result = Row | None
"""None where a page gives neither, as redirects do."""


def _dump(row: Result) -> Any:
    match row:
        case Document():
            return {"document": row.model_dump(mode="json", exclude_none=True)}
        case Reject():
            return {"reject": row.model_dump(mode="json", exclude_none=True)}
    return None


def _load(data: Any) -> Result:
    return None if data is None else _load_row(data)


def _load_row(data: Any) -> Row:
    ((kind, fields),) = data.items()
    return Document.model_validate(fields) if kind == "document" else Reject.model_validate(fields)


RESULT: Form[Result] = Form(_dump, _load)
ROW: Form[Row] = Form(_dump, _load_row)
