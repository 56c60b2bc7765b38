# SPDX-License-Identifier: Apache-2.0
"""The installed documentation: found as `ast` finds it, and nothing of it kept but English prose."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.text import installed_docs as module
from trainers.text.installed_docs import docstrings, installed_docs, installed_docs_identity
from trainers.text.prose import is_sentence, sentences

MODULES = ("argparse.py", "asyncio/base_events.py", "email/message.py", "logging/__init__.py", "random.py", "typing.py")


def of_ast(source: str) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        tree = ast.parse(source)
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, nodes))
    return {text for text in found if text}


@pytest.mark.parametrize("name", MODULES)
def test_triple_quoted_docstrings_are_those_of_ast(name: str) -> None:
    source = Path(sysconfig.get_paths()["stdlib"], name).read_text(encoding="utf-8")
    expected = {text for text in of_ast(source) if f'"""{text}"""' in source or f"'''{text}'''" in source}
    found = set(docstrings(source))
    assert len(expected) > 10 and expected <= found
    assert len(found - expected) <= 0.05 * len(found)


def test_strings_that_are_no_docstrings_are_not_documentation() -> None:
    source = '''"""The module."""
text = """Not a docstring."""
def f(x):  # a comment: with a colon
    # and another
    r"""The function."""
    return {"key": """Nor is this."""}
class C:

    \'\'\'The class.\'\'\'
    def g(self) -> "C": return """Nor this."""
'''
    assert list(docstrings(source)) == ["The module.", "The function.", "The class."]


@given(st.text(alphabet="\"'\\\n :#adef()"))
def test_any_text_can_be_searched_for_docstrings(source: str) -> None:
    for text in docstrings(source):
        list(sentences(text))


def test_prose_is_kept_whatever_marks_it_up() -> None:
    documentation = """Return the `mean` of the values along
    the given axis. It is *not* the median, e.g. of a
    skewed sample.

    Args:
        values (list of float): The numbers that are averaged, which
            must not be empty.
        axis: The axis along which the mean is taken.

    :param weights: The weight of each of the values.
    :returns: The mean as a number, or an array of them.

    Parameters
    ----------
    x : array_like, optional
        The input that is read from the file.

    .. note:: This line is dropped with its directive.

        But the body of a note is prose as well.

    - The first item of a list of things.
    - See :class:`~package.module.Thing` for what it does, or the `guide <https://x.y>`_ to it.
    """
    assert list(sentences(documentation)) == [
        "Return the mean of the values along the given axis.",
        "It is not the median, e.g. of a skewed sample.",
        "The numbers that are averaged, which must not be empty.",
        "The axis along which the mean is taken.",
        "The weight of each of the values.",
        "The mean as a number, or an array of them.",
        "The input that is read from the file.",
        "But the body of a note is prose as well.",
        "The first item of a list of things.",
        "See Thing for what it does, or the guide to it.",
    ]


@pytest.mark.parametrize(
    "documentation",
    [
        ">>> This is the input of a doctest.\nThis is the output of it.",
        "Use it like this::\n\n    This is the code of an example.\n\n    And so is this in the end.",
        ".. code-block:: text\n\n    This is the body of a block.",
        "```\nThis is the code in a fence.\n```",
        "| This is | the row of a table. |",
        "f(this, is, the, signature) -> of a function.",
        "x : this is the type of a parameter.",
        "===== This is the line of a heading. =====",
        "Dies ist ein Satz in einer anderen Sprache und wird verworfen.",
        "Cette phrase est en français, elle ne compte pas.",
        "this begins like the middle of a sentence.",
        "This has no end of a sentence",
        "Set the __name__ of the module to x_y_z if a_b_c is d_e_f.",
        "NumPy SciPy Pandas Torch Ray Optuna MLflow.",
        "The value is x = 3 if a == b.",
        "See https://example.org for the whole of it.",
    ],
)
def test_what_is_no_english_prose_is_dropped(documentation: str) -> None:
    assert not list(sentences("\n" + documentation))


def test_a_summary_that_wraps_is_one_sentence() -> None:
    assert list(sentences("Open the file and read\n        all of its lines.\n    ")) == [
        "Open the file and read all of its lines."
    ]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library and packages of our own; the same folder is both `purelib` and `platlib`."""
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "lib" / "one.py").write_text('"""This is the first of the modules."""\n')
    (packages / "two.py").write_text('def f():\n    """This is the first of the modules. It is the second."""\n')
    (packages / "broken.py").write_bytes(b'"""This is a module that no parser reads."""\ndef f(:\n\xff\n')
    (packages / "large.py").write_text('"""This is a file of data and not read."""\n' + "#" * module.MAX_FILE_BYTES)
    paths = {"stdlib": str(tmp_path / "lib"), "purelib": str(packages), "platlib": str(packages)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    monkeypatch.setattr(module, "GROUPS_PER_PROCESS", 1)
    return packages


def test_every_sentence_comes_once_from_topics_library_and_packages(environment: Path) -> None:
    found = installed_docs(n_processes=1)
    ours = [text for text in found if "module" in text and text.startswith(("This is", "It is the second"))]
    assert {"This is the first of the modules.", "This is a module that no parser reads."} <= set(ours)
    assert "It is the second." in found and "This is a file of data and not read." not in found
    assert any("statement" in text for text in found)  # Python's own topics
    assert len(set(found)) == len(found) > 1000
    assert all(map(is_sentence, found))


def test_the_same_files_give_the_same_sentences_whatever_the_number_of_processes(environment: Path) -> None:
    assert installed_docs(n_processes=1) == installed_docs(n_processes=3)


def test_the_identity_follows_the_files_and_not_their_place(environment: Path) -> None:
    before = installed_docs_identity()
    assert installed_docs_identity() == before
    (environment / "two.py").rename(environment / "three.py")
    renamed = installed_docs_identity()
    (environment / "three.py").write_text('"""Longer."""' + "#" * 200)
    assert len({before, renamed, installed_docs_identity()}) == 3


def test_the_current_folder_is_not_imported_and_broken_links_are_passed_over(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainers.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "re.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    (environment / "gone.py").symlink_to(environment / "nowhere.py")
    assert "It is the second." in installed_docs(n_processes=1)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"in a process of its own: FileNotFoundError: .*gone.py"):
        module._run_process([str(tmp_path / "gone.py")])


@pytest.mark.slow
def test_this_machine_has_a_corpus_of_installed_documentation() -> None:
    """150,000 distinct sentences are in the project's own environment; a smaller one holds fewer."""
    found = [text for text in installed_docs() if 20 <= len(text) <= 240 and len(text.split()) >= 5]
    assert len(found) == len(set(found)) > 100_000
