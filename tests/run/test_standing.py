"""Clusters that stay: one of three nodes is started, used, killed and ended; and what cannot be started is told."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest
import yaml

from rayml.backends.local import session_members
from rayml.backends.ray.client import OVER, JobsClient
from rayml.backends.ray.request import Request
from rayml.errors import BackendError, PlanError, machine_failure
from rayml.run import standing, standing_command
from rayml.run.standing_keeper import head_command
from rayml.run.standing_record import RECORD, find
from rayml.spec.load import load_cluster

ROOT = Path(__file__).parents[2]
TWO_NODES = ROOT / "cluster" / "local-2-nodes.yaml"
SCRIPT = "import ray; ray.init(); print('nodes', sum(node['Alive'] for node in ray.nodes()))"
JOB = Request(entrypoint=f'python -c "{SCRIPT}"', runtime_env={}, metadata={})
RAY_UP = sorted((ROOT / "cluster" / "ray-up").glob("*.yaml"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("größe")


@pytest.fixture(scope="module")
def cluster(home):
    """A head and two nodes, until the end of this file."""
    found, started = standing.up(load_cluster(TWO_NODES), "drei", home)
    assert started
    yield found
    if found.folder.exists():
        found.end()


def wait_for(what, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.1)


@pytest.mark.ray
def test_up_again_finds_it(cluster, home, capsys):
    started = time.monotonic()
    standing_command.up(TWO_NODES, "drei", home, as_json=False)
    assert time.monotonic() - started < 5
    out = capsys.readouterr().out
    assert "is up already: 3 nodes" in out
    assert f"RAY_AUTH_TOKEN_PATH='{cluster.token_path}'" in out
    assert f"rayml submit JOB --address {cluster.address} --storage" in out
    assert find(home, "drei") == cluster


@pytest.mark.ray
def test_up_with_other_sizes_is_refused(cluster, home):
    with pytest.raises(BackendError, match="up with other sizes"):
        standing.up(load_cluster(ROOT / "cluster" / "two-cpus.yaml"), "drei", home)


@pytest.mark.ray
def test_status(cluster, home, capsys):
    assert standing_command.status("drei", home, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["cpus"], document["gpus"]) == ("up", 4, 0)
    assert [(node["head"], node["cpus"]) for node in document["nodes"]] == [(True, 2), (False, 1), (False, 1)]
    assert standing_command.status("drei", home, as_json=False) == 0
    assert "3 of 3 nodes alive" in capsys.readouterr().out


@pytest.mark.ray
def test_a_job_runs(cluster):
    client = JobsClient(cluster.address, cluster.token())
    client.check_version()
    assert client.cpus_and_gpus() == (4, 0)
    job = client.submit(JOB)
    wait_for(lambda: client.job(job)["status"] in OVER, 40)
    assert client.job(job)["status"] == "SUCCEEDED", client.logs(job)
    assert "nodes 3" in client.logs(job)


@pytest.mark.ray
def test_nobody_is_let_in_without_the_token(cluster):
    with pytest.raises(BackendError, match="asks for a token"):
        JobsClient(cluster.address, None).jobs()
    with pytest.raises(BackendError, match="refuses the token"):
        JobsClient(cluster.address, "0" * 64).jobs()


@pytest.mark.ray
def test_the_token_is_nowhere_else(cluster):
    token = cluster.token().encode()
    assert stat.S_IMODE(cluster.token_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700
    assert token not in (cluster.folder / RECORD).read_bytes()
    assert token not in cluster.log.read_bytes()
    processes = cluster.processes()
    assert len(processes) > 6
    for pid in processes:
        for file in ("cmdline", "environ"):
            try:
                shown = Path(f"/proc/{pid}/{file}").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            assert token not in shown, f"process {pid} shows the token in its {file}"


@pytest.mark.ray
def test_the_dashboard_listens_on_this_machine_alone(cluster):
    # /proc/net/tcp: local address and port in hex, state 0A listens.
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    port = f"{cluster.dashboard_port:04X}"
    hosts = [row[1].split(":")[0] for row in rows if row[1].endswith(f":{port}") and row[3] == "0A"]
    assert hosts == ["0100007F"]


def command_line(pid: int) -> bytes:
    """Empty where the process has ended meanwhile, as Ray's helpers do."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


@pytest.mark.ray
def test_a_lost_node_is_told(cluster, home, capsys):
    arguments = {pid: command_line(pid).split(b"\0") for pid in cluster.processes()}
    nodes = [pid for pid, argv in arguments.items() if argv[0].endswith(b"/raylet") and b"--head" not in argv]
    assert len(nodes) == 2
    os.kill(nodes[0], signal.SIGKILL)
    wait_for(lambda: standing.status("drei", home).kind == "partly")
    assert standing_command.status("drei", home, as_json=False) == 5
    assert "has lost nodes: 2 of 3 nodes alive" in capsys.readouterr().out
    with pytest.raises(BackendError, match="has lost nodes"):
        standing.up(load_cluster(TWO_NODES), "drei", home)


