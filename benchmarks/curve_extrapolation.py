# SPDX-License-Identifier: Apache-2.0
"""How well a brief trial predicts a long one, on students of every family that were distilled ten times longer.

For each rung the rank correlation of fidelities there with those of the long run, within each family and across all of
them; the same for what the search extrapolates (`search.graduation.extrapolation`), by which it chooses who is
distilled for longer; and which members of the long runs' front the brief front lacks. The students are those of
`python -m benchmarks.student_curves families`.

    python -m benchmarks.curve_extrapolation [--table benchmarks/curves/families*.jsonl] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from search.graduation.extrapolation import fidelity_after
from search.optimiser.pareto import non_dominated
from search.records.objective import COSINE

Row = dict[str, Any]
LEAST_STUDENTS = 4  # of a family, below which a correlation says nothing


def read(files: Sequence[Path]) -> list[Row]:
    """Students with brief and long curves."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if "long" in line and "failed" not in line]


def predictions(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Predictions of each student's long result, by name of the predictor; higher is better."""
    n_rungs = len(rows[0]["rungs"])
    found = {f"rung {i + 1}": [row["rungs"][i][1] for row in rows] for i in range(n_rungs)}
    found["best rung"] = [max(cosine for _, cosine, _ in row["rungs"]) for row in rows]
    found["the search"] = [
        fidelity_after([(n_tokens, cosine) for n_tokens, cosine, _ in row["rungs"]], row["long"][-1][0], COSINE)
        for row in rows
    ]
    return found


def correlations(rows: Sequence[Row], predicted: Sequence[float]) -> dict[str, float]:
    """Rank correlations with the long result: across all, and within families that are large enough."""
    long = [row["long"][-1][1] for row in rows]
    found = {"all": float(spearmanr(predicted, long).statistic)}
    for family in sorted({row["family"] for row in rows}):
        members = [i for i, row in enumerate(rows) if row["family"] == family]
        if len(members) >= LEAST_STUDENTS:
            found[family] = float(spearmanr([predicted[i] for i in members], [long[i] for i in members]).statistic)
    return found


def front(rows: Sequence[Row], fidelities: Sequence[float]) -> list[int]:
    """Indices of the Pareto-optimal students in latency and these fidelities."""
    points = [(row["latency_ms"], fidelity) for row, fidelity in zip(rows, fidelities, strict=True)]
    return [rows[i]["number"] for i in non_dominated(points)]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    curves = Path(__file__).parent / "curves"
    parser.add_argument("--table", type=Path, nargs="+", default=sorted(curves.glob("families*.jsonl")))
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()
    rows = read(arguments.table)
    if len(rows) < LEAST_STUDENTS:
        parser.error(f"at least {LEAST_STUDENTS} students are needed, and the tables hold {len(rows)}; measure more")
    long = front(rows, [row["long"][-1][1] for row in rows])
    found: dict[str, Any] = {}
    for name, predicted in predictions(rows).items():
        lacking = sorted(set(long) - set(front(rows, predicted)))
        found[name] = {"rank_correlation": correlations(rows, predicted), "front_lacks": lacking}
        shown = ", ".join(f"{family} {value:.3f}" for family, value in found[name]["rank_correlation"].items())
        print(f"{name:>24s}: {shown}; lacks {len(lacking)} of the {len(long)} on the long front", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"students": len(rows), "long_front": long, "predictions": found}))


if __name__ == "__main__":
    main()
