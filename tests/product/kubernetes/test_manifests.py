"""The manifests: they are what Kubernetes' own schema allows, they fit together, and nothing runs with rights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from listener.plugins import effective_settings
from listener.settings import load_settings
from tests import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, at import
    import kubernetes_validate

HERE = ROOT / "config/kubernetes"
FOLDERS = ["base", "sidecar"]
FILES = sorted(path for path in HERE.glob("*/*.yaml") if path.name != "kustomization.yaml")
VERSION = "1.29"


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a file."""
    return [dict(one) for one in yaml.safe_load_all(path.read_text())]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pod specification of everything that runs one."""
    for path in FILES:
        for one in documents(path):
            if "template" in one.get("spec", {}):
                yield path.parent.name, one["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_kubernetes_knows_every_key(path: Path) -> None:
    """By the schema of the oldest version that we name, unknown keys refused; what an operator adds has none there."""
    for one in documents(path):
        if one["apiVersion"].partition("/")[0] != "monitoring.coreos.com":
            kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_names_every_file(folder: str) -> None:
    """What lies in the folder is applied, and what is applied lies there."""
    (kustomization,) = documents(HERE / folder / "kustomization.yaml")
    files = {path.name for path in (HERE / folder).iterdir()} - {"kustomization.yaml"}
    generated = {name for one in kustomization["configMapGenerator"] for name in one["files"]}
    assert set(kustomization["resources"]) | generated == files


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_configuration_inside_is_valid(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `cdn-listener config check` would find."""
    effective_settings(load_settings(HERE / folder / "listener.toml", {}))


def test_nothing_runs_with_rights() -> None:
    """Not as root, without capabilities; of ours nothing on the root file system can be written; probes are ours."""
    found = list(pods())
    assert [folder for folder, _ in found] == FOLDERS
    for _, pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        every = [*pod.get("initContainers", []), *pod["containers"]]
        for container in every:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
        (ours,) = [one for one in every if one["name"] == "cdn-listener"]
        assert ours["securityContext"]["readOnlyRootFilesystem"] is True
        volumes = {volume["name"] for volume in pod["volumes"]} | {"state"}
        assert {mount["name"] for mount in ours["volumeMounts"]} <= volumes
        assert ours["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert not any("KEY" in variable["name"] for variable in ours["env"])


def test_labels_select_what_they_should() -> None:
    """Service, budget, policy and monitor all choose the pods of the deployment."""
    labels = {"app.kubernetes.io/name": "cdn-listener"}
    for name in ("service", "poddisruptionbudget", "networkpolicy", "servicemonitor", "deployment"):
        (one,) = documents(HERE / "base" / f"{name}.yaml")
        spec = one["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        assert selector.get("matchLabels", selector) == labels


def test_the_admin_port_requires_a_token_and_serves_both_families() -> None:
    """It listens beyond loopback: a token from the secret is required, and only the monitoring reaches it."""
    for _, pod in pods():
        (ours,) = [one for one in [*pod.get("initContainers", []), *pod["containers"]] if one["name"] == "cdn-listener"]
        given = {variable["name"]: variable["value"] for variable in ours["env"]}
        assert given["LISTENER_ADMIN__LISTEN"] == "[::]:9180"
        assert given["LISTENER_ADMIN__TOKEN_FILE"] == f"{given['CREDENTIALS_DIRECTORY']}/admin.token"
        (mount,) = [one for one in ours["volumeMounts"] if one["name"] == "secrets"]
        assert mount["mountPath"] == given["CREDENTIALS_DIRECTORY"]
    for folder in FOLDERS:
        (policy,) = documents(HERE / folder / "networkpolicy.yaml")
        (admin,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] in ("admin", 9180)]
        (allowed,) = admin["from"]
        assert allowed["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
        made = (HERE / folder / "kustomization.yaml").read_text()
        assert "--from-file=admin.token" in made


def test_the_monitor_sends_the_token() -> None:
    """From the secret that the deployment reads it from."""
    (monitor,) = documents(HERE / "base" / "servicemonitor.yaml")
    (endpoint,) = monitor["spec"]["endpoints"]
    (deployment,) = documents(HERE / "base" / "deployment.yaml")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    (secret,) = [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": secret, "key": "admin.token"}}


def test_the_sidecars_policy_selects_its_pod() -> None:
    """And lets visitors reach the web server."""
    (policy,) = documents(HERE / "sidecar" / "networkpolicy.yaml")
    (workload,) = documents(HERE / "sidecar" / "statefulset.yaml")
    assert policy["spec"]["podSelector"] == workload["spec"]["selector"]
    (web,) = workload["spec"]["template"]["spec"]["containers"]
    assert policy["spec"]["ingress"][0] == {"ports": [{"port": web["ports"][0]["containerPort"]}]}
