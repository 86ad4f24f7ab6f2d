"""A container that runs Stoker: how it is told from others, and what its server would be set to.

Arguments, variables and the ConfigMap's file are put together as the kubelet does and read by the
server's own code, so that `stoker k8s lint` judges the settings that count. What these manifests
do not hold (a Secret, a file of another ConfigMap) is left out, and that it was is told.
Source: Kubernetes, "Define a command and arguments", "Dependent environment variables".
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from stoker.arguments import parse_flags
from stoker.config import gather
from stoker.config_sources import (
    Problem,
    Source,
    Written,
    flag_of,
    from_text,
    variable_of,
)
from stoker.deploy.image import IMAGE_COMMAND, PROGRAM, Image, image_environment, parse_image
from stoker.deploy.manifest import (
    JsonObject,
    Manifest,
    at,
    mapping,
    objects,
    strings,
    text,
    texts,
)
from stoker.deploy.pre_stop import SHELLS
from stoker.deploy.quantity import parse_quantity
from stoker.settings import Settings, definitions

_REFERENCE: Final = re.compile(r"\$(?:\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))")


@dataclass(frozen=True, slots=True)
class ServerContainer:
    """A container that runs `stoker serve`."""

    value: JsonObject
    path: str
    """Where it stands in its manifest: `spec.template.spec.containers[0]`."""
    image: Image
    words: tuple[str, ...]
    """The whole command line that is known, from the image or the manifest."""
    environment: Mapping[str, str]
    """Variables of the manifest whose value is known."""
    mentioned: frozenset[str]
    """Keys of settings that are written somewhere, those of the file included."""
    settings: Settings
    """With defaults in place of what the server would refuse."""
    problems: tuple[Problem, ...]
    """Why it would."""
    unread: tuple[str, ...]
    """What these manifests do not show of its settings, one sentence each."""
    hidden: tuple[str, ...] = ()
    """Values of the file that a flag or a variable takes the place of, one sentence each."""

    @property
    def runs_in_a_shell(self) -> bool:
        """Whether the first process is a shell that is not replaced by the server."""
        command = texts(self.value, "command")
        if not command or PurePosixPath(command[0]).name not in SHELLS:
            return False
        return not re.search(r"(^|[;&\s])exec\s", " ".join(self.words))

    @property
    def device_is_known(self) -> bool:
        """Whether the device is written, or follows from the image's variant."""
        return "device" in self.mentioned or (self.image.is_ours and bool(self.image.tag))


def server_container(
    container: JsonObject,
    path: str,
    *,
    labels: Mapping[str, str],
    volumes: Sequence[JsonObject],
    config_maps: Sequence[Manifest],
    is_alone: bool = True,
) -> ServerContainer | None:
    """The container as a Stoker server; None where it is none. `labels` and `volumes` are those of
    its pod, `config_maps` all that could be meant; `is_alone`: its pod has no other container."""
    image = parse_image(text(container, "image"))
    values, opaque = _environment(container, config_maps)
    command = [_expanded(each, values) for each in texts(container, "command")]
    arguments = [_expanded(each, values) for each in texts(container, "args")]
    # A sidecar without arguments runs what its own image says.
    by_image = IMAGE_COMMAND if image.is_ours or is_alone else ()
    words = _server_words(command, arguments, by_image)
    if words is None:
        return None
    if not (image.is_ours or _names_us(command) or labels.get("app.kubernetes.io/name") == PROGRAM):
        return None
    opaque_names = {f"$({name})" for name in opaque}
    unread = [
        f"the variable {name} comes from elsewhere" for name in sorted(opaque) if _is_setting(name)
    ]
    unread += [
        f"variables come from {each}, which is not among these manifests"
        for each in _unknown_sources(container, config_maps)
    ]
    known, unknown = _known_words(words, opaque_names)
    unread += [f"the argument {word!r} has a value from elsewhere" for word in unknown]
    flags, problems = parse_flags("serve", known)
    mentioned = {*flags, *(name for name in _keys(values) if values[variable_of(name)])}

    files: dict[str, Source] = {}

    def read(file: str, keys: Collection[str]) -> Source:
        content = _mounted(file, container, volumes, config_maps)
        if content is None:
            unread.append(f"the file {file} is in no ConfigMap of these manifests")
            return Source({})
        source = files[file] = from_text(file, content, keys)
        mentioned.update(source.values)
        return source

    limit = parse_quantity(container, "resources", "limits", "memory")
    environ = {**image_environment(image), **values}
    settings, wrong = gather(
        flags, environ=environ, memory_limit_bytes=int(limit) if limit else None, read_file=read
    )
    return ServerContainer(
        container,
        path,
        image,
        (*command, *arguments),
        values,
        frozenset(mentioned),
        settings,
        (*problems, *wrong),
        tuple(unread),
        tuple(_hidden(settings, flags, environ, files)),
    )


