"""Changes a file's imports of Celery to the shim's, and nothing else in it.

It needs libcst, the extra ``migrate``: comments inside of a statement, and the way it is written, stay as
they are. What stands around the statements isn't touched at all.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from emq_compat.migration.placement import home_of, reaches

__all__ = ["Left", "Rewritten", "rewrite"]

_ROOTS = ("celery", "billiard")
#: As Python ends lines.
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """An import that was left as it is.

    Attributes:
        line: where it stands, from 1.
        name: what it imports.
        reason: why it was left.
    """

    line: int
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A file after its imports were changed.

    Attributes:
        source: all of it.
        left: what was not changed.
    """

    source: bytes
    left: Sequence[Left]


def rewrite(source: bytes) -> Rewritten:
    """Change the imports of a file.

    Raises:
        ValueError: it can't be parsed; the message says where.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the project's own business
            tree = ast.parse(source)
        encoding = tokenize.detect_encoding(io.BytesIO(source).readline)[0]
        text = source.decode(encoding)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise ValueError(f"it can't be parsed: {exc}") from exc
    lines = _LINES.findall(text)
    changer = _Changer(_Uses(tree))
    edits: list[tuple[_Place, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            place = _Place.of(node, lines)
            new = changer.changed(node.lineno, place.text(lines), place.between(lines))
            if new is not None:
                edits.append((place, new))
    for place, new in sorted(edits, reverse=True):
        place.put(lines, new)
    left = sorted(changer.left, key=lambda one: one.line)
    return Rewritten(source="".join(lines).encode(encoding), left=left)


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where a statement stands: from 0, columns in characters, the end exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int

    @classmethod
    def of(cls, node: ast.stmt, lines: Sequence[str]) -> _Place:
        line, end = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        return cls(
            line=line,
            column=_characters(lines[line], node.col_offset),
            end_line=end,
            end_column=_characters(lines[end], node.end_col_offset or 0),
        )

    def text(self, lines: Sequence[str]) -> str:
        """Return the statement as it is written."""
        inside = list(lines[self.line : self.end_line + 1])
        inside[-1] = inside[-1][: self.end_column]
        inside[0] = inside[0][self.column :]
        return "".join(inside)

    def between(self, lines: Sequence[str]) -> str:
        """Return what stands between statements that take its place: a line's end, or a semicolon."""
        before, after = lines[self.line][: self.column], lines[self.end_line][self.end_column :]
        if before.strip() or after.split("#")[0].strip():
            return "; "
        return ("\r\n" if lines[self.line].endswith("\r\n") else "\n") + before

    def put(self, lines: list[str], new: str) -> None:
        """Write something else in its place."""
        before, after = lines[self.line][: self.column], lines[self.end_line][self.end_column :]
        lines[self.line : self.end_line + 1] = [before + new + after]


def _characters(line: str, column: int) -> int:
    """Return a column that ``ast`` counts in bytes of UTF-8 in characters."""
    return len(line.encode()[:column].decode())


class _Uses:
    """What a file uses below the names that it binds to modules of Celery's."""

    def __init__(self, tree: ast.Module) -> None:
        self._paths: dict[str, set[str]] = {}
        for node in ast.walk(tree):
            parts: list[str] = []
            inner: ast.AST = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if parts and isinstance(inner, ast.Name):
                self._paths.setdefault(inner.id, set()).add(".".join(reversed(parts)))

    def lacking(self, bound: str, module: str) -> str | None:
        """Return what is used below a name that the shim's module lacks; None: nothing."""
        missing = [path for path in self._paths.get(bound, ()) if not reaches(module, path)]
        return min(missing, key=len) if missing else None


