# SPDX-License-Identifier: Apache-2.0
"""Claims about the page that lists the keys of a study file."""

from __future__ import annotations

from pathlib import Path

from spaces.study.reference import reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "study-file.md"


def test_the_page_is_what_the_code_reads() -> None:
    assert PAGE.read_text() == reference(), "python -m spaces.study.reference > docs/study-file.md"
