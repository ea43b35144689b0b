"""What is shipped is whole: wheel, source archive and container file; and the layers hold."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from listener import __version__
from tests import ROOT

CONTAINERFILE = ROOT / "config/container/Containerfile"


def tracked(*places: str) -> set[str]:
    """Return the package's files as they stand in the tree, without what Python leaves behind."""
    files = (file for place in places for file in (ROOT / place).rglob("*") if file.is_file())
    return {str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and source archive with what is installed, so that no network is needed."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_wheel_holds_every_file_of_the_package(built: Path) -> None:
    """Modules and data files (SQL, templates, the typing mark) are all inside, and the licence is."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert tracked("listener") <= names
    assert {name.replace("systemd/", "listener/units/") for name in tracked("systemd")} <= names
    shipped = {name.replace("config/", "listener/config/", 1) for name in tracked("config")}
    assert {"policies/ram-cdn.json", "examples/full.toml", "prometheus/cdn-listener.rules.yml"} < {
        name.removeprefix("listener/config/") for name in shipped & names
    }
    assert shipped <= names
    assert {name.split("/")[0] for name in names} == {"listener", *(n.split("/")[0] for n in names if "dist-info" in n)}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_can_be_built_and_tested(built: Path) -> None:
    """Whoever has only the archive has the package, the tests, the unit and the container file."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked("listener", "config", "systemd") <= names
    assert {"Makefile", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "tests/conftest.py"} <= names


def test_the_layers_hold() -> None:
    """No module imports one above it, and what must be pure does no I/O: import-linter agrees."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout


def test_the_container_file_copies_what_exists() -> None:
    """Each COPY from the clone names something there that .dockerignore lets through; it is not root that runs."""
    text = CONTAINERFILE.read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name in allowed
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)


def test_the_container_file_has_no_fault() -> None:
    """The linter of container files is silent."""
    command = [Path(sys.executable).parent / "hadolint", CONTAINERFILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout


def test_the_shell_scripts_are_well_formed() -> None:
    """Bash reads each without running it."""
    for script in (".ci/run", "tests/system-packages", ".github/release"):
        assert (ROOT / script).stat().st_mode & 0o111
        subprocess.run(["bash", "-n", ROOT / script], check=True, timeout=50)


def test_a_release_is_published_by_its_tag_alone() -> None:
    """The script builds and checks; only the workflow sets PUBLISH. The version has its section in the changelog."""
    script = (ROOT / ".github/release").read_text()
    assert 'if [ -n "${PUBLISH:-}" ]; then bash -c "$command"; else say "would run: $command"; fi' in script
    assert [line for line in script.splitlines() if "upload" in line or "gh release" in line] == re.findall(
        r'^  ".*(?:upload|gh release).*"$', script, re.MULTILINE
    )
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML takes the word `on` for true
    assert "PUBLISH" not in (ROOT / "Makefile").read_text()
    assert f"\n## [{__version__}] - 20" in (ROOT / "CHANGELOG.md").read_text()


def test_a_plain_installation_needs_nothing_of_aws() -> None:
    """What buckets, queues and CloudFront need comes with the extras that name the need; plugins name theirs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {canonicalize_name(Requirement(one).name) for one in project["dependencies"]}
    assert not names & {"boto3", "botocore", "urllib3", "psycopg", "pyarrow"}
    for extra in ("s3", "aws"):
        assert {"boto3"} <= {Requirement(one).name for one in project["optional-dependencies"][extra]}
    assert project["entry-points"]["listener.sources"]["sqs"].endswith("[s3]")
    assert project["entry-points"]["listener.targets"]["cloudfront"].endswith("[aws]")
    every = ",".join(sorted(project["optional-dependencies"]))
    assert f"'.[{every}]'" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("statement", "extra"),
    [
        ("plugin_class('sources', 'sqs')", "s3"),
        ("Bucket('sources.b', ListingSettings(url='s3://b'), parse_place('s3://b'))", "s3"),
        ("plugin_class('targets', 'cloudfront')('c', CloudFrontSettings(distribution='E123')).client", "aws"),
    ],
)
def test_what_an_absent_extra_is_needed_for_names_it(statement: str, extra: str) -> None:
    """In a process that cannot import it; the rest of the product works there."""
    script = f"""
import sys
for name in ("boto3", "botocore"):
    sys.modules[name] = None
from listener.cli.app import app
from listener import demo, emulator
from listener.errors import ConfigurationError
from listener.plugins import plugin_class
from listener.sources.listing.bucket import Bucket
from listener.sources.listing.settings import ListingSettings, parse_place
from listener.targets.cloudfront.settings import Settings as CloudFrontSettings
try:
    {statement}
except ConfigurationError as error:
    print(error.hint)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert f"pip install 'cdn-listener[{extra}]'" in done.stdout


def locked(name: str) -> dict[str, str]:
    """Return the packages of a lock with their versions; each has a hash, and nothing names where it comes from."""
    text = (ROOT / f"config/locks/{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    entries = [
        re.fullmatch(r"([a-z0-9-]+)==([^\s;]+)( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+", line) for line in lines
    ]
    assert None not in entries
    return {entry[1]: entry[2] for entry in entries if entry is not None}


@pytest.mark.parametrize(
    ("lock", "extras", "groups"),
    [
        ("image", ["aws", "credentials", "fleet", "s3"], []),
        ("build", None, ["image"]),
        ("dev", ["aws", "credentials", "fleet", "listing", "s3"], ["dev"]),
    ],
)
def test_the_locks_contain_what_the_project_requires(lock: str, extras: list[str] | None, groups: list[str]) -> None:
    """Every requirement of the project is locked, at a version that its bounds allow: else run `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tables = project["dependency-groups"]

    def members(group: str) -> list[str]:
        return [
            one
            for entry in tables[group]
            for one in ([entry] if isinstance(entry, str) else members(entry["include-group"]))
        ]

    wanted = [one for group in groups for one in members(group)]
    if extras is not None:
        wanted += project["project"]["dependencies"]
        wanted += [one for extra in extras for one in project["project"]["optional-dependencies"][extra]]
    found = locked(lock)
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement


def test_image_and_integration_are_built_from_the_locks() -> None:
    """Nothing is installed without a hash but the project itself."""
    for line in re.findall(r"pip (?:install|wheel) [^&]*", CONTAINERFILE.read_text()):
        assert "--require-hashes" in line or "--no-deps" in line
    made = subprocess.run(
        ["make", "-n", "CI=1", "VENV=absent", "absent/.dev"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    installs = re.findall(r"pip [^&\n]* install [^&]*", made)
    assert len(installs) == 2
    assert "--require-hashes --requirement config/locks/dev.txt" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
