"""What `stoker check` finds: `lifecycle/check.py` makes the value, `check_output.py` prints it."""

from dataclasses import dataclass

from stoker.tensor import TensorSpec


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """One version of a model, or a model of which no version could be looked at."""

    name: str
    version: str = ""
    """Empty: none was found or opened."""
    problems: tuple[str, ...] = ()
    """Why it would not be served: one sentence each, with file, line and field where known."""
    warnings: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    """As clients see them, -1 first when the model batches."""
    outputs: tuple[TensorSpec, ...] = ()
    max_batch_size: int = 0
    batching: str = ""
    """In a few words: `dynamic, delay 100 us`, `one request at a time` ..."""
    instances: str = ""
    """In a few words: `2 on CPU` ..."""
    device: str = ""
    """Where it would run, in words: `cpu`, `cuda:0 NVIDIA L4 (120 nodes)` ..."""
    details: tuple[str, ...] = ()
    """Lines: what it takes of memory; of sessions on a GPU nodes, copies and stored options."""
    config: str = ""
    """The completed configuration in protobuf's text form."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Everything that would be served, and everything in the way."""

    models: tuple[CheckedModel, ...]
    problems: tuple[str, ...] = ()
    """Those of no single model: a repository that does not exist, a name used twice ..."""

    @property
    def is_clean(self) -> bool:
        """Whether all of it would be served."""
        return not self.problems and not any(each.problems for each in self.models)
