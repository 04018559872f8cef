"""Lets the parser of a train.py judge arguments: a program of its own, because it runs code of the user.

Of train.py it runs the function that parses, and what that needs: no other statement, and nothing but the
standard library and the project. Reads JSON from the standard input, `{"root": ..., "words": [...]}`, and
writes an `Answer` of train_arguments.py as JSON.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARSERS = frozenset({"ArgumentParser", "make_parser", "parse_args", "parse_known_args"})


class Unclear(Exception):
    """Why the parser could not be asked."""


class Ended(Exception):
    """The parser has ended the program: with an error, or after --help."""


def probe(root: Path, words: list[str]) -> dict[str, Any]:
    """Asks the parser of `root/train.py` for its opinion on arguments."""
    answer: dict[str, Any] = {"options": [], "values": {}, "refusal": "", "only_helps": False}
    _listen(answer)
    try:
        function, only_parses = _parsing_function(root / "train.py")
        answer["goes_on"] = only_parses
        sys.argv = ["train.py", *words]
        result = function(words) if _required(function) else function()
        if isinstance(result, argparse.ArgumentParser):
            result.parse_args(words)
        elif isinstance(result, argparse.Namespace):  # what train.py goes by, however often it has parsed
            answer["values"] = _values(result)
    except Ended:
        pass
    except Unclear as error:
        return {"unclear": str(error)}
    except BaseException as error:  # code of the user: anything
        return {"unclear": f"{type(error).__name__}: {error}"}
    del answer["goes_on"]
    return answer if answer["options"] else {"unclear": "its parser was not called"}


def _values(namespace: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(namespace).items() if value is not None}


def _listen(answer: dict[str, Any]) -> None:
    """Lets every parser of argparse tell what it was asked and what it thinks of it."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> Any:
        answer["options"] = sorted(self._option_string_actions)
        namespace, others = parse(self, *arguments, **options)
        answer["values"] = _values(namespace)
        if not answer["goes_on"]:  # what comes next may be the training
            if others and sys._getframe(1).f_globals is vars(argparse):  # by parse_args
                answer["refusal"] = f"unrecognized arguments: {' '.join(others)}"
            raise Ended
        return namespace, others

    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        answer["options"] = sorted(self._option_string_actions)  # of a config file it was not asked yet
        answer["refusal"] = message
        raise Ended

    def end(_parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        answer["only_helps"] = True
        raise Ended

    parser: Any = argparse.ArgumentParser
    parser.parse_known_args, parser.error, parser.exit = parse_known_args, refuse, end
    file_type: Any = argparse.FileType
    file_type.__call__ = lambda _self, name: name  # nothing is opened, or made


def _parsing_function(file: Path) -> tuple[Any, bool]:
    """The function that parses, and whether that is all it is for."""
    tree = ast.parse(file.read_bytes())
    bindings = dict(_bindings(tree.body))
    candidates = [node for node in tree.body if isinstance(node, ast.FunctionDef) and _parses(node)]
    if not candidates:
        raise Unclear("it has no function that makes an argparse.ArgumentParser")
    function = candidates[0]
    needed = {id(node): node for node in _closure(function, bindings)}
    body = sorted(needed.values(), key=lambda node: node.lineno)
    namespace = {"__name__": "train", "__file__": str(file), "__doc__": ast.get_docstring(tree)}
    flags = __future__.annotations.compiler_flag  # what is annotated need not exist
    exec(compile(ast.Module(body, []), str(file), "exec", flags), namespace)
    return namespace[function.name], _only_parses(function)


def _only_parses(function: ast.FunctionDef) -> bool:
    """Whether a function returns what it has parsed, or the parser: one that does not may be the training."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _calls(node.value):
            found |= {
                name.id
                for name in ast.walk(node)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
    return any(_calls(value) or not found.isdisjoint(_names(value)) for value in returned)


def _calls(node: ast.AST) -> bool:
    """Whether a parser is made or asked in it."""
    calls = (call.func for call in ast.walk(node) if isinstance(call, ast.Call))
    return not PARSERS.isdisjoint(getattr(func, "attr", getattr(func, "id", "")) for func in calls)


def _parses(function: ast.FunctionDef) -> bool:
    return _calls(function) and not function.decorator_list and function.name != "main"


def _bindings(statements: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Which statement gives a name its value, at the top of the module and in its `with`, `if` and `try`."""
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.With):
            yield from _bindings(node.body)
        elif isinstance(node, ast.If | ast.Try):
            yield from ((name, node) for name, _ in _bindings([*node.body, *node.orelse]))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
            yield from ((name.id, node) for name in names if isinstance(name.ctx, ast.Store))


def _closure(function: ast.FunctionDef, bindings: dict[str, ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that a function needs to run."""
    seen: set[str] = set()
    waiting: list[ast.stmt] = [function]
    while waiting:
        statement = waiting.pop()
        yield statement
        for name in _names(statement):
            if name not in seen and name in bindings:
                seen.add(name)
                waiting.append(bindings[name])


def _names(statement: ast.AST) -> Iterator[str]:
    """Names that are read in it, but for those in annotations."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            yield node.id
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns"):
                values = value if isinstance(value, list) else [value]
                waiting += [item for item in values if isinstance(item, ast.AST)]


def _required(function: Any) -> bool:
    """Whether it has to be given the command line. Raises Unclear if it wants more."""
    code = function.__code__
    number = code.co_argcount - len(function.__defaults__ or ())
    if number > 1 or code.co_kwonlyargcount > len(function.__kwdefaults__ or ()):
        raise Unclear(f"{function.__name__}() needs arguments of its own")
    return bool(number)


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, io.StringIO()  # the user's code may print
    asked = json.load(sys.stdin)
    sys.path.insert(0, asked["root"])
    json.dump(probe(Path(asked["root"]), asked["words"]), out)
