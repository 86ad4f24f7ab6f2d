"""Problems and warnings about one model's configuration, each with its file, line and field.

Everything that checks a configuration adds to a `Report`, so that all problems are told together.
"""

from dataclasses import dataclass, field, replace

from stoker.repository.places import FieldPath, Places


@dataclass(frozen=True, slots=True)
class Report:
    """What was found wrong. `file` is a name for the reader, never a path of the machine."""

    file: str
    places: Places | None = None
    """None: there is no text that a field could stand in."""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fail(self, path: FieldPath, text: str) -> None:
        """The model cannot be served because of this field."""
        self.problems.append(self._sentence(path, text))

    def warn(self, path: FieldPath, text: str) -> None:
        """The model can be served, but not quite as this field says."""
        self.warnings.append(self._sentence(path, text))

    def fresh(self) -> "Report":
        """A report about the same file with nothing in it."""
        return replace(self, problems=[], warnings=[])

    def _sentence(self, path: FieldPath, text: str) -> str:
        line = self.places.line_of(path) if self.places is not None else None
        where = f"{self.file}:{line}" if line is not None else self.file
        return f"{where}: {path_text(path)}: {text}" if path else f"{where}: {text}"


def path_text(path: FieldPath) -> str:
    """`input[1].dims`; keys of maps as `parameters["k"]`."""
    text = ""
    for step in path:
        if isinstance(step, int) or step.startswith('"'):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text
