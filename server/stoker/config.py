"""Makes one `Settings` out of flags, `STOKER_*` variables and a YAML file, validated at once.

Flags win over the environment, the environment over the file, the file over defaults. Whoever
starts Stoker gets the whole value, or every problem together, each with where it was written.
The only module that reads the environment. pydantic stays inside.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, get_type_hints

from pydantic import BeforeValidator, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from stoker.config_sources import (
    ConfigurationError,
    Given,
    Problem,
    Source,
    Written,
    flag_of,
    from_environment,
    from_file,
    from_flags,
)
from stoker.open_telemetry import TracingOptions, is_installed
from stoker.open_telemetry import read as read_open_telemetry
from stoker.settings import (
    BUFFERED_BYTES_WITHOUT_LIMIT,
    MEMORY_SHARE,
    Definition,
    Settings,
    definitions,
)
from stoker.units import format_size


def rest_port(environ: Mapping[str, str] | None = None) -> int:
    """The REST port of a server that this environment starts, for clients beside it; the default
    where the variable is not set or names no port."""
    variables = from_environment(os.environ if environ is None else environ, ("http_port",))
    written = variables.values.get("http_port")
    text = written.value if written is not None else ""
    return int(text) if isinstance(text, str) and text.isdecimal() else Settings().http_port


def open_telemetry(settings: Settings, environ: Mapping[str, str] | None = None) -> TracingOptions:
    """How the settings and OpenTelemetry's standard variables want requests to be traced. What is
    wrong with those was told by `load`; here it is as if it were not written."""
    options, _ = _open_telemetry(settings, os.environ if environ is None else environ)
    return options


def _open_telemetry(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[TracingOptions, tuple[Problem, ...]]:
    return read_open_telemetry(environ, is_on=settings.tracing, share=settings.trace_sampling)


def load(
    flags: Mapping[str, Written],
    *,
    environ: Mapping[str, str] | None = None,
    memory_limit_bytes: int | None = None,
    problems: Iterable[Problem] = (),
) -> Settings:
    """The settings of this process, from `flags` (text by key), `environ` (None: the process's
    own) and the file that either names. `problems` are those already met while parsing arguments.

    Raises ConfigurationError with every problem there is.
    """
    settings, found = gather(flags, environ=environ, memory_limit_bytes=memory_limit_bytes)
    if settings.tracing and not is_installed():  # of this machine, not of the settings
        where = flag_of("tracing") if "tracing" in flags else "tracing"
        text = (
            "expected the packages of the extra otel, got an installation without them: "
            "pip install 'stoker[otel]'"
        )
        found = (*found, Problem(where, text))
    if all_problems := (*problems, *found):
        raise ConfigurationError(all_problems)
    return settings


def gather(
    flags: Mapping[str, Written],
    *,
    environ: Mapping[str, str] | None = None,
    memory_limit_bytes: int | None = None,
    read_file: Callable[[str, Collection[str]], Source] = from_file,
) -> tuple[Settings, tuple[Problem, ...]]:
    """What `load` gives, with defaults in place of what is wrong, and every problem. `read_file`
    reads the file for whoever has it elsewhere than on this machine's disk."""
    known = {each.key: each for each in definitions()}
    from_command = from_flags(flags, positional="sources")
    from_variables = from_environment(os.environ if environ is None else environ, known)
    path = from_command.values.get("config") or from_variables.values.get("config")
    written_in_file = Source({})
    if path is not None and isinstance(path.value, str) and path.value:
        written_in_file = read_file(path.value, [key for key in known if known[key].in_file])
    layers = [each.values for each in (from_command, from_variables, written_in_file)]
    given = _laid_over(layers)

    invalid: dict[str, Problem] = {}
    try:
        settings = _build(layers, known)
    except ValidationError as error:
        # Built once more without what is wrong, so that contradictions among the rest are told
        # as well; a setting that is wrong by itself contradicts nothing.
        invalid = _invalid(error, known, given)
        layers = [{k: v for k, v in layer.items() if k not in invalid} for layer in layers]
        given = {key: each for key, each in given.items() if key not in invalid}
        settings = _build(layers, known)
    settings = _with_sizes(settings, given, memory_limit_bytes)
    settings = _with_cache(settings, os.environ if environ is None else environ)
    _, wrong_variables = _open_telemetry(settings, os.environ if environ is None else environ)
    found = (
        *from_variables.problems,
        *written_in_file.problems,
        *(invalid[key] for key in known if key in invalid),
        *_contradictions(settings, given),
        *wrong_variables,
    )
    return settings, found


