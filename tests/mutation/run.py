"""Mutation testing of what nothing is lost by: changes the code in small ways, one at a time, and sees whether a test fails.

Run it with `./dev mutation`. It ends with code 1 if a change survives that docs/mutation.md does not explain.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import libcst as cst

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".export-service" / "mutation"
"""A copy, made anew each time: mutmut writes its mutants beside the code, and keeps what it knows of the last run."""
_FOUND = ("timeout", "not checked")
FOLDERS = ("export_service", "connectors", "streams", "agents", "tables", "tests")


class Undecorate(cst.CSTTransformer):
    """`@f` before a class or a function as `name = f(name)` after it, which is the same. mutmut leaves alone what is decorated."""

    def leave_ClassDef(self, _original: cst.ClassDef, updated_node: cst.ClassDef) -> cst.BaseStatement:
        return _plain(updated_node)

    def leave_FunctionDef(self, _original: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.BaseStatement:
        return _plain(updated_node)


def _plain(node: cst.ClassDef | cst.FunctionDef) -> cst.BaseStatement:
    names = [cst.Module([]).code_for_node(each.decorator) for each in node.decorators]
    if not names or names == ["classmethod"]:  # mutmut knows that one
        return node
    value = node.name.value
    for name in reversed(names):
        value = f"{name}({value})"
    after = cst.parse_statement(f"{node.name.value} = {value}")
    return cst.FlattenSentinel([node.with_changes(decorators=()), after])


def main() -> int:
    mutated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]["only_mutate"]
    shutil.rmtree(WORK, ignore_errors=True)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, WORK / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", WORK)
    for name in mutated:
        path = WORK / name
        path.write_text(cst.parse_module(path.read_text()).visit(Undecorate()).code)
    ran = subprocess.run(["mutmut", "run", *sys.argv[1:]], cwd=WORK, check=False)
    return ran.returncode or judge()


def judge() -> int:
    """Of a run that has ended. A mutant that made the tests hang was found, too."""
    explained = (ROOT / "docs" / "mutation.md").read_text()
    lived = [name for name, status in re.findall(r"^ +(\S+): (.+)$", _mutmut("results"), re.MULTILINE) if status not in _FOUND]
    unexplained = [change for change in map(_change, lived) if change not in explained]
    print(*unexplained, f"{len(lived)} changes survived, {len(unexplained)} of them not explained in docs/mutation.md", sep="\n\n")
    return int(bool(unexplained))


def _change(name: str) -> str:
    """Where, and the lines taken out and put in, as a diff without indentation."""
    where = re.sub(r"\.x[_ǁ]", ".", name.rpartition("__mutmut_")[0]).replace("ǁ", ".")
    lines = [line for line in _mutmut("show", name).splitlines() if re.match(r"[-+](?![-+]{2} )", line)]
    return "\n".join([where, *(f"{line[0]} {line[1:].strip()}" for line in lines)])


def _mutmut(*args: str) -> str:
    return subprocess.run(["mutmut", *args], cwd=WORK, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
