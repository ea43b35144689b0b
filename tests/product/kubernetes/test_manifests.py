"""The manifests: they are what Kubernetes' own schema allows, they fit together, and nothing runs with rights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from listener.configuration import is_postgres
from listener.plugins import effective_settings
from listener.settings import load_settings
from tests import ROOT
from tests.product.kubernetes.rendering import documents, rendered

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, at import
    import kubernetes_validate

HERE = ROOT / "config/kubernetes"
FOLDERS = ["base", "fleet", "sidecar", "trees"]
ON_POSTGRES = ["fleet", "trees"]
VERSION = "1.29"


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pod specification of everything that runs one."""
    for folder in FOLDERS:
        for one in rendered(HERE / folder):
            if "template" in one.get("spec", {}):
                yield folder, one["spec"]["template"]["spec"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_knows_every_key(folder: str) -> None:
    """By the schema of the oldest version that we name, unknown keys refused; what an operator adds has none there."""
    for one in rendered(HERE / folder):
        if one["apiVersion"].partition("/")[0] != "monitoring.coreos.com":
            kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_names_every_file(folder: str) -> None:
    """What lies in the folder is applied, and what is applied lies there."""
    (kustomization,) = documents(HERE / folder / "kustomization.yaml")
    files = {path.name for path in (HERE / folder).iterdir()} - {"kustomization.yaml"}
    generated = {name for one in kustomization["configMapGenerator"] for name in one["files"]}
    patches = {one["path"] for one in kustomization.get("patches", ())}
    assert set(kustomization["resources"]) - {"../base"} | generated | patches == files


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_configuration_inside_is_valid(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `cdn-listener config check` would find."""
    environment = {"LISTENER_STORE__URL": "postgresql://db/listener"} if folder in ON_POSTGRES else {}
    effective_settings(load_settings(HERE / folder / "listener.toml", environment))


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
        given = {variable["name"]: variable.get("value", "") for variable in ours["env"]}
        assert given["LISTENER_ADMIN__LISTEN"] == "[::]:9180"
        assert given["LISTENER_ADMIN__TOKEN_FILE"] == f"{given['CREDENTIALS_DIRECTORY']}/admin.token"
        (mount,) = [one for one in ours["volumeMounts"] if one["name"] == "secrets"]
        assert mount["mountPath"] == given["CREDENTIALS_DIRECTORY"]
    for folder in FOLDERS:
        (policy,) = [one for one in rendered(HERE / folder) if one["kind"] == "NetworkPolicy"]
        (admin,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] in ("admin", 9180)]
        (allowed,) = admin["from"]
        assert allowed["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
        made = (HERE / folder / "kustomization.yaml").read_text()
        assert "--from-file=admin.token" in made or "Secret of ../base" in made


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


def workload(folder: str) -> dict[str, Any]:
    """Return what runs the pods of a folder."""
    (found,) = [one for one in rendered(HERE / folder) if "template" in one.get("spec", {})]
    return found


@pytest.mark.parametrize("folder", ON_POSTGRES)
def test_the_pods_of_a_fleet_have_one_database_and_a_name_each(folder: str, tmp_path: Path) -> None:
    """The product reads the URL from the secret, and the name from the pod or node; nothing else keeps state."""
    pod = workload(folder)["spec"]["template"]["spec"]
    (ours,) = [one for one in pod["containers"] if one["name"] == "cdn-listener"]
    (secrets,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
    names = [one["secret"]["name"] for one in secrets["projected"]["sources"]]
    assert (names, secrets.keys()) == (["cdn-listener", "cdn-listener-store"], {"name", "projected"})
    (name,) = [variable for variable in ours["env"] if variable["name"] == "LISTENER_INSTANCE__NAME"]
    expected = "metadata.name" if folder == "fleet" else "spec.nodeName"
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == expected
    files = {"store.url": "postgresql://listener:secret@db.internal/listener", "admin.token": "t" * 64, "db-ca.pem": ""}
    for key, text in files.items():
        (tmp_path / key).write_text(text)
    environment = {one["name"]: one["value"] for one in ours["env"] if "value" in one}
    environment |= {"CREDENTIALS_DIRECTORY": str(tmp_path), "LISTENER_INSTANCE__NAME": "pod-0"}
    environment["LISTENER_ADMIN__TOKEN_FILE"] = str(tmp_path / "admin.token")
    settings = load_settings(HERE / folder / "listener.toml", environment)
    effective_settings(settings)
    assert (is_postgres(settings.store.url), settings.instance.effective_name) == (True, "pod-0")
    made = (HERE / folder / "kustomization.yaml").read_text()
    assert "cdn-listener-store --from-file=store.url" in made
    (policy,) = [one for one in rendered(HERE / folder) if one["kind"] == "NetworkPolicy"]
    assert {"ports": [{"port": 5432}]} in policy["spec"]["egress"]
    assert not any("persistentVolumeClaim" in volume for volume in pod["volumes"])
    assert not [one for one in rendered(HERE / folder) if one["kind"] == "PersistentVolumeClaim"]


def test_a_fleet_of_queues_has_two_pods_and_trees_one_on_each_node() -> None:
    """Two of a deployment are replaced one by one; a node's pod reads the copy of its node."""
    queues, trees = workload("fleet"), workload("trees")
    assert (queues["kind"], queues["spec"]["replicas"]) == ("Deployment", 2)
    assert queues["spec"]["strategy"]["type"] == "RollingUpdate"
    assert trees["kind"] == "DaemonSet"
    (www,) = [volume for volume in trees["spec"]["template"]["spec"]["volumes"] if volume["name"] == "www"]
    source = load_settings(
        HERE / "trees/listener.toml",
        {"LISTENER_STORE__URL": "postgresql://db/listener", "LISTENER_INSTANCE__NAME": "n"},
    ).sources["www"]
    assert (str(source["path"]), source["replicas"]) == (www["hostPath"]["path"], "each")
