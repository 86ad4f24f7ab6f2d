"""Where settings are written: flags, the environment, a YAML file. Text in, text out.

Each source becomes a mapping from a setting's key to what was written for it and where. Meanings,
defaults and precedence belong to `config.py`; nothing here knows one setting from another, only
which keys exist. A key that does not exist is a problem that names the closest ones.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeAlias

import yaml

Written: TypeAlias = str | tuple[str, ...]

PREFIX: Final = "STOKER_"

# Kubernetes gives every container variables for each Service of its namespace, named after the
# Service: for one called `stoker`, or `stoker-...`, they begin like ours. The last pattern counts
# only with the value that Kubernetes gives it, because a Service `stoker-metrics` yields the very
# name STOKER_METRICS_PORT.  Source: Kubernetes, "Service: environment variables".
_SERVICE_LINK: Final = re.compile(
    r"STOKER(_[A-Z0-9_]+)?"
    r"(_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://.*")


@dataclass(frozen=True, slots=True)
class Given:
    """What someone wrote for one setting; `where` is the flag, the variable, or file:line."""

    value: Written
    where: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration, as its author is told."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class ConfigurationError(Exception):
    """Everything that is wrong, together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Source:
    """All that one source says."""

    values: Mapping[str, Given]
    problems: tuple[Problem, ...] = ()


def flag_of(key: str) -> str:
    """`--http-port` for `http_port`."""
    return "--" + key.replace("_", "-")


def variable_of(key: str) -> str:
    """`STOKER_HTTP_PORT` for `http_port`."""
    return PREFIX + key.upper()


def from_flags(values: Mapping[str, Written], *, positional: str) -> Source:
    """Values of parsed arguments by key; `positional` is the key of those without a flag."""
    return Source(
        {
            key: Given(value, "argument" if key == positional else flag_of(key))
            for key, value in values.items()
        }
    )


def from_environment(environ: Mapping[str, str], keys: Collection[str]) -> Source:
    """Reads the `STOKER_*` variables. Empty means not set; service links are not ours."""
    by_variable = {variable_of(key): key for key in keys}
    values: dict[str, Given] = {}
    problems: list[Problem] = []
    for name in sorted(environ):
        value = environ[name]
        if not name.startswith(PREFIX) or not value or _is_service_link(name, value):
            continue
        if name in by_variable:
            values[by_variable[name]] = Given(value, name)
        else:
            problems.append(Problem(name, f"unknown variable{suggestion(name, by_variable)}"))
    return Source(values, tuple(problems))


def from_file(path: str, keys: Collection[str]) -> Source:
    """Reads a YAML file of settings, see `from_text`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        return Source({}, (Problem(path, f"cannot be read: {error.strerror}"),))
    except UnicodeDecodeError as error:
        return Source({}, (Problem(path, f"expected UTF-8 text, got byte {error.start}"),))
    return from_text(path, text, keys)


def from_text(path: str, text: str, keys: Collection[str]) -> Source:
    """Reads the YAML text of the file `path`: `key: value` lines; a list stands for several values.

    Scalars are taken as written, so that a value means the same in a file, a variable and a flag
    (`yes`, `010` and `5m` are not YAML's to interpret). A key without a value counts as not set,
    and `http-port` is `http_port`.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return Source({}, (Problem(f"{path}:{line}", f"malformed YAML: {error.problem}"),))
    except yaml.YAMLError as error:
        return Source({}, (Problem(path, f"malformed YAML: {' '.join(str(error).split())}"),))
    if node is None:
        return Source({})
    if not isinstance(node, yaml.MappingNode):
        return Source({}, (Problem(f"{path}:1", "expected a mapping of settings to values"),))
    return _from_mapping(path, node, keys)


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean X or Y?`, or nothing where no known name is close."""
    close = get_close_matches(name, list(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value) is not None


def _from_mapping(path: str, mapping: yaml.MappingNode, keys: Collection[str]) -> Source:
    values: dict[str, Given] = {}
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    for name, node in _entries(mapping):
        line = name.start_mark.line + 1
        where = f"{path}:{line}"
        key = str(name.value).replace("-", "_") if isinstance(name, yaml.ScalarNode) else ""
        if key not in keys:
            shown = name.value if key else "a key that is no text"
            problems.append(Problem(where, f"unknown key {shown}{suggestion(key, keys)}"))
        elif key in lines:
            problems.append(Problem(where, f"{key} stands already on line {lines[key]}"))
        else:
            lines[key] = line
            value = _written(node)
            if value is None:
                problems.append(
                    Problem(where, f"{key}: expected a value or a list of values, got a mapping")
                )
            elif value != "" or not _is_null(node):
                values[key] = Given(value, f"{where}: {key}")
    return Source(values, tuple(problems))


def _entries(mapping: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    yield from mapping.value


def _is_null(node: yaml.Node) -> bool:
    return str(node.tag) == "tag:yaml.org,2002:null"


def _written(node: yaml.Node) -> Written | None:
    if isinstance(node, yaml.ScalarNode):
        return "" if _is_null(node) else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(
        isinstance(each, yaml.ScalarNode) for each in node.value
    ):
        return tuple(str(each.value) for each in node.value)
    return None
