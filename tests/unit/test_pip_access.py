from pathlib import Path

from scripts.pip_access import PipAccess, parse, traces

LISTING = """\
:env:.cert='/etc/ssl/corporate.pem'
:env:.find-links='/opt/wheels'
global.cert='/etc/ssl/other.pem'
global.constraint='/etc/constraints.txt'
global.extra-index-url='file:///opt/index https://me:secret@mirror.example/simple'
global.timeout='180'
install.trusted-host='mirror.example'
list.format='columns'
"""


def certificate(body: str) -> str:
    """A certificate's text; each of its lines is the word `body` and the line's number."""
    lines = "\n".join(f"{body}{number}" for number in range(6))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def test_what_reaches_packages_is_carried_and_folders_of_the_machine_are_not() -> None:
    access = parse(LISTING)
    assert access.settings == {
        "extra-index-url": ("https://me:secret@mirror.example/simple",),
        "trusted-host": ("mirror.example",),
        "timeout": ("180",),
    }
    assert set(access.dropped) == {"/opt/wheels", "file:///opt/index"}


def test_a_variable_goes_before_a_file() -> None:
    assert parse(LISTING).ca_bundle == Path("/etc/ssl/corporate.pem")


def test_the_mounted_configuration_names_the_mounted_bundle() -> None:
    lines = parse(LISTING).pip_conf().splitlines()
    assert lines[0] == "[global]"
    assert "cert = /run/secrets/ca.pem" in lines
    assert not [line for line in lines if "corporate" in line or "/opt/" in line]


def test_without_a_bundle_pip_keeps_its_own() -> None:
    assert parse("").pip_conf() == "[global]\n"


def test_hosts_credentials_and_folders_are_traces() -> None:
    wanted = set(traces(PipAccess(parse(LISTING).settings, None, ("/opt/wheels",)), ()).values())
    assert wanted == {b"mirror.example", b"me", b"secret", b"/opt/wheels"}


def test_only_certificates_that_are_not_public_are_traces(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text(certificate("public") + certificate("private"))
    found = traces(PipAccess({}, bundle), (certificate("public"),))
    assert list(found.values()) == [b"private3"]
