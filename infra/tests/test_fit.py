"""What stands here fits what stands in k8s/ and cluster/: labels, taints, accounts, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from infra.fit import place
from infra.pools import GPU_TAINT, POOL_LABEL, SPOT_TAINT, pools_of
from infra.prices import read_prices
from rayml.backends.kuberay import pods
from rayml.spec.kuberay import KubeRayCluster
from rayml.spec.load import load_cluster

ROOT = Path(__file__).parents[2]
KUBERAY = [path for path in sorted((ROOT / "cluster").glob("*.yaml")) if isinstance(load_cluster(path), KubeRayCluster)]
PLACES = {"a100": ("gpu", 1), "h100-spot": ("gpu-spot", 1), "cpu": ("cpu", 3)}


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.stem)
def test_every_group_of_the_shipped_cluster_files_has_a_pool(path, account):
    cluster = load_cluster(path)
    assert isinstance(cluster, KubeRayCluster)
    for group in cluster.groups:
        found = place(group, pools_of(account))
        assert found is not None, f"{group.name}: no pool"
        if group.name in PLACES:
            assert (found.pool.name, found.pods_per_node) == PLACES[group.name]
        assert found.pool.spec.max * found.pods_per_node >= group.max, f"{group.name}: the pool's max is too small"


def test_the_shipped_files_are_the_ones_that_are_known():
    assert {"gpu-a100", "gpu-h100-spot", "cpu-sweep"} <= {path.stem for path in KUBERAY}


def test_a_group_that_nothing_holds_has_no_pool(account):
    cluster = load_cluster(ROOT / "cluster" / "gpu-a100.yaml")
    assert isinstance(cluster, KubeRayCluster)
    (group,) = cluster.groups
    assert place(group.model_copy(update={"tolerations": ()}), pools_of(account)) is None
    assert place(group.model_copy(update={"gpus": 9}), pools_of(account)) is None
    assert place(group.model_copy(update={"node_selector": {POOL_LABEL: "tpu"}}), pools_of(account)) is None


def test_labels_and_taints_are_those_of_kueues_flavours(account):
    documents = []
    for path in ("components/kueue/flavors.yaml", "overlays/gpu/flavors.yaml"):
        documents += list(yaml.safe_load_all((ROOT / "k8s" / path).read_text()))
    pools = {pool.name: pool for pool in pools_of(account)}
    for flavour in documents:
        pool = pools.pop(flavour["spec"]["nodeLabels"][POOL_LABEL])
        taints = [(each["key"], each["value"]) for each in flavour["spec"].get("nodeTaints", ())]
        assert list(pool.taints) == taints, flavour["metadata"]["name"]
    assert list(pools) == ["system"]


def test_what_kueue_admits_is_never_more_than_the_pools_can_hold(account):
    (queue,) = yaml.safe_load_all((ROOT / "k8s/overlays/gpu/queue.yaml").read_text())
    pools = {pool.name: pool for pool in pools_of(account)}
    for flavour in queue["spec"]["resourceGroups"][0]["flavors"]:
        spec = pools[flavour["name"].removeprefix("rayml-")].spec
        quota = {each["name"]: each["nominalQuota"] for each in flavour["resources"]}
        assert int(quota["cpu"]) <= spec.max * spec.instance.vcpus
        assert int(quota["nvidia.com/gpu"]) <= spec.max * spec.instance.gpus
        assert int(quota["memory"].removesuffix("Gi")) <= spec.max * spec.instance.memory_gib


def test_names_are_those_that_rayml_renders():
    assert (POOL_LABEL, SPOT_TAINT[0], GPU_TAINT[0]) == (pods.POOL_LABEL, pods.SPOT_TAINT, pods.GPU)


def test_accounts_are_those_of_the_namespace(account):
    accounts = {each["metadata"]["name"] for each in yaml.safe_load_all((ROOT / "k8s/base/accounts.yaml").read_text())}
    for team in account.teams:
        assert set(team.accounts) <= accounts


def test_the_autoscalers_chart_gets_the_account_that_the_role_is_bound_to(account):
    values = yaml.safe_load((ROOT / "infra/helm/cluster-autoscaler.yaml").read_text())
    assert values["rbac"]["serviceAccount"]["name"] == "cluster-autoscaler"
    assert values["autoDiscovery"]["clusterName"] == account.name
    assert values["nodeSelector"] == {POOL_LABEL: "system"}


def test_every_instance_type_has_a_price():
    from infra.instances import INSTANCES

    for region, prices in read_prices().regions.items():
        assert set(prices.instances) == set(INSTANCES), region
