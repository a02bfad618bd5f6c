"""The kustomizations: built by kubectl, valid for the API, confined, and in step with the rest."""

import re
import tomllib
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import ValidationError, latest_version, validate

from keeper.config import load
from keeper.observe.http import _LINKS
from tests.deploy.image import instructions
from tests.deploy.tools import DEPLOY, ROOT, run, tool

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
CUSTOM = "monitoring.coreos.com/v1"  # of the Prometheus operator; no schema here knows it


@cache
def built(overlay: str) -> list[dict[str, Any]]:
    text = run(tool("kubectl"), "kustomize", KUBERNETES / "overlays" / overlay)
    return list(yaml.safe_load_all(text))


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def test_every_object_of_the_api_is_valid(tmp_path: Path) -> None:
    objects = {overlay: built(overlay) for overlay in OVERLAYS}
    files = [tmp_path / f"{overlay}.yaml" for overlay in OVERLAYS]
    for file, found in zip(files, objects.values(), strict=True):
        file.write_text(yaml.safe_dump_all(found))
    told = run(tool("kubernetes-validate"), "--strict", *files)
    for file, found in zip(files, objects.values(), strict=True):
        valid = re.findall(rf"{file} passed for resource (\w+)/", told)
        known = [one["kind"].lower() for one in found if one["apiVersion"] != CUSTOM]
        assert sorted(valid) == sorted(known)
        assert {"statefulset", "networkpolicy", "poddisruptionbudget", "configmap"} <= set(valid)


def test_a_misspelt_field_would_be_found() -> None:
    tool("kubernetes-validate")
    found = deepcopy(only(built("single"), "StatefulSet"))
    validate(found, latest_version(), strict=True)
    found["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(ValidationError, match="readinesProbe"):
        validate(found, latest_version(), strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_its_pods_keep_to_the_restricted_standard_and_write_to_volumes_only(overlay: str) -> None:
    objects = built(overlay)
    labels = only(objects, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = only(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "secret", "emptyDir"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "env" not in container, "secrets are files"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_who_is_meant_is_the_keeper_and_who_is_asked_is_not(overlay: str) -> None:
    objects = built(overlay)
    stateful, policy = only(objects, "StatefulSet")["spec"], only(objects, "NetworkPolicy")["spec"]
    labels = stateful["template"]["metadata"]["labels"].items()
    selectors = [
        stateful["selector"]["matchLabels"],
        only(objects, "Service")["spec"]["selector"],
        only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        policy["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    monitored = only(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= only(objects, "Service")["metadata"]["labels"].items()
    peers = [peer for rule in policy["egress"] for peer in rule.get("to", ())]
    (broker,) = (peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer)
    assert not broker.items() <= labels


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_runs_the_image_as_it_is_built_and_asks_what_is_served(overlay: str) -> None:
    said = dict(instructions())
    pod = only(built(overlay), "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = pod["securityContext"]
    assert said["USER"] == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["fsGroup"] == context["runAsGroup"]
    assert container["ports"] == [{"containerPort": int(said["EXPOSE"]), "name": "http"}]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container["image"].rsplit(":", 1)[1] == version
    for probe, path in (("startup", "healthz"), ("liveness", "healthz"), ("readiness", "readyz")):
        get = container[f"{probe}Probe"]["httpGet"]
        assert get == {"path": f"/{path}", "port": "http"}
        assert get["path"] in _LINKS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_its_configuration_is_accepted_and_fits_its_volumes(overlay: str, tmp_path: Path) -> None:
    objects = built(overlay)
    config = only(objects, "ConfigMap")
    pod = only(objects, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {one["name"]: one for one in container["volumeMounts"]}
    sources = {one["name"]: one for one in pod["volumes"]}
    assert sources["config"]["configMap"]["name"] == config["metadata"]["name"]
    assert container["args"] == ["run", "--config", f"{mounts['config']['mountPath']}/config.toml"]

    (tmp_path / "config.toml").write_text(config["data"]["config.toml"])
    settings = load(tmp_path / "config.toml")
    assert str(settings.keeper.state_dir) == mounts["state"]["mountPath"]
    assert settings.http.port == container["ports"][0]["containerPort"]
    named = [path.parent for path in referred(config["data"]["config.toml"])]
    assert named
    assert {str(folder) for folder in named} == {mounts["secrets"]["mountPath"]}


def referred(text: str) -> list[Path]:
    """Return the files that a configuration refers to."""
    return [Path(found) for found in re.findall(r'file = "([^"]+)"', text)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_operator_gets_the_same_rules_as_a_prometheus_elsewhere(overlay: str) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    assert only(built(overlay), "PrometheusRule")["spec"] == rules


def test_two_keepers_share_one_lease_and_may_do_nothing_else() -> None:
    objects = built("standby")
    text = only(objects, "ConfigMap")["data"]["config.toml"]
    base = only(built("single"), "ConfigMap")["data"]["config.toml"]
    assert text.startswith(base), "it differs in its lease alone"
    lease = tomllib.loads(text)["lease"]
    assert lease["kind"] == "kubernetes"
    stateful = only(objects, "StatefulSet")["spec"]
    assert stateful["replicas"] == 2
    pod = stateful["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True
    create, rest = only(objects, "Role")["rules"]
    assert create["verbs"] == ["create"]
    assert (rest["resourceNames"], rest["verbs"]) == ([lease["name"]], ["get", "update"])
    binding = only(objects, "RoleBinding")
    assert binding["roleRef"]["name"] == only(objects, "Role")["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert subject["name"] == pod["serviceAccountName"]
