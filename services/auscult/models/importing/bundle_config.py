"""A MONAI bundle's configuration, read without running it.

MONAI evaluates `$…` as Python and `_target_` as any class. Here `@` references are followed, of `$` expressions
numbers and arithmetic are taken, and targets are only named: what else is needed to convert a bundle is refused.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from auscult.models.importing.source import CannotImport

_REFERENCE = re.compile(r"@[\w:#]+")
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.USub: operator.neg,
}
_DEEPEST = 50


class BundleConfig:
    """One of a bundle's configuration files."""

    def __init__(self, content: Mapping[str, Any], name: str) -> None:
        self._content = content
        self._name = name

    @classmethod
    def read(cls, folder: Path, name: str) -> BundleConfig:
        """Read `configs/NAME.json`, `.yaml` or `.yml`."""
        for suffix in ("json", "yaml", "yml"):
            path = folder / "configs" / f"{name}.{suffix}"
            if path.is_file():
                try:
                    # JSON is YAML, but for tabs.
                    content = yaml.safe_load(path.read_text(encoding="utf-8").replace("\t", " "))
                except (yaml.YAMLError, ValueError, RecursionError) as error:
                    raise CannotImport("file-unreadable", f"configs/{path.name}: {error}") from None
                if not isinstance(content, Mapping):
                    raise CannotImport("file-unreadable", f"configs/{path.name} is not a mapping")
                return cls(content, path.name)
        raise CannotImport("file-missing", f"the bundle has no configs/{name}.json or .yaml")

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value as it is written, but for a reference, which is followed."""
        return self.follow(self._content.get(key, default))

    def follow(self, value: Any, depth: int = 0) -> Any:
        """Return what a reference points at."""
        if not (isinstance(value, str) and _REFERENCE.fullmatch(value)):
            return value
        if depth > _DEEPEST:
            raise CannotImport("configuration-unsupported", f"{self._name}: {value!r} refers to itself")
        return self.follow(self._at(value[1:], depth + 1), depth + 1)

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a value with all its references and expressions resolved; CannotImport names what cannot be."""
        if depth > _DEEPEST:
            raise CannotImport("configuration-unsupported", f"{self._name}: it refers to itself")
        value = self.follow(value)
        if isinstance(value, Mapping):
            return {key: self.value(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, depth + 1) for each in value]
        if isinstance(value, str) and value.startswith("$"):
            return self._expression(value, depth)
        if isinstance(value, str) and value.startswith("%"):
            raise CannotImport("configuration-unsupported", f"{self._name}: {value!r} takes in another file")
        return value

    def _at(self, path: str, depth: int) -> Any:
        found: Any = self._content
        for part in re.split("::|#", path):
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                raise CannotImport("configuration-unsupported", f"{self._name}: there is no {path!r}")
            found = self.follow(found, depth)
        return found

    def _expression(self, text: str, depth: int) -> Any:
        written = _REFERENCE.sub(lambda match: repr(self.value(match[0], depth + 1)), text[1:])
        try:
            return _calculate(ast.parse(written.strip(), mode="eval").body)
        except (ValueError, SyntaxError, ArithmeticError, TypeError):
            raise CannotImport(
                "expression-unsupported",
                f"{self._name}: {text!r} is Python, which is not run; write the value in its place",
            ) from None


def target(component: Any, package: str) -> str:
    """Return the name of a component's class within MONAI's `package`; CannotImport for other code."""
    if not isinstance(component, Mapping) or "_target_" not in component:
        raise CannotImport(
            "configuration-unsupported", f"a component with _target_ is expected, not {component!r:.80}"
        )
    path = str(component["_target_"])
    module, _, name = path.rpartition(".")
    if module and not module.startswith(package):
        raise CannotImport(
            "code-of-the-bundle", f"{path} is not of {package}; code that comes with a bundle is not run"
        )
    return name


def enabled(component: Mapping[str, Any]) -> bool:
    """Whether it takes part: MONAI leaves out what says `_disabled_`."""
    return component.get("_disabled_") not in (True, "true", "True")


def _calculate(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bool | None):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_calculate(each) for each in node.elts]
    if isinstance(node, ast.UnaryOp) and (unary := _ARITHMETIC.get(type(node.op))):
        return unary(_calculate(node.operand))  # type: ignore[operator]
    if isinstance(node, ast.BinOp) and (binary := _ARITHMETIC.get(type(node.op))):
        left, right = _calculate(node.left), _calculate(node.right)
        if not all(isinstance(each, int | float) for each in (left, right)):
            raise ValueError("numbers are needed")
        return binary(left, right)  # type: ignore[operator]
    raise ValueError("not a value")