def _hidden(
    settings: Settings,
    flags: Mapping[str, Written],
    environ: Mapping[str, str],
    files: Mapping[str, Source],
) -> Iterator[str]:
    """What of the file does not count, since a flag or a variable has another value."""
    fields = {each.key: each.field for each in definitions()}
    for file, source in files.items():
        over = {key: flag_of(key) for key in source.values if key in flags}
        for key in source.values.keys() - over.keys():
            if environ.get(variable_of(key)):
                over[key] = variable_of(key)
        if not over:
            continue
        alone, _ = gather({"config": file}, environ={}, read_file=lambda *_, only=source: only)
        for key in sorted(over):
            if getattr(alone, fields[key]) != getattr(settings, fields[key]):
                value = flags[key] if key in flags else environ[variable_of(key)]
                given = source.values[key]
                yield f"{over[key]} {_shown(value)} hides {_shown(given.value)} at {given.where}"


def _shown(value: Written) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def flag_or_variable(key: str) -> str:
    """`--drain-delay (STOKER_DRAIN_DELAY)`: how a mend names a setting."""
    return f"{flag_of(key)} ({variable_of(key)}, or {key} in the file)"


def _server_words(
    command: Sequence[str], arguments: Sequence[str], by_image: Sequence[str]
) -> list[str] | None:
    """The words behind `serve`; None where the container does not run it."""
    words = [*command, *arguments] or list(by_image)
    if command and PurePosixPath(command[0]).name in SHELLS:
        words = " ".join(words).split()
    if "serve" not in words or {"-h", "--help"} & set(words):
        return None
    return words[words.index("serve") + 1 :]


def _known_words(
    words: Sequence[str], opaque_names: Collection[str]
) -> tuple[list[str], list[str]]:
    """The arguments without those of unknown value, which take their flags with them."""
    known: list[str] = []
    unknown: list[str] = []
    for word in words:
        if not any(name in word for name in opaque_names):
            known.append(word)
            continue
        unknown.append(word)
        if not word.startswith("--") and known and _is_flag_alone(known[-1]):
            known.pop()
    return known, unknown


def _is_flag_alone(word: str) -> bool:
    return word.startswith("--") and "=" not in word


def _names_us(command: Sequence[str]) -> bool:
    words = " ".join(command).split()
    return any(PurePosixPath(word).name == PROGRAM for word in words)


def _is_setting(variable: str) -> bool:
    return variable.startswith("STOKER_")


def _keys(values: Mapping[str, str]) -> list[str]:
    return [name.removeprefix("STOKER_").lower() for name in values if _is_setting(name)]


def _environment(
    container: JsonObject, config_maps: Sequence[Manifest]
) -> tuple[dict[str, str], set[str]]:
    """The variables that are known, and the names of those that come from elsewhere."""
    values: dict[str, str] = {}
    opaque: set[str] = set()
    for source in objects(container, "envFrom"):
        name = text(source, "configMapRef", "name")
        for config in config_maps:
            if name and config.name == name:
                prefix = text(source, "prefix")
                data = strings(config.value, "data")
                values.update({prefix + key: each for key, each in data.items()})
    for each in objects(container, "env"):
        name = text(each, "name")
        if "valueFrom" not in each:
            values[name] = _expanded(text(each, "value"), values)
            opaque.discard(name)
            continue
        key = mapping(each, "valueFrom", "configMapKeyRef")
        found = [
            strings(config.value, "data").get(text(key, "key"))
            for config in config_maps
            if config.name == text(key, "name")
        ]
        if found and found[0] is not None:
            values[name] = found[0]
        else:
            values.pop(name, None)
            opaque.add(name)
    return values, opaque


def _unknown_sources(container: JsonObject, config_maps: Sequence[Manifest]) -> list[str]:
    """The Secrets and ConfigMaps that a container takes variables of, and that are not known."""
    known = {each.name for each in config_maps}
    sources = objects(container, "envFrom")
    secrets = [text(each, "secretRef", "name") for each in sources]
    maps = [text(each, "configMapRef", "name") for each in sources]
    return [
        *(f"the Secret {name}" for name in secrets if name),
        *(f"the ConfigMap {name}" for name in maps if name and name not in known),
    ]


def _expanded(word: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where the variable is known, `$$` by `$`."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(replaced, word)


def _mounted(
    file: str,
    container: JsonObject,
    volumes: Sequence[JsonObject],
    config_maps: Sequence[Manifest],
) -> str | None:
    """The text of a file that the container sees, where a ConfigMap of the manifests holds it."""
    wanted = PurePosixPath(file)
    for mount in objects(container, "volumeMounts"):
        folder = PurePosixPath(text(mount, "mountPath"))
        sub_path = text(mount, "subPath")
        if not wanted.is_relative_to(folder):
            continue
        inside = str(wanted.relative_to(folder)) if wanted != folder else ""
        key = "/".join(part for part in (sub_path, inside) if part)
        for volume in volumes:
            name = text(volume, "configMap", "name")
            if not name or text(volume, "name") != text(mount, "name"):
                continue
            for item in objects(volume, "configMap", "items"):
                if text(item, "path") == key:
                    key = text(item, "key")
                    break
            for config in config_maps:
                content = at(config.value, "data", key)
                if config.name == name and isinstance(content, str):
                    return content
    return None
