# SPDX-License-Identifier: Apache-2.0
"""The MLflow model of a student from code: MLflow runs this file when it loads the model; nothing is unpickled.

The student folder is the artifact `student`. Serving needs MLflow and what `runtime` needs, no torch; the
packages `runtime` and `spaces` are logged with the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from runtime.loading import load


class StudentModel(PythonModel):
    """Sentences in, one vector per sentence out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the student folder."""
        self.encoder = load(context.artifacts["student"])

    # MLflow warns about every annotation but a few; those turn its checks off, and `sentences_of` takes over.
    def predict(
        self, context: PythonModelContext, model_input: pd.Series, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """[n, output_dim] float32 for n sentences: a list, tuple, array, series, or a data frame of one column."""
        return self.encoder.encode(sentences_of(model_input))


def sentences_of(model_input: Any) -> list[str]:
    """The sentences in the input that MLflow passes. Raises ValueError for anything that is not text."""
    if isinstance(model_input, str):
        return [model_input]
    if isinstance(model_input, pd.DataFrame):
        if model_input.shape[1] != 1:
            raise ValueError(
                f"a data frame of sentences must have one column, got {list(model_input.columns)}; "
                "select the column with the text"
            )
        model_input = model_input.iloc[:, 0]
    sentences = [sentence.item() if isinstance(sentence, np.ndarray) else sentence for sentence in model_input]
    for i, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise ValueError(f"every sentence must be a string, got {sentence!r} at position {i}")
    return [str(sentence) for sentence in sentences]


set_model(StudentModel())
