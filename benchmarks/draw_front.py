# SPDX-License-Identifier: Apache-2.0
"""Draws a study's front as one SVG file that loads nothing else: docs/front.svg.

python -m benchmarks.draw_front STORE [STUDY] > docs/front.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from search.records.front import Front
from search.records.trial import TrialPoint
from search.report.front_chart import CHART_CSS, front_chart
from search.storage.store import Store
from search.tracking.registry import load_front, load_trials


def main() -> None:
    """Reads the arguments and prints the drawing."""
    parser = argparse.ArgumentParser(description="Draw a study's front as an SVG file.")
    parser.add_argument("store", type=Path)
    parser.add_argument("study", nargs="?", help="default: the latest")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    front = load_front(store, arguments.study)
    print(front_svg(front, load_trials(store, front.study, front.objective)))


def front_svg(front: Front, trials: Sequence[TrialPoint] = ()) -> str:
    """The front as a complete SVG file."""
    style = CHART_CSS.read_text(encoding="utf-8")
    heading = f"{front.study}: students of {front.teacher}"
    return front_chart(front, trials, style=f"<style>{style}</style>", heading=heading)


if __name__ == "__main__":
    main()
