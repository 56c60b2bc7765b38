# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
from dataclasses import fields

import pytest

from runtime.service.limits import ServingOptions, add_serving_options, serving_options


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(exit_on_error=False)
    add_serving_options(made)
    return made


def test_an_empty_command_line_gives_the_defaults() -> None:
    assert serving_options(parser().parse_args([])) == ServingOptions()


def test_every_field_has_an_option() -> None:
    options = {action.dest for action in parser()._actions} - {"help"}
    assert options == {field.name for field in fields(ServingOptions)} | {"api_key_file"}


def test_options_reach_their_fields() -> None:
    given = ["--host", "::1", "--port", "0", "--name", "small", "--threads", "2", "--max-wait-ms", "1.5"]
    given += ["--no-token-ids"]
    expected = ServingOptions(host="::1", port=0, name="small", n_threads=2, max_wait_ms=1.5, accept_token_ids=False)
    assert serving_options(parser().parse_args(given)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "65536"], "--port: must be a whole number, at least 0 and at most 65535, got '65536'"),
        (["--port=-1"], "--port: .* got '-1'"),
        (["--port", "http"], "--port: .* got 'http'"),
        (["--threads", "0"], "--threads: must be a whole number, at least 1, got '0'"),
        (["--max-batch", "2.5"], "--max-batch: .* got '2.5'"),
        (["--max-wait-ms", "nan"], "--max-wait-ms: must be a number, at least 0 and at most 10000, got 'nan'"),
        (["--max-body-seconds", "0"], "--max-body-seconds: must be a number, greater than 0"),
        (["--max-header-seconds=-1"], "--max-header-seconds: must be a number, greater than 0"),
        (["--max-idle-seconds", "inf"], "--max-idle-seconds: must be a number, greater than 0"),
        (["--api-key", "secret"], "--api-key: a key on the command line can be read .* use --api-key-file FILE"),
        (["--host", ""], "--host: must be text that is not empty, got ''"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_refused_with_its_rule(arguments: list[str], message: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=message):
        parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 65536}, "port must be at least 0 and at most 65535, got 65536"),
        ({"max_batch": 0}, "max_batch must be at least 1, got 0"),
        ({"max_queue": True}, "max_queue must be an integer, got True"),
        ({"name": ""}, "name must not be empty"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_exist_can_be_served(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServingOptions(**changes)  # type: ignore[arg-type]
