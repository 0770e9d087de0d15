"""All of it or nothing; create, join or replace."""

from __future__ import annotations

import pytest
from fake_kube import SCHEMAS, failure
from kuberay_jobs import cluster_of, plan_of

from rayml.backends.kuberay.request import render
from rayml.backends.kuberay.sending import send, under_free_name
from rayml.errors import BackendError, PlanError, RaymlError

QUOTA = failure(403, 'rayjobs.ray.io "d" is forbidden: exceeded quota: rayml, used: count/rayjobs.ray.io=50')
REFUSALS = {
    "forbidden": failure(403, 'User "jane" cannot patch resource'),
    "conflict": failure(409, "Apply failed with 1 conflict"),
    "invalid": failure(422, "spec: Invalid value"),
    "broken": failure(500, "Internal error occurred: etcd"),
    "quota": QUOTA,
}


def request_of(kind="job", **changes):
    return render(plan_of("digits", "cpu-sweep"), cluster_of(changes)("cpu-sweep"), "digits-1", kind)


def namespace_of(request):
    return request.documents[0]["metadata"]["namespace"]


def do(api, request):
    return send(request, api, namespace_of(request))


def test_schemas_are_at_hand():
    if not SCHEMAS.exists():
        pytest.skip(f"what is sent is not held to KubeRay's schemas: there is no {SCHEMAS}")


@pytest.mark.parametrize("kind", ["job", "service", "cluster"])
def test_everything_is_rehearsed_before_anything_is_stored(kube, api, kind):
    request = request_of(kind)
    sent = do(api, request)
    assert (sent.how, sent.uid != "") == ("created", True)
    assert kube.kinds() == sorted(each["kind"] for each in request.documents)
    writes = ["dryRun=All" in path for method, path in kube.requests if method == "PATCH"]
    assert writes == sorted(writes, reverse=True) and sum(writes) == len(request.documents)
    assert not any("force=true" in path for _, path in kube.requests)


@pytest.mark.parametrize(("kind", "owner"), [("job", "RayJob"), ("service", "RayService")])
def test_what_goes_with_it_is_owned_by_it(kube, api, kind, owner):
    sent = do(api, request_of(kind))
    others = [each for each in kube.objects.values() if each["kind"] != owner]
    reference = {"apiVersion": "ray.io/v1", "kind": owner, "name": sent.name, "uid": sent.uid}
    assert [each["metadata"]["ownerReferences"] for each in others] == [[reference]]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("position", [-1, -2, 1, 2, 3])
@pytest.mark.parametrize("stored_anyway", [False, True])
def test_nothing_is_half_created(kube, api, refusal, position, stored_anyway):
    kube.fail_writes[position] = REFUSALS[refusal]
    kube.stored_anyway = stored_anyway and refusal == "broken"
    with pytest.raises(RaymlError) as error:
        do(api, request_of())
    assert kube.kinds() == []
    assert error.value.exit_code in (2, 5) and error.value.hint


@pytest.mark.parametrize("position", [1, 2])
def test_an_endpoint_is_not_half_created(kube, api, position):
    kube.fail_writes[position] = QUOTA
    with pytest.raises(BackendError, match="quota"):
        do(api, request_of("service"))
    assert kube.kinds() == []


def test_ctrl_c_takes_back_what_was_made(kube, api, monkeypatch):
    apply = api.apply

    def interrupted(document, **options):
        found = apply(document, **options)
        if document["kind"] == "RayJob" and not options.get("dry_run"):
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(api, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do(api, request_of())
    assert kube.kinds() == []


def test_what_cannot_be_taken_back_is_said(kube, api, monkeypatch):
    def refused(*_, **__):
        raise BackendError("no")

    monkeypatch.setattr(api, "delete", refused)
    kube.fail_writes[2] = QUOTA
    with pytest.raises(BackendError, match=r"kubectl -n .* delete configmap digits-1-plan"):
        do(api, request_of())


@pytest.mark.parametrize("status", [{}, {"jobDeploymentStatus": "Running"}, {"jobDeploymentStatus": "Suspended"}])
def test_a_run_that_goes_on_is_joined(kube, api, status):
    first = do(api, request_of())
    kube.objects["rayjobs", "digits-1"]["status"] = status
    kube.requests.clear()
    again = do(api, request_of())
    assert (again.how, again.uid) == ("joined", first.uid)
    assert {method for method, _ in kube.requests} == {"GET"}


@pytest.mark.parametrize("status", ["Complete", "Failed", "ValidationFailed"])
def test_a_run_that_is_over_is_replaced_with_its_plan(kube, api, status):
    first = do(api, request_of())
    plan = kube.objects["configmaps", "digits-1-plan"]["metadata"]["uid"]
    kube.objects["rayjobs", "digits-1"]["status"] = {"jobDeploymentStatus": status}
    again = do(api, request_of())
    assert again.how == "replaced" and again.uid != first.uid
    now = kube.objects["configmaps", "digits-1-plan"]["metadata"]
    assert now["uid"] != plan and now["ownerReferences"][0]["uid"] == again.uid


def test_a_refused_replacement_leaves_the_old_one(kube, api):
    first = do(api, request_of())
    kube.objects["rayjobs", "digits-1"]["status"] = {"jobDeploymentStatus": "Failed"}
    kube.fail_writes[-4] = REFUSALS["invalid"]
    with pytest.raises(PlanError):
        do(api, request_of())
    assert kube.objects["rayjobs", "digits-1"]["metadata"]["uid"] == first.uid


def test_the_plan_of_a_job_that_is_gone_is_not_used_again(kube, api):
    do(api, request_of())
    orphan = kube.objects["configmaps", "digits-1-plan"]["metadata"]["uid"]
    del kube.objects["rayjobs", "digits-1"]
    assert do(api, request_of()).how == "created"
    assert kube.objects["configmaps", "digits-1-plan"]["metadata"]["uid"] != orphan


@pytest.mark.parametrize("kind", ["service", "cluster"])
def test_what_stays_is_updated(kube, api, kind):
    first = do(api, request_of(kind))
    again = do(api, request_of(kind))
    assert (again.how, again.uid) == ("updated", first.uid)


def test_a_schedule_is_updated(kube, api):
    request = request_of(schedule={"cron": "0 3 * * *"})
    first, again = do(api, request), do(api, request)
    assert (again.kind, again.how, again.uid) == ("RayCronJob", "updated", first.uid)


def test_a_name_that_is_taken_is_left_alone(kube, api):
    request = request_of()
    for document in request.documents:
        kube.objects.clear()
        about = {key: value for key, value in document["metadata"].items() if key != "labels"}
        plural = "configmaps" if document["kind"] == "ConfigMap" else "rayjobs"
        kube.put(plural, {**document, "metadata": about})
        with pytest.raises(PlanError, match="not by rayml"):
            do(api, request)
    assert {method for method, _ in kube.requests} == {"GET"}


def test_another_namespace_is_refused(api):
    with pytest.raises(PlanError, match="namespace: other"):
        send(request_of(), api, "other")


def test_a_field_that_kuberay_does_not_know_is_refused(kube, api):
    if not SCHEMAS.exists():
        pytest.skip("no schemas")
    request = request_of()
    request.documents[1]["spec"]["entrypoints"] = "x"
    with pytest.raises(PlanError, match="entrypoints"):
        do(api, request)
    assert kube.kinds() == []


def test_a_free_name_is_no_longer_than_a_name_may_be():
    name = "a" * 47
    free = under_free_name({"metadata": {"name": name}})["metadata"]["name"]
    assert free != name and len(free) <= 36
