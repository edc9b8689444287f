"""The page of failures in the documentation."""

from __future__ import annotations

from pathlib import Path

from quiesce.diagnosis.catalogue import catalogue
from quiesce.diagnosis.reference import as_markdown

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "failures.md"


def test_the_page_says_what_the_catalogue_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown(catalogue()), (
        "run: quiesce explain --reference > docs/reference/failures.md"
    )
