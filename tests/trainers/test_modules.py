# SPDX-License-Identifier: Apache-2.0
"""The torch modules compute what their specs say."""

from dataclasses import replace

import pytest
import torch

from spaces.student import Dense, EncoderSpec, Pooling, Projection, StaticSpec, StudentSpec, Switch
from trainers.modules.build import build, student_from_weights, weights_of
from trainers.modules.switch import SwitchFeedForward

ENCODER = EncoderSpec(n_layers=2, width=16, n_heads=4, head_width=4, feed_forward=Dense(units=32), max_tokens=12)
DENSE = StudentSpec(vocabulary_size=50, output_dim=16, encoder=ENCODER)
SWITCH = replace(DENSE, encoder=replace(ENCODER, feed_forward=Switch(n_experts=3, units=8, capacity_factor=0.5)))
STUDENTS = {
    "dense": DENSE,
    "cls": replace(DENSE, encoder=replace(ENCODER, pooling=Pooling.CLS)),
    "switch": SWITCH,
    "static": StudentSpec(vocabulary_size=50, output_dim=16, static=StaticSpec(embedding_dim=4)),
    "both": replace(DENSE, static=StaticSpec()),
    "narrow": replace(DENSE, encoder=replace(ENCODER, width=8, n_heads=2, embedding_dim=4, projection=Projection.TANH)),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_padding_does_not_change_a_sentence(name: str) -> None:
    student = build(STUDENTS[name], seed=0)
    token_ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(9) < torch.tensor([[9], [5], [2]])
    together = student(token_ids, mask).embeddings
    for i, length in enumerate((9, 5, 2)):
        torch.testing.assert_close(together[i], student(token_ids[i : i + 1, :length]).embeddings[0])


@pytest.mark.parametrize("name", STUDENTS)
def test_weights_round_trip(name: str) -> None:
    student = build(STUDENTS[name], seed=3)
    token_ids = torch.arange(10).view(2, 5)
    again = student_from_weights(STUDENTS[name], weights_of(student))
    assert torch.equal(again(token_ids).embeddings, student(token_ids).embeddings)


def test_weights_that_do_not_fit_are_refused() -> None:
    weights = weights_of(build(DENSE, seed=0))
    with pytest.raises(ValueError, match=r"layers\.0\.attention\.norm\.bias"):
        student_from_weights(DENSE, {k: v for k, v in weights.items() if k != "layers.0.attention.norm.bias"})
    with pytest.raises(ValueError, match="shape"):
        student_from_weights(DENSE, weights | {"embeddings.tokens": weights["embeddings.tokens"][1:]})


def test_equal_seeds_build_equal_students() -> None:
    first, second, other = (weights_of(build(DENSE, seed=seed)) for seed in (1, 1, 2))
    assert all((first[name] == second[name]).all() for name in first)
    assert (first["embeddings.tokens"] != other["embeddings.tokens"]).any()


def test_attention_equals_scaled_dot_product_attention() -> None:
    attention = build(DENSE, seed=0).layers[0].attention
    x = torch.randn(2, 7, 16)
    queries, keys, values = attention.qkv(x).view(2, 7, 3, 4, 4).permute(2, 0, 3, 1, 4)
    context = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    expected = attention.norm(x + attention.output(context.transpose(1, 2).reshape(2, 7, 16)))
    torch.testing.assert_close(attention(x, None)[0], expected)


def test_a_sentence_longer_than_the_position_table_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 12"):
        build(DENSE, seed=0)(torch.zeros(1, 13, dtype=torch.long))


def switch_block(capacity_factor: float) -> SwitchFeedForward:
    spec = replace(ENCODER, feed_forward=Switch(n_experts=3, units=8, capacity_factor=capacity_factor))
    block = build(replace(DENSE, encoder=spec), seed=0).layers[0].feed_forward
    assert isinstance(block, SwitchFeedForward)
    torch.nn.init.normal_(block.router.weight)
    return block


def test_switch_sends_each_token_to_its_best_expert_scaled_by_the_gate() -> None:
    block = switch_block(1.0)
    x = torch.randn(2, 5, 16)
    out, _ = block(x, None)
    for token, got in zip(x.view(-1, 16), out.view(-1, 16), strict=True):
        probabilities = torch.softmax(block.router(token), dim=-1)
        expert = int(probabilities.argmax())
        hidden = torch.nn.functional.gelu(block.experts_input(token[None], expert))
        mixed = probabilities[expert] * block.experts_output(hidden, expert)[0]
        torch.testing.assert_close(got, block.norm(token + mixed))


def test_in_training_tokens_over_capacity_pass_through_the_residual_only() -> None:
    block = switch_block(0.3).train()  # one token an expert: ceil(0.3 * 10 / 3)
    x = torch.randn(1, 1, 16).repeat(1, 10, 1)
    out, _ = block(x, None)
    passed = torch.isclose(out[0], block.norm(x[0]), atol=1e-6).all(dim=-1)
    assert passed.tolist() == [False] + [True] * 9


def test_balance_loss_is_one_for_uniform_and_the_number_of_experts_for_collapsed_routing() -> None:
    block = switch_block(1.0)
    with torch.no_grad():
        block.router.weight.zero_()
    x = torch.randn(1, 6, 16)
    assert block(x, None)[1].item() == pytest.approx(1.0)
    with torch.no_grad():
        block.router.weight[1] = 100.0 * x.mean(dim=(0, 1))
    same = x.mean(dim=(0, 1)).expand(1, 6, 16)
    assert block(same, None)[1].item() == pytest.approx(3.0, rel=1e-3)
