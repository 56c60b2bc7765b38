# SPDX-License-Identifier: Apache-2.0
"""Writes a student as the folder of a hub's ONNX model: the graph, and what fastembed and transformers.js read.

onnx/model.onnx                                   token ids and mask in, `sentence_embedding` out
config.json tokenizer.json tokenizer_config.json special_tokens_map.json    README.md
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from runtime.folder import StudentFolder
from search.export.bert import graph_config
from search.export.model_card import model_card
from search.export.tokenizer_files import write_json, write_tokenizer
from trainers.measure.onnx_graph import write_onnx

GRAPH = Path("onnx", "model.onnx")

_USAGE = """```python
import numpy as np, onnxruntime, tokenizers

encodings = tokenizers.Tokenizer.from_file("tokenizer.json").encode_batch(["a sentence", "another one"])
inputs = {{
    "input_ids": np.array([each.ids for each in encodings]),
    "attention_mask": np.array([each.attention_mask for each in encodings]),
}}
(vectors,) = onnxruntime.InferenceSession("onnx/model.onnx").run(["sentence_embedding"], inputs)
```

The graph pools and normalises. With fastembed:

```python
TextEmbedding.add_custom_model(
    MODEL,
    pooling=PoolingType.DISABLED,
    normalization=False,
    sources=ModelSource(hf=MODEL),
    dim={n_dimensions},
    model_file="onnx/model.onnx",
)
```

With transformers.js, which cuts long sentences in its own way (without their last special token):

```js
const tokenizer = await AutoTokenizer.from_pretrained(MODEL);
const model = await AutoModel.from_pretrained(MODEL);
const {{ sentence_embedding }} = await model(await tokenizer(sentences, {{ padding: true, truncation: true }}));
```
"""


def write_onnx_folder(student: StudentFolder, out: Path) -> None:
    """Writes all files to the folder `out`. Raises ValueError if the package onnx is missing."""
    (out / GRAPH.parent).mkdir()
    write_onnx(student, out / GRAPH)
    pad_token_id = write_tokenizer(student, out)
    config = graph_config(student.spec, pad_token_id=pad_token_id)
    if len(list((out / GRAPH.parent).iterdir())) > 1:  # the weights lie beside the graph
        config["transformers.js_config"]["use_external_data_format"] = True
    write_json(out / "config.json", config)
    _make_ready(student, out / "tokenizer.json", pad_token_id)
    usage = _USAGE.format(n_dimensions=student.spec.output_dim)
    (out / "README.md").write_text(
        model_card(student, library="transformers.js", tags=("onnx",), usage=usage), encoding="utf-8"
    )


def _make_ready(student: StudentFolder, path: Path, pad_token_id: int) -> None:
    """Makes the tokenizer cut to the student's maximum and pad batches, for programs that read nothing but it."""
    tokenizer = Tokenizer.from_file(str(path))
    if student.max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(student.max_tokens)
    tokenizer.enable_padding(pad_id=pad_token_id, pad_token=tokenizer.id_to_token(pad_token_id))
    tokenizer.save(str(path))