class _Layer(PydanticBaseSettingsSource):
    """One source's text by field name, for pydantic-settings to lay over the weaker ones."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, Written]) -> None:
        super().__init__(settings_cls)
        self._values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[object, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, object]:
        return dict(self._values)


def _build(layers: Sequence[Mapping[str, Given]], known: Mapping[str, Definition]) -> Settings:
    """The strongest text of each setting, parsed. Raises pydantic's ValidationError."""
    texts = [{known[key].field: layer[key].value for key in layer} for layer in layers]

    class Layered(BaseSettings):
        model_config = SettingsConfigDict(
            extra="forbid", validate_default=False, protected_namespaces=()
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(_Layer(settings_cls, each) for each in texts)

    hints = get_type_hints(Settings)
    kind = {each.field: each.kind for each in known.values()}
    columns = {
        name: (Annotated[hints[name], BeforeValidator(kind[name].parse)], default)
        for name, default in ((each.name, each.default) for each in dataclasses.fields(Settings))
    }
    model = create_model("Settings", __base__=Layered, **columns)  # type: ignore[call-overload]  # the columns are known at run time only
    values = model()
    return Settings(**{name: getattr(values, name) for name in columns})


def _invalid(
    error: ValidationError, known: Mapping[str, Definition], given: Mapping[str, Given]
) -> dict[str, Problem]:
    key_of = {each.field: key for key, each in known.items()}
    problems = {}
    for each in error.errors():
        key = key_of[str(each["loc"][0])]
        cause = each.get("ctx", {}).get("error", each["msg"])
        problems[key] = Problem(given[key].where, str(cause))
    return problems


def _with_sizes(
    settings: Settings, given: Mapping[str, Given], memory_limit_bytes: int | None
) -> Settings:
    """Fills in the size limits that nobody wrote, so that they agree with those somebody did."""
    buffered = settings.max_buffered_bytes
    message = settings.max_message_bytes
    json = settings.max_json_bytes
    if "max_buffered_bytes" not in given:
        buffered = BUFFERED_BYTES_WITHOUT_LIMIT
        if memory_limit_bytes is not None:
            buffered = max(1, memory_limit_bytes // MEMORY_SHARE)
        if "max_message_bytes" in given:
            buffered = max(buffered, message)
    if "max_message_bytes" not in given:
        message = min(message, buffered)
    if "max_json_bytes" not in given:
        json = min(json, message)
    return dataclasses.replace(
        settings,
        max_buffered_bytes=buffered,
        max_message_bytes=message,
        max_json_bytes=json,
    )


def _with_cache(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Fills in the cache folder that nobody wrote; without a home there is none."""
    home = environ.get("HOME", "")
    base = environ.get("XDG_CACHE_HOME", "") or (f"{home}/.cache" if home else "")
    if settings.trt_cache_dir or not base:
        return settings
    return dataclasses.replace(settings, trt_cache_dir=f"{base}/stoker/tensorrt")


def _contradictions(settings: Settings, given: Mapping[str, Given]) -> list[Problem]:
    """Settings that are right one by one and cannot hold together."""
    problems = []

    def where(*keys: str) -> str:
        return next((given[key].where for key in keys if key in given), keys[0])

    http, grpc, metrics = settings.http_port, settings.grpc_port, settings.metrics_port
    if http == grpc != 0 and settings.grpc_transport == "grpcio":
        text = (
            f"expected different ports for REST and gRPC, got {grpc} for both; "
            "the native transport shares one port, grpcio cannot"
        )
        problems.append(Problem(where("grpc_port", "http_port"), text))
    for key, port in (("http_port", http), ("grpc_port", grpc)):
        if port == metrics != 0:
            text = f"expected a port of its own for probes and /metrics, got {port}, also {key}"
            problems.append(Problem(where("metrics_port", key), text))
    if settings.model_name and len(settings.sources) != 1:
        text = f"names the model of exactly one source, got {len(settings.sources)} sources"
        problems.append(Problem(where("model_name"), text))
    ordered = (
        ("max_json_bytes", settings.max_json_bytes),
        ("max_message_bytes", settings.max_message_bytes),
        ("max_buffered_bytes", settings.max_buffered_bytes),
    )
    for (small_key, small), (large_key, large) in pairwise(ordered):
        if small > large:
            text = f"expected at most {large_key}, {format_size(large)}, got {format_size(small)}"
            problems.append(Problem(where(small_key, large_key), text))
    return problems


def _laid_over(layers: Iterable[Mapping[str, Given]]) -> dict[str, Given]:
    """What counts for each key: the first layer wins."""
    laid: dict[str, Given] = {}
    for layer in layers:
        laid = {**layer, **laid}
    return laid
