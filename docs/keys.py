"""The directive `config-keys`: a table of each group of a configuration.

Type, default and limits are those of the dataclass's field, and what is said of it is
the comment beside it in the source, or above it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import math
import tokenize
from collections.abc import Iterator
from typing import Any

from docutils.nodes import Node
from sphinx.util.docutils import SphinxDirective
from sphinx.util.rst import escape

from stable_ssl.config import Config, Model
from stable_ssl.data.nodes import LoaderNode, TorchKeys
from stable_ssl.methods import METHODS, method_class
from stable_ssl.optim.config import Schedule
from stable_ssl.schema import BOUNDS

HELD = {"model": Model, "optim.scheduler": Schedule}  # in a key of any type
HEAD = """
.. list-table::
   :header-rows: 1
   :widths: 22 14 18 18 28

   * - key
     - type
     - default
     - limits
     - what it is
"""


class ConfigKeys(SphinxDirective):
    """Put a section for each group in the directive's place."""

    def run(self) -> list[Node]:
        """Return the sections."""
        text = "\n".join(section(title, cls) for title, cls in groups())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Any) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}


def groups(cls: type = Config, path: str = "") -> Iterator[tuple[str, type]]:
    """Yield (title, dataclass) of a group and of those in it."""
    yield f"``{path}``" if path else "The whole", cls
    for field in dataclasses.fields(cls):
        at = f"{path}.{field.name}".lstrip(".")
        nested = HELD.get(at, field.default_factory)
        if dataclasses.is_dataclass(nested):
            yield from groups(nested, at)
    if path == "data":
        yield "A loader node, such as ``data.train``", LoaderNode
        yield "Further keys of a loader node", TorchKeys
    if path == "model":
        for name in METHODS:
            yield f"``model`` with ``name: {name}``", method_class(name).model_config


def section(title: str, cls: type) -> str:
    """Return the title, the docstring and the table of a dataclass."""
    lines = [title, "-" * len(title), "", inspect.getdoc(cls), HEAD]
    for field, kind, comment in described(cls):
        cells = [f"``{field.name}``", f"``{kind}``", default(field)]
        cells += [escape(limits(field.metadata)), escape(comment)]
        lines += [f"   {'-' if n else '* -'} {c}" for n, c in enumerate(cells)]
    return "\n".join(lines).replace("\n   - ", "\n     - ") + "\n"


def described(cls: type) -> Iterator[tuple[dataclasses.Field, str, str]]:
    """Yield the fields that a dataclass adds, each with its type and comment.

    Raises:
        ValueError: nothing is said of a field.
    """
    source = inspect.getsource(cls)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
    lines = source.splitlines()
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            first = node.lineno
            while lines[first - 2].lstrip().startswith("#"):  # those above it
                first -= 1
            beside = (comments.get(n) for n in range(first, node.end_lineno + 1))
            comment = " ".join(c.string.lstrip("# ") for c in beside if c)
            field = fields[node.target.id]
            if dataclasses.is_dataclass(field.default_factory):
                comment = inspect.getdoc(field.default_factory).partition("\n")[0]
            if not comment:
                raise ValueError(f"say beside {cls.__name__}.{field.name} what it is")
            yield field, ast.unparse(node.annotation), comment


def default(field: dataclasses.Field) -> str:
    """Return the default of a field as YAML spells it."""
    if dataclasses.is_dataclass(field.default_factory):
        return "a group, below"
    if field.default is not dataclasses.MISSING:
        return f"``{json.dumps(field.default)}``"
    return f"``{json.dumps(field.default_factory())}``"


def limits(metadata: Any) -> str:
    """Return the limits of `stable_ssl.schema.key` in words."""
    found = dict(metadata)
    said = ["or inf"] if found.get("high") == math.inf else []
    said += [
        f"{words} {found[bound]}"
        for bound, words, _ in BOUNDS
        if math.isfinite(found.get(bound, math.inf))
    ]
    for name, words in (
        ("choices", "one of {}"),
        ("length", "length {}"),
        ("shortest", "length at least {}"),
        ("like", "such as {}"),
        ("path", "a path"),
        ("required", "not null"),
        ("epoch", "in epochs"),
        ("instead_of", "instead of {}"),
        ("of", "of {} alone"),
    ):
        if name in found:
            value = found[name]
            text = ", ".join(value) if isinstance(value, tuple) else value
            said.append(words.format(text))
    return "; ".join(said)