class _Changer:
    """Changes the statements that import something of Celery's."""

    def __init__(self, uses: _Uses) -> None:
        self._uses = uses
        self._line = 0
        self.left: list[Left] = []

    def changed(self, line: int, text: str, between: str) -> str | None:
        """Return what takes the place of an import statement; None: it stays.

        Args:
            line: where it stands, for what is left.
            text: the statement.
            between: what stands between several that take its place.
        """
        if not any(root in text for root in _ROOTS):
            return None
        self._line = line
        module = cst.parse_module(text)
        statement = module.body[0].body[0]
        made = self._import_from if isinstance(statement, cst.ImportFrom) else self._import
        new = list(made(statement))
        if len(new) == 1 and new[0] is statement:
            return None
        return between.join(module.code_for_node(one) for one in new)

    def _leave(self, name: str, reason: str) -> None:
        self.left.append(Left(line=self._line, name=name, reason=reason))

    # from … import …

    def _import_from(self, node: cst.ImportFrom) -> Iterator[cst.BaseSmallStatement]:
        module = _dotted(node.module) if node.module is not None and not node.relative else ""
        home = home_of(module)
        if module.partition(".")[0] not in _ROOTS:
            yield node
        elif isinstance(node.names, cst.ImportStar):
            if home is None:
                self._leave(f"{module}:*", "the shim has no such module")
            yield node if home is None else node.with_changes(module=_attribute(home))
        else:
            yield from self._names(node, module, home, node.names)

    def _names(
        self, node: cst.ImportFrom, module: str, home: str | None, names: Sequence[cst.ImportAlias]
    ) -> Iterator[cst.BaseSmallStatement]:
        here = [one for one in names if home is not None and reaches(module, one.evaluated_name)]
        lacking = [one for one in names if one not in here]
        for one in lacking:
            self._leave(f"{module}:{one.evaluated_name}", "the shim has no place for it")
        if not here:
            yield node
            return
        moved = node.with_changes(module=_attribute(home or module))
        if not lacking:
            yield moved
        else:
            yield moved.with_changes(names=_separated(here, node))
            yield node.with_changes(names=_separated(lacking, node))

    # import …

    def _import(self, node: cst.Import) -> Iterator[cst.BaseSmallStatement]:
        kept: list[cst.ImportAlias] = []
        new: list[cst.ImportAlias] = []
        for one in node.names:
            made = self._import_one(one)
            kept.append(one) if made is None else new.append(made)
        if not new:
            yield node
            return
        if kept:
            yield node.with_changes(names=_separated(kept, None))
        for one in new:
            yield cst.Import(names=[one])

    def _import_one(self, alias: cst.ImportAlias) -> cst.ImportAlias | None:
        """Return what takes the place of ``celery…`` in an import statement; None: it stays."""
        module, bound = alias.evaluated_name, alias.evaluated_alias
        if module.partition(".")[0] not in _ROOTS:
            return None
        whole = module if bound else "celery"  # without `as` the package is bound
        home = home_of(whole)
        lacking = self._uses.lacking(bound or "celery", whole) if home is not None else None
        if home is None or home_of(module) is None or lacking is not None:
            missing = f"{whole}.{lacking}" if lacking is not None else module
            self._leave(module, f"the shim has no {missing}")
            return None
        name = cst.AsName(name=cst.Name(bound or "celery"))
        return cst.ImportAlias(name=_attribute(home), asname=name)


def _dotted(node: cst.BaseExpression) -> str:
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    parts.append(node.value)
    return ".".join(reversed(parts))


def _attribute(dotted: str) -> cst.Attribute | cst.Name:
    first, *rest = dotted.split(".")
    node: cst.Attribute | cst.Name = cst.Name(first)
    for part in rest:
        node = cst.Attribute(value=node, attr=cst.Name(part))
    return node


def _separated(aliases: Sequence[cst.ImportAlias], node: cst.ImportFrom | None) -> list[cst.ImportAlias]:
    """Return aliases with commas between them; in brackets the last one ends as the last one did."""
    made = []
    for index, alias in enumerate(aliases):
        last = index == len(aliases) - 1
        if last:
            before = node.names[-1] if node is not None and node.lpar is not None else None
            alias = alias.with_changes(comma=_last_comma(alias, before))
        elif not isinstance(alias.comma, cst.Comma):
            alias = alias.with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
        made.append(alias)
    return made


def _last_comma(alias: cst.ImportAlias, before: cst.ImportAlias | None) -> cst.Comma | cst.MaybeSentinel:
    """Return what follows the last alias: its own comment, and the bracket where it was."""
    if before is None or not isinstance(before.comma, cst.Comma):
        return cst.MaybeSentinel.DEFAULT
    theirs = before.comma.whitespace_after
    ours = alias.comma.whitespace_after if isinstance(alias.comma, cst.Comma) else None
    if not isinstance(ours, cst.ParenthesizedWhitespace) or not hasattr(theirs, "first_line"):
        return before.comma
    after = theirs.with_changes(first_line=ours.first_line, empty_lines=ours.empty_lines)
    return before.comma.with_changes(whitespace_after=after)