@pytest.mark.ray
def test_a_killed_head_is_gone_and_down_cleans(cluster, home, capsys):
    gcs = next(pid for pid in cluster.processes() if b"gcs_server" in command_line(pid))
    os.kill(gcs, signal.SIGKILL)
    wait_for(lambda: standing.status("drei", home).kind == "gone")
    assert standing_command.status("drei", home, as_json=False) == 5
    assert "rayml cluster up FILE --name drei --home" in capsys.readouterr().out
    standing_command.down("drei", home)
    assert not session_members(cluster.session)
    assert not cluster.processes()
    assert not cluster.folder.exists()
    assert not cluster.temporary.exists()
    with pytest.raises(PlanError, match="no cluster 'drei'"):
        standing.down("drei", home)


@pytest.mark.ray
def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(standing, "START_TIMEOUT_S", 0.3)
    with pytest.raises(BackendError, match=r"not all of 3 nodes are up after .*last words"):
        standing.up(load_cluster(TWO_NODES), "kurz", tmp_path)
    assert [path.name for path in (tmp_path / "clusters" / "kurz").iterdir()] == ["cluster.log"]


def test_a_dead_record_is_cleaned(tmp_path, monkeypatch):
    """As after a restart of the machine: the record is of another boot, and its session may be a stranger's now."""
    sizes = standing.sizes_of(load_cluster(TWO_NODES))
    (tmp_path / "clusters").mkdir()
    left = standing._prepare(tmp_path / "clusters" / "alt", sizes)
    left.model_copy(update={"boot": "before", "session": os.getsid(0)}).write()
    assert standing.status("alt", tmp_path).kind == "gone"
    monkeypatch.setattr(standing, "_start", lambda prepared: prepared)
    again, started = standing.up(load_cluster(TWO_NODES), "alt", tmp_path)
    assert started
    assert again.id != left.id
    assert not left.temporary.exists()
    standing.down("alt", tmp_path)
    assert not again.temporary.exists()


def test_a_session_of_strangers_is_not_ended(tmp_path):
    (tmp_path / "clusters").mkdir()
    sizes = standing.sizes_of(load_cluster(TWO_NODES))
    left = standing._prepare(tmp_path / "clusters" / "alt", sizes).model_copy(update={"session": os.getsid(0)})
    assert session_members(os.getsid(0))
    assert left.processes() == set()
    left.end()


@pytest.mark.parametrize("name", ["", "..", "a/b", "Größe", "-a", "x" * 41])
def test_names_that_are_none(name, tmp_path):
    for act in (standing.down, standing.status):
        with pytest.raises(PlanError, match="is no name of a cluster"):
            act(name, tmp_path)


def test_an_unknown_name_is_told(tmp_path):
    for act in (standing.down, standing.status):
        with pytest.raises(PlanError, match="no cluster 'nein'") as caught:
            act("nein", tmp_path)
        assert "rayml cluster up FILE --name nein" in caught.value.hint


@pytest.mark.parametrize("file", ["cpu-sweep.yaml", "autoscaling-local.yaml"])
def test_clusters_that_cannot_stay_here(file, tmp_path):
    with pytest.raises(PlanError, match=r"kind kuberay|does not grow from 0 to 3"):
        standing_command.up(ROOT / "cluster" / file, "nein", tmp_path, as_json=False)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_of_somebody_else_is_not_started(tmp_path):
    file = tmp_path / "ray.yaml"
    file.write_text("kind: ray\naddress: http://head:8265\nstorage: s3://bucket/runs\ncpus: 8\n")
    with pytest.raises(PlanError, match="kind ray is not started on this machine"):
        standing_command.up(file, "nein", tmp_path, as_json=False)


def test_a_folder_that_cannot_be_written(tmp_path):
    home = tmp_path / "file"
    home.write_text("")
    with pytest.raises(OSError, match="file") as caught:
        standing.up(load_cluster(TWO_NODES), "nein", home)
    assert "a file stands where a folder is needed" in machine_failure(caught.value).hint


def test_the_head_is_never_started_in_the_open(tmp_path):
    (tmp_path / "clusters").mkdir()
    prepared = standing._prepare(tmp_path / "clusters" / "a", standing.sizes_of(load_cluster(TWO_NODES)))
    command = head_command(prepared)
    prepared.end()
    assert "--dashboard-host=127.0.0.1" in command
    assert not any("0.0.0.0" in word for word in command)


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.stem)
def test_files_for_ray_up_fit_rays_own_schema(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(filled)
    commands = [*filled["setup_commands"], *filled["head_setup_commands"], *filled["worker_setup_commands"]]
    assert commands == [], "Ray's defaults install a nightly build"


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.stem)
def test_files_for_ray_up_expose_nothing(path):
    config = yaml.safe_load(path.read_text())
    options = config["docker"]["run_options"]
    assert "@sha256:" in config["docker"]["image"]
    assert "--env RAY_AUTH_MODE=token" in options
    (remote, local), *more = config["file_mounts"].items()
    assert not more
    assert f"--env RAY_AUTH_TOKEN_PATH={remote}" in options
    assert local.startswith("~/"), "the token lies outside the repository"
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in path.read_text()
    assert "security_group" not in config["provider"], "Ray's own group lets in port 22 from everywhere"
    assert config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        assert node["SecurityGroupIds"], "without one Ray makes its own, open at port 22 to everybody"
        assert node["IamInstanceProfile"]["Arn"], "the instance has a role, and no keys"
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert node["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert (node.get("InstanceMarketOptions") == {"MarketType": "spot"}) is (name != config["head_node_type"])
