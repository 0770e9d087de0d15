"""What a cluster knows of kinds: its CustomResourceDefinitions, and the OpenAPI documents of the kinds built in."""

from __future__ import annotations

from collections.abc import Mapping

from rayml.backends.kuberay.api import KubeApi, connect
from rayml.lint.openapi import kinds_of
from rayml.lint.schemas import Schema, schemas_of


class ClusterKinds:
    """The kinds of a cluster. Definitions are read at once; an OpenAPI document when a file needs it."""

    complete = True
    """A kind that the cluster does not describe is none that it takes."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._defined = schemas_of(api.list_all("CustomResourceDefinition"))
        self._documents: dict[str, str] | None = None
        self._built_in: dict[str, dict[tuple[str, str, str], Schema]] = {}

    @classmethod
    def of_context(cls, context: str | None) -> ClusterKinds:
        """Of the cluster that the kubeconfig names.

        Raises:
            BackendError: it cannot be reached, or does not let its definitions be read.
        """
        return cls(connect(context))

    def versions(self, api_version: str, kind: str) -> Mapping[str, Schema] | None:
        """The schema of each version of a kind, None where the cluster does not know it."""
        group, _, version = api_version.rpartition("/")
        defined = self._defined.get((group, kind))
        if defined is not None:
            return defined
        schema = self._kinds_in(api_version).get((group, version, kind))
        return None if schema is None else {version: schema}

    def _kinds_in(self, api_version: str) -> dict[tuple[str, str, str], Schema]:
        if api_version not in self._built_in:
            path = self._paths().get(f"apis/{api_version}" if "/" in api_version else f"api/{api_version}")
            self._built_in[api_version] = {} if path is None else kinds_of(self._api.document(path))
        return self._built_in[api_version]

    def _paths(self) -> dict[str, str]:
        """Group and version, as `apis/policy/v1`, to the path of its document."""
        if self._documents is None:
            listed = self._api.document("/openapi/v3").get("paths") or {}
            self._documents = {name: str(each["serverRelativeURL"]) for name, each in listed.items()}
        return self._documents
